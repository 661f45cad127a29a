//! The order of one machine's connections: a newer one is read once what its older ones had received
//! by then is read.
//!
//! A machine may leave a connection that nobody reads, since the journal is full, and come back on
//! another one. What it sent before waits in the kernel, in the data ring or for its turn (`share`).
//! So the kernel is asked how much a connection has received in all, and the driver counts what of it
//! the core was given.
#![allow(unsafe_code)] // libc has no safe call for TCP_INFO

use super::{Core, Driver, Event};
use crate::shard::LinkId;
use std::mem::offset_of;

/// Where the kernel's answer has the bytes that were received, in words of eight bytes.
const RECEIVED: usize = offset_of!(libc::tcp_info, tcpi_bytes_received) / 8;
const _: () = assert!(offset_of!(libc::tcp_info, tcpi_bytes_received) % 8 == 0);

/// States of a connection whose peer may send more: TCP_ESTABLISHED, TCP_FIN_WAIT1 and TCP_FIN_WAIT2
/// of include/net/tcp_states.h.
const OPEN: [u8; 3] = [1, 4, 5];

/// A link's place among its machine's connections.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Bytes that the core was given of it.
    given_bytes: u64,
    /// Its read has ended for good.
    pub(super) has_ended: bool,
    /// Newer links, and how many bytes the core is given of this one before each of them is read.
    newer: Vec<(LinkId, u64)>,
    /// How many older links it waits for.
    older: usize,
}

impl Order {
    /// Whether it waits for an older link.
    pub(super) fn waits(&self) -> bool {
        self.older > 0
    }

    /// Whether newer links wait for it.
    pub(super) fn is_awaited(&self) -> bool {
        !self.newer.is_empty()
    }

    /// The core is given bytes of it.
    pub(super) fn give(&mut self, bytes: usize) {
        self.given_bytes += bytes as u64;
    }

    /// How many bytes the core is given before a newer link is read; `None` if it has them all.
    fn owed(&self, fd: i32) -> Option<u64> {
        let (received, is_over) = received(fd)?;
        // With its end the last record may come.
        let until = if is_over { u64::MAX } else { received };
        (!self.has_ended && self.given_bytes < until).then_some(until)
    }

    /// Newer links that have waited long enough.
    fn take_due(&mut self, is_closed: bool) -> Vec<LinkId> {
        let (given, all) = (self.given_bytes, self.has_ended || is_closed);
        self.newer.extract_if(.., |(_, until)| all || given >= *until).map(|(newer, _)| newer).collect()
    }
}

/// Bytes that a connection has received, and whether its peer has ended it; `None` if the kernel does
/// not know (tcp(7), TCP_INFO). Urgent bytes are among those that are read (`listen`).
fn received(fd: i32) -> Option<(u64, bool)> {
    let mut info = [0_u64; RECEIVED + 1];
    let mut bytes = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` to the array, which outlives the call.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut bytes) };
    let [state, ..] = info[0].to_ne_bytes();
    (result == 0).then(|| (info[RECEIVED], !OPEN.contains(&state)))
}

impl<C: Core> Driver<C> {
    /// A link is not read before what its older ones have received by now.
    pub(super) fn order_behind(&mut self, id: LinkId, older: &[LinkId]) {
        for other in older {
            let link = &mut self.links[other.index as usize];
            if link.is(*other)
                && link.is_open()
                && let Some(until) = link.order.owed(link.fd)
            {
                link.order.newer.push((id, until));
                self.links[id.index as usize].order.older += 1;
            }
        }
    }

    /// Newer links are read that have waited long enough for this one.
    pub(super) fn read_newer(&mut self, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        let is_closed = !link.is_open();
        for newer in link.order.take_due(is_closed) {
            let link = &mut self.links[newer.index as usize];
            // It may be closed, and its place another link's.
            if link.is(newer) {
                link.order.older -= 1;
                if link.pausing && !link.reading && !link.order.waits() {
                    self.events.push(Event::Paused { link: newer }); // it was told to wait, or has nothing else to wait for
                }
                self.arm_recv(newer);
            }
        }
    }
}
