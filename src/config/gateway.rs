//! `[gateway]`, `[journal]`, `[limits]`: the process, what it keeps, and its bounds.

use super::problem::Refusal;
use super::settings::{Durability, Gateway, Journal, Limits, MachineKeys, WhenFull};
use super::units::show_size;
use super::url::parse_listen;
use super::walk::{Entry, Section};
use crate::framing;
use crate::http::server;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Longest record, however it is framed; a journal block holds at least one.
pub(super) const RECORD_BYTES_MAX: u64 = framing::RECORD_BYTES_MAX as u64;
/// Where state lives unless the file says otherwise.
const STATE_DIR: &str = "/var/lib/ringest";
/// Where metrics and commands are served unless the file says otherwise.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9600);
/// Segments that each core needs: one being filled, one ready, one being freed, one to spare.
const SEGMENTS_PER_CORE_MIN: u64 = 4;

/// Bytes of the journal that a machine's key is counted with, and the part of a core's share that all of them may take.
const MACHINE_KEY_BYTES: u64 = 72;
const MACHINE_KEYS_PART: u64 = 4;

/// A name of a source or a framing, which is also a URL's path segment, a metric's label and a file name's part.
pub(super) fn check_name(name: &str) -> Result<(), Refusal> {
    const REMEDY: &str = "1 to 64 of the characters A-Z a-z 0-9 . _ -";
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c))) {
        Some(wrong) => Err(Refusal::new(format!("{wrong:?} cannot stand in a name"), REMEDY)),
        None if name.is_empty() => Err(Refusal::new("a name cannot be empty", REMEDY)),
        None if name.len() > 64 => Err(Refusal::new(format!("this name has {} characters", name.len()), REMEDY)),
        None => Ok(()),
    }
}

/// An absolute path without `.` and `..`; doubled and trailing slashes are dropped.
pub(super) fn parse_path(text: &str) -> Result<PathBuf, Refusal> {
    let remedy = "an absolute path, such as \"/var/lib/ringest\"";
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(Refusal::new("a relative path would depend on where ringest is started", remedy));
    }
    if text.contains(|c: char| c.is_control()) {
        return Err(Refusal::new("a path with a control character", remedy));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Refusal::new("a path with ..", remedy));
    }
    Ok(path.components().collect())
}

pub(super) fn gateway(section: Section<'_, '_>, cpus: &[usize]) -> Gateway {
    let name = section.parsed("name", "a string", |text| {
        let good = !text.is_empty() && text.len() <= 64 && !text.contains(|c: char| c.is_control());
        good.then(|| text.to_owned()).ok_or_else(|| {
            Refusal::new("a name that metrics and pages cannot show", "1 to 64 bytes without control characters")
        })
    });
    let state_dir = section.parsed("state_dir", "a path", parse_path);
    let admin = section.parsed("admin", "an address and a port", |text| {
        let address = parse_listen(text)?;
        if !address.ip().is_loopback() {
            return Err(Refusal::new(
                "the admin server has no authentication and shows all that passes, so it stays on this machine",
                "a loopback address, such as \"127.0.0.1:9600\"; for access from elsewhere use ssh -L or a proxy that \
                 authenticates",
            ));
        }
        Ok(address)
    });
    let min_wait = section.duration("min_wait", Duration::ZERO, Duration::ZERO..=Duration::from_millis(10));
    let core_dumps = section.boolean("core_dumps", false);
    let cores = section.get("cores").and_then(|entry| cores(&entry, cpus)).unwrap_or_else(|| cpus.to_vec());
    section.finish();
    Gateway {
        name: name.unwrap_or_else(|| "ringest".to_owned()),
        file: PathBuf::new(), // the caller knows it
        cores,
        state_dir: state_dir.unwrap_or_else(|| STATE_DIR.into()),
        admin: admin.unwrap_or(ADMIN),
        min_wait,
        core_dumps,
    }
}

/// `"all"` or a list of CPU numbers, each of them in `cpus`.
fn cores(entry: &Entry<'_, '_>, cpus: &[usize]) -> Option<Vec<usize>> {
    let listed: Vec<String> = cpus.iter().map(usize::to_string).collect();
    let remedy = format!("\"all\", or a list of CPU numbers; this process may use {}", listed.join(", "));
    if let Some(word) = entry.item.as_str() {
        if word == "all" {
            return Some(cpus.to_vec());
        }
        entry.refuse(Refusal::new("this word is not known here", remedy));
        return None;
    }
    if entry.item.is_integer() {
        entry.refuse(Refusal::new("a number alone could mean a count or a CPU", format!("{remedy}, such as [0]")));
        return None;
    }
    let elements = entry.elements(&remedy)?;
    if elements.is_empty() {
        entry.refuse(Refusal::new("there is no core in this list", remedy.clone()));
    }
    let mut cores = Vec::new();
    for (value, span) in elements {
        let cpu = value.as_integer().and_then(|cpu| usize::try_from(cpu).ok());
        let what = match cpu {
            Some(cpu) if cores.contains(&cpu) => "this CPU stands in the list twice",
            Some(cpu) if cpus.contains(&cpu) => {
                cores.push(cpu);
                continue;
            }
            Some(_) => "this machine has no such CPU, or this process may not use it",
            None => "this is no CPU number",
        };
        entry.refuse_element(&span, Refusal::new(what, remedy.clone()));
    }
    (!cores.is_empty()).then_some(cores)
}

pub(super) fn journal(section: Section<'_, '_>, cores: usize) -> Journal {
    let defaults = Journal::default();
    let durability = section.choice(
        "durability",
        &[("memory", Durability::Memory), ("process", Durability::Process), ("power", Durability::Power)],
        defaults.durability,
    );
    let commit_every =
        section.duration("commit_every", defaults.commit_every, Duration::from_micros(100)..=Duration::from_secs(10));
    let segment_bytes = section.size("segment_size", defaults.segment_bytes, 1 << 20..=1 << 30);
    if !segment_bytes.is_multiple_of(4096) {
        section.refuse("segment_size", Refusal::new("not a multiple of 4KiB", "a multiple of 4KiB, such as \"16MiB\""));
    }
    let cores = cores.max(1) as u64;
    let least = SEGMENTS_PER_CORE_MIN * segment_bytes * cores;
    // A machine with many cores must be able to run on the defaults.
    let max_bytes = section.size("max_size", defaults.max_bytes.max(2 * least), 4 << 20..=1 << 50);
    if max_bytes < least {
        section.refuse(
            "max_size",
            Refusal::new(
                format!(
                    "less than {SEGMENTS_PER_CORE_MIN} segments of {} for each of {cores} core{}",
                    show_size(segment_bytes),
                    if cores == 1 { "" } else { "s" }
                ),
                format!("at least \"{}\", or a smaller segment_size, or fewer cores", show_size(least)),
            ),
        );
    }
    // Beyond its share of the journal a window could never be filled.
    let window_most = max_bytes.max(least) / cores;
    let window_default = (defaults.window_bytes as u64).min(window_most);
    let window_bytes = section.size("window", window_default, 1 << 20..=4 << 30);
    if window_bytes > window_most {
        section.refuse(
            "window",
            Refusal::new(
                "more than a core's share of max_size",
                format!("at most \"{}\", or a larger max_size", show_size(window_most)),
            ),
        );
    }
    let blocks = section.parsed("blocks", "a path", parse_path).unwrap_or(defaults.blocks);
    let when_full =
        section.choice("when_full", &[("pause", WhenFull::Pause), ("reject", WhenFull::Reject)], defaults.when_full);
    let machine_keys = machine_keys(&section, max_bytes.max(least) / cores, defaults.machine_keys);
    section.finish();
    Journal {
        durability,
        commit_every,
        segment_bytes,
        max_bytes,
        window_bytes: window_bytes as usize,
        blocks,
        when_full,
        machine_keys,
    }
}

/// The keys of HTTP machines lie in the journal, and are written again before what held them is freed.
fn machine_keys(section: &Section<'_, '_>, share_bytes: u64, defaults: MachineKeys) -> MachineKeys {
    let most = (share_bytes / MACHINE_KEYS_PART / MACHINE_KEY_BYTES) as usize;
    let section = section.section("machine_keys");
    let count = section.integer("count", defaults.count.min(most), 0..=10_000_000);
    if count > most {
        section.refuse(
            "count",
            Refusal::new(
                format!("the keys of a core could fill more than a quarter of its share of max_size, {MACHINE_KEY_BYTES} bytes each"),
                format!("at most {most}, or a larger max_size; 0 remembers none"),
            ),
        );
    }
    let age = section.duration("age", defaults.age, Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3_600));
    section.finish();
    MachineKeys { count, age }
}

pub(super) fn limits(section: Section<'_, '_>) -> Limits {
    let defaults = Limits::default();
    let seconds = |low: u64, high: u64| Duration::from_secs(low)..=Duration::from_secs(high);
    let size = |key, default: usize, low: u64, high: u64| section.size(key, default as u64, low..=high) as usize;
    let connections = section.integer("connections", defaults.connections, 1..=1_000_000);
    let limits = Limits {
        read_buffer_bytes: size("read_buffer", defaults.read_buffer_bytes, 1 << 10, 64 << 10),
        read_buffers: section.integer("read_buffers", defaults.read_buffers, 16..=32_768),
        http: server::Limits {
            header_bytes: size("header", defaults.http.header_bytes, 1 << 10, 64 << 10),
            header_fields: section.integer("header_fields", defaults.http.header_fields, 8..=256),
            target_bytes: size("target", defaults.http.target_bytes, 128, 32 << 10),
            body_bytes: size("body", defaults.http.body_bytes, 1, RECORD_BYTES_MAX),
            header_timeout: section.duration("header_timeout", defaults.http.header_timeout, seconds(1, 600)),
            body_timeout: section.duration("body_timeout", defaults.http.body_timeout, seconds(1, 3_600)),
            body_rate_bytes: size("body_rate", defaults.http.body_rate_bytes, 1, 1 << 20),
            batch_records: section.integer("batch_records", defaults.http.batch_records, 1..=10_000),
            idle_timeout: section.duration("idle_timeout", defaults.http.idle_timeout, seconds(1, 86_400)),
        },
        connections,
        connections_all: Limits::for_all(connections),
    };
    if !limits.read_buffers.is_power_of_two() {
        section.refuse("read_buffers", Refusal::new("not a power of two", "16, 32, 64 … 32768"));
    }
    if limits.http.target_bytes >= limits.http.header_bytes {
        section.refuse(
            "target",
            Refusal::new(
                "a target of this length does not fit into the header",
                format!("less than header, which is \"{}\"", show_size(limits.http.header_bytes as u64)),
            ),
        );
    }
    section.finish();
    limits
}
