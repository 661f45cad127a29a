//! What earlier sessions leave behind so that the next handshakes are short (RFC 8446 section 2.2, RFC 5246 section 7.3).
//!
//! A TLS 1.3 ticket is used once, and a server sends one or two a handshake: connections that begin together need one each, which is why
//! the store can be asked how many are left. A resumed session does not show the certificate again, and brings new tickets, so that all
//! is forgotten [`AGE_MAX_S`] after the last handshake that did.

use super::Clock;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Servers remembered; a shard has one or two.
const SERVERS_MAX: usize = 8;
/// Tickets kept for each.
const TICKETS_MAX: usize = 32;
/// How long a certificate that was looked at counts, in seconds.
const AGE_MAX_S: u64 = 3_600;

/// One server.
struct Server {
    name: ServerName<'static>,
    group: Option<NamedGroup>,
    /// When its certificate was looked at last.
    seen_s: u64,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
    /// It has sent a ticket.
    gives: bool,
    /// It has answered a request.
    answered: bool,
}

/// The sessions of one shard. The lock is never contended: one thread uses it.
pub(super) struct Tickets {
    servers: Mutex<Vec<Server>>,
    clock: Arc<Clock>,
}

impl Tickets {
    pub fn new(clock: Arc<Clock>) -> Self {
        Self { servers: Mutex::default(), clock }
    }

    /// See [`Client::resumptions`](super::Client::resumptions).
    pub fn left(&self, name: &ServerName<'static>) -> Option<usize> {
        self.with(name, |server| match server {
            // One that has sent a ticket sends more.
            Some(server) if server.gives => Some(server.tls13.len()),
            Some(server) if server.answered || server.tls12.is_some() => None,
            _ => Some(0),
        })
    }

    pub fn forget(&self, name: &ServerName<'static>) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).retain(|server| server.name != *name);
    }

    pub fn note_seen(&self, name: &ServerName<'static>) {
        self.edit(name, |server| server.seen_s = self.clock.now_s());
    }

    pub fn note_answered(&self, name: &ServerName<'static>) {
        self.edit(name, |server| server.answered = true);
    }

    /// Looks at a server, whose sessions are forgotten if they are too old.
    fn with<T>(&self, name: &ServerName<'_>, look: impl FnOnce(Option<&mut Server>) -> T) -> T {
        let now_s = self.clock.now_s();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut server = servers.iter_mut().find(|server| server.name == *name);
        if let Some(server) = &mut server
            && now_s.abs_diff(server.seen_s) > AGE_MAX_S
        {
            server.tls12 = None;
            server.tls13.clear();
        }
        look(server)
    }

    /// Changes a server, which is added if it is not there; the oldest one goes then.
    fn edit(&self, name: &ServerName<'static>, change: impl FnOnce(&mut Server)) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let at = servers.iter().position(|server| server.name == *name).unwrap_or_else(|| {
            if servers.len() == SERVERS_MAX {
                servers.remove(0);
            }
            let name = name.clone();
            let (tls13, seen_s) = (VecDeque::new(), self.clock.now_s());
            servers.push(Server { name, group: None, seen_s, tls12: None, tls13, gives: false, answered: false });
            servers.len() - 1
        });
        change(&mut servers[at]);
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets") // they hold secrets
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.edit(&name, |server| server.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.with(name, |server| server.and_then(|server| server.group))
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.edit(&name, |server| server.tls12 = Some(value));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.with(name, |server| server.and_then(|server| server.tls12.clone()))
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.edit(name, |server| server.tls12 = None);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.edit(&name, |server| {
            if server.tls13.len() == TICKETS_MAX {
                server.tls13.pop_front();
            }
            server.tls13.push_back(value);
            server.gives = true;
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        // The newest lives longest.
        self.with(name, |server| server.and_then(|server| server.tls13.pop_back()))
    }
}
