//! Connections to the API over TLS: the handshake before the first request, and what its end means.
//!
//! Not one byte of a request is rendered before the server has proved who it is. A handshake that
//! fails counts as a connect that fails: the authority is held back, one connect probes it, and the
//! records wait.

use super::Lent;
use super::connection::ApiLink;
use super::dispatcher::{Dispatcher, set_timer};
use super::problem::{HandshakeFault, Loss, Problem};
use crate::config::Authority;
use crate::ground::{ApiId, LinkId, Now};
use crate::shard::op::Op;
use crate::shard::turn::Turn;
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
    /// Neither a ticket nor an answer has come. A server sends its tickets at the end of a
    /// handshake, when ours is complete already.
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

impl Dispatcher {
    fn tls_client(&self, now: Now) -> &tls::Client {
        let client = self.tls.as_ref().expect("it is given before the start where a URL is https");
        client.set_time(now.wall_ns);
        client
    }

    /// How many connections may begin now: over TLS as many as can resume a session, and one at
    /// least, whose handshake is a whole one and brings tickets for the others. Whole handshakes
    /// cost the server a millisecond each, and all cores come back at once.
    pub(super) fn handshakes_allowed(&self, now: Now, id: ApiId) -> usize {
        let api = self.outbox.api(id);
        let Some(tls) = api.tls() else { return usize::MAX };
        let Some(left) = self.tls_client(now).resumptions(&tls.server) else { return usize::MAX };
        let unclaimed = api.connecting() - tls.begun;
        let none_awaited = api.connecting() == 0 && tls.young == 0;
        left.saturating_sub(unclaimed).max(usize::from(none_awaited))
    }

    /// A connect is over; the session begins.
    pub(super) fn begin_handshake(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink) {
        let now = lent.turn.now;
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
                let limit_ns = lent.rules.deliver().connect_timeout.as_nanos() as u64;
                set_timer(lent.turn, link, &mut conn.connection, now.mono_ns + limit_ns);
                send_pending(lent.turn, link, conn);
            }
            Err(error) => self.handshake_failed(lent, link, conn, HandshakeFault::Tls(error)),
        }
    }

    /// The connection closes before a request was sent on it.
    pub(super) fn handshake_failed(
        &mut self,
        lent: &mut Lent<'_, '_>,
        link: LinkId,
        conn: &mut ApiLink,
        fault: HandshakeFault,
    ) {
        send_pending(lent.turn, link, conn); // the alert that tells the server why
        lent.turn.close(link);
        self.grow_up(conn);
        self.tls_of(conn.api).begun -= 1;
        lent.turn.counters.api_tls_failures += 1;
        self.connect_failed(lent, link, conn, Problem::Handshake(fault));
    }

    fn connect_failed(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &ApiLink, problem: Problem) {
        let begun_ns = conn.connection.idle_ns;
        self.outbox.connect_failed(lent.turn, (link, conn.api), begun_ns, lent.rules.retry(), problem);
    }

    /// The connection closes, and if its handshake is not complete, nothing comes of that.
    pub(super) fn leave_handshake(&mut self, turn: &mut Turn<'_>, link: LinkId, conn: &mut ApiLink) {
        self.close_session(turn, link, conn);
        if conn.secure.is_some() && !conn.connection.open {
            self.tls_of(conn.api).begun -= 1;
        }
    }

    fn tls_of(&mut self, id: ApiId) -> &mut Handshakes {
        self.outbox.api_mut(id).tls_mut().expect("the connection is by TLS")
    }

    /// No tickets of this session are waited for any longer.
    fn grow_up(&mut self, conn: &mut ApiLink) {
        if conn.secure.as_mut().is_some_and(|secure| std::mem::take(&mut secure.young)) {
            self.tls_of(conn.api).young -= 1;
        }
    }

    /// What is to be sent for the requests that were rendered; `None` if the session cannot go on,
    /// and the connection with it.
    pub(super) fn sealed(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink) -> Option<Vec<u8>> {
        let Some(secure) = &mut conn.secure else { return Some(std::mem::take(&mut conn.connection.out)) };
        let result = secure.session.send(&conn.connection.out, &mut secure.out);
        conn.connection.out.clear();
        match result {
            Ok(()) => Some(std::mem::take(&mut secure.out)),
            // The keys of a TLS 1.2 session last for 2^24 records; a new connection has others.
            Err(error) => {
                self.lose_connection(lent, (link, conn), &Loss::Sealing(error), true);
                None
            }
        }
    }

    /// A send is over.
    pub(super) fn secure_sent(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink) {
        send_pending(lent.turn, link, conn);
        self.list_connection(lent, link, conn);
    }

    /// Bytes of TLS.
    pub(super) fn secure_received(
        &mut self,
        lent: &mut Lent<'_, '_>,
        link: LinkId,
        conn: &mut ApiLink,
        bytes: &mut [u8],
    ) {
        let secure = conn.secure.as_mut().expect("looked at by the caller");
        secure.session.set_time(lent.turn.now.wall_ns);
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let result = secure.session.receive(bytes, &mut plain, &mut secure.out);
        let (opened, brought) = (conn.connection.open, secure.session.tickets_received() > 0);
        if brought {
            self.grow_up(conn);
        }
        if !opened && matches!(result, Ok(Progress::Open)) {
            self.handshake_complete(lent, link, conn);
        }
        let goes_on = plain.is_empty() || self.secure_answered(lent, link, conn, &plain);
        self.plain = plain;
        if !goes_on {
            return;
        }
        match result {
            Ok(Progress::Handshaking | Progress::Open) => send_pending(lent.turn, link, conn),
            // A close_notify: nothing follows; that is the end of the stream, whether the
            // connection stays or not. An answer that runs to the end of the connection is whole,
            // and what is in flight may go again.
            Ok(Progress::Closed) if opened => self.answers_ended(lent, link, conn, true, Loss::Closed),
            Ok(Progress::Closed) => self.handshake_failed(lent, link, conn, HandshakeFault::Closed),
            Err(error) if opened => self.session_failed(lent, link, conn, error),
            Err(error) => self.handshake_failed(lent, link, conn, HandshakeFault::Tls(error)),
        }
    }

    fn secure_answered(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink, plain: &[u8]) -> bool {
        let before = conn.connection.answered;
        let goes_on = self.plain_received(lent, link, conn, plain);
        if before == 0 && conn.connection.answered > 0 {
            self.outbox.api_mut(conn.api).forget_failures();
            self.grow_up(conn);
            if let Some(secure) = &conn.secure {
                secure.session.note_answered();
            }
        }
        goes_on
    }

    fn handshake_complete(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink) {
        let resumed = conn.secure.as_ref().is_some_and(|secure| secure.session.is_resumed());
        lent.turn.counters.api_tls_handshakes += 1;
        lent.turn.counters.api_tls_resumed += u64::from(resumed);
        self.tls_of(conn.api).begun -= 1;
        send_pending(lent.turn, link, conn); // Finished, before any request
        self.opened(lent, link, conn);
    }

    /// The session is of no use any more. A TLS 1.3 server that wants another certificate of ours
    /// says so only now, and each new connection would end alike: the authority is held back as
    /// after a failed connect.
    fn session_failed(&mut self, lent: &mut Lent<'_, '_>, link: LinkId, conn: &mut ApiLink, error: TlsError) {
        if conn.connection.answered == 0 {
            lent.turn.counters.api_tls_failures += 1;
            self.outbox.api_mut(conn.api).connect_is_in_vain();
            self.connect_failed(lent, link, conn, Problem::Lost(Loss::Session(error.clone())));
        }
        send_pending(lent.turn, link, conn);
        self.lose_connection(lent, (link, conn), &Loss::Session(error), false);
    }

    /// Tells the server that nothing follows, unless a send is under way, which the close cuts
    /// short.
    pub(super) fn close_session(&mut self, turn: &mut Turn<'_>, link: LinkId, conn: &mut ApiLink) {
        self.grow_up(conn);
        if let Some(secure) = &mut conn.secure
            && !conn.connection.sending
        {
            secure.session.close(&mut secure.out);
            send_pending(turn, link, conn);
        }
    }
}

/// Sends what the session has to say, unless a send is under way: then it goes out behind that.
fn send_pending(turn: &mut Turn<'_>, link: LinkId, conn: &mut ApiLink) {
    let Some(secure) = &mut conn.secure else { return };
    if conn.connection.sending || secure.out.is_empty() {
        return;
    }
    let fd = turn.links.fd(link).expect("a connection with a session has a file");
    conn.connection.sending = true;
    let bytes = std::mem::take(&mut secure.out);
    turn.emit(Op::Send { link, fd, bytes });
}
