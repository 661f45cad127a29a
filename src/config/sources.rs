//! `[[source]]`: where bytes come from.

use super::content::{check_encoding, content};
use super::framing::{Framings, check_line, source_framing};
use super::gateway::{check_name, parse_path};
use super::nearest::nearest;
use super::problem::Refusal;
use super::settings::{Authority, Flow, LaneKey, OnLineError, OnMissing, Parity, Serial, Source, SourceKind};
use super::units;
use super::url::{overlap, parse_authority, parse_listen};
use super::walk::{Reader, Section};
use crate::framing::Framing;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
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
const KEYS_OF_KINDS: [(&str, &str); 10] = [
    ("path", "serial"),
    ("line", "serial"),
    ("flow", "serial"),
    ("on_missing", "serial"),
    ("on_line_error", "serial"),
    ("connect", "tcp_connect"),
    ("lane", "tcp_listen"),
    ("quick_ack", "tcp_listen and tcp_connect"),
    ("listen", "tcp_listen and http"),
    ("allow_remote", "http"),
];

/// What a source may not share with another, and who has it.
#[derive(Default)]
struct Taken {
    names: HashMap<String, usize>,
    paths: HashMap<PathBuf, String>,
    listeners: HashMap<u16, Vec<(SocketAddr, String)>>,
}

/// All sources, in the order of the file. `admin` is an address that is taken already.
pub(super) fn sources<'d>(
    reader: &Reader<'d>,
    root: &Section<'_, 'd>,
    framings: &mut Framings<'d>,
    admin: SocketAddr,
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
    let mut taken = Taken::default();
    taken.listeners.insert(admin.port(), vec![(admin, "gateway.admin".to_owned())]);
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
    taken: &mut Taken,
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
    let source_kind = match kind {
        Kind::Serial => serial(&section, &path, framing.as_ref(), taken).map(SourceKind::Serial),
        Kind::TcpListen => {
            let lanes = [("connection", LaneKey::Connection), ("address", LaneKey::Address)];
            let lane = section.choice("lane", &lanes, LaneKey::Connection);
            let quick_ack = section.boolean("quick_ack", true);
            listen(&section, &path, taken).map(|listen| SourceKind::TcpListen { listen, lane, quick_ack })
        }
        Kind::TcpConnect => {
            let quick_ack = section.boolean("quick_ack", true);
            connect(&section).map(|connect| SourceKind::TcpConnect { connect, quick_ack })
        }
        Kind::Http => http(&section, &path, taken),
    };
    let (decoding, data_is) = content(&section);
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
    section.finish_with(|key| {
        let (_, owner) = KEYS_OF_KINDS.iter().find(|(known, _)| *known == key)?;
        Some(format!("a source of kind {kind_name:?} has no such key: it belongs to {owner}"))
    });
    let (name, kind, framing) = (name?.to_owned(), source_kind?, framing?);
    Some(Source { name, kind, framing, decoding, data_is, silence_alarm })
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

fn serial(section: &Section<'_, '_>, owner: &str, framing: Option<&Framing>, taken: &mut Taken) -> Option<Serial> {
    let path = section.parsed("path", "a path, such as \"/dev/serial/by-id/…\"", |text| {
        let path = parse_path(text)?;
        match taken.paths.insert(path.clone(), owner.to_owned()) {
            Some(first) => Err(Refusal::new(format!("{first} reads this port already"), "one source for each port")),
            None => Ok(path),
        }
    });
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

fn listen(section: &Section<'_, '_>, owner: &str, taken: &mut Taken) -> Option<SocketAddr> {
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

fn http(section: &Section<'_, '_>, owner: &str, taken: &mut Taken) -> Option<SourceKind> {
    const PROXY: &str = "listen on 127.0.0.1 and run a proxy in front (nginx, HAProxy) that does it";
    section.unsupported("tls", PROXY);
    section.unsupported("tokens_file", PROXY);
    let allow_remote = section.boolean("allow_remote", false);
    let listen = listen(section, owner, taken)?;
    if !listen.ip().is_loopback() {
        if allow_remote {
            section.note(
                "listen",
                "anyone who reaches this address can write records: there is no TLS and no authentication",
                "",
            );
        } else {
            section.refuse(
                "listen",
                Refusal::new(
                    "this address is reachable from other machines, and this version has neither TLS nor authentication: \
                     anyone who reaches it could write records",
                    "\"127.0.0.1:PORT\" behind a proxy that authenticates, or allow_remote = true in this source if all \
                     who reach the address may write",
                ),
            );
        }
    }
    Some(SourceKind::Http { listen })
}
