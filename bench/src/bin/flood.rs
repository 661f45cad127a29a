//! A flood: machines on TCP that send 64-byte records as fast as their connections take them, whatever arrives. Its records are
//! those of the bench, so that the receiver can check those that were delivered; nobody waits for the rest.
//!
//! It sends as soon as it is connected, until it is ended. Every half second it prints how much that was as one line of JSON, and
//! which share of its writes was held back: the connection took nothing.

use clap::Parser;
use ringest_bench::process::now_ns;
use ringest_bench::record::{BYTES, END, Series};
use serde_json::json;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const SAY_EVERY: Duration = Duration::from_millis(500);
/// How long it sleeps where no connection takes anything.
const PAUSE: Duration = Duration::from_micros(200);

/// Machines that send 64-byte records as fast as they can.
#[derive(Parser)]
struct Arguments {
    /// Send over TCP connections to this address
    #[arg(long)]
    tcp: SocketAddr,
    /// How many machines
    #[arg(long)]
    machines: usize,
    /// The number of the first one
    #[arg(long, default_value_t = 0)]
    first_machine: usize,
    /// Records in one write
    #[arg(long, default_value_t = 256)]
    batch: usize,
}

struct Machine {
    index: usize,
    connection: TcpStream,
    sent: u64,
    bytes: Vec<u8>,
    /// What of `bytes` is sent.
    at: usize,
}

impl Machine {
    /// The next records, in place of those that are sent.
    fn refill(&mut self) {
        let series = Series::new(self.index as u32, now_ns());
        for line in self.bytes.chunks_exact_mut(BYTES + 1) {
            series.write(line.first_chunk_mut().expect("a line is longer than a record"), self.sent);
            line[BYTES] = END;
            self.sent += 1;
        }
        self.at = 0;
    }

    /// Whether its connection took something.
    fn send(&mut self) -> io::Result<bool> {
        if self.at == self.bytes.len() {
            self.refill();
        }
        match self.connection.write(&self.bytes[self.at..]) {
            Ok(sent) => self.at += sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let mut machines = Vec::new();
    for index in 0..arguments.machines {
        let connection = TcpStream::connect(arguments.tcp)?;
        connection.set_nonblocking(true)?;
        let bytes = vec![0; arguments.batch * (BYTES + 1)];
        let at = bytes.len();
        machines.push(Machine { index: arguments.first_machine + index, connection, sent: 0, bytes, at });
    }
    println!("{{\"ready\": {}}}", arguments.machines);
    let mut said = Instant::now();
    let (mut writes, mut held_back) = (0_u64, 0_u64);
    loop {
        let mut goes_on = false;
        for machine in &mut machines {
            let took = machine.send()?;
            (writes, held_back) = (writes + 1, held_back + u64::from(!took));
            goes_on |= took;
        }
        if !goes_on {
            std::thread::sleep(PAUSE);
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let sent: u64 = machines.iter().map(|machine| machine.sent).sum();
            println!("{}", json!({ "sent": sent, "held_back": held_back as f64 / writes as f64 }));
        }
    }
}
