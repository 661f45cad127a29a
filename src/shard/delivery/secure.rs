//! Connections to the API over TLS: the handshake before the first request, and what its end means.
//!
//! Not one byte of a request is rendered before the server has proved who it is. A handshake that fails counts as a connect that fails:
//! the authority is held back, one connect probes it, and the records wait.

use super::link::{ApiLink, State};
use super::timer::Timer;
use super::{ApiId, LinkId, Now, Op, Shard};
use crate::config::Authority;
use crate::tls::{self, ClientSession, Progress, TlsError, server_name};
use rustls::pki_types::ServerName;

/// What an authority that is reached by TLS needs beside its connections.
#[derive(Debug)]
pub(super) struct Handshakes {
    server: ServerName<'static>,
    /// Handshakes that have begun: their tickets are taken.
    begun: usize,
    /// Sessions that may yet bring tickets, see [`Secure::young`].
    young: usize,
}

impl Handshakes {
    pub fn with(authority: &Authority) -> Self {
        let server = server_name(&authority.host).expect("settings are checked");
        Self { server, begun: 0, young: 0 }
    }
}

/// The TLS of one connection.
#[derive(Debug)]
pub(super) struct Secure {
    session: ClientSession,
    /// TLS records for the next send; its allocation moves into the send and back.
    out: Vec<u8>,
    /// Neither a ticket nor an answer has come. A server sends its tickets at the end of a handshake, when ours is complete already.
    young: bool,
}

impl Secure {
    /// Takes an empty buffer back.
    pub fn sent(&mut self, buffer: Vec<u8>) {
        if self.out.is_empty() {
            self.out = buffer;
        }
    }
}

impl Shard {
    /// What connections to the API that begin from now on are made by; those that are open go on as they are. To be called before
    /// [`Shard::start`] where a URL is `https`, and again when certificates or keys have changed.
    pub fn set_tls(&mut self, client: Option<tls::Client>) {
        self.tls = client;
    }

    fn tls_client(&self, now: Now) -> &tls::Client {
        let client = self.tls.as_ref().expect("it is given before the start where a URL is https");
        client.set_time(now.wall_ns);
        client
    }

    /// How many connections may begin now: over TLS as many as can resume a session, and one at least, whose handshake is a whole one
    /// and brings tickets for the others. Whole handshakes cost the server a millisecond each, and all cores come back at once.
    pub(super) fn handshakes_allowed(&mut self, now: Now, id: ApiId) -> usize {
        let api = &self.apis[id.0 as usize];
        let Some(tls) = &api.tls else { return usize::MAX };
        let Some(left) = self.tls_client(now).resumptions(&tls.server) else { return usize::MAX };
        let unclaimed = api.connecting - tls.begun;
        let none_awaited = api.connecting == 0 && tls.young == 0;
        left.saturating_sub(unclaimed).max(usize::from(none_awaited))
    }

    /// A connect is over; the session begins.
    pub(super) fn begin_handshake(&mut self, now: Now, link: LinkId, conn: &mut ApiLink) {
        let tls = self.tls_of(conn.api);
        tls.begun += 1;
        let server = tls.server.clone();
        let mut out = std::mem::take(&mut conn.connection.out);
        let begun = self.tls_client(now).session(server).and_then(|mut session| {
            session.start(&mut out)?;
            Ok(session)
        });
        match begun {
            Ok(session) => {
                conn.secure = Some(Box::new(Secure { session, out, young: true }));
                self.tls_of(conn.api).young += 1;
                conn.connection.timer_ns = now.mono_ns + self.settings.deliver.connect_timeout.as_nanos() as u64;
                self.timers.set(conn.connection.timer_ns, Timer::link(link));
                self.send_pending(link, conn);
            }
            Err(error) => self.handshake_failed(now, link, conn, error.advice()),
        }
    }

    /// The connection closes before a request was sent on it.
    pub(super) fn handshake_failed(&mut self, now: Now, link: LinkId, conn: &mut ApiLink, problem: String) {
        self.send_pending(link, conn); // the alert that tells the server why
        self.close(link);
        self.grow_up(conn);
        self.tls_of(conn.api).begun -= 1;
        self.counters.api_tls_failures += 1;
        self.connect_failed(now, link, conn.api, conn.connection.idle_ns, problem);
    }

    /// The connection closes, and if its handshake is not complete, nothing comes of that.
    pub(super) fn leave_handshake(&mut self, link: LinkId, conn: &mut ApiLink) {
        self.close_session(link, conn);
        if conn.secure.is_some() && !conn.connection.open {
            self.tls_of(conn.api).begun -= 1;
        }
    }

    fn tls_of(&mut self, id: ApiId) -> &mut Handshakes {
        self.api(id).tls.as_mut().expect("the connection is by TLS")
    }

    /// No tickets of this session are waited for any longer.
    fn grow_up(&mut self, conn: &mut ApiLink) {
        if conn.secure.as_mut().is_some_and(|secure| std::mem::take(&mut secure.young)) {
            self.tls_of(conn.api).young -= 1;
        }
    }

    /// Sends what the session has to say, unless a send is under way: then it goes out behind that.
    fn send_pending(&mut self, link: LinkId, conn: &mut ApiLink) {
        let Some(secure) = &mut conn.secure else { return };
        if conn.connection.sending || secure.out.is_empty() {
            return;
        }
        let fd = self.links.get(link).and_then(|link| link.fd).expect("a connection with a session has a file");
        conn.connection.sending = true;
        let bytes = std::mem::take(&mut secure.out);
        self.ops.push_back(Op::Send { link, fd, bytes });
    }

    /// What is to be sent for the requests that were rendered; `None` if the session cannot go on, and the connection with it.
    pub(super) fn sealed(&mut self, now: Now, link: LinkId, conn: &mut ApiLink) -> Option<Vec<u8>> {
        let Some(secure) = &mut conn.secure else { return Some(std::mem::take(&mut conn.connection.out)) };
        let result = secure.session.send(&conn.connection.out, &mut secure.out);
        conn.connection.out.clear();
        match result {
            Ok(()) => Some(std::mem::take(&mut secure.out)),
            // The keys of a TLS 1.2 session last for 2^24 records; a new connection has others.
            Err(error) => {
                self.lose_connection(now, link, conn, &error.to_string(), true);
                None
            }
        }
    }

    /// A send is over.
    pub(super) fn secure_sent(&mut self, link: LinkId, conn: &mut ApiLink) {
        self.send_pending(link, conn);
        self.list(link, conn);
    }

    /// Bytes of TLS.
    pub(super) fn secure_received(&mut self, now: Now, link: LinkId, conn: &mut ApiLink, bytes: &mut [u8]) {
        let secure = conn.secure.as_mut().expect("looked at by the caller");
        secure.session.set_time(now.wall_ns);
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let result = secure.session.receive(bytes, &mut plain, &mut secure.out);
        let (opened, brought) = (conn.connection.open, secure.session.tickets_received() > 0);
        if brought {
            self.grow_up(conn);
        }
        if !opened && matches!(result, Ok(Progress::Open)) {
            self.handshake_complete(now, link, conn);
        }
        let goes_on = plain.is_empty() || self.secure_answered(now, link, conn, &plain);
        self.plain = plain;
        if goes_on {
            match result {
                Ok(Progress::Handshaking | Progress::Open) => self.send_pending(link, conn),
                // Nothing follows; that is the end of the stream, whether the connection stays or not.
                Ok(Progress::Closed) if opened => self.session_ended(now, link, conn),
                Ok(Progress::Closed) => {
                    self.handshake_failed(now, link, conn, "it ended the TLS handshake".to_owned());
                }
                Err(error) if opened => self.session_failed(now, link, conn, &error),
                Err(error) => self.handshake_failed(now, link, conn, error.advice()),
            }
        }
    }

    fn secure_answered(&mut self, now: Now, link: LinkId, conn: &mut ApiLink, plain: &[u8]) -> bool {
        let before = conn.connection.answered;
        let goes_on = self.plain_received(now, link, conn, plain);
        if before == 0 && conn.connection.answered > 0 {
            self.api(conn.api).failures = 0;
            self.grow_up(conn);
            if let Some(secure) = &conn.secure {
                secure.session.note_answered();
            }
        }
        goes_on
    }

    fn handshake_complete(&mut self, now: Now, link: LinkId, conn: &mut ApiLink) {
        let resumed = conn.secure.as_ref().is_some_and(|secure| secure.session.is_resumed());
        self.counters.api_tls_handshakes += 1;
        self.counters.api_tls_resumed += u64::from(resumed);
        self.tls_of(conn.api).begun -= 1;
        self.send_pending(link, conn); // Finished, before any request
        self.api_opened(now, link, conn);
    }

    /// A close_notify: an answer that runs to the end of the connection is whole, and what is in flight may go again.
    fn session_ended(&mut self, now: Now, link: LinkId, conn: &mut ApiLink) {
        self.answers_ended(now, link, conn, true, "it closed the connection".to_owned());
    }

    /// The session is of no use any more. A TLS 1.3 server that wants another certificate of ours says so only now, and each new
    /// connection would end alike: the authority is held back as after a failed connect.
    fn session_failed(&mut self, now: Now, link: LinkId, conn: &mut ApiLink, error: &TlsError) {
        let problem = error.advice();
        if conn.connection.answered == 0 {
            self.counters.api_tls_failures += 1;
            self.api(conn.api).connecting += 1; // it counts as one that has not got through
            self.connect_failed(now, link, conn.api, conn.connection.idle_ns, problem.clone());
        }
        self.send_pending(link, conn);
        self.lose_connection(now, link, conn, &problem, false);
    }

    /// Tells the server that nothing follows, unless a send is under way, which the close cuts short.
    pub(super) fn close_session(&mut self, link: LinkId, conn: &mut ApiLink) {
        self.grow_up(conn);
        if let Some(secure) = &mut conn.secure
            && !conn.connection.sending
        {
            secure.session.close(&mut secure.out);
            self.send_pending(link, conn);
        }
    }

    /// As [`Shard::close_session`], for all connections to the API.
    pub(super) fn close_sessions(&mut self) {
        let links: Vec<LinkId> = self.apis.iter().flat_map(|api| api.connections.iter().copied()).collect();
        for link in links {
            let Some((fd, state)) = self.links.take(link) else { continue };
            let state = match state {
                State::Api(mut conn) if fd.is_some() => {
                    self.close_session(link, &mut conn);
                    State::Api(conn)
                }
                state => state,
            };
            self.links.put(link, state);
        }
    }
}
