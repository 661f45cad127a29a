//! Secrets that people type: short ones, of which the file of tokens holds an argon2id hash. Each is looked at once a connection, beside
//! the cores, so that a flood of them holds up nobody else.

use crate::machines::{Answer, HttpMachine, TcpMachine};
use crate::process::{Gateway, PATIENCE, Receiver, eventually, ringest};
use crate::site::{Site, assert_rows, free_address, record};
use std::io::{BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const SECRET: &str = "west-7-door";

/// Has the command read a secret, and add its hash to a file; what it said, and its exit code.
pub fn typed(file: &Path, name: &str, sources: &str, secret: &str) -> (Option<i32>, String) {
    let mut command = ringest();
    command.args(["token", name, "--argon2id", "--sources", sources, "--until", "never", "--add"]).arg(file);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    child.stdin.take().expect("a pipe").write_all(format!("{secret}\n").as_bytes()).expect("read");
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).expect("text"))
}

struct Line {
    site: Site,
    gateway: Gateway,
    _receiver: Receiver,
    /// Everybody needs a token there.
    closed: SocketAddr,
    /// Nobody does.
    open: SocketAddr,
}

fn start() -> Line {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let (closed, open, file) = (free_address(), free_address(), site.path("tokens"));
    assert_eq!(typed(&file, "gate", "gate-*", SECRET), (Some(0), String::new()), "nothing is shown");
    let keys = format!("listen = \"{closed}\"\ntokens_file = {file:?}");
    let config = site.config().source("closed", "http", &keys).http("open", open).write(&site);
    let gateway = Gateway::start(&site, &config);
    Line { site, gateway, _receiver: receiver, closed, open }
}

impl Line {
    /// A machine at 127.0.0.N.
    fn machine(&self, n: u8, address: SocketAddr) -> HttpMachine {
        let stream = TcpMachine::from_ip(IpAddr::from([127, 0, 0, n]), address).0;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        HttpMachine { stream: BufReader::new(stream) }
    }

    fn looked(&self) -> u64 {
        self.gateway.status().counter("secrets_looked_at")
    }
}

fn request(source: &str, bearer: &str, number: usize) -> String {
    let request = HttpMachine::request(source, &record("g", number));
    request.replacen("Content", &format!("Authorization: Bearer {bearer}\r\nContent"), 1)
}

fn right(number: usize) -> String {
    request("gate-1", &format!("gate:{SECRET}"), number)
}

fn send(machine: &mut HttpMachine, request: &str) -> Answer {
    machine.send(request).expect("sent");
    machine.answer().expect("an answer")
}

#[test]
fn a_typed_secret_lets_in_and_is_looked_at_once_a_connection() {
    let line = start();
    let file = line.site.path("tokens");
    let text = std::fs::read_to_string(&file).expect("tokens");
    assert!(text.starts_with("gate $argon2id$v=19$m=19456,t=2,p=1$") && !text.contains(SECRET), "{text}");
    let mut kept = line.machine(10, line.closed);
    for number in 0..3 {
        assert_eq!(send(&mut kept, &right(number)).status, 201);
    }
    assert_eq!(line.looked(), 1);
    // Pipelined and byte by byte: what is behind the first waits for it, in its order.
    let mut pipelined = line.machine(11, line.closed);
    pipelined.send(&(right(3) + &right(4) + &right(5))).expect("sent");
    assert!((0..3).all(|_| pipelined.answer().expect("an answer").status == 201));
    let mut slow = line.machine(12, line.closed);
    for byte in (right(6) + &right(7)).chars() {
        slow.send(&byte.to_string()).expect("sent");
    }
    assert!((0..2).all(|_| slow.answer().expect("an answer").status == 201));
    // One that says nothing more after its request.
    let mut short = line.machine(13, line.closed);
    short.send(&right(8)).expect("sent");
    short.stream.get_ref().shutdown(std::net::Shutdown::Write).expect("open");
    assert_eq!(short.answer().expect("an answer").status, 201);
    assert_eq!(line.looked(), 4);

    for (what, bearer, source, status, looks) in [
        ("a wrong one", "gate:west-8-door", "gate-1", 401, 1),
        ("another name, which takes as long", "gate2:west-7-door", "gate-1", 401, 1),
        ("without its name", SECRET, "gate-1", 401, 0),
        ("for another SOURCE", "gate:west-7-door", "cam-1", 403, 1),
    ] {
        let before = line.looked();
        let mut machine = line.machine(14, line.closed);
        let answer = send(&mut machine, &request(source, bearer, 99));
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert_eq!(line.looked() - before, looks, "{what}");
        if status == 401 {
            machine.assert_end();
        }
    }
    line.gateway.wait_delivered(9);
    assert_rows(&line.site.rows(), &[("g", 9)]);
    // Another secret ends what was known of the first one, also on a connection that is open.
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(typed(&file, "gate", "gate-*", "east-7-door").0, Some(0));
    let mut number = 9;
    eventually("the first secret to be refused", || {
        let answer = send(&mut kept, &right(number));
        number += usize::from(answer.status == 201);
        (answer.status == 401).then_some(())
    });
    kept.assert_end();
    let said = line.gateway.status().0.to_string() + &line.gateway.stop();
    assert!(!said.contains("7-door") && !said.contains("$argon2id"), "{said}");
}

#[test]
fn a_flood_of_typed_secrets_is_put_off_and_holds_up_nobody_else() {
    let line = start();
    let flood: Vec<_> = (0..60)
        .map(|index| {
            let mut machine = line.machine(20 + index % 30, line.closed);
            machine.send(&request("gate-1", &format!("gate:wrong-{index:04}"), 99)).expect("sent");
            machine
        })
        .collect();
    // The cores go on meanwhile: those who need no token wait for nobody.
    let mut other = line.machine(10, line.open);
    let mut longest = Duration::ZERO;
    for number in 0..20 {
        let begun = Instant::now();
        assert_eq!(other.post("o", &record("o", number)).expect("an answer").status, 201);
        longest = longest.max(begun.elapsed());
    }
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    let mut put_off = 0;
    for mut machine in flood {
        let answer = machine.answer().expect("an answer");
        assert!(matches!(answer.status, 401 | 503), "{answer:?}");
        if answer.status == 503 {
            put_off += 1;
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    }
    // One address has four of them at most.
    let mut many: Vec<_> = (0..12).map(|_| line.machine(60, line.closed)).collect();
    for machine in &mut many {
        machine.send(&request("gate-1", "gate:wrong-again", 99)).expect("sent");
    }
    let statuses: Vec<u16> = many.iter_mut().map(|machine| machine.answer().expect("an answer").status).collect();
    let busy = statuses.iter().filter(|status| **status == 503).count() as u64;
    assert!(busy > 0, "{statuses:?}");
    let status = line.gateway.status();
    assert_eq!(status.counter("secrets_put_off"), put_off + busy);
    assert_eq!(status.counter("secrets_looked_at"), 72 - put_off - busy);
    // Whoever is right gets in, if need be when told to come again; the connection goes on.
    let mut good = line.machine(70, line.closed);
    eventually("the right one to get in", || (send(&mut good, &right(0)).status == 201).then_some(()));
    // Who is gone before it is known what the secret is worth leaves nothing behind.
    let before = line.looked();
    for n in 80..90 {
        let mut machine = line.machine(n, line.closed);
        machine.send(&request("gate-1", "gate:wrong-once", 99)).expect("sent");
        socket2::SockRef::from(machine.stream.get_ref()).set_linger(Some(Duration::ZERO)).expect("an option");
    }
    let mut after = line.machine(90, line.closed);
    assert_eq!(send(&mut after, &right(1)).status, 201);
    assert!(line.looked() > before);
    line.gateway.wait_delivered(22);
    line.gateway.stop();
}

#[test]
fn the_command_takes_no_secret_that_would_be_of_no_use() {
    let site = Site::new();
    let file = site.path("tokens");
    for secret in ["", "short-7", " a blank before", "a blank behind ", "a\ttab inside of it", &"x".repeat(257)] {
        let (code, said) = typed(&file, "gate", "*", secret);
        assert!(code == Some(2) && said.contains("8 characters or more"), "{secret:?}: {said}");
    }
    assert!(!file.exists());
    assert_eq!(typed(&file, "gate", "*", "a secret of some words").0, Some(0));
    let (code, said) = typed(&file, "gate", "*", "another one");
    assert!(code == Some(3) && said.contains("has this name already"), "{said}");
}

#[test]
fn strangers_do_not_learn_which_names_are_there_nor_which_are_over() {
    let line = start();
    let file = line.site.path("tokens");
    assert_eq!(typed(&file, "west", "west-*", "west-8-window").0, Some(0));
    let text = std::fs::read_to_string(&file).expect("tokens");
    let over: Vec<String> = text
        .lines()
        .map(|line| if line.starts_with("west ") { line.replace("never", "2001-01-01") } else { line.to_owned() })
        .collect();
    std::fs::write(&file, over.join("\n") + "\n").expect("written");
    let tried = |bearer: &str| {
        // While the file is read again nobody can look.
        let answer = eventually("an answer", || {
            let mut machine = line.machine(10, line.closed);
            Some(send(&mut machine, &request("west-1", bearer, 99))).filter(|answer| answer.status != 503)
        });
        assert_eq!(answer.status, 401, "{bearer}: {answer:?}");
        answer.body
    };
    eventually("the file to be read", || tried("west:west-8-window").contains("whose time is over").then_some(()));
    let looked = line.looked();
    let said = ["west:west-9-window", "gate:west-9-window", "nobody:west-9-window"].map(tried);
    assert!(said[0].contains("not known") && said.iter().all(|other| *other == said[0]), "{said:?}");
    assert_eq!(line.looked() - looked, 3, "each takes as long as any other");
    line.gateway.stop();
}

/// The terminal of the command that reads a secret.
struct Terminal {
    pty: nix::pty::OpenptyResult,
    child: std::process::Child,
}

impl Terminal {
    fn start() -> Self {
        let pty = nix::pty::openpty(None, None).expect("a pty");
        let mut command = ringest();
        command.args(["token", "gate", "--argon2id", "--sources", "*", "--until", "never"]);
        let slave = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        let child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().expect("it runs");
        let terminal = Self { pty, child };
        eventually("the terminal to be silent", || (!terminal.echoes()).then_some(()));
        terminal
    }

    fn echoes(&self) -> bool {
        let settings = nix::sys::termios::tcgetattr(&self.pty.slave).expect("a terminal");
        settings.local_flags.contains(nix::sys::termios::LocalFlags::ECHO)
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
    }

    fn type_in(&mut self, text: &[u8]) {
        nix::unistd::write(&self.pty.master, text).expect("a line");
    }
}

#[test]
fn the_terminal_shows_what_is_typed_again_also_where_the_prompt_is_left_by_a_signal() {
    use nix::sys::signal::Signal;
    use std::os::unix::process::ExitStatusExt;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP] {
        let mut terminal = Terminal::start();
        terminal.signal(signal);
        let status = eventually("its end", || terminal.child.try_wait().expect("a child"));
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
        assert!(terminal.echoes(), "{signal}");
    }
    // Ctrl-Z: while it is stopped the shell has its terminal; then it is silent again, and goes on.
    let mut terminal = Terminal::start();
    terminal.signal(Signal::SIGTSTP);
    eventually("the echo", || terminal.echoes().then_some(()));
    terminal.signal(Signal::SIGCONT);
    eventually("the silence", || (!terminal.echoes()).then_some(()));
    terminal.type_in(b"a secret of some words\n");
    let status = eventually("its end", || terminal.child.try_wait().expect("a child"));
    assert!(status.success() && terminal.echoes(), "{status}");
}
