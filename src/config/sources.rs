//! `[[source]]`: where bytes come from.

use super::access::{allow_remote, check_remote_http, check_remote_tcp, networks_only, of_http};
use super::content::{check_encoding, content};
use super::forms::forms;
use super::framing::{Framings, check_line, source_framing};
use super::gateway::{check_name, parse_path};
use super::listen_tls::{connect_tls, listen_tls};
use super::look::{Look, Seen};
use super::nearest::nearest;
use super::problem::Refusal;
use super::settings::{
    Authority, First, Flow, LaneKey, ListenTls, OnClose, OnLineError, OnMissing, Parity, Serial, Source, SourceKind,
    Tcp,
};
use super::tcp::tcp;
use super::units;
use super::url::{overlap, parse_authority, parse_listen};
use super::walk::{Reader, Section};
use crate::access::Access;
use crate::framing::{Framing, FramingKind};
use crate::http::server::Forms;
use crate::tls::Tls;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A source's index is a `u16`.
const SOURCES_MAX: usize = 65_535;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Serial,
    TcpListen,
    TcpConnect,
    Http,
}

const KINDS: [(&str, Kind); 4] = [
    ("serial", Kind::Serial),
    ("tcp_listen", Kind::TcpListen),
    ("tcp_connect", Kind::TcpConnect),
    ("http", Kind::Http),
];

/// Keys that only some kinds have, for a better word than "unknown".
const KEYS_OF_KINDS: [(&str, &str); 36] = [
    ("path", "serial"),
    ("line", "serial"),
    ("flow", "serial"),
    ("on_missing", "serial"),
    ("on_line_error", "serial"),
    ("connect", "tcp_connect"),
    ("lane", "tcp_listen and http"),
    ("names", "tcp_listen"),
    ("first", "serial, tcp_listen and tcp_connect"),
    ("on_close", "tcp_listen and tcp_connect"),
    ("quick_ack", "tcp_listen and tcp_connect"),
    ("keepalive", "tcp_listen and tcp_connect"),
    ("user_timeout", "tcp_listen and tcp_connect"),
    ("idle", "tcp_listen"),
    ("reconnect_after", "tcp_connect"),
    ("listen", "tcp_listen and http"),
    ("allow", "tcp_listen and http"),
    ("deny", "tcp_listen and http"),
    ("allow_remote", "tcp_listen and http"),
    ("proxies", "tcp_listen and http"),
    ("tls", "tcp_listen, tcp_connect and http"),
    ("name_from", "tcp_listen and http"),
    ("sources", "http"),
    ("tokens_file", "http"),
    ("basic", "http"),
    ("origins", "http"),
    ("query", "http"),
    ("get", "http"),
    ("array", "http"),
    ("lenient", "http"),
    ("keep_headers", "http"),
    ("connections", "tcp_listen and http"),
    ("connections_per_address", "tcp_listen and http"),
    ("connections_per_token", "http"),
    ("requests_per_second", "http"),
    ("bytes_per_second", "http"),
];

/// What a source may not share with another, and who has it.
struct Taken<'l> {
    /// Sees what stands at a path.
    look: Look<'l>,
    /// Which ttys are read, and by whom: source and path.
    devices: HashMap<u64, (String, PathBuf)>,
    names: HashMap<String, usize>,
    /// Names that a listener gives to machines, and which source does.
    machines: HashMap<String, String>,
    paths: HashMap<PathBuf, String>,
    listeners: HashMap<u16, Vec<(SocketAddr, String)>>,
}

/// All sources, in the order of the file. `admin` is an address that is taken already.
pub(super) fn sources<'d>(
    reader: &Reader<'d>,
    root: &Section<'_, 'd>,
    framings: &mut Framings<'d>,
    admin: SocketAddr,
    look: Look<'_>,
) -> Vec<Source> {
    let Some(entry) = root.get("source") else {
        root.missing("source", "at least one [[source]], where records come from; see `ringest config example`");
        return Vec::new();
    };
    let tables: Vec<_> = if let Some(tables) = entry.item.as_array_of_tables() {
        tables.iter().map(|table| (table as &dyn toml_edit::TableLike, table.span())).collect()
    } else if let Some(array) = entry.item.as_array().filter(|array| array.iter().all(|value| value.is_inline_table()))
    {
        let tables = array.iter().filter_map(|value| value.as_inline_table());
        tables.map(|table| (table as &dyn toml_edit::TableLike, table.span())).collect()
    } else {
        entry.refuse(Refusal::new("sources are a list", "[[source]] in double brackets, once for each source"));
        return Vec::new();
    };
    if tables.is_empty() {
        entry.refuse(Refusal::new("there is no source in this list", "at least one [[source]]"));
    }
    if tables.len() > SOURCES_MAX {
        entry.refuse_key(Refusal::new(format!("these are {} sources", tables.len()), format!("at most {SOURCES_MAX}")));
    }
    let mut taken = Taken {
        look,
        devices: HashMap::new(),
        names: HashMap::new(),
        machines: HashMap::new(),
        paths: HashMap::new(),
        listeners: HashMap::from([(admin.port(), vec![(admin, "gateway.admin".to_owned())])]),
    };
    let mut sources = Vec::with_capacity(tables.len());
    for (index, (table, span)) in tables.into_iter().enumerate() {
        let number = format!("source #{}", index + 1);
        let section = Section::new(reader, number, "source".to_owned(), Some(table), span);
        sources.extend(source(section, index, framings, &mut taken));
    }
    sources
}

fn source<'d>(
    mut section: Section<'_, 'd>,
    index: usize,
    framings: &mut Framings<'d>,
    taken: &mut Taken<'_>,
) -> Option<Source> {
    let name = section.parsed("name", "a string", |name| check_name(name).map(|()| name));
    if section.get("name").is_none() {
        section.missing("name", "name = \"…\": a name of its own for each source, shown with every record");
    }
    if let Some(name) = name
        && let Some(first) = taken.names.insert(name.to_owned(), index)
    {
        let what = format!("source #{} has this name already", first + 1);
        section.refuse("name", Refusal::new(what, "a name of its own for each source"));
    }
    if let Some(owner) = name.and_then(|name| taken.machines.get(name)) {
        let what = format!("{owner} has given this name to a machine already, in its names");
        section.refuse("name", Refusal::new(what, "a name of its own for each source and machine"));
    }
    let kind = kind(&section);
    // From here on messages say the name.
    let path = name.map_or_else(|| format!("source #{}", index + 1), |name| format!("source {name:?}"));
    let kind_name = kind.and_then(|kind| KINDS.iter().find(|(_, known)| *known == kind)).map_or("", |(name, _)| *name);
    section.rename(path.clone(), format!("source[{kind_name}]"));
    let Some(kind) = kind else {
        return None; // which keys it may have is not known
    };
    let silence_alarm =
        section.duration_if_given("silence_alarm", Duration::from_secs(1)..=Duration::from_secs(30 * 86_400));
    let mut framing = if kind == Kind::Http {
        section.misplaced(
            "framing",
            "the body of an HTTP request is a record, so there is nothing to cut",
            "leave it out",
        );
        Some(Framing::default())
    } else {
        source_framing(&section, framings)
    };
    let tls = tls_of_listener(&section, kind);
    let access = access_of(&section, kind, tls.is_some());
    let source_kind = match kind {
        Kind::Serial => serial(&section, &path, framing.as_ref(), taken).map(SourceKind::Serial),
        Kind::TcpListen => tcp_listen(&section, &path, &access, taken),
        Kind::TcpConnect => {
            let quick_ack = section.boolean("quick_ack", true);
            connect(&section).map(|connect| SourceKind::TcpConnect { connect, quick_ack })
        }
        Kind::Http => http(&section, &path, taken, (&access, tls.as_ref())),
    };
    let connect_tls = tls_of_caller(&section, kind, source_kind.as_ref());
    let tcp = match kind {
        Kind::TcpListen => tcp(&section, "idle"),
        Kind::TcpConnect => tcp(&section, "reconnect_after"),
        Kind::Serial | Kind::Http => Tcp::default(),
    };
    let (decoding, data_is) = content(&section);
    let forms = if kind == Kind::Http { forms(&section, &access.proxies) } else { Forms::default() };
    if let Some(framing) = &mut framing {
        framing.unit_bytes = decoding.unit_bytes();
    }
    if let Some(framing) = &framing
        && kind != Kind::Http
    {
        let port = match &source_kind {
            Some(SourceKind::Serial(port)) => Some(port),
            _ => None,
        };
        check_encoding(&section, decoding, framing, port);
    }
    let first = first(&section, kind, framing.as_ref());
    let on_close = on_close(&section, kind, framing.as_ref());
    section.finish_with(|key| {
        let (_, owner) = KEYS_OF_KINDS.iter().find(|(known, _)| *known == key)?;
        Some(format!("a source of kind {kind_name:?} has no such key: it belongs to {owner}"))
    });
    let (name, kind, framing) = (name?.to_owned(), source_kind?, framing?);
    Some(Source {
        name,
        kind,
        framing,
        decoding,
        data_is,
        silence_alarm,
        first,
        on_close,
        tcp,
        access,
        tls,
        connect_tls,
        forms,
    })
}

fn access_of(section: &Section<'_, '_>, kind: Kind, has_tls: bool) -> Access {
    match kind {
        Kind::Http => of_http(section, has_tls),
        Kind::TcpListen => networks_only(section),
        Kind::Serial | Kind::TcpConnect => Access::default(),
    }
}

fn tls_of_listener(section: &Section<'_, '_>, kind: Kind) -> Option<ListenTls> {
    match kind {
        Kind::TcpListen => listen_tls(section, "address"),
        Kind::Http => listen_tls(section, "request"),
        Kind::Serial | Kind::TcpConnect => None,
    }
}

fn tls_of_caller(section: &Section<'_, '_>, kind: Kind, source: Option<&SourceKind>) -> Option<Arc<Tls>> {
    match source {
        Some(SourceKind::TcpConnect { connect, .. }) => connect_tls(section, Some(connect)),
        None if kind == Kind::TcpConnect => connect_tls(section, None),
        _ => None,
    }
}

/// Whether what precedes the first end is a record. A machine that connects to us begins with one, mostly; whoever we connect to
/// may be in the middle of it.
fn first(section: &Section<'_, '_>, kind: Kind, framing: Option<&Framing>) -> First {
    let default = match kind {
        Kind::Serial | Kind::TcpConnect => First::Discard,
        Kind::TcpListen | Kind::Http => First::Keep,
    };
    if kind == Kind::Http {
        return default;
    }
    if kind == Kind::TcpListen
        && section.get("first").is_none()
        && framing
            .is_some_and(|framing| framing.starts.is_empty() && !matches!(framing.kind, FramingKind::Fixed { .. }))
    {
        section.note(
            "first",
            "what comes first on a connection is taken for a whole record: a device server that connects here in the middle of \
             one has its tail delivered",
            "first = \"discard\" for a device server, first = \"keep\" for a machine that begins with a record",
        );
    }
    section.choice("first", &[("discard", First::Discard), ("keep", First::Keep)], default)
}

/// Whether a connection's end is the end of a record.
fn on_close(section: &Section<'_, '_>, kind: Kind, framing: Option<&Framing>) -> OnClose {
    const REMEDY: &str = "on_close = \"emit\" with an end, or with idle_gap, and nothing else";
    if !matches!(kind, Kind::TcpListen | Kind::TcpConnect) {
        return OnClose::Discard;
    }
    let chosen =
        section.choice("on_close", &[("discard", OnClose::Discard), ("emit", OnClose::Emit)], OnClose::Discard);
    let Some(framing) = framing.filter(|_| chosen == OnClose::Emit) else { return chosen };
    let has = if !framing.starts.is_empty() {
        "a start"
    } else if framing.checksum.is_some() {
        "a checksum"
    } else if matches!(framing.kind, FramingKind::Length(_) | FramingKind::Fixed { .. }) {
        "a length"
    } else {
        return chosen;
    };
    let what =
        format!("the framing has {has}, which tells where a record ends: one that is cut off by a close is damaged");
    section.refuse("on_close", Refusal::new(what, REMEDY));
    chosen
}

/// What sources and machines are called, sorted.
pub(super) fn names_of(sources: &[Source]) -> Arc<[String]> {
    let machines = sources.iter().filter_map(|source| match &source.kind {
        SourceKind::TcpListen { names, .. } => Some(names.values().cloned()),
        _ => None,
    });
    let mut names: Vec<String> = sources.iter().map(|source| source.name.clone()).chain(machines.flatten()).collect();
    names.sort_unstable();
    names.into()
}

/// `names` of a listener: what the machines at some addresses are called.
fn names(section: &Section<'_, '_>, owner: &str, taken: &mut Taken<'_>) -> BTreeMap<IpAddr, String> {
    const REMEDY: &str = "names = { \"10.0.4.21\" = \"press-4\" }: an address and the name of its machine";
    let mut names = BTreeMap::new();
    let Some(table) = section.get("names").and_then(|entry| entry.section(REMEDY)) else { return names };
    for (text, entry) in table.entries() {
        let address = match text.parse::<IpAddr>() {
            Ok(address) => address.to_canonical(),
            Err(_) => {
                entry.refuse_key(Refusal::new("this is no IP address", REMEDY));
                continue;
            }
        };
        let Some(name) = entry.string(REMEDY) else { continue };
        if let Err(refusal) = check_name(name) {
            entry.refuse(refusal);
        } else if let Some(first) = taken.names.get(name) {
            let what = format!("source #{} has this name already", first + 1);
            entry.refuse(Refusal::new(what, "a name of its own for each source and machine"));
        } else if let Some(first) = taken.machines.insert(name.to_owned(), owner.to_owned()) {
            let what = format!("{first} has given this name to a machine already");
            entry.refuse(Refusal::new(what, "a name of its own for each machine"));
        } else if names.insert(address, name.to_owned()).is_some() {
            entry.refuse_key(Refusal::new("this address is here twice", "one name for each address"));
        }
    }
    names
}

fn kind(section: &Section<'_, '_>) -> Option<Kind> {
    let names = KINDS.map(|(name, _)| format!("{name:?}")).join(", ");
    let remedy = format!("one of {names}");
    if section.get("kind").is_none() {
        section.missing("kind", &remedy);
    }
    section.parsed("kind", &remedy, |given| {
        let found = KINDS.iter().find(|(name, _)| *name == given);
        found.map(|(_, kind)| *kind).ok_or_else(|| {
            let near = match given {
                "tty" | "rs232" | "usb" => Some("serial"),
                "tcp" => Some("tcp_listen"),
                _ => nearest(given, KINDS.iter().map(|(name, _)| *name)),
            };
            Refusal::new("there is no such kind of source", remedy.clone()).with_nearest(near)
        })
    })
}

fn serial(section: &Section<'_, '_>, owner: &str, framing: Option<&Framing>, taken: &mut Taken<'_>) -> Option<Serial> {
    let path =
        section.parsed("path", "a path, such as \"/dev/serial/by-id/…\"", |text| port_path(text, owner, taken));
    if let Some(path) = &path {
        note_moving_name(section, path, taken.look);
    }
    if section.get("path").is_none() {
        section.missing("path", "path = \"/dev/serial/by-id/…\", a name that stays when the port is plugged in again");
    }
    let default_line = units::parse_line("9600 8N1").expect("the default is valid");
    let line = section.parsed("line", "a string such as \"9600 8N1\"", units::parse_line).unwrap_or(default_line);
    let flows = [("none", Flow::None), ("rtscts", Flow::RtsCts), ("xonxoff", Flow::XonXoff)];
    let flow = section.choice("flow", &flows, Flow::None);
    let on_missing =
        section.choice("on_missing", &[("wait", OnMissing::Wait), ("fail", OnMissing::Fail)], OnMissing::Wait);
    let words = [("reject", OnLineError::Reject), ("deliver", OnLineError::Deliver)];
    let default = if line.parity == Parity::None { OnLineError::Deliver } else { OnLineError::Reject };
    let on_line_error = section.choice("on_line_error", &words, default);
    if let Some(framing) = framing {
        check_line(section, framing, line, flow);
    }
    // A parity bit beyond eight data bits is fine; five data bits with two stop bits are 1.5 on common hardware.
    if line.data_bits == 5 && line.stop_bits == 2 && line.parity != Parity::None {
        section.note("line", "common hardware sends one and a half stop bits here", "");
    }
    Some(Serial { path: path?, line, flow, on_missing, on_line_error })
}

/// A path that can be a port's, and is not another source's, also by another name.
fn port_path(text: &str, owner: &str, taken: &mut Taken<'_>) -> Result<PathBuf, Refusal> {
    const ONE: &str = "one source for each port";
    let path = parse_path(text)?;
    if text.contains(['*', '?', '[']) {
        return Err(Refusal::new(
            "a pattern is not searched for, and no port has such a name",
            "the whole name of one port: `ringest ports` shows those that there are",
        ));
    }
    if let Some(first) = taken.paths.insert(path.clone(), owner.to_owned()) {
        return Err(Refusal::new(format!("{first} reads this port already"), ONE));
    }
    match (taken.look)(&path) {
        Seen::Nothing => Ok(path),
        Seen::NoTty(what) => Err(Refusal::new(
            format!("there is {what} at this path, and no serial port"),
            "the name of a tty: `ringest ports` shows those that there are",
        )),
        Seen::Tty { device, .. } => match taken.devices.insert(device, (owner.to_owned(), path.clone())) {
            Some((first, other)) => {
                Err(Refusal::new(format!("{first} reads this port already, by the name {}", other.display()), ONE))
            }
            None => Ok(path),
        },
    }
}

/// A name that the kernel gives by the order of plugging in leads to another machine one day.
fn note_moving_name(section: &Section<'_, '_>, path: &Path, look: Look<'_>) {
    let moves = |name: &str| ["ttyUSB", "ttyACM"].iter().any(|kind| name.starts_with(kind));
    let is_moving =
        path.parent() == Some(Path::new("/dev")) && path.file_name().is_some_and(|name| moves(&name.to_string_lossy()));
    if is_moving {
        let remedy = match look(path) {
            Seen::Tty { stable: Some(stable), .. } => {
                format!("path = \"{}\" is this port, and stays so", stable.display())
            }
            _ => "`ringest ports` shows names that stay, those in /dev/serial".to_owned(),
        };
        let what = "such names move: after the next plug or boot this may be another machine's port";
        section.note("path", what, remedy);
    }
}

fn listen(section: &Section<'_, '_>, owner: &str, taken: &mut Taken<'_>) -> Option<SocketAddr> {
    if section.get("listen").is_none() {
        section.missing("listen", "listen = \"ADDRESS:PORT\", such as \"0.0.0.0:4001\"");
    }
    section.parsed("listen", "an address and a port, such as \"0.0.0.0:4001\"", |text| {
        let address = parse_listen(text)?;
        let listeners = taken.listeners.entry(address.port()).or_default();
        if let Some((other, first)) = listeners.iter().find(|(other, _)| overlap(*other, address)) {
            let what = format!("{first} listens on {other} already");
            return Err(Refusal::new(what, "an address and a port of its own for each listener"));
        }
        listeners.push((address, owner.to_owned()));
        Ok(address)
    })
}

fn tcp_listen(section: &Section<'_, '_>, owner: &str, access: &Access, taken: &mut Taken<'_>) -> Option<SourceKind> {
    let lanes = [("address", LaneKey::Address), ("connection", LaneKey::Connection)];
    let lane = section.choice("lane", &lanes, LaneKey::Address);
    let quick_ack = section.boolean("quick_ack", true);
    let names = names(section, owner, taken);
    let is_plain = allow_remote(section);
    let listen = listen(section, owner, taken)?;
    check_remote_tcp(section, listen, access, is_plain);
    Some(SourceKind::TcpListen { listen, lane, quick_ack, names })
}

fn connect(section: &Section<'_, '_>) -> Option<Authority> {
    const REMEDY: &str = "a host and a port, such as \"10.0.4.20:4001\"";
    if section.get("connect").is_none() {
        section.missing("connect", REMEDY);
    }
    section.parsed("connect", REMEDY, |text| {
        if text.contains("://") {
            return Err(Refusal::new("this is a URL; a device server is reached by plain TCP", REMEDY));
        }
        parse_authority(text, None)
    })
}

fn http(
    section: &Section<'_, '_>,
    owner: &str,
    taken: &mut Taken<'_>,
    (access, tls): (&Access, Option<&ListenTls>),
) -> Option<SourceKind> {
    let lanes = [("source", LaneKey::Source), ("connection", LaneKey::Connection), ("address", LaneKey::Address)];
    let lane = section.choice("lane", &lanes, LaneKey::Source);
    let is_plain = allow_remote(section);
    let listen = listen(section, owner, taken)?;
    check_remote_http(section, listen, (access, tls), is_plain);
    Some(SourceKind::Http { listen, lane })
}
