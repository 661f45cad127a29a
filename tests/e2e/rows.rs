//! The rows C1 to C21 of the delivery client against the real binary: a raw receiver that plays them byte for byte. C17 and C18
//! need certificates and stand with TLS.

use crate::environment::{run, with_own_mounts, with_own_network};
use crate::machines::TcpMachine;
use crate::process::{Gateway, PATIENCE, eventually, refused, ringest, within};
use crate::site::{Config, Site, free_address};
use nix::sched::{CloneFlags, unshare};
use ringest::engine::admin::client;
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};
use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

#[allow(dead_code)] // what only the other place plays
#[path = "../rows/mod.rs"]
pub mod script;

use script::{Act, Case, Place, Receiver, Row, cases};

const MIXES_AT_ONCE: usize = 6;

/// The raw receiver. Its threads end with their connections.
pub struct Peer {
    receiver: Arc<Mutex<Receiver>>,
}

/// What the threads of a [`Peer`] share.
#[derive(Clone)]
struct Shared {
    receiver: Arc<Mutex<Receiver>>,
    admin: SocketAddr,
    began: Instant,
    /// Cuts the network.
    vanish: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Shared {
    fn receiver(&self) -> MutexGuard<'_, Receiver> {
        self.receiver.lock().expect("no thread panics with it")
    }

    fn complain(&self, what: String) {
        self.receiver().complaints.push(what);
    }
}

impl Peer {
    pub fn start(site: &Site, address: SocketAddr, row: Row) -> Self {
        Self::start_behind(site.admin, address, row, None)
    }

    /// At the far end of a network that can be cut.
    fn start_behind(
        admin: SocketAddr,
        address: SocketAddr,
        row: Row,
        vanish: Option<Arc<dyn Fn() + Send + Sync>>,
    ) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.set_reuse_address(true).expect("a socket");
        if row.early {
            // What it does not read is to stay with the client.
            listener.set_recv_buffer_size(4096).expect("a socket");
        }
        listener.bind(&address.into()).expect("a free address");
        listener.listen(128).expect("a socket");
        let listener = TcpListener::from(listener);
        let receiver = Arc::new(Mutex::new(Receiver::new(row)));
        let shared = Shared { receiver: Arc::clone(&receiver), admin, began: Instant::now(), vanish };
        std::thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let (stream, shared) = (stream.expect("a connection"), shared.clone());
                std::thread::spawn(move || serve(&stream, index, &shared));
            }
        });
        Self { receiver }
    }

    pub fn receiver(&self) -> MutexGuard<'_, Receiver> {
        self.receiver.lock().expect("no thread panics with it")
    }
}

/// Answers the requests of one connection until it ends.
fn serve(stream: &TcpStream, index: usize, shared: &Shared) {
    stream.set_nodelay(true).expect("a socket");
    let early = shared.receiver().row.early;
    let mut input = Vec::new();
    loop {
        let length = match script::request(&input, early) {
            Ok(Some(length)) => length,
            Ok(None) => {
                let mut buffer = [0; 4096];
                let most = if early { 1024 } else { buffer.len() };
                match (&*stream).read(&mut buffer[..most]) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => input.extend(&buffer[..count]),
                }
                continue;
            }
            Err(error) => return shared.complain(format!("connection {index}: {error}")),
        };
        let bytes: Vec<u8> = input.drain(..length).collect();
        let at_ms = shared.began.elapsed().as_millis() as u64;
        let wall_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let (number, acts) = shared.receiver().request(index, at_ms, wall_s, &bytes);
        let goes_on = acts.into_iter().all(|act| perform(stream, shared, number, act));
        shared.receiver().is_over(number);
        if !goes_on {
            return;
        }
    }
}

/// Whether the connection goes on.
fn perform(mut stream: &TcpStream, shared: &Shared, number: usize, act: Act) -> bool {
    match act {
        Act::Store => shared.receiver().store(number),
        Act::Send(bytes) => return stream.write_all(&bytes).is_ok(),
        Act::Pause(ms) => std::thread::sleep(Duration::from_millis(ms)),
        Act::Drip(bytes, ms) => {
            return bytes.iter().all(|byte| {
                std::thread::sleep(Duration::from_millis(ms));
                stream.write_all(&[*byte]).is_ok()
            });
        }
        Act::Endless(bytes) => {
            let begun = Instant::now();
            while stream.write_all(&bytes).is_ok() {
                if begun.elapsed() > PATIENCE {
                    shared.complain(format!("record {number}: an answer without end is still read"));
                    break;
                }
            }
            return false;
        }
        Act::Fin => {
            // The client may be gone.
            let _ = stream.shutdown(Shutdown::Write);
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
            while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
            return false;
        }
        Act::Reset => {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("a socket");
            return false;
        }
        Act::AwaitDelivered => {
            let delivered = || {
                let answer = client::get(&shared.admin.to_string(), "/api/status", PATIENCE).expect("an answer");
                let status: Value = serde_json::from_slice(&answer.body).expect("JSON");
                status["terms"]["delivered"].as_u64().expect("a number")
            };
            let begun = Instant::now();
            while delivered() <= number as u64 {
                if begun.elapsed() > PATIENCE {
                    shared.complain(format!("record {number} does not count as delivered"));
                    return false;
                }
            }
        }
        Act::AwaitClose(ms) => {
            await_close(stream, shared, number, ms);
            return false;
        }
        Act::Vanish => {
            shared.vanish.as_ref().expect("a row of a network that can be cut")();
            // Nothing more is said on it, not even that it is over.
            std::mem::forget(stream.try_clone().expect("a descriptor"));
            return false;
        }
    }
    true
}

/// The client closes, and sends nothing before; where the body of its request was not read, not all of that.
fn await_close(mut stream: &TcpStream, shared: &Shared, number: usize, ms: u64) {
    let early = shared.receiver().row.early;
    if early {
        std::thread::sleep(Duration::from_millis(100));
    }
    stream.set_read_timeout(Some(Duration::from_millis(ms))).expect("a socket");
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    let closed = match &end {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    };
    let most = if early { shared.receiver().row.record_bytes - 1 } else { 0 };
    if !closed || rest.len() > most {
        shared.complain(format!(
            "record {number}: the connection is not closed within {ms} ms: {end:?}, {} bytes came",
            rest.len()
        ));
    }
}

/// The configuration of a row.
pub fn config(site: &Site, row: &Row, tcp: SocketAddr) -> Config {
    let keys = format!(
        "listen = \"{tcp}\"\nlane = \"connection\"\nframing = \"row\"\n\n[framing.row]\nend = \"\\r\"\nmax = \"64KiB\""
    );
    let config = site.config().one_step().source("servers", "tcp_listen", &keys);
    row.deliver.iter().fold(config, |config, (key, value)| config.deliver(key, value))
}

/// Plays a row to its end.
fn play(row: Row) {
    let site = Site::new();
    let tcp = free_address();
    let config = config(&site, &row, tcp).write(&site);
    let peer = Peer::start(&site, site.api, row.clone());
    let gateway = Gateway::start(&site, &config);
    let mut machines: Vec<TcpMachine> = (0..row.machines).map(|_| TcpMachine::connect(tcp)).collect();
    let count = row.cases.len();
    let wait = |count: usize| {
        eventually(&format!("{count} records to be settled"), || {
            let terms = gateway.terms();
            let settled = terms.delivered + terms.parked == count as u64 && terms.pending == 0;
            (settled && peer.receiver().rests(count)).then_some(())
        });
    };
    if row.paced {
        for number in 0..count {
            machines[0].send([row.record(number)]).expect("sent");
            wait(number + 1);
        }
    } else {
        let step = row.machines;
        for (first, machine) in machines.iter_mut().enumerate() {
            machine.send((first..count).step_by(step).map(|number| row.record(number))).expect("sent");
        }
        wait(count);
    }
    let parked = gateway.get("/api/parked");
    let parked = parked["first"].as_array().expect("a list").iter();
    let statuses: Vec<u16> = parked.map(|record| record["status"].as_u64().expect("a status") as u16).collect();
    let terms = gateway.terms();
    assert_eq!((terms.received, terms.rejected), (count as u64, 0));
    peer.receiver().judge(terms.delivered, &statuses);
    gateway.stop();
}

#[test]
fn c01_interim_answers_are_skipped_up_to_sixteen_and_101_is_an_error() {
    play(cases::c01());
}

#[test]
fn c02_a_201_counts_with_its_header_and_its_connection_is_used_again_after_the_body() {
    play(cases::c02());
}

#[test]
fn c03_another_success_is_no_acknowledgement() {
    play(cases::c03());
}

#[test]
fn c03_all_statuses_of_success_can_be_listed_in_one_word() {
    play(cases::c03_all_listed());
}

#[test]
fn c04_an_answer_whose_end_cannot_be_told_is_thrown_away() {
    play(cases::c04());
}

#[test]
fn c04_what_stays_unreadable_is_asked_for_at_long_intervals() {
    play(cases::c04_again());
}

/// The keys of so many requests, in their order.
fn keys_of(mut stream: &TcpStream, count: usize) -> Vec<String> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let (mut input, mut keys) = (Vec::new(), Vec::new());
    while keys.len() < count {
        let Some(length) = script::request(&input, false).expect("a request") else {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).expect("more of it");
            assert!(read > 0, "closed after {} of {count} requests", keys.len());
            input.extend(&buffer[..read]);
            continue;
        };
        let request = String::from_utf8(input.drain(..length).collect()).expect("text");
        let mut fields = request.lines().filter_map(|line| line.split_once(": "));
        let key = fields.find(|(name, _)| name.eq_ignore_ascii_case("idempotency-key")).expect("a key");
        keys.push(key.1.to_owned());
    }
    assert!(input.is_empty(), "more than {count} requests");
    keys
}

#[test]
fn c04_what_is_in_flight_behind_an_answer_that_ends_its_connection_goes_again() {
    const IN_FLIGHT: usize = 4;
    for answer in [
        "HTTP/1.0 201 Created\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 201 Created\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let (site, tcp) = (Site::new(), free_address());
        let row = Row::new(Vec::new()).key("pipeline", "4").key("retry", "{ first = \"60s\", max = \"60s\" }");
        let config = config(&site, &row, tcp);
        let listener = TcpListener::bind(site.api).expect("a free address");
        listener.set_nonblocking(true).expect("a socket");
        let accept = || {
            let (stream, _) = eventually("a connection", || listener.accept().ok());
            stream.set_nonblocking(false).expect("a socket");
            stream
        };
        let gateway = Gateway::start(&site, &config.write(&site));
        let mut machines: Vec<TcpMachine> = (0..IN_FLIGHT).map(|_| TcpMachine::connect(tcp)).collect();
        for (number, machine) in machines.iter_mut().enumerate() {
            machine.send([row.record(number)]).expect("sent");
        }
        let stream = accept();
        let asked = keys_of(&stream, IN_FLIGHT);
        (&stream).write_all(answer.as_bytes()).expect("sent");
        // The first one counts, the connection is closed, and nothing more is sent on it.
        let mut rest = Vec::new();
        let end = (&stream).read_to_end(&mut rest);
        assert!(end.is_ok() && rest.is_empty(), "{answer:?}: {end:?}, {} bytes came", rest.len());
        let stream = accept();
        assert_eq!(keys_of(&stream, IN_FLIGHT - 1), asked[1..], "{answer:?}: those behind it, in their order");
        assert_eq!(gateway.terms().delivered, 1, "{answer:?}");
        (&stream).write_all(&cases::created().repeat(IN_FLIGHT - 1)).expect("sent");
        gateway.wait_delivered(IN_FLIGHT as u64);
        let status = gateway.status();
        assert_eq!((status.counter("api_resent"), status.counter("api_failures")), (IN_FLIGHT as u64 - 1, 0));
        gateway.stop();
    }
}

#[test]
fn c05_an_answer_cut_short_at_any_byte_counts_only_with_its_whole_header() {
    play(cases::c05());
}

#[test]
fn c06_bytes_that_nobody_asked_for_are_never_an_answer() {
    play(cases::c06());
}

#[test]
fn c07_a_stale_connection_costs_one_resend_at_once() {
    play(cases::c07());
}

#[test]
fn c08_an_answer_while_the_request_is_still_sent_ends_the_sending() {
    with_own_network(|| {
        // A few kilobytes fit between client and receiver; the record has many.
        std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 4096 4096").expect("root runs the tests");
        play(cases::c08(Place::Binary));
    });
}

#[test]
fn c09_a_connection_that_is_to_be_closed_is_not_used_again() {
    play(cases::c09());
}

#[test]
fn c10_an_answer_without_end_is_not_read_to_its_end() {
    play(cases::c10());
}

#[test]
fn c12_the_deadline_is_that_of_the_whole_answer() {
    play(cases::c12());
}

#[test]
fn c13_a_redirect_is_never_followed() {
    play(cases::c13());
}

#[test]
fn c14_answers_about_the_client_pause_the_route() {
    play(cases::c14());
}

#[test]
fn c15_a_record_that_is_refused_three_times_is_parked_and_the_next_ones_go_on() {
    play(cases::c15());
}

#[test]
fn c16_no_retry_after_is_obeyed_beyond_the_configured_time() {
    play(cases::c16_capped());
}

#[test]
fn c16_retry_after_is_obeyed_where_it_makes_sense() {
    play(cases::c16(Place::Binary));
}

/// An interface of this network and one of another, in which `far` runs; what it returns.
fn with_far_network<T: Send + 'static>(far: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root runs the tests");
        tell.send(nix::unistd::gettid()).expect("waited for");
        gone.recv().expect("sent");
        ip("address add 10.77.0.2/24 dev far");
        ip("link set far up");
        far()
    });
    let thread_id = told.recv().expect("sent");
    ip(&format!("link add near type veth peer name far netns {thread_id}"));
    ip("address add 10.77.0.1/24 dev near");
    ip("link set near up");
    go.send(()).expect("waited for");
    thread.join().expect("it goes well")
}

/// Runs `ip` of iproute2 in the network of this thread.
fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').map(OsStr::new).collect::<Vec<_>>());
}

#[test]
fn c20_a_peer_that_vanishes_is_noticed_within_thirty_seconds() {
    const NOTICED: Duration = Duration::from_secs(33);
    with_own_network(|| {
        let sites = [Site::new(), Site::new()];
        let created = || vec![Act::Store, Act::Send(cases::created())];
        // One request that nothing acknowledges, and one whose answer never comes.
        let unacknowledged = Row::new(vec![Case::taken("the first", created()), Case::taken("the second", created())]);
        let rows = [
            // Only the kernel's own limit can end this one.
            unacknowledged.key("timeout", "\"10m\"").key("idle", "\"1h\""),
            Row::new(vec![Case::again("no answer", vec![Act::Vanish]).moves(true)]).key("timeout", "\"15s\""),
        ];
        let addresses = [8_000, 8_001].map(|port| SocketAddr::from(([10, 77, 0, 2], port)));
        let (cut, is_cut) = std::sync::mpsc::channel();
        let (mend, mended) = std::sync::mpsc::channel();
        let (far_rows, admins) = (rows.clone(), sites.each_ref().map(|site| site.admin));
        let peers = with_far_network(move || {
            let vanish: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
                ip("link set far down");
                cut.send(()).expect("waited for");
            });
            // Threads that are begun here stay in this network.
            std::thread::spawn(move || {
                if mended.recv().is_ok() {
                    ip("link set far up");
                }
            });
            let mut peers = admins.into_iter().zip(addresses).zip(far_rows);
            std::array::from_fn::<_, 2, _>(|_| {
                let ((admin, address), row) = peers.next().expect("two");
                Peer::start_behind(admin, address, row, Some(Arc::clone(&vanish)))
            })
        });
        let tcps = [free_address(), free_address()];
        let [first, second] = [0, 1].map(|index| {
            let url = format!("\"http://{}/films/\"", addresses[index]);
            let config = config(&sites[index], &rows[index], tcps[index]).deliver("url", &url);
            Gateway::start(&sites[index], &config.write(&sites[index]))
        });
        let [mut one, mut other] = tcps.map(TcpMachine::connect);
        one.send([rows[0].record(0)]).expect("sent");
        first.wait_delivered(1);
        other.send([rows[1].record(0)]).expect("sent");
        is_cut.recv_timeout(PATIENCE).expect("the network is cut");
        let begun = Instant::now();
        one.send([rows[0].record(1)]).expect("sent");
        for gateway in [&second, &first] {
            let noticed = || {
                let status = gateway.status();
                (status.counter("api_failures") + status.counter("api_resent") > 0).then_some(())
            };
            within(NOTICED, "the silence to be noticed", noticed);
        }
        assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
        mend.send(()).expect("waited for");
        for (gateway, count) in [(&first, 2), (&second, 1)] {
            gateway.wait_delivered(count);
        }
        for (peer, count) in peers.iter().zip([2, 1]) {
            peer.receiver().judge(count, &[]);
        }
    });
}

/// A file of this test in the place of the system's.
fn cover(site: &Site, name: &str, text: &str) {
    let own = site.path(name);
    std::fs::write(&own, text).expect("written");
    let at = std::path::Path::new("/etc").join(name);
    run("mount", &["--bind".as_ref(), own.as_os_str(), at.as_os_str()]);
}

#[test]
fn c19_a_name_is_resolved_at_each_connect_and_never_on_a_core() {
    const COUNT: usize = 200;
    with_own_network(|| {
        with_own_mounts(|| {
            let site = Site::new();
            let own = |text: &str| format!("127.0.0.1 localhost\n{text}");
            cover(&site, "hosts", &own(""));
            cover(&site, "nsswitch.conf", "hosts: files dns\n");
            cover(&site, "resolv.conf", "nameserver 127.9.9.9\noptions timeout:20 attempts:1\n");
            // It takes questions, and answers none: who asks waits for 20 s.
            let silent = std::net::UdpSocket::bind("127.9.9.9:53").expect("root runs the tests");
            silent.set_read_timeout(Some(PATIENCE)).expect("a socket");

            let created = || vec![Act::Store, Act::Send(cases::created())];
            let mut row = Row::new((0..COUNT + 1).map(|index| Case::taken(index.to_string(), created())).collect());
            // Behind the last record of its own, the first address closes.
            row.cases[COUNT].answers[0].push(Act::Fin);
            let (tcp, port) = (free_address(), site.api.port());
            let url = format!("\"http://api.plant:{port}/films/\"");
            let config = config(&site, &row, tcp).deliver("url", &url).deliver("connect_timeout", "\"500ms\"");
            let gateway = Gateway::start(&site, &config.write(&site));
            let mut machine = TcpMachine::connect(tcp);
            let problem = |part: &str| {
                eventually(part, || {
                    let status = gateway.status();
                    status.0["routes"][0]["problem"].as_str().filter(|text| text.contains(part)).map(drop)
                });
            };

            machine.send([row.record(0)]).expect("sent");
            silent.recv(&mut [0; 512]).expect("the name is asked for");
            // The core goes on, and so does the admin page.
            let begun = Instant::now();
            machine.send((1..=COUNT).map(|number| row.record(number))).expect("sent");
            gateway.wait_terms("intake", |terms| terms.received == COUNT as u64 + 1);
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?} while a name is resolved", begun.elapsed());
            problem("the name was not resolved within 500ms");
            std::fs::write(site.path("nsswitch.conf"), "hosts: files\n").expect("written");
            problem("the name cannot be resolved");

            let address = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
            let first = Peer::start(&site, address(2), row.clone());
            std::fs::write(site.path("hosts"), own("127.0.0.2 api.plant\n")).expect("written");
            gateway.wait_delivered(COUNT as u64 + 1);
            first.receiver().judge(COUNT as u64 + 1, &[]);
            // The name moves; the first address would still answer.
            let again = Row::new(vec![Case::taken("after the move", created())]);
            let second = Peer::start(&site, address(3), again.clone());
            std::fs::write(site.path("hosts"), own("127.0.0.3 api.plant\n")).expect("written");
            machine.send([again.record(0)]).expect("sent");
            gateway.wait_delivered(COUNT as u64 + 2);
            second.receiver().judge(1, &[]);
            assert_eq!(first.receiver().keys.len(), COUNT + 1);
            gateway.stop();
        });
    });
}

#[test]
fn c11_a_line_break_in_a_path_or_a_header_is_refused_when_the_configuration_is_checked() {
    for (key, value) in [
        ("url", "\"http://127.0.0.1:8000/films/\\r\\nX: y\""),
        ("url", "\"http://127.0.0.1:8000/fi lms/\""),
        ("headers", "{ X-Plant = \"3\\r\\nX: y\" }"),
        ("headers", "{ X-Plant = \"3\\n\" }"),
        ("content_type", "\"text/plain\\r\\nX: y\""),
        ("confirm", "{ path = \"/films/\\r\\nX/{{key}}\" }"),
    ] {
        let site = Site::new();
        let config = site.config().one_step().tcp_listen("servers", free_address()).deliver(key, value).write(&site);
        let check = ringest().arg("check").arg(&config).output().expect("it runs");
        let words = String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
        assert_eq!(check.status.code(), Some(3), "{key} = {value}: {words}");
        assert!(words.contains("deliver"), "{words}");
        assert_eq!(refused(&site, &config).0, Some(3), "{key} = {value}");
    }
}

#[test]
fn c21_after_a_conflict_the_service_is_asked_what_it_has() {
    play(cases::c21());
}

#[test]
fn c21_an_answer_beyond_all_bounds_parks_the_record_after_the_configured_attempts() {
    play(cases::c21_too_long());
}

#[test]
fn c21_equal_data_of_another_machine_is_not_the_record() {
    play(cases::c21_of_a_machine());
}

/// `RINGEST_ROWS_MIXES=N` plays N seeds, from `RINGEST_ROWS_FIRST` on.
#[test]
fn mixes_of_all_rows_lose_and_double_nothing_and_keep_every_order() {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let first = setting("RINGEST_ROWS_FIRST").unwrap_or(0);
    let count = setting("RINGEST_ROWS_MIXES").unwrap_or(20);
    // Most of a mix is waiting.
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..MIXES_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    println!("seed {seed}: RINGEST_ROWS_FIRST={seed} RINGEST_ROWS_MIXES=1 cargo test --test e2e mixes");
                    play(cases::mix(seed));
                }
            });
        }
    });
}
