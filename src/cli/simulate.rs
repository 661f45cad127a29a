//! `ringest simulate`.

use super::{Failure, duration};
use crate::ground::text::counted;
use crate::simulate::{Faults, Options, Progress, ProxyVersion, Simulation, Speech, Summary, Tls, Token};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Arguments of `ringest simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Machines on ptys
    #[arg(long, value_name = "N", default_value_t = 0, requires = "dir")]
    ptys: usize,
    /// Where the symlinks to the ptys are made: DIR/machine-0000 and so on
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Machines over TCP
    #[arg(long, value_name = "N", default_value_t = 0, requires = "to")]
    tcp: usize,
    /// Where the TCP machines connect to
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: Option<SocketAddr>,
    /// Machines over HTTP: POST /v1/records/machine-0000 and so on
    #[arg(long, value_name = "N", default_value_t = 0, requires = "to_http")]
    http: usize,
    /// Where the HTTP machines connect to
    #[arg(long, value_name = "ADDRESS:PORT")]
    to_http: Option<SocketAddr>,
    /// TCP and HTTP machines speak TLS; certificates of servers count that one of these CAs has signed (PEM)
    #[arg(long, value_name = "FILE", visible_alias = "cacert")]
    tls_ca: Option<PathBuf>,
    /// The certificate that they show where the server asks for one (PEM)
    #[arg(long, value_name = "FILE", visible_alias = "cert", requires = "tls_key", requires = "tls_ca")]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", visible_alias = "key", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name that must be in the server's certificate, where that is not its address
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_name: Option<String>,
    /// HTTP machines send the token in this file (Authorization: Bearer); without it, that in RINGEST_TOKEN
    #[arg(long, value_name = "FILE", requires = "to_http")]
    token_file: Option<PathBuf>,
    /// HTTP machines send N records a request, as NDJSON: each is a JSON string in a line, and waits for the last of them
    #[arg(long, value_name = "N", requires = "to_http", value_parser = at_least_one)]
    batch: Option<usize>,
    /// HTTP machines pack their bodies (Content-Encoding: gzip)
    #[arg(long, requires = "to_http")]
    gzip: bool,
    /// TCP and HTTP machines make a connection for each record or request
    #[arg(long)]
    connection_per_record: bool,
    /// TCP and HTTP machines send a PROXY header first, each with an address of its own: 10.0.0.1 and so on
    #[arg(long, value_name = "VERSION", value_enum)]
    proxy: Option<Proxy>,
    /// Records per second per machine
    #[arg(long, value_name = "R", default_value = "1", value_parser = rate)]
    rate: f64,
    /// How long records are due
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    duration: Duration,
    /// Random delay of each record, as a share of the interval between two
    #[arg(long, value_name = "0..1", default_value = "0", value_parser = share)]
    jitter: f64,
    /// Length of a record
    #[arg(long, value_name = "N", default_value_t = 64)]
    bytes: usize,
    /// Delimiter; \r, \n, \t, \0, \\ and \xHH are understood
    #[arg(long, value_name = "BYTES", default_value = "\\r", value_parser = delimiter)]
    end: Delimiter,
    /// Probability of a frame of garbage before a record
    #[arg(long, value_name = "P", default_value = "0", value_parser = share)]
    garbage: f64,
    /// Probability that a record is cut off before its delimiter
    #[arg(long, value_name = "P", default_value = "0", value_parser = share)]
    cut: f64,
    /// Probability that the port hangs up after a record
    #[arg(long, value_name = "P", default_value = "0", value_parser = share)]
    hang_up: f64,
    /// The first machine hangs up once, so long after the start
    #[arg(long, value_name = "DURATION", value_parser = duration::parse, hide = true)]
    unplug_at: Option<Duration>,
    /// How long a machine that hung up stays away
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = duration::parse)]
    away: Duration,
    /// Decides faults and jitter
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write what was sent to this file, as CSV
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// How long to wait at the start until all ports are open at the other end
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    wait_for_reader: Duration,
    /// How long what is due may take after the end, until all is sent, read and answered
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    drain: Duration,
    /// Keep the ports open after the end, until SIGTERM or Ctrl-C; one that came before only ends the sending
    #[arg(long)]
    hold: bool,
    /// Written (empty) once all symlinks are in place
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// End with one line of JSON on standard output
    #[arg(long)]
    json: bool,
    /// A line of JSON on standard output about five times a second
    #[arg(long, hide = true)]
    progress: bool,
}

const HELP: &str = "\
A record:   R1 machine-0000 17 1767225600000000000 rstuvwxyzabc 5d41402a
            source, sequence, time at which it was due (ns since 1970), padding, CRC-32C of what precedes it
Garbage:    frames of their own, between exclamation marks, without a valid checksum
The ledger: machine,sequence,scheduled_ns,sent_ns,acknowledged_ns,bytes,status
            sent and acknowledged records must arrive, damaged, refused and unanswered ones need not
RINGEST_TOKEN:
            the token of HTTP machines, where there is no --token-file";

#[derive(Debug, Clone)]
struct Delimiter(Vec<u8>);

/// The variable that may hold a token: what stands on a command line is shown by ps.
const TOKEN: &str = "RINGEST_TOKEN";

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Proxy {
    /// A line of text
    V1,
    /// Binary
    V2,
}

pub(super) fn rate(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0).ok_or("a number above 0".to_owned())
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or("a whole number above 0".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or("a number from 0 to 1".to_owned())
}

fn delimiter(text: &str) -> Result<Delimiter, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        if first != '\\' {
            bytes.extend_from_slice(first.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let (byte, length) = match rest.as_bytes() {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b't', ..] => (b'\t', 1),
            [b'0', ..] => (0, 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (u8::from_str_radix(&rest[1..3], 16).expect("two hex digits"), 3)
            }
            _ => return Err("after \\ comes one of r, n, t, 0, \\ or xHH".to_owned()),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    if bytes.is_empty() { Err("at least one byte".to_owned()) } else { Ok(Delimiter(bytes)) }
}

/// Runs the command.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let options = Options { speech: speech(&arguments)?, ..options(&arguments) };
    if options.ptys + options.tcp.0 + options.http.0 == 0 {
        return Err(Failure::new(super::exit::USAGE, "no machines: use --ptys N, --tcp N or --http N"));
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut reporter = Reporter { lines: arguments.progress, said_waiting: false, next: Instant::now() };
    let mut report = |progress: Progress| reporter.report(progress);
    let simulation = Simulation::new(options, Some(stop.as_fd()), &mut report)?;
    if let Some(path) = &arguments.ready_file {
        std::fs::write(path, "")
            .map_err(|error| Failure::new(super::exit::FAILURE, format!("{}: {error}", path.display())))?;
    }
    let summary = simulation.run()?;
    if !arguments.hold {
        print_summary(&summary, arguments.json);
    }
    Ok(())
}

/// How machines on sockets speak, with what the files hold.
fn speech(arguments: &Arguments) -> Result<Speech, Failure> {
    let is_for_sockets = [
        ("--tls-ca", arguments.tls_ca.is_some()),
        ("--connection-per-record", arguments.connection_per_record),
        ("--proxy", arguments.proxy.is_some()),
    ];
    if let Some((option, _)) = is_for_sockets.iter().find(|(_, given)| *given)
        && arguments.tcp + arguments.http == 0
    {
        return Err(Failure::new(super::exit::USAGE, format!("{option} is for --tcp N or --http N")));
    }
    let tls = match &arguments.tls_ca {
        None => None,
        Some(ca) => {
            let own = arguments.tls_cert.as_deref().zip(arguments.tls_key.as_deref());
            let tls = Tls::new(ca, own, arguments.tls_name.as_deref());
            Some(tls.map_err(|error| Failure::new(super::exit::FAILURE, error.to_string()))?)
        }
    };
    Ok(Speech {
        tls,
        proxy: arguments.proxy.map(|version| match version {
            Proxy::V1 => ProxyVersion::V1,
            Proxy::V2 => ProxyVersion::V2,
        }),
        connection_per_record: arguments.connection_per_record,
        token: if arguments.http > 0 { token(arguments.token_file.as_deref())? } else { None },
        batch: arguments.batch,
        gzip: arguments.gzip,
    })
}

/// The token in a file, else in the environment.
fn token(file: Option<&Path>) -> Result<Option<Token>, Failure> {
    let (what, text) = match file {
        Some(path) => {
            let what = path.display().to_string();
            let read = std::fs::read_to_string(path);
            let text =
                read.map_err(|error| Failure::new(super::exit::FAILURE, format!("the token in {what}: {error}")))?;
            (what, text)
        }
        None => match std::env::var(TOKEN) {
            Err(std::env::VarError::NotPresent) => return Ok(None),
            found => (TOKEN.to_owned(), found.unwrap_or_default()),
        },
    };
    let token = Token::new(&text);
    token.map(Some).map_err(|fault| Failure::new(super::exit::FAILURE, format!("the token in {what}: {fault}")))
}

fn options(arguments: &Arguments) -> Options {
    let defaults = Options::default();
    Options {
        ptys: arguments.ptys,
        dir: arguments.dir.clone().unwrap_or(defaults.dir),
        tcp: (arguments.tcp, arguments.to.unwrap_or(defaults.tcp.1)),
        http: (arguments.http, arguments.to_http.unwrap_or(defaults.http.1)),
        rate: arguments.rate,
        duration: arguments.duration,
        jitter: arguments.jitter,
        record_bytes: arguments.bytes,
        end: arguments.end.0.clone(),
        faults: Faults {
            garbage: arguments.garbage,
            cut: arguments.cut,
            hang_up: arguments.hang_up,
            unplug_at: arguments.unplug_at,
        },
        seed: arguments.seed,
        away: arguments.away,
        ledger: arguments.ledger.clone(),
        wait_for_reader: arguments.wait_for_reader,
        drain: arguments.drain,
        hold: arguments.hold,
        on_held: if arguments.json {
            |summary| print_summary(summary, true)
        } else {
            |summary| print_summary(summary, false)
        },
        ..defaults
    }
}

/// Plain lines every few seconds for people, or lines of JSON for a program.
struct Reporter {
    lines: bool,
    said_waiting: bool,
    next: Instant,
}

impl Reporter {
    fn report(&mut self, progress: Progress) {
        let Progress { machines, ready, elapsed, sent, late_max_us } = progress;
        if self.lines {
            let elapsed_ms = elapsed.map(|elapsed| elapsed.as_millis() as u64);
            println!(
                "{}",
                serde_json::json!({ "progress": { "machines": machines, "ready": ready,
                "elapsed_ms": elapsed_ms, "sent": sent } })
            );
            return;
        }
        let now = Instant::now();
        if now < self.next {
            return;
        }
        match elapsed {
            None if self.said_waiting && ready < machines => {}
            None => eprintln!("{ready} of {machines} ports are open at the other end"),
            Some(elapsed) => {
                eprintln!(
                    "{:.0} s: {sent} sent, at most {:.1} ms late",
                    elapsed.as_secs_f64(),
                    late_max_us as f64 / 1e3
                );
            }
        }
        self.said_waiting = elapsed.is_none();
        self.next = now + Duration::from_secs(if elapsed.is_none() { 1 } else { 5 });
    }
}

fn print_summary(summary: &Summary, json: bool) {
    let Summary { machines, sent, acknowledged, garbage, damaged, refused, unanswered, unsent, .. } = summary;
    eprintln!(
        "{} sent {} ({acknowledged} acknowledged) in {:.1} s, at most {:.1} ms late; {damaged} damaged, {} of garbage, {refused} refused, \
         {unanswered} unanswered, {unsent} unsent, {}, {}",
        counted(*machines, "machine"),
        counted(*sent, "record"),
        summary.elapsed_ms as f64 / 1e3,
        summary.late_max_us as f64 / 1e3,
        counted(*garbage, "frame"),
        counted(summary.hang_ups, "hang-up"),
        counted(summary.lost_connections, "lost connection"),
    );
    if summary.unread_ports > 0 {
        let were = if summary.unread_ports == 1 { "was" } else { "were" };
        let ports = counted(summary.unread_ports, "port");
        eprintln!("warning: {ports} {were} closed before it was known that all had been read");
    }
    if json {
        println!("{}", serde_json::to_string(summary).expect("numbers only"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delimiter_may_be_any_bytes() {
        let bytes = |text: &str| delimiter(text).map(|Delimiter(bytes)| bytes);
        assert_eq!(bytes("\\r"), Ok(b"\r".to_vec()));
        assert_eq!(bytes("\\r\\n"), Ok(b"\r\n".to_vec()));
        assert_eq!(bytes(";\\x03\\xfF"), Ok(vec![b';', 3, 255]));
        for wrong in ["", "\\", "\\x1", "\\xzz", "\\q"] {
            assert!(bytes(wrong).is_err(), "{wrong:?} was taken for a delimiter");
        }
    }
}
