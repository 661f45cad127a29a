//! Operations of the core become entries of the data ring, tasks of the runtime or requests to the control thread.
#![allow(unsafe_code)] // entries name memory and files; each SAFETY comment says who keeps them

use super::complete::{Kind, user_data};
use super::link::{Link, Phase};
use super::{Commit, Core, Driver, Event, Events, Message};
use crate::access::SecretCheck;
use crate::config::SourceKind;
use crate::engine::buffers::Buffers;
use crate::engine::control::Request;
use crate::engine::listen::watch_over;
use crate::engine::names::NameOf;
use crate::engine::segments::{SegmentFiles, descriptor};
use crate::ground::SegmentNumber;
use crate::journal;
use crate::shard::{Completion, CoreId, Destination, Fd, JournalId, LinkId, Op, Parcel, Readable, SourceId, Told};
use io_uring::{opcode, squeue, types};
use nix::sys::socket::{Shutdown, shutdown};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::rc::Rc;
use tracing::warn;

/// Accepts in flight at a listener: so many connections a turn.
const ACCEPTS_MAX: usize = 16;

/// The errno of an error of the file system.
fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// Reads after which the kernel is told again to wait with its ACKs: it goes back to its own way once an ACK has waited its full time.
const LATE_ACKS_READS: u8 = 16;

impl Link {
    /// A read of an open connection. Where ACKs are to be late, the kernel is told so from time to
    /// time: it waits with each at most 40 ms, and the setting is "not permanent" (tcp(7),
    /// TCP_QUICKACK).
    pub(super) fn put_acks_off(&mut self) {
        match &mut self.late_acks {
            None => {}
            Some(reads @ 1..) => *reads -= 1,
            Some(reads) => {
                *reads = LATE_ACKS_READS - 1;
                // SAFETY: the callers' links are open, and so is the file.
                let socket = unsafe { BorrowedFd::borrow_raw(self.fd) };
                // A connection that is gone already says so to whoever reads.
                let _ = SockRef::from(&socket).set_tcp_quickack(false);
            }
        }
    }
}

impl<C: Core> Driver<C> {
    /// Carries out all operations that the core has emitted.
    pub(super) fn carry(&mut self) {
        while let Some(op) = self.core.poll_op() {
            self.carry_out(op);
        }
    }

    fn carry_out(&mut self, op: Op) {
        match op {
            Op::Accept { source } => self.accept(source, false),
            Op::AcceptOne { source } => self.accept(source, true),
            Op::PauseAccept { source } => self.pause_accept(source),
            Op::Recv { link, fd, kind, older } => self.recv(link, fd, kind, &older),
            Op::PauseRecv { link } => self.pause_recv(link),
            Op::Send { link, fd, bytes } => self.send(link, fd, bytes),
            Op::Shutdown { link, fd } => self.shutdown(link, fd),
            Op::WatchOver { link, fd, source } => self.watch_over(link, fd, source),
            Op::Close { link, fd } => self.close(link, fd),
            Op::Connect { link, to } => self.connect(link, to),
            Op::AwaitOlder { link, fd, older } => self.await_older(link, fd, &older),
            Op::HandOver { source, fd, peer, core, told } => self.hand_over(core, source, (fd, peer), told),
            Op::PassOn { core, parcel } => self.pass_on(core, parcel),
            Op::OpenPort { link, source } => self.open_port(link, source),
            Op::LookAtSecret { link, check } => self.look_at_secret(link, check),
            Op::HoldLine { link, fd, hold } => self.hold_line(link, fd, hold),
            Op::Journal { journal, op } => self.carry_journal(journal, op),
        }
    }

    /// Gives a connection to another core. One that is a link here is closed as such, so that the other core gets a duplicate.
    fn hand_over(&self, core: CoreId, source: SourceId, (fd, peer): (Fd, SocketAddr), told: Option<Told>) {
        let fd = match told {
            None => fd,
            Some(_) => {
                // SAFETY: the link's file is open: its close comes behind this.
                let connection = unsafe { BorrowedFd::borrow_raw(fd.0) };
                match connection.try_clone_to_owned() {
                    Ok(connection) => Fd(connection.into_raw_fd()),
                    Err(error) => return warn!("a connection of {peer} ends, since it cannot be handed over: {error}"),
                }
            }
        };
        let owner = &self.peers[usize::from(core.0)];
        if owner.send(Message::Accepted { source, fd, peer, told }).is_err() {
            // It has stopped, and so does this core.
            let _ = nix::unistd::close(fd.0);
        }
    }

    /// A link waits for what older ones have received by now.
    fn await_older(&mut self, id: LinkId, fd: Fd, older: &[LinkId]) {
        let link = self.open_link(id, fd, false);
        assert!(!link.reading && !link.read_wanted, "a link that is read waits by its read: {id:?}");
        link.pausing = true;
        self.order_behind(id, older);
        if !self.links[id.index as usize].order.waits() {
            self.events.push(Event::Paused { link: id });
        }
    }

    /// Tells another core; of a request that it cannot hear any more this core hears the end.
    fn pass_on(&mut self, core: CoreId, parcel: Parcel) {
        let Err(unheard) = self.peers[usize::from(core.0)].send(Message::Parcel(parcel)) else { return };
        if let Message::Parcel(Parcel::Request(request)) = unheard.0 {
            self.events.push(Event::Parcel(request.undelivered()));
        }
    }

    fn carry_journal(&mut self, journal: JournalId, op: journal::Op) {
        match op {
            journal::Op::Commit { memory_offset, segment, offset, bytes, sync } => {
                self.commit(journal, memory_offset, segment, offset, bytes, sync);
            }
            journal::Op::PrepareSegment { segment, bytes, header, sync } => {
                self.cold(journal, async move |files: &SegmentFiles| {
                    let result = files.prepare(segment, bytes, header, sync).await.map_err(|error| errno(&error));
                    journal::Completion::SegmentPrepared { segment, result }
                });
            }
            journal::Op::SyncSegment { segment } => {
                self.cold(journal, async move |files: &SegmentFiles| {
                    let result = files.sync(segment).await.map_err(|error| errno(&error));
                    journal::Completion::SegmentSynced { segment, result }
                });
            }
            journal::Op::FreeSegment { segment, reuse } => {
                self.cold(journal, async move |files: &SegmentFiles| {
                    let freed = files.free(segment, reuse).await;
                    let result = freed.map_err(|error| {
                        warn!(segment = segment.0, "a settled segment's file could not be put aside: {error}");
                        errno(&error)
                    });
                    journal::Completion::SegmentFreed { segment, result }
                });
            }
            journal::Op::Rewrite { segment, work } => {
                self.cold(journal, async move |files: &SegmentFiles| {
                    let (result, work) = files.rewrite(segment, work).await;
                    let result = result.map_err(|error| errno(&error));
                    journal::Completion::Rewrite { segment, work, result }
                });
            }
            journal::Op::ReadBack { segment, offset, buffer } => {
                self.cold(journal, async move |files: &SegmentFiles| {
                    let (result, buffer) = files.read_back(segment, offset, buffer).await;
                    let result = result.map_err(|error| errno(&error));
                    journal::Completion::ReadBack { segment, offset, buffer, result }
                });
            }
        }
    }

    /// Runs cold work of a journal as a task of the runtime.
    fn cold<W>(&mut self, journal: JournalId, work: W)
    where
        W: AsyncFnOnce(&SegmentFiles) -> journal::Completion + 'static,
    {
        let files = Rc::clone(&self.journals[usize::from(journal.0)].files);
        let events = Rc::clone(&self.events);
        events.cold.set(events.cold.get() + 1);
        tokio_uring::spawn(async move {
            let completion = work(&files).await;
            events.cold.set(events.cold.get() - 1);
            events.push(Event::Journal { journal, completion });
        });
    }

    fn accept(&mut self, source: SourceId, one: bool) {
        let Some(index) = self.listener(source) else { return };
        (self.listeners[index].wanted, self.listeners[index].one) = (true, one);
        self.arm_accept(index);
    }

    /// Starts as many accepts as are wanted and not in flight. One multishot accept would take all that wait in
    /// one turn, thousands after a power cut, and those that are connected would wait for it.
    pub(super) fn arm_accept(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        let Some(socket) = listener.socket.as_ref().filter(|_| listener.wanted) else { return };
        let fd = types::Fd(std::os::fd::AsRawFd::as_raw_fd(socket));
        let wanted = if listener.one { 1 } else { ACCEPTS_MAX };
        while listener.armed < wanted {
            let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(libc::SOCK_CLOEXEC);
            let entry = entry.build().user_data(user_data(Kind::Accept, 0, index as u32));
            listener.armed += 1;
            // SAFETY: names no memory; the listener's socket stays open while any is `armed`.
            unsafe { self.ring.push(entry) };
        }
    }

    fn pause_accept(&mut self, source: SourceId) {
        if let Some(index) = self.listener(source) {
            self.pause_accept_at(index);
        }
    }

    pub(super) fn pause_accept_at(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        listener.wanted = false;
        if listener.armed > 0 {
            self.ring.cancel_all(user_data(Kind::Accept, 0, index as u32), user_data(Kind::Ignored, 0, 0));
        }
    }

    /// Its index; none where another core accepts for all.
    pub(super) fn listener(&self, source: SourceId) -> Option<usize> {
        self.listeners.iter().position(|listener| listener.source == source && !listener.closing)
    }

    /// Intake ends: no listener is left for a peer to reach.
    pub(super) fn close_listeners(&mut self) {
        for index in 0..self.listeners.len() {
            self.close_listener(index);
        }
    }

    /// No peer reaches it any more.
    pub(super) fn close_listener(&mut self, index: usize) {
        self.pause_accept_at(index);
        let listener = &mut self.listeners[index];
        listener.closing = true;
        if listener.armed == 0 {
            listener.socket = None;
        }
    }

    /// The link of an operation. One that came by an accept is first heard of here.
    fn open_link(&mut self, id: LinkId, fd: Fd, tty: bool) -> &mut Link {
        let link = self.link_at(id.index);
        if matches!(link.phase, Phase::Free) {
            link.begin(id, Phase::Open, fd.0, tty);
        }
        assert!(link.is(id) && link.is_open(), "an operation on a link that is not open: {id:?}");
        link.check(fd);
        link
    }

    fn link_at(&mut self, index: u32) -> &mut Link {
        let index = index as usize;
        if index >= self.links.len() {
            self.links.resize_with(index + 1, Default::default);
        }
        &mut self.links[index]
    }

    fn recv(&mut self, id: LinkId, fd: Fd, kind: Readable, older: &[LinkId]) {
        let link = self.open_link(id, fd, kind == Readable::Tty);
        link.read_wanted = true;
        link.late_acks = (kind == Readable::SocketLateAcks).then_some(0);
        link.put_acks_off();
        self.order_behind(id, older);
        self.arm_recv(id);
    }

    /// Starts a read where one is wanted and none is in flight, or has the link wait for it.
    pub(super) fn arm_recv(&mut self, id: LinkId) {
        let link = &self.links[id.index as usize];
        if link.wants_read() && !self.share.spares(id, &link.reads, self.ring.buffers.in_use()) {
            self.push_read(id);
        }
    }

    /// Starts a read where one is wanted and none is in flight.
    pub(super) fn push_read(&mut self, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        if !link.wants_read() {
            return;
        }
        link.reading = true;
        let once = self.share.asks_once(&link.reads, self.ring.buffers.in_use());
        let fd = types::Fd(link.fd);
        let entry = match (link.tty, self.read_multishot && !once) {
            (false, _) if once => opcode::Recv::new(fd, std::ptr::null_mut(), self.ring.buffers.buffer_bytes())
                .buf_group(Buffers::GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
            (false, _) => opcode::RecvMulti::new(fd, Buffers::GROUP).build(),
            (true, true) => opcode::ReadMulti::new(fd, 0, Buffers::GROUP).build(),
            (true, false) => opcode::Read::new(fd, std::ptr::null_mut(), self.ring.buffers.buffer_bytes())
                .buf_group(Buffers::GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
        };
        let entry = entry.user_data(user_data(Kind::Read, id.generation, id.index));
        // SAFETY: the kernel writes to provided buffers, which the ring owns; the file stays open while `reading`.
        unsafe { self.ring.push(entry) };
    }

    fn pause_recv(&mut self, id: LinkId) {
        let link = self.link_at(id.index);
        // A read that has ended meanwhile has been, or is being, reported as ended.
        if !link.is(id) || !link.is_open() || !std::mem::take(&mut link.read_wanted) || link.pausing {
            return;
        }
        link.pausing = true;
        if link.order.waits() {
            self.events.push(Event::Paused { link: id });
        } else if link.reading {
            self.ring.cancel(user_data(Kind::Read, id.generation, id.index), user_data(Kind::Ignored, 0, 0));
        }
    }

    fn send(&mut self, id: LinkId, fd: Fd, bytes: Vec<u8>) {
        let link = self.open_link(id, fd, false);
        assert!(link.sending.is_none(), "one send is in flight on a link at a time");
        link.sending = Some(bytes);
        self.push_send(id);
    }

    /// Submits the link's bytes.
    pub(super) fn push_send(&mut self, id: LinkId) {
        let link = &self.links[id.index as usize];
        let bytes = link.sending.as_ref().expect("set by the caller");
        let length = u32::try_from(bytes.len()).expect("a send is shorter than 4 GiB");
        let entry = opcode::Send::new(types::Fd(link.fd), bytes.as_ptr(), length)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(user_data(Kind::Send, id.generation, id.index));
        // SAFETY: `sending` keeps the bytes, unmoved and unchanged, until the completion takes them out; the file stays open
        // while `sending` is set.
        unsafe { self.ring.push(entry) };
    }

    fn shutdown(&mut self, id: LinkId, fd: Fd) {
        let link = self.open_link(id, fd, false);
        link.shutdown = true;
        if link.sending.is_none() {
            self.shut_down(id);
        }
    }

    /// Shuts down the sending half if that is due. io_uring would hand it to a kernel worker; shutdown(2) does not wait.
    pub(super) fn shut_down(&mut self, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        if std::mem::take(&mut link.shutdown) {
            // ENOTCONN: the peer is gone, which the read reports.
            let _ = shutdown(link.fd, Shutdown::Write);
        }
    }

    fn watch_over(&mut self, id: LinkId, fd: Fd, source: SourceId) {
        self.open_link(id, fd, false);
        // SAFETY: the link is open, and so is the file.
        let socket = unsafe { BorrowedFd::borrow_raw(fd.0) };
        let _ = watch_over(&SockRef::from(&socket), &self.settings.sources[usize::from(source.0)].tcp);
    }

    fn close(&mut self, id: LinkId, fd: Option<Fd>) {
        let link = self.link_at(id.index);
        if matches!(link.phase, Phase::Free) && !(link.is(id) && fd.is_none()) {
            // An accepted connection that the core does not want, or a link that was never opened.
            match fd {
                Some(fd) => link.begin(id, Phase::Open, fd.0, false),
                None => link.begin(id, Phase::Free, -1, false),
            }
        }
        assert!(link.is(id), "a close of a link that is not in use: {id:?}");
        match std::mem::take(&mut link.phase) {
            // Its open failed, or never began.
            Phase::Free => self.events.push(Event::Closed { link: id }),
            Phase::Connecting(task) => {
                task.abort();
                link.phase = Phase::Released;
                self.events.push(Event::Closed { link: id });
            }
            Phase::OpeningPort => link.phase = Phase::Unwanted,
            Phase::Open => {
                if let Some(fd) = fd {
                    link.check(fd);
                }
                link.phase = Phase::Closing;
                self.read_newer(id);
                let link = &self.links[id.index as usize];
                let (reading, sending) = (link.reading, link.sending.is_some());
                for (in_flight, kind) in [(reading, Kind::Read), (sending, Kind::Send)] {
                    if in_flight {
                        self.ring.cancel(user_data(kind, id.generation, id.index), user_data(Kind::Ignored, 0, 0));
                    }
                }
                self.release(id);
            }
            Phase::Unwanted | Phase::Closing | Phase::Released => panic!("{id:?} is closed twice"),
        }
    }

    /// Closes the file of a closing link once nothing is in flight on it.
    pub(super) fn release(&mut self, id: LinkId) {
        let link = &mut self.links[id.index as usize];
        if !matches!(link.phase, Phase::Closing) || link.reading || link.sending.is_some() {
            return;
        }
        link.phase = Phase::Released;
        if link.tty {
            self.close_port(id);
            return;
        }
        let entry = opcode::Close::new(types::Fd(link.fd)).build();
        let entry = entry.user_data(user_data(Kind::Close, id.generation, id.index));
        // SAFETY: names no memory; nothing else is in flight on the file, and the link forgets it.
        unsafe { self.ring.push(entry) };
    }

    /// Has the control thread close a tty, which can wait for its output to drain.
    pub(super) fn close_port(&mut self, id: LinkId) {
        let fd = self.links[id.index as usize].fd;
        if self.control.send(Request::ClosePort { core: self.index, link: id, fd }).is_err() {
            let _ = nix::unistd::close(fd);
            self.events.push(Event::Closed { link: id });
        }
    }

    fn connect(&mut self, id: LinkId, to: Destination) {
        let (authority, of) = match to {
            Destination::Api(api) => (self.core.destination(api), NameOf::Api),
            Destination::Source(source) => match &self.settings.sources[usize::from(source.0)].kind {
                SourceKind::TcpConnect { connect, .. } => (connect.clone(), NameOf::Device),
                kind => panic!("{kind:?} has nowhere to connect to"),
            },
        };
        let limit = self.settings.deliver.connect_timeout;
        let (connector, events) = (self.connector.clone(), Rc::clone(&self.events));
        let task = tokio_uring::spawn(async move {
            let result = connector.connect(authority, of, limit).await;
            Events::push(&events, Event::Connected { link: id, result });
        });
        self.link_at(id.index).begin(id, Phase::Connecting(task.abort_handle()), -1, false);
    }

    fn open_port(&mut self, id: LinkId, source: SourceId) {
        self.link_at(id.index).begin(id, Phase::OpeningPort, -1, true);
        // Without a control thread the core is stopping, and the port stays closed.
        let _ = self.control.send(Request::OpenPort { core: self.index, link: id, source });
    }

    /// Has the control thread look at a secret. Without one the core is stopping.
    fn look_at_secret(&mut self, link: LinkId, check: Box<SecretCheck>) {
        if self.control.send(Request::LookAtSecret { core: self.index, link, check }).is_err() {
            self.events.push(Event::SecretUnknown { link });
        }
    }

    /// Has the control thread send XOFF or XON, through a duplicate: by then this core may have let the port go.
    fn hold_line(&mut self, id: LinkId, fd: Fd, hold: bool) {
        let link = &self.links[id.index as usize];
        assert!(link.is(id) && link.is_open() && link.tty, "an operation on a line that is not open: {id:?}");
        link.check(fd);
        // SAFETY: the link's file is open, and stays so until the call is over.
        let port = unsafe { BorrowedFd::borrow_raw(fd.0) };
        match port.try_clone_to_owned() {
            // Without a control thread the core is stopping.
            Ok(port) => drop(self.control.send(Request::HoldLine { port, hold })),
            Err(error) => warn!("a line's flow control: {error}"),
        }
    }

    fn commit(
        &mut self,
        journal: JournalId,
        memory_offset: u32,
        segment: SegmentNumber,
        offset: u32,
        bytes: u32,
        sync: bool,
    ) {
        let state = &self.journals[usize::from(journal.0)];
        let memory = Rc::clone(&state.memory);
        assert!(memory_offset as usize + bytes as usize <= memory.len(), "a commit from outside the block memory");
        match state.files.writable(segment) {
            Ok(file) => {
                let commit = Commit { journal, segment, offset, bytes, memory_offset, sync, file, memory };
                let key = self.commits.insert(commit);
                self.push_commit(key);
            }
            Err(error) => {
                let result = Err(errno(&error));
                let completion = journal::Completion::Committed { segment, offset, result };
                self.events.push(Event::Journal { journal, completion });
            }
        }
    }

    /// Submits a commit.
    pub(super) fn push_commit(&mut self, key: usize) {
        let commit = &self.commits[key];
        let start = commit.memory.address(commit.memory_offset as usize);
        let entry = opcode::Write::new(types::Fd(descriptor(&commit.file)), start, commit.bytes)
            .offset(u64::from(commit.offset))
            .rw_flags(if commit.sync { libc::RWF_DSYNC } else { 0 })
            .build()
            .user_data(user_data(Kind::Commit, 0, key as u32));
        // SAFETY: the commit holds file and memory until its completion, and the journal does not write to that part of the
        // memory before it hears of it.
        unsafe { self.ring.push(entry) };
    }

    /// What the control thread says.
    pub(super) fn message(&mut self, now: crate::shard::Now, message: Message) {
        match message {
            Message::PortOpened { link, result } => self.port_opened(now, link, result),
            Message::PortClosed { link } => self.closed(now, link),
            Message::SecretLooked { link, looked } => self.hear(now, Completion::SecretLooked { link, looked }),
            Message::Accepted { source, fd, peer, told: None } => {
                self.hear(now, Completion::Accepted { source, fd, peer });
            }
            Message::Accepted { source, fd, peer, told: Some(told) } => {
                self.hear(now, Completion::HandedOver { source, fd, peer, told });
            }
            Message::PortAppeared { source } => self.hear(now, Completion::PortAppeared { source }),
            Message::Parcel(parcel) => self.hear(now, Completion::Parcel { parcel }),
            Message::Reload(new) => {
                // What was read of a source that is to be retired counts.
                self.read_all(now);
                self.reload(now, *new);
            }
            Message::Snapshot(answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.core.snapshot(now));
            }
            Message::Stages(answer) => {
                let _ = answer.send(self.core.stages());
            }
            Message::Parked { limit, answer } => {
                let _ = answer.send(self.core.parked(limit));
            }
            Message::Machines { most, answer } => {
                // What nobody waits for any more is told to whoever asks next.
                if let Err((untold, _)) = answer.send(self.core.take_machines(most)) {
                    self.core.untold_machines(&untold);
                }
            }
            Message::Dispose { disposal, of, answer } => {
                let _ = answer.send(self.core.dispose(disposal, &of));
            }
            Message::Wake => self.core.wake(now),
            Message::TicketKeys(keys) => self.core.set_ticket_keys(keys),
            Message::Acknowledge { news, answer } => {
                let _ = answer.send(self.core.acknowledge(&news));
            }
            Message::Stop => {
                if !std::mem::replace(&mut self.stopping, true) {
                    self.close_listeners();
                    self.read_all(now);
                    self.core.stop(now);
                    self.carry();
                }
            }
        }
    }
}
