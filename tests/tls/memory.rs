//! What an idle machine's session takes of memory, counted by an allocator that asks the system's for all.
#![allow(unsafe_code)] // an allocator has no other form

use crate::machines::{HOST, Maker};
use crate::pki::{Authority, Issued, ONLY_1_2, ONLY_1_3};
use ringest::tls::{Clients, Identity, Progress, Server, ServerTls, TicketKeys};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// Bytes that this thread has taken and not given back.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    // At the end of a thread nobody asks any more.
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps to the layout's rules.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: it comes from `alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> isize {
    HELD.with(Cell::get)
}

fn server(ours: &Issued, clients: Option<&Authority>) -> Server {
    let identity = Identity { chain: vec![ours.certificate.clone()], key: Arc::new(ours.key()) };
    let clients = clients.map(|authority| Clients { authorities: vec![authority.der()], revoked: Vec::new() });
    let server = Server::new("a", &ServerTls { identity, clients }).expect("good settings");
    server.set_time(1_784_000_000_000_000_000);
    server.set_ticket_keys(&TicketKeys::draw().expect("randomness"));
    server
}

#[test]
fn an_idle_session_of_a_machine_takes_at_most_twelve_kib() {
    const SESSIONS: isize = 50;
    let (authority, machines) = (Authority::new("Plant"), Authority::new("Machines"));
    let (ours, cam) = (authority.issue(&[HOST]), machines.issue(&["cam-1"]));
    for versions in [ONLY_1_2, ONLY_1_3] {
        for is_asked in [false, true] {
            let server = server(&ours, is_asked.then_some(&machines));
            let maker = Maker::new(&authority, is_asked.then_some(&cam), versions);
            let mut kept = Vec::with_capacity(SESSIONS as usize);
            let mut taken = 0;
            for _ in 0..SESSIONS {
                let mut client = maker.session();
                let before = held();
                let mut session = Box::new(server.session().expect("a session"));
                taken += held() - before;
                while session.progress() != Progress::Open || client.is_handshaking() {
                    let mut bytes = Vec::new();
                    client.write_tls(&mut bytes).expect("memory");
                    let before = held();
                    let (mut plain, mut out) = (Vec::new(), Vec::new());
                    session.receive(&mut bytes, &mut plain, &mut out).expect("a good machine");
                    taken += held() - before - (plain.capacity() + out.capacity()) as isize;
                    let mut rest = out.as_slice();
                    while !rest.is_empty() {
                        client.read_tls(&mut rest).expect("memory");
                        client.process_new_packets().expect("a good server");
                    }
                }
                kept.push(session);
            }
            let each = taken / SESSIONS;
            println!("{versions:?}, with a certificate: {is_asked}: {each} bytes");
            assert!((1_000..=12 * 1_024).contains(&each), "{each} bytes");
        }
    }
}
