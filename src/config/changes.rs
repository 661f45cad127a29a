//! What differs between two configurations, and which of it a running gateway cannot take over.
//!
//! Every key of [`Settings`] is named here once; the compiler asks for those that are added.

use super::answers::Answers;
use super::deliver::show_statuses;
use super::settings::{
    Deliver, Gateway, Journal, Limits, ListenTls, Sequence, Serial, Settings, Source, SourceKind, Url, WhenFull,
};
use super::units::{show_duration, show_size};
use crate::delivery::route::Reaction;
use crate::http::server;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Longest value that is shown, in characters.
const SHOWN_MAX: usize = 60;

/// A key with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key with its section, such as `journal.window`.
    pub key: String,
    /// How it was and how it is to be; `None` where the values may be secret.
    pub values: Option<(String, String)>,
}

impl fmt::Display for Change {
    /// `KEY: OLD → NEW`, or `KEY`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.values {
            Some((old, new)) => write!(f, "{}: {old} → {new}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// What becomes of a source that goes on under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceChange {
    /// It is as it was.
    None,
    /// What differs is taken over where it stands: ports, connections and unfinished records stay.
    Adjust,
    /// What is open ends in order, and is opened anew.
    Reopen,
}

impl SourceChange {
    /// What `new` makes of `old`.
    pub fn between(old: &Source, new: &Source) -> Self {
        if old == new {
            Self::None
        } else if needs_reopen(old, new) {
            Self::Reopen
        } else {
            Self::Adjust
        }
    }
}

/// Whether a key differs that an open port or connection was made with: its line or address, how the kernel reads it, what keeps
/// its order, and how its bytes are cut. Every other key lives on; the compiler asks for those that are added.
fn needs_reopen(old: &Source, new: &Source) -> bool {
    let Source {
        name: _,
        kind,
        framing,
        decoding: _,
        data_is: _,
        silence_alarm: _,
        first: _,
        on_close: _,
        tcp: _,
        access: _,
        tls,
        connect_tls,
        forms: _,
    } = old;
    let other_kind = match (kind, &new.kind) {
        (SourceKind::Serial(old), SourceKind::Serial(new)) => {
            let Serial { path, line, flow, on_missing: _, on_line_error: _ } = old;
            (path, line, flow) != (&new.path, &new.line, &new.flow)
        }
        (
            SourceKind::TcpListen { listen, lane, quick_ack, names: _ },
            SourceKind::TcpListen { listen: new_listen, lane: new_lane, quick_ack: new_quick_ack, names: _ },
        ) => (listen, lane, quick_ack) != (new_listen, new_lane, new_quick_ack),
        (
            SourceKind::TcpConnect { connect, quick_ack },
            SourceKind::TcpConnect { connect: new_connect, quick_ack: new_quick_ack },
        ) => (connect, quick_ack) != (new_connect, new_quick_ack),
        (SourceKind::Http { listen, lane }, SourceKind::Http { listen: new_listen, lane: new_lane }) => {
            listen != new_listen || lane != new_lane
        }
        _ => true,
    };
    let other_tls = *connect_tls != new.connect_tls || lets_others_in(tls.as_ref(), new.tls.as_ref());
    other_kind || other_tls || *framing != new.framing
}

/// Whether what is open may be of machines that would not be let in any more, or under another name. Another certificate of our own is
/// shown to those that come from now on.
fn lets_others_in(old: Option<&ListenTls>, new: Option<&ListenTls>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => old.server.clients != new.server.clients || old.names_machines != new.names_machines,
        (old, new) => old.is_some() != new.is_some(),
    }
}

/// Whether records from now on need an origin of their own, since what one carries differs: how its machine is called, and how
/// its records become text.
pub fn needs_new_origin(old: &Source, new: &Source) -> bool {
    let other_names = match (&old.kind, &new.kind) {
        (SourceKind::TcpListen { names, .. }, SourceKind::TcpListen { names: new_names, .. }) => names != new_names,
        _ => false,
    };
    other_names || old.decoding != new.decoding
}

/// All that differs between two configurations. Sources are told by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that take effect with a restart only.
    pub restart: Vec<Change>,
    /// Keys outside of sources that a running gateway takes over.
    pub keys: Vec<Change>,
    /// Sources that were not there.
    pub added: Vec<String>,
    /// Sources that are no longer there.
    pub removed: Vec<String>,
    /// Sources that are opened anew, since their line, address or framing differs.
    pub changed: Vec<String>,
    /// Sources of which other keys differ: they go on as they are open.
    pub adjusted: Vec<String>,
    /// Number of sources that are as they were.
    pub unchanged: usize,
}

impl Changes {
    /// What becomes of `old` where `new` takes its place.
    pub fn between(old: &Settings, new: &Settings) -> Self {
        let mut changes = Self::default();
        // The names are those of the sources.
        let Settings { gateway, journal, sources, sequence, deliver, limits, names: _ } = old;
        gateway_changes(gateway, &new.gateway, &mut changes.restart);
        journal_changes(journal, &new.journal, &mut changes.restart, &mut changes.keys);
        limits_changes(limits, &new.limits, &mut changes.restart, &mut changes.keys);
        sequence_changes(sequence.as_ref(), new.sequence.as_ref(), &mut changes.keys);
        deliver_changes(deliver, &new.deliver, &mut changes.keys);
        let mut before: HashMap<&str, _> = sources.iter().map(|source| (source.name.as_str(), source)).collect();
        for source in &new.sources {
            match before.remove(source.name.as_str()) {
                None => changes.added.push(source.name.clone()),
                Some(old) => match SourceChange::between(old, source) {
                    SourceChange::None => changes.unchanged += 1,
                    SourceChange::Adjust => changes.adjusted.push(source.name.clone()),
                    SourceChange::Reopen => changes.changed.push(source.name.clone()),
                },
            }
        }
        let gone = sources.iter().filter(|source| before.contains_key(source.name.as_str()));
        changes.removed = gone.map(|source| source.name.clone()).collect();
        changes
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { restart, keys, added, removed, changed, adjusted, unchanged: _ } = self;
        let no_sources = [added, removed, changed, adjusted].into_iter().all(Vec::is_empty);
        restart.is_empty() && keys.is_empty() && no_sources
    }
}

impl fmt::Display for Changes {
    /// One line: how many sources were added, removed, changed and left alone, the first of them by name, then each key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES_MAX: usize = 10;
        let mut parts = Vec::new();
        let lists = [
            ("added", &self.added),
            ("removed", &self.removed),
            ("opened anew", &self.changed),
            ("changed while open", &self.adjusted),
        ];
        for (what, names) in lists {
            if !names.is_empty() {
                let more = if names.len() > NAMES_MAX { ", …" } else { "" };
                parts.push(format!(
                    "{} {what} ({}{more})",
                    names.len(),
                    names[..names.len().min(NAMES_MAX)].join(", ")
                ));
            }
        }
        parts.push(format!("{} unchanged", self.unchanged));
        write!(f, "sources: {}", parts.join(", "))?;
        self.restart.iter().chain(&self.keys).try_for_each(|change| write!(f, "; {change}"))
    }
}

/// Notes the keys of one section.
struct Keys<'a> {
    section: &'static str,
    list: &'a mut Vec<Change>,
}

impl Keys<'_> {
    fn note<T: PartialEq + ?Sized>(&mut self, key: &str, old: &T, new: &T, show: impl Fn(&T) -> String) {
        if old != new {
            let values = Some((short(show(old)), short(show(new))));
            self.list.push(Change { key: format!("{}.{key}", self.section), values });
        }
    }

    /// As [`Keys::note`], where the values may be secret.
    fn note_name(&mut self, key: &str, is_changed: bool) {
        if is_changed {
            self.list.push(Change { key: format!("{}.{key}", self.section), values: None });
        }
    }

    fn duration(&mut self, key: &str, old: Duration, new: Duration) {
        self.note(key, &old, &new, |value| show_duration(*value));
    }

    fn number(&mut self, key: &str, old: usize, new: usize) {
        self.note(key, &old, &new, usize::to_string);
    }

    fn size(&mut self, key: &str, old: u64, new: u64) {
        self.note(key, &old, &new, |value| show_size(*value));
    }
}

/// One line that is not too long.
fn short(text: String) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_MAX).collect();
    if line.len() < text.len() { line + "…" } else { line }
}

fn word(value: &impl fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

/// Without its query, which may hold a secret.
fn show_url(url: &Url) -> String {
    let (path, query) = url.target.split_once('?').unwrap_or((&url.target, ""));
    let scheme = if url.secure { "https" } else { "http" };
    format!("{scheme}://{}{path}{}", url.host_header, if query.is_empty() { "" } else { "?…" })
}

fn gateway_changes(old: &Gateway, new: &Gateway, restart: &mut Vec<Change>) {
    let Gateway { name, file: _, cores, state_dir, admin, min_wait, core_dumps } = old;
    let mut keys = Keys { section: "gateway", list: restart };
    keys.note("name", name, &new.name, |name| format!("{name:?}"));
    keys.note("cores", cores, &new.cores, |cores| format!("{cores:?}"));
    keys.note("state_dir", state_dir, &new.state_dir, |path| path.display().to_string());
    keys.note("admin", admin, &new.admin, ToString::to_string);
    keys.duration("min_wait", *min_wait, new.min_wait);
    keys.note("core_dumps", core_dumps, &new.core_dumps, ToString::to_string);
}

fn journal_changes(old: &Journal, new: &Journal, restart: &mut Vec<Change>, live: &mut Vec<Change>) {
    let Journal { durability, commit_every, segment_bytes, max_bytes, window_bytes, blocks, when_full, machine_keys } =
        old;
    let mut keys = Keys { section: "journal", list: restart };
    keys.note("durability", durability, &new.durability, word);
    keys.duration("commit_every", *commit_every, new.commit_every);
    keys.size("segment_size", *segment_bytes, new.segment_bytes);
    keys.size("max_size", *max_bytes, new.max_bytes);
    keys.size("window", *window_bytes as u64, new.window_bytes as u64);
    keys.note("blocks", blocks, &new.blocks, |path| path.display().to_string());
    keys.note("machine_keys.count", &machine_keys.count, &new.machine_keys.count, ToString::to_string);
    keys.duration("machine_keys.age", machine_keys.age, new.machine_keys.age);
    let mut keys = Keys { section: "journal", list: live };
    keys.note::<WhenFull>("when_full", when_full, &new.when_full, word);
}

fn limits_changes(old: &Limits, new: &Limits, restart: &mut Vec<Change>, live: &mut Vec<Change>) {
    let Limits {
        read_buffer_bytes,
        read_buffers,
        http:
            server::Limits {
                header_bytes,
                header_fields,
                target_bytes,
                body_bytes,
                header_timeout,
                body_timeout,
                body_rate_bytes,
                batch_records,
                idle_timeout,
            },
        connections,
        connections_all: _, // by connections
    } = old;
    let mut keys = Keys { section: "limits", list: restart };
    keys.size("read_buffer", *read_buffer_bytes as u64, new.read_buffer_bytes as u64);
    keys.number("read_buffers", *read_buffers, new.read_buffers);
    let mut keys = Keys { section: "limits", list: live };
    keys.size("header", *header_bytes as u64, new.http.header_bytes as u64);
    keys.number("header_fields", *header_fields, new.http.header_fields);
    keys.size("target", *target_bytes as u64, new.http.target_bytes as u64);
    keys.size("body", *body_bytes as u64, new.http.body_bytes as u64);
    keys.duration("header_timeout", *header_timeout, new.http.header_timeout);
    keys.duration("body_timeout", *body_timeout, new.http.body_timeout);
    keys.size("body_rate", *body_rate_bytes as u64, new.http.body_rate_bytes as u64);
    keys.number("batch_records", *batch_records, new.http.batch_records);
    keys.duration("idle_timeout", *idle_timeout, new.http.idle_timeout);
    keys.number("connections", *connections, new.connections);
}

fn sequence_changes(old: Option<&Sequence>, new: Option<&Sequence>, live: &mut Vec<Change>) {
    let mut keys = Keys { section: "sequence", list: live };
    let (before, after) = (old.map(|sequence| &sequence.url), new.map(|sequence| &sequence.url));
    keys.note("url", &before, &after, |url| url.map_or("none".to_owned(), show_url));
    if let (Some(Sequence { url: _, id_at, lease, count_at }), Some(new)) = (old, new) {
        let pointer = |pointer: &String| format!("{pointer:?}");
        keys.note("id_at", id_at, &new.id_at, pointer);
        keys.number("lease", *lease as usize, new.lease as usize);
        keys.note("count_at", count_at, &new.count_at, pointer);
    }
}

fn deliver_changes(old: &Deliver, new: &Deliver, live: &mut Vec<Change>) {
    let Deliver {
        url,
        body,
        shows_text: _, // by the body
        content_type,
        headers,
        header_files,
        success,
        answer_type,
        answer_id_at,
        answers,
        key,
        batch,
        tls,
        connections,
        pipeline,
        timeout,
        connect_timeout,
        idle,
        max_connection_age,
        retry_first,
        retry_max,
        retry_after_max,
        drain,
    } = old;
    let mut keys = Keys { section: "deliver", list: live };
    let optional = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    keys.note("url", url, &new.url, show_url);
    keys.note("body", body, &new.body, |body| format!("{body:?}"));
    keys.note("content_type", content_type, &new.content_type, String::clone);
    keys.note("key", key, &new.key, word);
    header_changes(headers, &new.headers, &mut keys);
    if headers == &new.headers {
        keys.note_name("headers", *header_files != new.header_files);
    }
    keys.note("success", success, &new.success, |statuses| show_statuses(statuses));
    keys.note("answer_type", answer_type, &new.answer_type, optional);
    keys.note("answer_id_at", answer_id_at, &new.answer_id_at, optional);
    keys.note_name("batch", *batch != new.batch);
    keys.note_name("tls", *tls != new.tls);
    answers_changes(answers, &new.answers, &mut keys);
    keys.number("connections", *connections, new.connections);
    keys.number("pipeline", *pipeline, new.pipeline);
    keys.duration("timeout", *timeout, new.timeout);
    keys.duration("connect_timeout", *connect_timeout, new.connect_timeout);
    keys.duration("idle", *idle, new.idle);
    keys.duration("max_connection_age", *max_connection_age, new.max_connection_age);
    keys.duration("retry.first", *retry_first, new.retry_first);
    keys.duration("retry.max", *retry_max, new.retry_max);
    keys.duration("retry_after_max", *retry_after_max, new.retry_after_max);
    keys.duration("drain", *drain, new.drain);
}

fn answers_changes(old: &Answers, new: &Answers, keys: &mut Keys<'_>) {
    let Answers { given, attempts, parked_max, stuck, confirm } = old;
    let shown = |given: &Vec<(u16, Reaction)>| {
        let each = given.iter().map(|(status, reaction)| format!("{status} {}", word(reaction)));
        each.collect::<Vec<_>>().join(", ")
    };
    keys.note("answers", given, &new.given, shown);
    keys.number("answers.attempts", *attempts as usize, new.attempts as usize);
    keys.number("answers.parked_max", *parked_max, new.parked_max);
    keys.note_name("answers.stuck", *stuck != new.stuck);
    keys.note_name("confirm", *confirm != new.confirm);
}

fn header_changes(old: &[(String, Arc<str>)], new: &[(String, Arc<str>)], keys: &mut Keys<'_>) {
    if old == new {
        return;
    }
    let before: HashMap<_, _> = old.iter().map(|(name, value)| (name, value)).collect();
    let after: HashMap<_, _> = new.iter().map(|(name, value)| (name, value)).collect();
    let gone = old.iter().filter(|(name, _)| !after.contains_key(name));
    for (name, _) in new.iter().chain(gone) {
        keys.note_name(&format!("headers.{name}"), before.get(name) != after.get(name));
    }
    // Their order alone.
    keys.note_name("headers", before == after);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_on;

    fn settings(edit: impl Fn(String) -> String) -> Settings {
        let text = r#"
            [gateway]
            cores = [0]
            [framing.f]
            end = "\n"
            [[source]]
            name = "a"
            kind = "serial"
            path = "/dev/ttyS0"
            framing = "f"
            [[source]]
            name = "b"
            kind = "tcp_listen"
            listen = "127.0.0.1:4001"
            [deliver]
            url = "http://127.0.0.1:8000/films/"
            [deliver.headers]
            X-Line = "7"
        "#;
        parse_on(&edit(text.to_owned()), "test", &[0, 1]).unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn changes(edit: impl Fn(String) -> String) -> Changes {
        Changes::between(&settings(|text| text), &settings(edit))
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let same = changes(|text| text + "\n# a comment\n");
        assert!(same.is_empty(), "{same}");
        assert_eq!(same.to_string(), "sources: 2 unchanged");
    }

    #[test]
    fn what_needs_a_restart_is_named_with_both_values() {
        let changes = changes(|text| {
            text.replace(
                "cores = [0]",
                "cores = [0, 1]\nadmin = \"127.0.0.1:9700\"\nstate_dir = \"/srv/x\"\nname = \"n\"",
            ) + "\n[journal]\nwindow = \"8MiB\"\nblocks = \"/run/x\"\ndurability = \"memory\"\n[limits]\nread_buffers = 64\n"
        });
        let shown: Vec<String> = changes.restart.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "gateway.name: \"ringest\" → \"n\"",
                "gateway.cores: [0] → [0, 1]",
                "gateway.state_dir: /var/lib/ringest → /srv/x",
                "gateway.admin: 127.0.0.1:9600 → 127.0.0.1:9700",
                "journal.durability: power → memory",
                "journal.window: 32MiB → 8MiB",
                "journal.blocks: /dev/shm → /run/x",
                "limits.read_buffers: 1024 → 64",
            ]
        );
        assert_eq!(changes.keys, []);
    }

    #[test]
    fn sources_are_told_by_their_names_and_a_framing_belongs_to_those_that_use_it() {
        let changes = changes(|text| {
            let text =
                text.replace("name = \"b\"", "name = \"c\"").replace("end = \"\\n\"", "end = \"\\n\"\ntrim = false");
            text.replace("[[source]]\n            name = \"c\"", "[[source]]\n name = \"c\"")
        });
        assert_eq!((&changes.added[..], &changes.removed[..]), (&["c".to_owned()][..], &["b".to_owned()][..]));
        assert_eq!((&changes.changed[..], changes.unchanged), (&["a".to_owned()][..], 0));
        assert_eq!(changes.to_string(), "sources: 1 added (c), 1 removed (b), 1 opened anew (a), 0 unchanged");
    }

    /// One source of each kind, with every key that it may have.
    const SERIAL: &str = r#"kind = "serial"
        path = "/dev/ttyS0"
        line = "9600 8N1"
        flow = "none"
        on_missing = "wait"
        framing = "f"
        silence_alarm = "1h"
        first = "discard""#;
    const LISTEN: &str = r#"kind = "tcp_listen"
        listen = "127.0.0.1:4001"
        lane = "address"
        quick_ack = true
        keepalive = "30s"
        user_timeout = "30s"
        idle = "1m"
        names = { "10.0.4.21" = "press-4" }
        framing = "f"
        silence_alarm = "1h"
        first = "keep"
        on_close = "discard""#;
    const CONNECT: &str = r#"kind = "tcp_connect"
        connect = "127.0.0.1:4001"
        quick_ack = true
        keepalive = "30s"
        user_timeout = "30s"
        reconnect_after = "1m"
        framing = "f"
        silence_alarm = "1h"
        first = "keep"
        on_close = "discard""#;
    const HTTP: &str = r#"kind = "http"
        listen = "127.0.0.1:4001"
        silence_alarm = "1h""#;

    fn source(keys: &str) -> Source {
        let text = format!(
            "[gateway]\ncores = [0]\n[framing.f]\nend = \"\\n\"\n[framing.g]\nend = \"\\r\"\n[[source]]\nname = \"a\"\n{keys}\n\
             [deliver]\nurl = \"http://127.0.0.1:8000/films/\"\n"
        );
        let mut settings = parse_on(&text, "test", &[0]).unwrap_or_else(|problems| panic!("{keys}: {problems}"));
        settings.sources.remove(0)
    }

    #[test]
    fn each_key_of_a_source_lives_on_or_has_it_opened_anew() {
        use SourceChange::{Adjust, Reopen};
        let framing = ("framing = \"f\"", "framing = \"g\"", Reopen);
        let silence = ("\"1h\"", "\"2h\"", Adjust);
        let close = ("on_close = \"discard\"", "on_close = \"emit\"", Adjust);
        let quick = ("quick_ack = true", "quick_ack = false", Reopen);
        let listen = ("\"127.0.0.1:4001\"", "\"127.0.0.1:4002\"", Reopen);
        let serial = [
            ("/dev/ttyS0", "/dev/ttyS1", Reopen),
            ("9600 8N1", "9600 7E1", Reopen),
            ("flow = \"none\"", "flow = \"rtscts\"", Reopen),
            ("on_missing = \"wait\"", "on_missing = \"fail\"", Adjust),
            framing,
            silence,
            ("first = \"discard\"", "first = \"keep\"", Adjust),
        ];
        let keep = ("first = \"keep\"", "first = \"discard\"", Adjust);
        let lane = ("lane = \"address\"", "lane = \"connection\"", Reopen);
        let names = ("press-4", "press-5", Adjust);
        let keepalive = ("keepalive = \"30s\"", "keepalive = \"1m\"", Adjust);
        let user_timeout = ("user_timeout = \"30s\"", "user_timeout = \"1m\"", Adjust);
        let idle = ("idle = \"1m\"", "idle = \"2m\"", Adjust);
        let reconnect = ("reconnect_after = \"1m\"", "", Adjust);
        for (keys, changes) in [
            (SERIAL, &serial[..]),
            (LISTEN, &[listen, lane, quick, keepalive, user_timeout, idle, names, framing, silence, keep, close]),
            (CONNECT, &[listen, quick, keepalive, user_timeout, reconnect, framing, silence, keep, close]),
            (HTTP, &[listen, silence]),
        ] {
            assert_eq!(keys.lines().count(), changes.len() + 1, "each key but the kind: {keys}");
            let old = source(keys);
            assert_eq!(SourceChange::between(&old, &old.clone()), SourceChange::None);
            for (from, to, expected) in changes {
                assert!(keys.contains(from), "{from} in {keys}");
                let new = source(&keys.replace(from, to));
                assert_eq!(SourceChange::between(&old, &new), *expected, "{from} becomes {to}");
                assert_eq!(needs_new_origin(&old, &new), *from == "press-4", "{from} becomes {to}");
            }
        }
        assert_eq!(SourceChange::between(&source(LISTEN), &source(CONNECT)), Reopen);
    }

    #[test]
    fn headers_are_named_and_their_values_are_not_shown() {
        let changes = changes(|text| text.replace("X-Line = \"7\"", "X-Line = \"8\"\nX-New = \"secret\"") + "\n");
        let shown: Vec<String> = changes.keys.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["deliver.headers.X-Line", "deliver.headers.X-New"]);
    }

    #[test]
    fn the_rest_is_taken_over_while_running() {
        let changes = changes(|text| {
            text.replace("films/\"", "rows/\"\ntimeout = \"3s\"\nsuccess = [200, 201]\nretry = { first = \"1s\" }")
                + "\n[sequence]\nurl = \"http://127.0.0.1:8000/seq/\"\n[journal]\nwhen_full = \"reject\"\n[limits]\nbody = \"1KiB\"\n"
        });
        assert_eq!(changes.restart, []);
        let keys: Vec<&str> = changes.keys.iter().map(|change| change.key.as_str()).collect();
        let expected = [
            "journal.when_full",
            "limits.body",
            "sequence.url",
            "deliver.url",
            "deliver.body",
            "deliver.success",
            "deliver.timeout",
            "deliver.retry.first",
        ];
        assert_eq!(keys, expected);
        assert_eq!(
            changes.keys[3].to_string(),
            "deliver.url: http://127.0.0.1:8000/films/ → http://127.0.0.1:8000/rows/"
        );
    }
}
