//! Machines that send without pause, while the gateway starts, reloads, reconnects and loses their lines at random moments: no record
//! arrives that was not sent, byte for byte.
//!
//! `RINGEST_JOIN_ROUNDS=N` is how many such moments there are.

use crate::machines::Pty;
use crate::process::{Gateway, Receiver, eventually};
use crate::site::{Config, Site, free_address};
use nix::sys::signal::Signal;
use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// `+0012345` and its end.
const RECORD_BYTES: u64 = 9;
const PAUSE: Duration = Duration::from_millis(2);
/// A machine that was held up for longer has paused, and says nothing about what the gateway may take.
const PAUSE_MAX: Duration = Duration::from_millis(40);
/// So many of its last steps are looked at: by then it has noticed that its line is gone.
const STEPS: usize = 20;

/// The byte at a place of a machine's endless stream.
fn byte(at: u64) -> u8 {
    format!("+{:07}\r", at / RECORD_BYTES).as_bytes()[(at % RECORD_BYTES) as usize]
}

/// How a machine is reached.
enum Way {
    Port(PathBuf),
    Called(TcpListener),
    Calls(SocketAddr),
}

/// A machine that sends a byte or some every 2 ms, whether somebody listens or not.
struct Machine {
    stop: Arc<AtomicBool>,
    /// Its line is to be cut.
    cut: Arc<AtomicBool>,
    /// Bytes that it has sent.
    sent: Arc<AtomicU64>,
    /// It was held up while its line was opened in the middle of these: their ends.
    paused: Arc<Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Machine {
    fn start(way: Way) -> Self {
        let (stop, cut, sent) = <(Arc<AtomicBool>, Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let paused = Arc::new(Mutex::new(Vec::new()));
        let flags = (Arc::clone(&stop), Arc::clone(&cut), Arc::clone(&sent), Arc::clone(&paused));
        let thread = std::thread::spawn(move || {
            let (stop, cut, sent, paused) = flags;
            let mut line: Option<Box<dyn Write>> = None;
            let mut steps = VecDeque::from([Instant::now()]);
            while !stop.load(Ordering::Relaxed) {
                if cut.swap(false, Ordering::Relaxed) {
                    line = None;
                }
                let is_new = line.is_none();
                line = line.or_else(|| way.open());
                let at = sent.load(Ordering::Relaxed);
                steps.push_back(Instant::now());
                steps.drain(..steps.len().saturating_sub(STEPS));
                let was_held_up = steps.iter().zip(steps.iter().skip(1)).any(|(a, b)| b.duration_since(*a) > PAUSE_MAX);
                if is_new && line.is_some() && was_held_up {
                    let end = (at..).map(byte).take_while(|byte| *byte != b'\r').collect();
                    paused.lock().expect("nobody panics").push(String::from_utf8(end).expect("digits"));
                }
                let count = fastrand::u64(1..=5);
                let bytes: Vec<u8> = (at..at + count).map(byte).collect();
                if line.as_mut().is_some_and(|line| line.write_all(&bytes).is_err()) {
                    line = None;
                }
                sent.store(at + count, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
        });
        Self { stop, cut, sent, paused, thread }
    }
}

impl Way {
    fn open(&self) -> Option<Box<dyn Write>> {
        match self {
            Self::Port(link) => Some(Box::new(Port(Pty::create(link)))),
            Self::Called(listener) => Some(Box::new(prompt(listener.accept().ok()?.0))),
            Self::Calls(address) => Some(Box::new(prompt(TcpStream::connect(address).ok()?))),
        }
    }
}

/// Without Nagle's algorithm: a machine that holds bytes back for an ACK would notice only by a retransmission, after 200 ms, that the
/// gateway is gone, and begin late on the connection that waits for it.
fn prompt(connection: TcpStream) -> TcpStream {
    connection.set_nodelay(true).expect("set");
    connection
}

struct Port(Pty);

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send_bytes(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn machines_that_send_without_pause_have_no_record_that_they_did_not_send() {
    let rounds: u64 = std::env::var("RINGEST_JOIN_ROUNDS").map_or(12, |text| text.parse().expect("a number"));
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let (called, calls) = (listener.local_addr().expect("bound"), free_address());
    let config = |alarm: u64, quick_ack: bool| -> Config {
        let more = format!("first = \"discard\"\nsilence_alarm = \"{alarm}s\"");
        // On a slow line, what comes within a second may be the rest of a record: this test may be held up.
        let line = if quick_ack { "300 8N1" } else { "300 8E1" };
        let port = format!("path = \"{}\"\nline = \"{line}\"\n{more}", site.path("press").display());
        let connect = format!("connect = \"{called}\"\nquick_ack = {quick_ack}\n{more}");
        let listen = format!("listen = \"{calls}\"\nquick_ack = {quick_ack}\n{more}");
        let all = site.config().one_step().source("press", "serial", &port);
        all.source("called", "tcp_connect", &connect).source("calls", "tcp_listen", &listen)
    };
    let machines = [Way::Port(site.path("press")), Way::Called(listener), Way::Calls(calls)].map(Machine::start);
    let mut gateway = Gateway::start(&site, &config(60, true).write(&site));
    let (mut quick_ack, mut opens) = (true, 3);
    for round in 0..rounds {
        std::thread::sleep(Duration::from_millis(fastrand::u64(50..400)));
        match fastrand::u8(..4) {
            0 => {
                gateway.stop();
                gateway = Gateway::start(&site, &config(60, quick_ack).write(&site));
                opens += 3;
            }
            1 => {
                quick_ack = !quick_ack;
                config(60, quick_ack).write(&site);
                gateway.process.signal(Signal::SIGHUP);
                opens += 3;
            }
            // Nothing is opened anew, and so nothing is rejected.
            2 => {
                config(61 + round, quick_ack).write(&site);
                gateway.process.signal(Signal::SIGHUP);
            }
            _ => {
                machines[fastrand::usize(..3)].cut.store(true, Ordering::Relaxed);
                opens += 1;
            }
        }
    }
    let before = gateway.terms().delivered;
    eventually("records after all that", || (gateway.terms().delivered > before + 100).then_some(()));
    let ends = machines.map(|machine| {
        machine.stop.store(true, Ordering::Relaxed);
        machine.thread.join().expect("it goes on");
        let paused = std::mem::take(&mut *machine.paused.lock().expect("nobody panics"));
        (machine.sent.load(Ordering::Relaxed), paused)
    });
    let rejected = gateway.settled().rejected;
    gateway.stop();
    let most = ends.iter().map(|(sent, _)| *sent).max().expect("three") / RECORD_BYTES;
    let paused: BTreeSet<&String> = ends.iter().flat_map(|(_, paused)| paused).collect();
    let rows: Vec<_> = site.rows().into_iter().filter(|row| !paused.contains(&row.data)).collect();
    let mut seen = BTreeSet::new();
    for row in rows {
        let number =
            row.data.strip_prefix('+').filter(|digits| digits.len() == 7).and_then(|digits| digits.parse().ok());
        assert!(number.is_some_and(|number: u64| number <= most), "{row:?} was never sent");
        assert!(seen.insert((row.machine.clone(), row.data.clone())), "{row:?} was sent once");
    }
    // Of each open, its first record, and that in which it ended.
    assert!(rejected <= 2 * opens, "{rejected} rejected, and {opens} opens");
    receiver.stop();
}
