//! Machines that connect, send a few 64-byte records, and leave: each connection is a lane of its own. A few are open at the
//! same time; a connection is over when the other side has closed it, too, so that nothing of what it sent is lost.
//!
//! Connections come from many addresses of the loopback, so that their ports, which the kernel keeps for a minute, do not
//! run out. It prints one line of JSON when all have left.

use clap::Parser;
use ringest_bench::process::now_ns;
use ringest_bench::record::{self, BYTES, END, Record};
use serde_json::json;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Connections from one address, each from a port of its own: to have the kernel look for free ones costs more than all else.
const OF_AN_ADDRESS: u32 = 10_000;
/// The first of these ports; where somebody has one on all addresses, the one so many behind it is taken.
const PORTS_FROM: u16 = 10_000;
/// Connections that are open at the same time.
const OPEN_MAX: usize = 16;
/// How long the other side may take for one connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Machines that connect, send a few records, and leave.
#[derive(Parser)]
struct Arguments {
    /// Where to connect to
    #[arg(long)]
    tcp: SocketAddr,
    /// How many connections there are in all
    #[arg(long)]
    connections: u32,
    /// Records of each
    #[arg(long)]
    records: u64,
}

fn main() -> io::Result<()> {
    let Arguments { tcp, connections, records } = Arguments::parse();
    let begun = Instant::now();
    let next = Arc::new(AtomicU32::new(0));
    let visitor = |next: Arc<AtomicU32>| {
        move || -> io::Result<()> {
            loop {
                let machine = next.fetch_add(1, Ordering::Relaxed);
                if machine >= connections {
                    return Ok(());
                }
                visit(tcp, machine, records)?;
            }
        }
    };
    let visitors: Vec<_> = (0..OPEN_MAX).map(|_| thread::spawn(visitor(Arc::clone(&next)))).collect();
    for one in visitors {
        one.join().expect("a visitor does not panic")?;
    }
    let sent = u64::from(connections) * records;
    println!("{}", json!({ "sent": sent, "seconds": begun.elapsed().as_secs_f64() }));
    Ok(())
}

/// One connection from its beginning to its end.
fn visit(to: SocketAddr, machine: u32, records: u64) -> io::Result<()> {
    let mut bytes = Vec::new();
    for sequence in 0..records {
        let mut record = [0; BYTES];
        record::write(&mut record, Record { machine, sequence, scheduled_ns: now_ns() });
        bytes.extend_from_slice(&record);
        bytes.push(END);
    }
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_reuse_address(true)?;
    let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 1, 0).to_bits() + machine / OF_AN_ADDRESS);
    let port = PORTS_FROM + (machine % OF_AN_ADDRESS) as u16;
    let bind = |port: u16| socket.bind(&SockAddr::from(SocketAddr::from((from, port))));
    bind(port).or_else(|_| bind(port + OF_AN_ADDRESS as u16))?;
    socket.connect(&SockAddr::from(to))?;
    socket.write_all(&bytes)?;
    socket.shutdown(Shutdown::Write)?;
    // Nothing comes but the end.
    let read = socket.read(&mut [0; 16])?;
    if read == 0 { Ok(()) } else { Err(io::Error::other("the other side has sent something")) }
}
