//! The simulator against readers made here: what its ledger says was sent is what was read, under every fault that it makes.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use ringest::simulate::ledger::{self, Entry, Status};
use ringest::simulate::{Error, Faults, Options, Progress, Simulation, Summary, machine_name, record};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A record as it was read: source, sequence, scheduled time.
type Line = (String, u64, u64);

/// What a reader got of one machine.
#[derive(Default)]
struct Got {
    records: Vec<Line>,
    garbage: usize,
}

impl Got {
    fn frame(&mut self, frame: &[u8]) {
        match record::parse(frame) {
            Ok(record) => self.records.push((record.source.to_owned(), record.sequence, record.scheduled_ns)),
            Err(_) => self.garbage += 1,
        }
    }

    /// Takes whole frames from the front of `bytes`.
    fn frames(&mut self, bytes: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\r') {
            self.frame(&bytes[..end]);
            bytes.drain(..=end);
        }
    }
}

fn options(directory: &Path) -> Options {
    Options { dir: directory.join("ports"), ledger: Some(directory.join("ledger.csv")), ..Options::default() }
}

fn run(options: Options) -> Result<Summary, Error> {
    Simulation::new(options, None, &mut |_| {})?.run()
}

/// The ledger's records that must arrive, per machine, in the order of the ledger.
fn expected(entries: &[Entry], machine: &str) -> Vec<Line> {
    let whole = entries.iter().filter(|entry| entry.machine == machine && entry.status.must_arrive());
    whole.map(|entry| (entry.machine.clone(), entry.sequence, entry.scheduled_ns)).collect()
}

fn count(entries: &[Entry], status: Status) -> u64 {
    entries.iter().filter(|entry| entry.status == status).count() as u64
}

/// Reads a port until `done`, opening it again by its name whenever it hangs up. `pause` holds the reader back while it is set.
fn read_port(link: PathBuf, done: Arc<AtomicBool>, pause: Arc<AtomicBool>) -> JoinHandle<Got> {
    thread::spawn(move || {
        let mut got = Got::default();
        let begun = Instant::now();
        let mut port: Option<OwnedFd> = None;
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while begun.elapsed() < PATIENCE {
            let Some(fd) = &port else {
                if done.load(Ordering::SeqCst) {
                    return got;
                }
                let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
                port = open(&link, flags, Mode::empty()).ok();
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            if pause.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            match nix::unistd::read(fd, &mut buffer) {
                Ok(0) | Err(Errno::EIO) => {
                    port = None;
                    // The stream ended inside it: no record.
                    bytes.clear();
                }
                Ok(length) => {
                    bytes.extend_from_slice(&buffer[..length]);
                    got.frames(&mut bytes);
                }
                Err(Errno::EAGAIN) if done.load(Ordering::SeqCst) => return got,
                Err(Errno::EAGAIN) => thread::sleep(Duration::from_micros(200)),
                Err(errno) => panic!("{}: {errno}", link.display()),
            }
        }
        panic!("{} was read for too long", link.display())
    })
}

/// Runs machines on ptys with readers; returns the summary, the ledger and what each reader got.
fn run_ptys(
    options: Options,
    pause: &Arc<AtomicBool>,
    report: &mut dyn FnMut(Progress),
) -> (Summary, Vec<Entry>, Vec<Got>) {
    let done = Arc::new(AtomicBool::new(false));
    let path = options.ledger.clone().unwrap();
    let (count, ports) = (options.ptys, options.dir.clone());
    let simulation = Simulation::new(options, None, report).unwrap();
    let readers = (0..count)
        .map(|index| read_port(ports.join(machine_name(index)), done.clone(), pause.clone()))
        .collect::<Vec<_>>();
    let summary = simulation.run();
    done.store(true, Ordering::SeqCst);
    let got = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    (summary.unwrap(), ledger::read(&path).unwrap(), got)
}

#[test]
fn ptys_deliver_what_the_ledger_says_on_schedule() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { ptys: 4, rate: 100.0, duration: Duration::from_millis(800), ..options(directory.path()) };
    let (summary, entries, got) = run_ptys(options, &Arc::default(), &mut |_| {});
    assert_eq!((summary.sent, summary.damaged, summary.unsent, summary.unread_ports), (320, 0, 0, 0));
    assert!(summary.elapsed_ms >= 790, "the last record is due after 797.5 ms, it ended after {}", summary.elapsed_ms);
    let start_ns = entries.iter().map(|entry| entry.scheduled_ns).min().unwrap();
    for (index, got) in got.iter().enumerate() {
        let name = machine_name(index);
        assert_eq!(got.records, expected(&entries, &name));
        assert_eq!(got.garbage, 0);
        for (sequence, record) in got.records.iter().enumerate() {
            let due_ns = start_ns + sequence as u64 * 10_000_000 + index as u64 * 2_500_000;
            assert_eq!((record.1, record.2), (sequence as u64, due_ns), "of {name}");
        }
    }
    for entry in &entries {
        assert!(entry.sent_ns >= entry.scheduled_ns, "sent before it was due: {entry:?}");
        assert_eq!(entry.bytes, 64);
    }
    assert!(std::fs::read_dir(directory.path().join("ports")).unwrap().next().is_none(), "symlinks are left behind");
}

#[test]
fn a_reader_that_stalls_delays_records_but_loses_none() {
    let directory = tempfile::tempdir().unwrap();
    let duration = Duration::from_millis(500);
    // 64 KB, several times what a pty holds.
    let options = Options { ptys: 1, rate: 2000.0, duration, ..options(directory.path()) };
    let pause = Arc::new(AtomicBool::new(true));
    let resume = pause.clone();
    let sent_while_stalled = Arc::new(AtomicU64::new(0));
    let sent = sent_while_stalled.clone();
    let mut report = |progress: Progress| {
        if resume.load(Ordering::SeqCst) && progress.elapsed.is_some_and(|elapsed| elapsed > duration) {
            sent.store(progress.sent, Ordering::SeqCst);
            resume.store(false, Ordering::SeqCst);
        }
    };
    let (summary, entries, got) = run_ptys(options, &pause, &mut report);
    let stalled = sent_while_stalled.load(Ordering::SeqCst);
    assert!((1..1000).contains(&stalled), "the pty was to be full, but took {stalled} of 1000 records");
    assert_eq!((summary.sent, summary.unsent), (1000, 0));
    assert_eq!(got[0].records, expected(&entries, "machine-0000"));
    assert!(summary.late_max_us > 100_000, "lateness counts from the schedule: {} us", summary.late_max_us);
}

#[test]
fn ptys_hang_up_and_come_back_under_their_name_without_losing_a_whole_record() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        ptys: 4,
        rate: 200.0,
        duration: Duration::from_secs(1),
        faults: Faults { garbage: 0.05, cut: 0.05, hang_up: 0.02, unplug_at: None },
        seed: 42,
        away: Duration::from_millis(20),
        settle: Duration::from_millis(1),
        ..options(directory.path())
    };
    let (summary, entries, got) = run_ptys(options, &Arc::default(), &mut |_| {});
    assert_eq!(summary.sent + summary.damaged, 800);
    assert!(summary.damaged > 0 && summary.garbage > 0 && summary.hang_ups > 4, "too few faults: {summary:?}");
    assert_eq!(summary.unread_ports, 0);
    for (index, got) in got.iter().enumerate() {
        assert_eq!(got.records, expected(&entries, &machine_name(index)));
    }
    let frames: usize = got.iter().map(|got| got.garbage).sum();
    let joined = frames as u64 - count(&entries, Status::Garbage);
    assert!(joined <= summary.damaged, "{frames} bad frames of {summary:?}");
    assert_eq!(count(&entries, Status::Damaged), summary.damaged);
}

#[test]
fn a_reader_that_goes_away_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        ptys: 1,
        rate: 500.0,
        duration: Duration::from_secs(1),
        settle: Duration::from_millis(5),
        ..options(directory.path())
    };
    let (path, link) = (options.ledger.clone().unwrap(), options.dir.join("machine-0000"));
    let mut report = |_| {};
    let simulation = Simulation::new(options, None, &mut report).unwrap();
    // Twenty times: reads a little, closes the port, and comes back later. What lies in the port then stays there.
    let reader = thread::spawn(move || {
        let mut got = Got::default();
        let mut bytes = Vec::new();
        let mut buffer = [0; 100];
        for visit in 1.. {
            let port = open(&link, OFlag::O_RDWR | OFlag::O_NOCTTY, Mode::empty()).unwrap();
            while visit > 20 || got.records.len() < visit * 10 {
                match nix::unistd::read(&port, &mut buffer) {
                    Ok(0) | Err(Errno::EIO) => return got,
                    length => bytes.extend_from_slice(&buffer[..length.unwrap()]),
                }
                got.frames(&mut bytes);
            }
            drop(port);
            thread::sleep(Duration::from_millis(10));
        }
        unreachable!()
    });
    let summary = simulation.run().unwrap();
    let got = reader.join().unwrap();
    assert_eq!((summary.sent, summary.unsent, got.garbage), (500, 0, 0));
    assert_eq!(got.records, expected(&ledger::read(&path).unwrap(), "machine-0000"));
}

#[test]
fn tcp_machines_reset_and_reconnect_without_losing_a_whole_record() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let options = Options {
        tcp: (3, to),
        rate: 200.0,
        duration: Duration::from_secs(1),
        faults: Faults { garbage: 0.05, cut: 0.05, hang_up: 0.05, unplug_at: None },
        seed: 5,
        away: Duration::from_millis(5),
        ..options(directory.path())
    };
    let path = options.ledger.clone().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let server = serve(listener, stop.clone(), |mut stream| {
        let mut got = Got::default();
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        // A reset ends it like an orderly close; what came before it stays readable.
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..length]);
            got.frames(&mut bytes);
        }
        got
    });
    let summary = run(options).unwrap();
    end(to, &stop);
    let connections = server.join().unwrap();
    let entries = ledger::read(&path).unwrap();
    assert_eq!(summary.sent + summary.damaged, 600);
    assert!(summary.damaged > 0 && summary.garbage > 0 && summary.hang_ups > 6, "too few faults: {summary:?}");
    assert_eq!(summary.lost_connections, 0);
    let all = connections.iter().flat_map(|got| &got.records).cloned().collect::<Vec<_>>();
    for index in 0..3 {
        let name = machine_name(index);
        let of_machine = all.iter().filter(|line| line.0 == name).cloned().collect::<Vec<_>>();
        assert_eq!(of_machine, expected(&entries, &name));
    }
}

#[test]
fn http_machines_repeat_a_record_until_it_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let options = Options {
        http: (3, to),
        rate: 50.0,
        duration: Duration::from_secs(1),
        faults: Faults { garbage: 0.5, cut: 0.05, hang_up: 0.05, unplug_at: None },
        away: Duration::from_millis(5),
        ..options(directory.path())
    };
    let path = options.ledger.clone().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let requests = Arc::new(AtomicU64::new(0));
    let server = serve(listener, stop.clone(), move |stream| answer_requests(stream, &requests));
    let summary = run(options).unwrap();
    end(to, &stop);
    let accepted = server.join().unwrap().into_iter().flatten().collect::<Vec<_>>();
    let entries = ledger::read(&path).unwrap();
    assert_eq!((summary.sent, summary.acknowledged, summary.unanswered), (150, 150, 0));
    assert!(summary.retried > 5 && summary.cut_requests > 0 && summary.hang_ups > 0, "too few faults: {summary:?}");
    assert!(summary.lost_connections > 0, "the server closed connections without an answer");
    assert_eq!(summary.garbage, 0, "a request is a record, so there is no garbage between two");
    // The same record again has the same key.
    let by_key = accepted.iter().cloned().collect::<HashMap<String, Line>>();
    assert_eq!(by_key.len(), 150);
    assert!(accepted.len() > 150, "an answer that got lost makes a record come twice");
    let mut records = by_key.into_values().collect::<Vec<_>>();
    records.sort();
    let mut wanted = (0..3).flat_map(|index| expected(&entries, &machine_name(index))).collect::<Vec<_>>();
    wanted.sort();
    assert_eq!(records, wanted);
    assert!(entries.iter().all(|entry| entry.acknowledged_ns >= entry.sent_ns));
}

/// Takes records; of its requests each tenth gets 503, each eleventh is taken but not answered.
fn answer_requests(mut stream: TcpStream, requests: &AtomicU64) -> Vec<(String, Line)> {
    let mut accepted = Vec::new();
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let length = field("Content-Length: ").unwrap().parse::<usize>().unwrap();
                if bytes.len() >= end + 4 + length {
                    let body = bytes[end + 4..end + 4 + length].to_vec();
                    bytes.drain(..end + 4 + length);
                    break (head.lines().next().unwrap().to_owned(), field("Idempotency-Key: ").unwrap(), body);
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return accepted,
                Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            }
        };
        let (request, key, body) = head;
        let record = record::parse(&body).unwrap();
        assert_eq!(request, format!("POST /v1/records/{} HTTP/1.1", record.source));
        let number = requests.fetch_add(1, Ordering::SeqCst);
        if number % 10 == 9 {
            stream.write_all(b"HTTP/1.1 503 Full\r\nRetry-After: 0\r\nContent-Length: 4\r\n\r\nfull").unwrap();
            continue;
        }
        accepted.push((key, (record.source.to_owned(), record.sequence, record.scheduled_ns)));
        if number % 11 == 10 {
            return accepted;
        }
        stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 14\r\n\r\n{\"accepted\":1}").unwrap();
    }
}

/// Accepts until stopped, a thread a connection; returns their results in the order of accepting.
fn serve<T: Send + 'static>(
    listener: TcpListener,
    stop: Arc<AtomicBool>,
    connection: impl Fn(TcpStream) -> T + Send + Sync + 'static,
) -> JoinHandle<Vec<T>> {
    let connection = Arc::new(connection);
    thread::spawn(move || {
        let mut threads = Vec::new();
        for stream in listener.incoming() {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let (connection, stream) = (connection.clone(), stream.unwrap());
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            threads.push(thread::spawn(move || connection(stream)));
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn end(server: SocketAddr, stop: &AtomicBool) {
    stop.store(true, Ordering::SeqCst);
    // One more connection lets it see that.
    drop(TcpStream::connect(server).unwrap());
}

#[test]
fn a_port_that_nobody_opens_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { ptys: 2, wait_for_reader: Duration::from_millis(50), ..options(directory.path()) };
    let link = options.dir.join("machine-0000");
    match run(options) {
        Err(error @ Error::NotReady { count: 2, .. }) => {
            assert!(error.to_string().contains(link.to_str().unwrap()), "{error}");
        }
        other => panic!("nobody was there, but it ended with {other:?}"),
    }
}

#[test]
fn a_stop_ends_the_run_and_the_ledger_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { ptys: 1, rate: 100.0, duration: PATIENCE * 10, ..options(directory.path()) };
    let path = options.ledger.clone().unwrap();
    let link = options.dir.join("machine-0000");
    let done = Arc::new(AtomicBool::new(false));
    let (stop, stopper) = std::io::pipe().unwrap();
    let mut stopper = Some(stopper);
    // Closing the write end makes the read end readable.
    let mut report = |progress: Progress| {
        if progress.sent >= 20 {
            stopper.take();
        }
    };
    let simulation = Simulation::new(options, Some(stop.as_fd()), &mut report).unwrap();
    let reader = read_port(link, done.clone(), Arc::default());
    let summary = simulation.run().unwrap();
    done.store(true, Ordering::SeqCst);
    assert!(summary.stopped && summary.sent >= 20, "{summary:?}");
    assert_eq!(summary.unsent, 0, "what was not due yet is not missing");
    let records = reader.join().unwrap().records;
    assert_eq!(records, expected(&ledger::read(&path).unwrap(), "machine-0000"));
    assert_eq!(records.len() as u64, summary.sent);
}
