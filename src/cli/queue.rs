//! `ringest queue`: what waits to be delivered and what is parked, from the journal's files. Nothing is changed by looking, so the gateway
//! may run or not; what is decided about parked records, and about missing ones, is in `decide`.

use super::check::print;
use super::decide::{Chosen, acknowledge, decide, retry_now};
use super::tried::{Tried, tried};
use super::{Failure, exit};
use crate::config;
use crate::engine::{
    CameBack, Decision, LockError, Pending, StateLock, View, core_directories, decisions_left, lock_holder, open_views,
    reread,
};
use crate::ground::RecordNumber;
use crate::ground::text::{counted, fold, hex, rfc3339};
use crate::journal::{Numbers, OpenError, Report};
use crate::observe::losses::{self, Acknowledged, LossSnapshot};
use crate::shard::Disposal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufWriter, ErrorKind, IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Bytes of a record that a list shows.
const SHOWN_BYTES_MAX: usize = 40;
/// Bytes of one line of hexadecimal digits.
const LINE_BYTES: usize = 16;
/// A running gateway can free a segment while it is read: then everything is read again, at most so often.
const ATTEMPTS: usize = 3;

// The place comes first, which clap's own line has last where a choice is required.
const RETRY_USAGE: &str = "ringest queue retry <PLACE> <RECORD>...
       ringest queue retry <PLACE> [--source <NAME>] [--status <STATUS>]
       ringest queue retry <PLACE> --all
       ringest queue retry <PLACE> --now";
const DISCARD_USAGE: &str = "ringest queue discard <PLACE> <RECORD>...
       ringest queue discard <PLACE> [--source <NAME>] [--status <STATUS>]
       ringest queue discard <PLACE> --all [--yes]";

/// Arguments of `ringest queue`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Records that wait to be delivered: how many of each source, and the first of them
    List {
        #[command(flatten)]
        of: Of,
        /// Records shown
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// One record, whole, as text and in hexadecimal
    Show {
        /// The configuration file, or the state directory
        place: PathBuf,
        /// The record as the list names it (CORE-NUMBER), or its Idempotency-Key
        record: String,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
    /// Deliver parked records after all, under their keys and with their ids; with --now, whatever waits for the service is tried at once
    #[command(override_usage = RETRY_USAGE)]
    Retry {
        #[command(flatten)]
        chosen: Chosen,
        /// End all waits for the service (backoff, Retry-After), as SIGHUP does: the configuration is read again, too
        #[arg(long, group = "which", conflicts_with_all = ["records", "source", "status", "all"])]
        now: bool,
    },
    /// Delete parked records for good
    #[command(override_usage = DISCARD_USAGE)]
    Discard {
        #[command(flatten)]
        chosen: Chosen,
        /// With --all: delete them without asking
        #[arg(long)]
        yes: bool,
    },
    /// Say that you know which records are missing: until then status, /healthz and verify tell of them
    Acknowledge {
        /// The configuration file; of a stopped gateway also the state directory
        place: PathBuf,
    },
    /// All records that wait to be delivered as JSON, one a line, each machine's in order
    Export {
        #[command(flatten)]
        of: Of,
    },
    /// Check every byte of a stopped gateway's journal, and tell what is missing; nothing is changed or repaired without --reread
    Verify {
        /// The configuration file, or the state directory
        place: PathBuf,
        /// First read again what a start could not: records that are whole now are delivered by the next start
        #[arg(long)]
        reread: bool,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Of {
    /// The configuration file, or the state directory
    place: PathBuf,
    /// Only records of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only parked records: those that the API refused for good
    #[arg(long)]
    parked: bool,
}

impl Of {
    fn has(&self, record: &Pending<'_>) -> bool {
        let is_of = self.source.as_deref().is_none_or(|source| source == record.source || source == record.name);
        is_of && (!self.parked || record.parked.is_some())
    }
}

/// Runs the command.
///
/// # Errors
/// [`exit::JOURNAL`] if the journal cannot be read, [`exit::LOCKED`] if one to be verified is in use, [`exit::NOT_OK`] if the
/// record is not there, the journal is damaged, or records are missing and nobody has acknowledged that.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::List { of, limit, json } => list(&of, limit, json),
        Command::Show { place, record, json } => show(&place, &record, json),
        Command::Retry { now: true, chosen } => retry_now(chosen.place()),
        Command::Retry { now: false, chosen } => decide(Disposal::Retry, &chosen, true),
        Command::Discard { chosen, yes } => decide(Disposal::Discard, &chosen, yes),
        Command::Acknowledge { place } => acknowledge(&place),
        Command::Export { of } => export(&of),
        Command::Verify { place, reread, json } => {
            if reread {
                read_again(&place, json)?;
            }
            verify(&place, json)
        }
    }
}

/// The state directory: named itself, or by a configuration.
pub(super) fn state_directory(place: &Path) -> Result<PathBuf, Failure> {
    let directory = if place.is_dir() {
        place.to_owned()
    } else {
        let settings = config::load(place).map_err(|problems| Failure::new(exit::CONFIG, problems.to_string()))?;
        settings.gateway.state_dir
    };
    if !directory.is_dir() {
        let message = format!("there is no state directory {}: this gateway has not run yet", directory.display());
        return Err(Failure::new(exit::JOURNAL, message));
    }
    // A gateway at level `memory` has no journal, but it has held the lock.
    let has_lock = directory.join("lock").try_exists().unwrap_or(true); // whoever may not look is told so later
    if has_lock { Ok(directory) } else { journal_in(directory) }
}

/// The state directory, which must have a journal.
fn journal_directory(place: &Path) -> Result<PathBuf, Failure> {
    journal_in(state_directory(place)?)
}

fn journal_in(directory: PathBuf) -> Result<PathBuf, Failure> {
    let cores = core_directories(&directory)
        .map_err(|error| unreadable(&directory, &OpenError::Io { action: "list the directory".to_owned(), error }))?;
    if cores.is_empty() {
        let message = format!(
            "{} holds no journal: give the configuration file, or its state_dir (a gateway at level memory has none)",
            directory.display()
        );
        return Err(Failure::new(exit::JOURNAL, message));
    }
    Ok(directory)
}

pub(super) fn unreadable(directory: &Path, error: &OpenError) -> Failure {
    let denied = matches!(error, OpenError::Io { error, .. } if error.kind() == ErrorKind::PermissionDenied);
    if denied {
        let message = format!("{error}\n    run this as the user of the gateway, or as root");
        return Failure::new(exit::PERMISSION, message);
    }
    Failure::new(exit::JOURNAL, format!("{}: {error}", directory.display()))
}

/// Visits all records that wait or are parked; `begin` is told when they are read from the start, once or again.
pub(super) fn visit(
    directory: &Path,
    mut begin: impl FnMut(),
    mut each: impl FnMut(&Pending<'_>) -> ControlFlow<()>,
) -> Result<(), Failure> {
    'attempts: for _ in 0..ATTEMPTS {
        begin();
        for mut view in open_views(directory).map_err(|error| unreadable(directory, &error))? {
            let mut broke = false;
            match view.each(|record| {
                let flow = each(record);
                broke = flow.is_break();
                flow
            }) {
                Ok(()) if broke => return Ok(()),
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => continue 'attempts,
                Err(error) => {
                    return Err(Failure::new(exit::JOURNAL, format!("{}: {error}", view.directory().display())));
                }
            }
        }
        return Ok(());
    }
    let message = format!("the gateway frees segments of {} while they are read: try again", directory.display());
    Err(Failure::new(exit::JOURNAL, message))
}

/// How a list names a record: unique in its state directory.
pub(super) fn short_name(record: &Pending<'_>) -> String {
    let number = record.key.rsplit('-').next().unwrap_or_default();
    format!("{}-{number}", record.core)
}

fn flags(record: &Pending<'_>) -> Vec<&'static str> {
    record.flags.words().collect()
}

/// A record's text, where all of it is text in its encoding.
fn text_of(record: &Pending<'_>) -> Option<String> {
    let (text, has_errors) = record.decoding.decode(record.data);
    (!has_errors).then(|| text.into_owned())
}

/// The headers that were kept with it, by their names.
fn headers_of(record: &Pending<'_>) -> BTreeMap<String, String> {
    let decoding = record.decoding.of_headers();
    let text = |value| decoding.decode(value).0.into_owned();
    record.headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect()
}

/// A record as JSON shows it; text only where all of it is text in its encoding, so that nothing is told that was not sent.
fn json_of(record: &Pending<'_>) -> Value {
    json!({
        "record": short_name(record),
        "key": record.key,
        "source": record.source,
        "name": record.name,
        "address": record.peer.map(|peer| peer.ip().to_canonical()),
        "port": record.peer.map(|peer| peer.port()),
        "lane": record.lane,
        "id": record.id,
        "received_at": rfc3339(record.received_wall_ns),
        "flags": flags(record),
        "parked": record.parked.map(|parked| json!({
            "status": parked.status,
            "attempts": parked.attempts,
            "at": rfc3339(parked.parked_wall_ns),
            "answer": String::from_utf8_lossy(&parked.answer),
        })),
        "headers": headers_of(record),
        "machine_key": (!record.machine_key.is_empty()).then(|| String::from_utf8_lossy(record.machine_key)),
        "bytes": record.data.len(),
        "encoding": record.decoding.encoding.name(),
        "text": text_of(record),
        "hex": hex(record.data),
    })
}

#[derive(Debug, Default)]
struct Total {
    records: u64,
    parked: u64,
    bytes: u64,
    oldest_wall_ns: u64,
}

fn list(of: &Of, limit: usize, as_json: bool) -> Result<(), Failure> {
    let directory = journal_directory(&of.place)?;
    let tried = tried(&of.place);
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    let mut first = Vec::new();
    // Both are filled by one walk and emptied where that has to begin again.
    let filled = std::cell::RefCell::new((&mut totals, &mut first));
    visit(
        &directory,
        || {
            let mut filled = filled.borrow_mut();
            filled.0.clear();
            filled.1.clear();
        },
        |record| {
            if of.has(record) {
                let (totals, first) = &mut *filled.borrow_mut();
                let total = totals
                    .entry(record.source.to_owned())
                    .or_insert_with(|| Total { oldest_wall_ns: u64::MAX, ..Total::default() });
                total.records += 1;
                total.parked += u64::from(record.parked.is_some());
                total.bytes += record.data.len() as u64;
                total.oldest_wall_ns = total.oldest_wall_ns.min(record.received_wall_ns);
                if first.len() < limit {
                    let of_record = tried.get(&short_name(record));
                    let mut json = json_of(record);
                    json["tried"] = of_record.map_or(Value::Null, Tried::json);
                    first.push((json, row(record, of_record)));
                }
            }
            ControlFlow::Continue(())
        },
    )?;
    let records: u64 = totals.values().map(|total| total.records).sum();
    let parked: u64 = totals.values().map(|total| total.parked).sum();
    if as_json {
        let sources: Vec<Value> = totals
            .iter()
            .map(|(source, total)| {
                let Total { records, parked, bytes, oldest_wall_ns } = total;
                json!({
                    "source": source, "records": records, "parked": parked, "bytes": bytes,
                    "oldest_at": rfc3339(*oldest_wall_ns),
                })
            })
            .collect();
        let first: Vec<&Value> = first.iter().map(|(json, _)| json).collect();
        return print(&format!(
            "{}\n",
            json!({ "records": records, "parked": parked, "sources": sources, "first": first })
        ));
    }
    let (waiting, s) = (records - parked, if records - parked == 1 { "s" } else { "" });
    let mut out = format!("{}: {} wait{s} to be delivered", directory.display(), counted(waiting, "record"));
    if parked > 0 {
        let _ = write!(out, ", {parked} {} parked", if parked == 1 { "is" } else { "are" });
    }
    out.push('\n');
    decisions_left(&directory)?.iter().for_each(|decision| out.push_str(&decided(decision)));
    if records > 0 {
        let width = totals.keys().map(String::len).max().unwrap_or(0).max(6);
        let _ = writeln!(out, "\n  {:<width$}  {:>9}  {:>9}  {:>12}  oldest", "source", "records", "parked", "bytes");
        for (source, total) in &totals {
            let Total { records, parked, bytes, oldest_wall_ns } = total;
            let oldest = rfc3339(*oldest_wall_ns);
            let _ = writeln!(out, "  {source:<width$}  {records:>9}  {parked:>9}  {bytes:>12}  {oldest}");
        }
        let _ = writeln!(out, "\n  {:<14}  {:<27}  {:>6}  from and data", "record", "received", "bytes");
        first.iter().for_each(|(_, row)| out.push_str(row));
        let more = records - first.len() as u64;
        if more > 0 {
            let _ = writeln!(out, "  … and {more} more (--limit N, or `ringest queue export`)");
        }
    }
    print(&out)
}

/// What the next start does, in a line.
fn decided(decision: &Decision) -> String {
    match decision {
        Decision::Parked { decision, records } => {
            let records = counted(records.len() as u64, "parked record");
            format!("  {records}: {} when the gateway starts\n", decision.words())
        }
        Decision::Missing { acknowledge } => {
            let sum: Acknowledged = acknowledge.iter().collect();
            format!("  {}: to be acknowledged when the gateway starts\n", sum.words())
        }
        Decision::Returned { core, returned, .. } => {
            let count = Numbers(returned.clone()).count();
            format!("  {} of core {core}: delivered when the gateway starts\n", records(count, "that came back"))
        }
    }
}

fn row(record: &Pending<'_>, tried: Option<&Tried>) -> String {
    let shown = &record.data[..record.data.len().min(SHOWN_BYTES_MAX)];
    let parked = match record.parked {
        Some(parked) => {
            let answer = parked.answer[..parked.answer.len().min(SHOWN_BYTES_MAX)].escape_ascii();
            format!("; parked: answered {} \"{answer}\"", parked.status)
        }
        None => tried.map_or(String::new(), |tried| format!("; {}", tried.words())),
    };
    let head =
        format!("  {:<14}  {}  {:>6}  ", short_name(record), rfc3339(record.received_wall_ns), record.data.len());
    let more = if shown.len() < record.data.len() { "…" } else { "" };
    let words = format!("{} \"{}\"{more}{parked}", record.name, shown.escape_ascii());
    if !io::stdout().is_terminal() {
        return format!("{head}{words}\n");
    }
    let mut folded = String::new();
    fold(&mut folded, (&head, head.chars().count()), 18, &words);
    folded
}

fn show(place: &Path, wanted: &str, as_json: bool) -> Result<(), Failure> {
    let directory = journal_directory(place)?;
    let mut shown = None;
    visit(
        &directory,
        || {},
        |record| {
            if record.key != wanted && short_name(record) != wanted {
                return ControlFlow::Continue(());
            }
            shown = Some(if as_json { format!("{}\n", json_of(record)) } else { whole(record) });
            ControlFlow::Break(())
        },
    )?;
    match shown {
        Some(text) => print(&text),
        None => Err(Failure::new(
            exit::NOT_OK,
            format!("no record {wanted} waits in {}: it is delivered, or it never was there", directory.display()),
        )),
    }
}

fn whole(record: &Pending<'_>) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<13}{value}").expect("a String takes all");
    line("record", &short_name(record));
    line("key", record.key);
    line("source", record.source);
    line("from", record.name);
    line("lane", &record.lane.to_string());
    line("id", record.id.unwrap_or("not yet given, or given by the run that goes on"));
    line("received", &rfc3339(record.received_wall_ns));
    if !record.machine_key.is_empty() {
        line("machine key", &record.machine_key.escape_ascii().to_string());
    }
    for (name, value) in record.headers.iter() {
        line("header", &format!("{name}: {}", value.escape_ascii()));
    }
    let flags = flags(record);
    if !flags.is_empty() {
        line("flags", &flags.join(", "));
    }
    if let Some(parked) = record.parked {
        let answer = parked.answer.escape_ascii();
        line("parked", &rfc3339(parked.parked_wall_ns));
        line("answer", &format!("{} \"{answer}\", refused {}", parked.status, counted(parked.attempts.into(), "time")));
    }
    if let Some(peer) = record.peer {
        line("address", &peer.to_string());
    }
    line("encoding", record.decoding.encoding.name());
    if let Some(text) = text_of(record).filter(|text| !text.chars().any(char::is_control)) {
        line("text", &text);
    }
    line("bytes", &record.data.len().to_string());
    for (index, bytes) in record.data.chunks(LINE_BYTES).enumerate() {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            bytes.iter().map(|&byte| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '.' }).collect();
        let width = 3 * LINE_BYTES - 1;
        writeln!(out, "{:08x}  {:<width$}  {text}", index * LINE_BYTES, hex.join(" ")).expect("a String takes all");
    }
    out
}

fn export(of: &Of) -> Result<(), Failure> {
    let directory = journal_directory(&of.place)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written: io::Result<()> = Ok(());
    let mut attempts = 0;
    visit(
        &directory,
        || attempts += 1,
        |record| {
            if !of.has(record) {
                return ControlFlow::Continue(());
            }
            written = writeln!(out, "{}", json_of(record));
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    )?;
    if attempts > 1 {
        eprintln!(
            "ringest: the gateway freed segments meanwhile: what was read again stands there twice, with equal keys"
        );
    }
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn verify(place: &Path, as_json: bool) -> Result<(), Failure> {
    let directory = journal_directory(place)?;
    let free = || match lock_holder(&directory)? {
        None => Ok(()),
        Some(holder) => {
            let error = LockError::Held { directory: directory.clone(), holder };
            Err(Failure::new(
                exit::LOCKED,
                format!("{error}: what it is writing would look like damage; stop it first"),
            ))
        }
    };
    free()?;
    let mut views = open_views(&directory).map_err(|error| unreadable(&directory, &error))?;
    // Recovery has read all entries; the walk over what waits must find as many records as it counted.
    let mut missing = 0;
    for view in &mut views {
        let mut count = 0;
        let walked = view.each(|_| {
            count += 1;
            ControlFlow::Continue(())
        });
        walked.map_err(|error| Failure::new(exit::JOURNAL, format!("{}: {error}", view.directory().display())))?;
        missing += view.report().recovered.abs_diff(count);
    }
    free()?; // it may have been started meanwhile
    let damaged = missing > 0 || views.iter().any(|view| view.report().damaged > 0 || !view.report().alarms.is_empty());
    let left = decisions_left(&directory)?;
    let losses: Vec<LossSnapshot> =
        views.iter().flat_map(|view| view.losses()).filter_map(|loss| still_open(loss, &left)).collect();
    let text = if as_json {
        let journals: Vec<Value> = views.iter().map(verified_json).collect();
        format!("{}\n", json!({ "ok": !damaged && losses.is_empty(), "losses": losses, "journals": journals }))
    } else {
        views.iter().map(verified_text).collect()
    };
    print(&text)?;
    if missing > 0 {
        return Err(Failure::new(exit::NOT_OK, format!("{missing} records are counted and cannot be read back")));
    }
    let mut wrong = Vec::new();
    if damaged {
        wrong.push(
            "the journal is damaged: at its next start the gateway delivers all that is whole and keeps the damaged bytes in \
             quarantine/"
                .to_owned(),
        );
    }
    for of_journal in losses.chunk_by(|one, other| one.core == other.core) {
        let words = losses::words(of_journal).expect("a chunk has a loss");
        wrong.push(format!("{words}: ringest queue acknowledge {}", place.display()));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(exit::NOT_OK, wrong.join("\nringest: "))) }
}

/// What stays of a loss once the next start has written down what was decided before it.
fn still_open(mut loss: LossSnapshot, left: &[Decision]) -> Option<LossSnapshot> {
    for decision in left {
        match decision {
            Decision::Missing { acknowledge } if acknowledge.iter().any(|seen| seen.is_same(&loss)) => return None,
            Decision::Returned { returned, losses, .. } if losses.iter().any(|was| was.is_same(&loss)) => {
                let (from, to) = (loss.first.unwrap_or(0), loss.last.map_or(u64::MAX, |last| last + 1));
                let back = Numbers(returned.clone()).count_in(RecordNumber(from), RecordNumber(to));
                loss.records -= back.min(loss.records);
            }
            _ => {}
        }
    }
    (loss.records > 0).then_some(loss)
}

/// Reads again what a start could not read.
fn read_again(place: &Path, as_json: bool) -> Result<(), Failure> {
    let directory = state_directory(place)?;
    let _lock = StateLock::acquire(&directory).map_err(|error| Failure::new(exit::LOCKED, error.to_string()))?;
    let came_back = reread(&directory).map_err(|error| {
        Failure::new(exit::JOURNAL, format!("{}: what could not be read before: {error}", directory.display()))
    })?;
    if as_json {
        return Ok(()); // the object that follows counts them among those that wait
    }
    if came_back.is_empty() {
        return print("no start has met bytes that it could not read: there is nothing to read again\n");
    }
    for CameBack { core, files, records: back, missing, waits } in came_back {
        let line = if waits {
            format!(
                "core {core}: what came back before still waits: start the gateway, stop it once that is delivered, and read again\n"
            )
        } else {
            let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            let rest = if missing == 0 { "none".to_owned() } else { format!("at most {missing}") };
            let back = match back {
                0 => "nothing more can be read".to_owned(),
                _ => records(back, "back, and delivered when the gateway starts"),
            };
            format!("core {core}: {files} read again: {back}; {rest} still missing there\n")
        };
        print(&line)?;
    }
    Ok(())
}

/// `1 record WHAT`, `5 records WHAT`.
fn records(count: u64, what: &str) -> String {
    if count == 1 { format!("1 record {what}") } else { format!("{count} records {what}") }
}

fn verified_json(view: &View) -> Value {
    // Blocks that could not be written are a matter of a start.
    let Report {
        epoch,
        clean,
        segments,
        bytes,
        recovered,
        parked,
        finished_blocks,
        unwritten_blocks: _, // of those
        damaged,
        torn,
        torn_batches,
        loss: _, // told with those of earlier starts
        alarms,
    } = view.report();
    json!({
        "directory": view.directory().display().to_string(),
        "epoch": epoch.saturating_sub(1),
        "clean": clean,
        "segments": segments,
        "bytes": bytes,
        "waiting": recovered,
        "parked": parked,
        "unfinished_blocks": finished_blocks,
        "damaged": damaged,
        "torn": torn,
        "torn_batches": torn_batches,
        "alarms": alarms,
    })
}

fn verified_text(view: &View) -> String {
    let report = view.report();
    let end = if report.clean { "ended in order" } else { "was killed or lost its power" };
    let mut out = format!(
        "{}: run {} {end}; {}, {}; {} wait{}",
        view.directory().display(),
        report.epoch.saturating_sub(1),
        counted(report.segments, "segment"),
        counted(report.bytes, "byte"),
        counted(report.recovered, "record"),
        if report.recovered == 1 { "s" } else { "" },
    );
    for (count, one, more) in [
        (report.parked, "of them parked", "of them parked"),
        (report.finished_blocks, "block in the block file alone", "blocks in the block file alone"),
        (report.torn, "place behind what was durable is not whole", "places behind what was durable are not whole"),
        (
            report.torn_batches,
            "batch of which a part is missing was never answered, and is dropped",
            "batches of which a part is missing were never answered, and are dropped",
        ),
        (report.damaged, "place is damaged", "places are damaged"),
    ] {
        if count > 0 {
            let _ = write!(out, "; {count} {}", if count == 1 { one } else { more });
        }
    }
    out.push('\n');
    for alarm in &report.alarms {
        let _ = writeln!(out, "  {alarm}");
    }
    out
}
