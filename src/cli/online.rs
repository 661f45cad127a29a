//! `ringest check --online`: whether this machine and its surroundings are as the configuration needs them.
//!
//! Nothing is disturbed. No port is opened: that would raise DTR and RTS, which resets some machines.
//! No address is listened on. No device server is called, since many take one connection only; those
//! with TLS are, to the end of the handshake, while no gateway runs. The API is connected to, over TLS
//! likewise, but asked nothing. What listeners show to their machines is tried in memory. A *problem* is what `run`
//! would end with, and has its exit code; with a *warning* it runs, and something does not work
//! or will not last.

use super::checks::{
    Blocks, Check, Level, PortFound, blocks_check, io_uring_check, look_at_port, ok, problem, size,
    state_directory_checks, warning,
};
use super::exit;
use super::handshake::{HandshakeError, handshake};
use crate::config::{Authority, Durability, OnMissing, Serial, Settings, Source, SourceKind, Url};
use crate::engine::probe::{self, StateDirectory};
use crate::engine::{self, are_too_few, connections_allowed, core_directories};
use crate::ground::text::counted;
use crate::source::serial::{self, Holder};
use crate::tls::{Fit, Tls, TlsError, try_server};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// As long as a connect and a handshake of a device server may take each, as in the engine.
const DEVICE_LIMIT: Duration = Duration::from_secs(10);

/// All checks, in the order in which a start would meet them.
pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    let report = probe::report(&settings.gateway.state_dir, &settings.journal.blocks);
    let gateway = engine::lock_holder(&settings.gateway.state_dir);
    let running = gateway.as_ref().ok().copied().flatten().flatten();
    let io_uring = match report.io_uring.is_ok().then(|| engine::try_rings(settings)) {
        Some(Err(error)) => {
            let cores = counted(settings.gateway.cores.len() as u64, "core");
            problem("io_uring", format!("the rings for {cores} cannot be made: {error}"), exit::NO_IO_URING)
        }
        _ => io_uring_check(&report.io_uring),
    };
    let mut checks = vec![io_uring, open_files_check(settings, report.open_files.hard)];
    checks.extend(state_checks(settings, &report.state_directory));
    checks.push(lock_check(&settings.gateway.state_dir, gateway));
    if settings.journal.durability != Durability::Memory {
        checks.push(blocks_check(&Blocks {
            path: &settings.journal.blocks,
            found: report.blocks.as_ref(),
            state: &report.state_directory,
            durability: Some(settings.journal.durability),
            window_bytes: settings.journal.window_bytes as u64,
            cores: settings.gateway.cores.len() as u64,
        }));
    }
    checks.push(address_check("admin server", settings.gateway.admin, running));
    // A name that nobody resolves takes 10 s, so all of them are asked for side by side.
    std::thread::scope(|scope| {
        let api = scope.spawn(|| api_checks(settings));
        let of_sources = settings.sources.iter().map(|source| {
            let what = format!("source {}", source.name);
            match &source.kind {
                SourceKind::Serial(port) => Asked::Known(port_check(&what, port, running)),
                SourceKind::TcpListen { listen, .. } | SourceKind::Http { listen, .. } => {
                    Asked::Known(address_check(&what, *listen, running))
                }
                SourceKind::TcpConnect { connect, .. } => {
                    let tls = source.connect_tls.as_deref();
                    Asked::Name(scope.spawn(move || device_server_check(&what, connect, tls, running)))
                }
            }
        });
        let of_sources: Vec<Asked<'_>> = of_sources.collect();
        checks.extend(of_sources.into_iter().map(Asked::wait));
        checks.extend(settings.sources.iter().filter_map(certificate_check));
        checks.extend(api.join().expect("no check panics"));
    });
    checks
}

/// A check that is done, or under way.
enum Asked<'scope> {
    Known(Check),
    Name(std::thread::ScopedJoinHandle<'scope, Check>),
}

impl Asked<'_> {
    fn wait(self) -> Check {
        match self {
            Self::Known(check) => check,
            Self::Name(check) => check.join().expect("no check panics"),
        }
    }
}

fn open_files_check(settings: &Settings, hard: u64) -> Check {
    let (allowed, wanted) = (connections_allowed(hard, settings), settings.limits.connections);
    let found = format!("at most {hard}");
    if !are_too_few(allowed, settings) {
        let connections = allowed.min(wanted);
        return ok("open files", format!("{found}: {connections} connections of machines on each core"));
    }
    let found =
        format!("{found}, which allows {allowed} connections of machines on each core, not {wanted}; more wait");
    warning("open files", found, "LimitNOFILE= in the unit, or `ulimit -Hn`")
}

/// The state directory and its disk. At level `memory` only the lock is kept there.
fn state_checks(settings: &Settings, found: &StateDirectory) -> Vec<Check> {
    let journal = &settings.journal;
    let on_disk = journal.durability != Durability::Memory;
    let needed = if on_disk { journal.max_bytes.saturating_sub(journal_bytes(&settings.gateway.state_dir)) } else { 0 };
    let mut checks = state_directory_checks(found, true, needed);
    checks.retain(|check| on_disk || check.what != "direct I/O");
    checks
}

/// Bytes of the journals that are there.
fn journal_bytes(state: &Path) -> u64 {
    let cores = core_directories(state).unwrap_or_default();
    let files = cores.into_iter().filter_map(|core| std::fs::read_dir(core.path(state)).ok()).flatten();
    files.flatten().filter_map(|file| file.metadata().ok()).filter(|meta| meta.is_file()).map(|meta| meta.len()).sum()
}

/// `found`: `None` if nobody has locked it, else the PID in it.
fn lock_check(state: &Path, found: io::Result<Option<Option<u32>>>) -> Check {
    let what = "lock";
    match found {
        Ok(None) => ok(what, "free"),
        Ok(Some(pid)) => {
            let who = pid.map_or("a process".to_owned(), |pid| Holder::of(Path::new("/proc"), pid).to_string());
            let found = format!("{} is in use by {who}", state.display());
            warning(what, found, "`run` ends with code 5 until that gateway has ended; what is in use by it is ok here")
        }
        Err(error) => {
            let check = problem(what, format!("the lock file cannot be used ({error})"), exit::PERMISSION);
            Check { remedy: Some("it must belong to the user who runs the gateway".to_owned()), ..check }
        }
    }
}

fn address_check(what: &str, address: SocketAddr, running: Option<u32>) -> Check {
    let occupants = engine::occupants(address);
    if occupants.holders.iter().any(|holder| Some(holder.pid) == running) {
        return ok(what, format!("{address} is in use by the gateway that runs"));
    }
    let fails = |found: String, remedy: &str, code| Check {
        remedy: Some(remedy.to_owned()),
        ..problem(what, format!("{address} {found}"), code)
    };
    let busy = || {
        let who = serial::holder_words(&occupants.holders);
        let who = who.map(|who| format!(" by {who}")).unwrap_or_default();
        fails(format!("is already in use{who}"), "end that process, or choose another address", exit::BUSY)
    };
    if occupants.is_taken {
        return busy();
    }
    match bind(address) {
        Ok(()) => ok(what, format!("{address} is free")),
        Err(error) => match error.kind() {
            io::ErrorKind::AddrInUse => busy(),
            io::ErrorKind::PermissionDenied => fails(
                format!("may not be listened on ({error})"),
                "a port below 1024 needs CAP_NET_BIND_SERVICE (AmbientCapabilities= in a unit)",
                exit::PERMISSION,
            ),
            io::ErrorKind::AddrNotAvailable => fails(
                "is no address of this machine".to_owned(),
                "use one of `ip address`, or 0.0.0.0 for all of them",
                exit::FAILURE,
            ),
            _ => fails(format!("cannot be listened on ({error})"), "choose another address", exit::FAILURE),
        },
    }
}

/// Binds, and lets go; without listen(2) nobody can connect meanwhile.
fn bind(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Whether machines will take the certificate that a listener shows them.
fn certificate_check(source: &Source) -> Option<Check> {
    let tls = source.tls.as_ref()?;
    let (SourceKind::TcpListen { listen, .. } | SourceKind::Http { listen, .. }) = &source.kind else { return None };
    let what = format!("certificate of {}", source.name);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let Fit { names, root, has_root } = match try_server(&tls.server, now.as_nanos() as u64) {
        Ok(fit) => fit,
        Err(unfit) => return Some(warning(&what, format!("no machine will take it: {unfit}"), unfit.remedy())),
    };
    let leads = if has_root { "it leads to" } else { "machines must trust" };
    let found = format!("its key fits, {leads} {root}, and it is for {}", names.join(", "));
    let address = listen.ip();
    if address.is_unspecified() || names.contains(&address.to_string()) {
        return Some(ok(&what, found));
    }
    // By a name it may still be reached.
    if names.iter().any(|name| name.parse::<IpAddr>().is_err()) {
        return Some(ok(&what, format!("{found}, but not for {address}: machines must connect to a name")));
    }
    let found = format!("{found}, but this source listens on {address}: no machine that connects there will take it");
    Some(warning(&what, found, "a certificate with that address, or with a name by which machines connect"))
}

fn port_check(what: &str, port: &Serial, running: Option<u32>) -> Check {
    let path = port.path.display();
    let fails = port.on_missing == OnMissing::Fail;
    let bad = |found: String, remedy: String, code| {
        if fails {
            return Check { remedy: Some(remedy), ..problem(what, format!("{path}: {found}"), code) };
        }
        warning(what, format!("{path}: {found}; it is waited for"), remedy)
    };
    match look_at_port(&port.path) {
        PortFound::Free => ok(what, format!("{path} may be opened; it was not, so line and machine are not tried")),
        PortFound::Held(holders) if holders.iter().any(|holder| Some(holder.pid) == running) => {
            ok(what, format!("{path} is in use by the gateway that runs"))
        }
        PortFound::Held(holders) => {
            let who = serial::holder_words(&holders).expect("there are some");
            bad(format!("in use by {who}"), "end that process".to_owned(), exit::BUSY)
        }
        PortFound::Missing => bad(
            "no such port".to_owned(),
            "plug it in, or take one of the names that `ringest ports` shows".to_owned(),
            exit::MISSING,
        ),
        PortFound::NoPort => {
            bad("not a serial port".to_owned(), "name a tty: `ringest ports` lists them".to_owned(), exit::FAILURE)
        }
        PortFound::Forbidden(remedy) => bad("permission denied".to_owned(), remedy, exit::PERMISSION),
    }
}

fn device_server_check(what: &str, to: &Authority, tls: Option<&Tls>, running: Option<u32>) -> Check {
    let name = shown(to);
    match resolve(to) {
        Ok(addresses) => match tls {
            Some(tls) if running.is_none() => device_tls_check(what, to, &addresses, tls),
            _ => {
                let why = match tls {
                    Some(_) => "since the gateway that runs may have the one connection that it takes",
                    None => "since many device servers take one connection only",
                };
                ok(what, format!("{name} is {}; it was not called, {why}", list(&addresses)))
            }
        },
        Err(error) => warning(
            what,
            format!("{name}: the name cannot be resolved ({error}); it is tried again and again"),
            "correct the name, or the name server in /etc/resolv.conf",
        ),
    }
}

/// A handshake with the first address that takes a connection. What is wrong with it is told as the gateway would.
fn device_tls_check(what: &str, to: &Authority, addresses: &[SocketAddr], tls: &Tls) -> Check {
    let name = shown(to);
    let again = "it is tried again and again";
    let remedy = |error: &TlsError| {
        error
            .remedy()
            .replace("[deliver.tls]", "in tls of this source:")
            .replace("an http:// address", "a port without TLS")
    };
    let mut failures = Vec::new();
    for address in addresses {
        let connection = match TcpStream::connect_timeout(address, DEVICE_LIMIT) {
            Ok(connection) => connection,
            Err(error) => {
                failures.push(format!("{address}: {error}"));
                continue;
            }
        };
        let at = if address.to_string() == name { String::new() } else { format!(" at {address}") };
        return match handshake(connection, to, tls, DEVICE_LIMIT) {
            Ok(sealed) => {
                let agreed = sealed.close();
                ok(what, format!("{name} takes connections{at}, its certificate is good ({agreed}); nothing was read"))
            }
            Err(HandshakeError::Tls(error)) => warning(what, format!("{name}{at}: {error}; {again}"), remedy(&error)),
            Err(error) => warning(what, format!("{name}{at}: {error}; {again}"), remedy(&TlsError::NotTls)),
        };
    }
    let found = format!("cannot connect to {}; {again}", failures.join(", "));
    warning(what, found, "switch the device server on, correct connect, or open the firewall")
}

/// The record step and the id step, once where both are at one place.
fn api_checks(settings: &Settings) -> Vec<Check> {
    let record = &settings.deliver.url;
    let mut steps = vec![("record step", record)];
    if let Some(id) = settings.sequence.as_ref().map(|sequence| &sequence.url) {
        if id.authority == record.authority && id.secure == record.secure {
            steps = vec![("both steps", record)];
        } else {
            steps.insert(0, ("id step", id));
        }
    }
    steps.into_iter().map(|(what, url)| api_check(what, url, settings)).collect()
}

fn api_check(what: &str, url: &Url, settings: &Settings) -> Check {
    let limit = settings.deliver.connect_timeout;
    let name = shown(&url.authority);
    let kept = format!("records wait, {} of them at most", size(settings.journal.max_bytes));
    let addresses = match resolve(&url.authority) {
        Ok(addresses) => addresses,
        Err(error) => {
            let found = format!("{name}: the name cannot be resolved ({error}); {kept}");
            return warning(what, found, "correct the name, or the name server in /etc/resolv.conf");
        }
    };
    let mut failures = Vec::new();
    for address in addresses {
        let connection = match TcpStream::connect_timeout(&address, limit) {
            Ok(connection) => connection,
            Err(error) => {
                failures.push(format!("{address}: {error}"));
                continue;
            }
        };
        let at = if address.to_string() == name { String::new() } else { format!(" at {address}") };
        let Some(tls) = settings.deliver.tls.as_ref().filter(|_| url.secure) else {
            return ok(what, format!("{name} takes connections{at}; nothing was asked"));
        };
        return match handshake(connection, &url.authority, tls, limit) {
            Ok(sealed) => {
                let agreed = sealed.close();
                ok(what, format!("{name} takes connections{at}, its certificate is good ({agreed}); nothing was asked"))
            }
            Err(HandshakeError::Tls(error)) => warning(what, format!("{name}{at}: {error}; {kept}"), error.remedy()),
            Err(error) => warning(what, format!("{name}{at}: {error}; {kept}"), TlsError::NotTls.remedy()),
        };
    }
    let found = format!("cannot connect to {}; {kept}", failures.join(", "));
    warning(what, found, "start the service, correct the URL, or open the firewall")
}

fn resolve(to: &Authority) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<SocketAddr> = (to.host.as_str(), to.port).to_socket_addrs()?.collect();
    if addresses.is_empty() { Err(io::Error::other("it has no address")) } else { Ok(addresses) }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
}

/// As in a URL: an IPv6 address is in brackets.
fn shown(to: &Authority) -> String {
    if to.host.contains(':') { format!("[{}]:{}", to.host, to.port) } else { format!("{}:{}", to.host, to.port) }
}

/// The first problem, whose exit code `run` would end with; else what failed beside it.
pub(super) fn first_problem(checks: &[Check]) -> Option<&Check> {
    let is_problem = |check: &&Check| check.level == Level::Problem;
    checks.iter().find(is_problem).or_else(|| checks.iter().find(|check| check.exit_code > 0))
}
