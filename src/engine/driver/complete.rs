//! Completions of the data ring, and events from outside it, become completions of the core.

use super::link::Phase;
use super::{Core, Driver, Event};
use crate::access::Looked;
use crate::engine::ring::Cqe;
use crate::journal;
use crate::shard::{Completion, ConnectError, Fd, LinkId, Now, OpenPort, RecvEnd};
use crate::source::serial::{Opened, PortError};
use nix::sys::socket::{SockaddrStorage, getpeername};
use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, OwnedFd};

/// What an entry of the data ring was. With the generation and the index it makes the `user_data`:
/// kind in the highest 8 bits, then 24 bits of generation, then 32 bits of index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A cancel; what it ended completes on its own.
    Ignored,
    /// Index of the listener.
    Accept,
    /// Index and generation of the link.
    Read,
    /// The same.
    Send,
    /// The same.
    Close,
    /// Key of the commit.
    Commit,
}

pub(super) fn user_data(kind: Kind, generation: u32, index: u32) -> u64 {
    debug_assert!(generation < 1 << 24);
    u64::from(kind as u8) << 56 | u64::from(generation) << 32 | u64::from(index)
}

fn parts(user_data: u64) -> (Kind, LinkId) {
    let kind = match (user_data >> 56) as u8 {
        0 => Kind::Ignored,
        1 => Kind::Accept,
        2 => Kind::Read,
        3 => Kind::Send,
        4 => Kind::Close,
        5 => Kind::Commit,
        other => panic!("no operation is of kind {other}"),
    };
    (kind, LinkId { index: user_data as u32, generation: (user_data >> 32) as u32 & 0xff_ffff })
}

/// Errnos after which an operation is simply tried again.
fn is_transient(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED)
}

/// Errnos of accept(2) that belong to one connection and not to the listener (its "Error handling").
fn is_of_connection(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNABORTED
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ETIMEDOUT
            | libc::ECONNRESET
    )
}

impl<C: Core> Driver<C> {
    /// One completion of the data ring.
    pub(super) fn complete(&mut self, now: Now, cqe: Cqe) {
        let (kind, id) = parts(cqe.user_data);
        match kind {
            Kind::Ignored => {}
            Kind::Accept => self.accept_completed(now, cqe, id.index as usize),
            Kind::Read => self.read_completed(now, cqe, id),
            Kind::Send => self.send_completed(now, cqe.result, id),
            Kind::Close => {
                debug_assert_ne!(cqe.result, -libc::EBADF, "a link's file was closed behind the driver's back");
                self.closed(now, id);
            }
            Kind::Commit => self.commit_completed(now, cqe.result, id.index as usize),
        }
    }

    /// One event from outside the data ring.
    pub(super) fn event(&mut self, now: Now, event: Event) {
        match event {
            Event::Connected { link, result } => self.connected(now, link, result),
            Event::Closed { link } => self.closed(now, link),
            Event::Paused { link } => self.paused(now, link),
            Event::SecretUnknown { link } => {
                self.hear(now, Completion::SecretLooked { link, looked: Looked::Unknown });
            }
            Event::Parcel(parcel) => self.hear(now, Completion::Parcel { parcel }),
            Event::Journal { journal, completion } => self.hear(now, Completion::Journal { journal, completion }),
        }
    }

    fn accept_completed(&mut self, now: Now, cqe: Cqe, index: usize) {
        let listener = &mut self.listeners[index];
        let source = listener.source;
        listener.armed -= 1;
        if listener.closing && listener.armed == 0 {
            listener.socket = None;
        }
        if cqe.result >= 0 {
            match peer(cqe.result) {
                Some(peer) => {
                    listener.wanted &= !listener.one;
                    self.hear(now, Completion::Accepted { source, fd: Fd(cqe.result), peer });
                }
                // The peer was gone before we looked.
                None => {
                    let _ = nix::unistd::close(cqe.result);
                }
            }
        } else if !is_transient(-cqe.result) && !is_of_connection(-cqe.result) {
            // The others in flight are to wait, too.
            let was_wanted = listener.wanted;
            self.pause_accept_at(index);
            if was_wanted {
                self.hear(now, Completion::AcceptFailed { source, errno: -cqe.result });
            }
        }
        self.arm_accept(index);
    }

    /// What machines send waits for the next turn where this one has taken its share.
    fn read_completed(&mut self, now: Now, cqe: Cqe, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        debug_assert!(link.is(id) && link.reading);
        link.reading = cqe.more();
        let may_wait = link.is_open() && (link.reads.waiting > 0 || self.core.can_wait(id));
        let is_full = cqe.result >= self.ring.buffers.buffer_bytes() as i32;
        if !may_wait || self.share.takes(id, &mut link.reads, cqe, is_full) {
            self.read(now, cqe, id);
        }
    }

    /// Nothing that was read waits any longer.
    pub(super) fn read_all(&mut self, now: Now) {
        self.share.lift();
        self.read_waiting(now);
        self.read_unread(now);
    }

    /// Reads that have waited for this turn.
    pub(super) fn read_waiting(&mut self, now: Now) {
        while let Some((id, cqe)) = self.share.pop() {
            let link = &mut self.links[id.index as usize];
            if link.is(id) {
                link.reads.waiting -= 1;
                self.share.spend(&mut link.reads, cqe);
            }
            self.read(now, cqe, id);
        }
    }

    /// Links that had to wait for their next read have it, as far as there are buffers.
    pub(super) fn read_unread(&mut self, now: Now) {
        while let Some(id) = self.share.pop_unread(self.ring.buffers.in_use()) {
            let link = &mut self.links[id.index as usize];
            // It was listed twice, or its last read waits to be told.
            if !link.is(id) || !link.is_open() || link.reading || link.reads.waiting > 0 {
                continue;
            }
            self.share.ask_again(&mut link.reads);
            if std::mem::take(&mut link.pausing) {
                self.hear(now, Completion::RecvEnded { link: id, end: RecvEnd::Paused });
            }
            if self.links[id.index as usize].is(id) {
                self.push_read(id);
            }
        }
    }

    fn read(&mut self, now: Now, cqe: Cqe, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        let is_same = link.is(id); // else it was closed while this waited
        if let Some(buffer) = cqe.buffer() {
            if cqe.result > 0 && is_same && link.is_open() {
                link.put_acks_off();
                link.order.give(cqe.result as usize);
                let bytes = self.ring.buffers.bytes_mut(buffer, cqe.result as usize);
                self.core.handle(now, Completion::Received { link: id, bytes });
            }
            self.ring.buffers.give_back(buffer);
            self.carry();
            self.read_newer(id);
        }
        if is_same && !cqe.more() {
            self.read_ended(now, cqe.result, id);
        }
    }

    /// A read is over; it goes on with another unless there is a reason not to.
    fn read_ended(&mut self, now: Now, result: i32, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        if !link.is(id) || !link.is_open() {
            // Closed, maybe just now.
            self.release(id);
            return;
        }
        let end = match -result {
            libc::ENOBUFS => {
                self.core.counters_mut().buffers_exhausted += 1;
                None
            }
            0 => Some(RecvEnd::Closed),
            errno if errno > 0 && !is_transient(errno) => Some(RecvEnd::Error(errno)),
            _ => None,
        };
        if let Some(end) = end {
            (link.read_wanted, link.pausing, link.order.has_ended) = (false, false, true);
            self.hear(now, Completion::RecvEnded { link: id, end });
            self.read_newer(id);
            return;
        }
        self.paused(now, id);
    }

    /// A pause is told where the core has asked for one; a read goes on where it is wanted.
    fn paused(&mut self, now: Now, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        if !link.is(id) || !link.is_open() {
            return;
        }
        if std::mem::take(&mut link.pausing) {
            self.hear(now, Completion::RecvEnded { link: id, end: RecvEnd::Paused });
        }
        if self.links[id.index as usize].is(id) {
            self.arm_recv(id);
        }
    }

    fn send_completed(&mut self, now: Now, result: i32, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        debug_assert!(link.is(id));
        if link.is_open() && result < 0 && is_transient(-result) {
            self.push_send(id);
            return;
        }
        let bytes = link.sending.take().expect("a send in flight has its bytes");
        if !link.is_open() {
            self.release(id);
            return;
        }
        let result = match result {
            sent if sent >= 0 && sent as usize == bytes.len() => Ok(()),
            sent if sent >= 0 => Err(libc::EPIPE),
            errno => Err(-errno),
        };
        self.shut_down(id);
        self.hear(now, Completion::Sent { link: id, bytes, result });
    }

    fn commit_completed(&mut self, now: Now, result: i32, key: usize) {
        self.share.disk_moved(now);
        // Also one that was not taken for now: how long it waits is the journal's to say.
        let commit = self.commits.remove(key);
        let result = match result {
            written if written == commit.bytes as i32 => Ok(()),
            written if written >= 0 => Err(libc::EIO),
            errno => Err(-errno),
        };
        let completion = journal::Completion::Committed { segment: commit.segment, offset: commit.offset, result };
        self.hear(now, Completion::Journal { journal: commit.journal, completion });
    }

    fn connected(&mut self, now: Now, id: LinkId, result: Result<OwnedFd, ConnectError>) {
        let link = &mut self.links[id.index as usize];
        if !link.is(id) || !matches!(link.phase, Phase::Connecting(_)) {
            // Closed meanwhile; dropping the connection closes it.
            return;
        }
        let result = match result {
            Ok(connection) => {
                link.phase = Phase::Open;
                link.fd = connection.into_raw_fd();
                Ok(Fd(link.fd))
            }
            Err(reason) => {
                link.phase = Phase::Free;
                Err(reason)
            }
        };
        self.hear(now, Completion::Connected { link: id, result });
    }

    pub(super) fn port_opened(&mut self, now: Now, id: LinkId, result: Result<Opened, PortError>) {
        let link = &mut self.links[id.index as usize];
        debug_assert!(link.is(id));
        let opened = result.map(|Opened { port, discarded, notes: _, adapter: _ }| {
            link.fd = port.into_raw_fd();
            OpenPort { fd: Fd(link.fd), discarded }
        });
        match (&link.phase, &opened) {
            (Phase::OpeningPort, _) => {
                link.phase = if opened.is_ok() { Phase::Open } else { Phase::Free };
                self.hear(now, Completion::PortOpened { link: id, result: opened });
            }
            (Phase::Unwanted, Ok(_)) => {
                link.phase = Phase::Released;
                self.close_port(id);
            }
            (Phase::Unwanted, Err(_)) => {
                link.phase = Phase::Released;
                self.closed(now, id);
            }
            (phase, _) => panic!("a port was opened for a link that is {phase:?}"),
        }
    }

    /// A link is over.
    pub(super) fn closed(&mut self, now: Now, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        debug_assert!(link.is(id) && matches!(link.phase, Phase::Released | Phase::Free));
        link.phase = Phase::Free;
        self.hear(now, Completion::Closed { link: id });
    }
}

/// The peer's address, an IPv4 one as such also on a listener of both families; `None` if it is gone.
fn peer(fd: i32) -> Option<SocketAddr> {
    let storage = getpeername::<SockaddrStorage>(fd).ok()?;
    if let Some(address) = storage.as_sockaddr_in() {
        return Some(SocketAddr::from((address.ip(), address.port())));
    }
    let address = storage.as_sockaddr_in6()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
