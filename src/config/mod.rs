//! A configuration file becomes checked [`Settings`].
//!
//! The document is walked by hand, so that one run reports all of its problems, each with its place, what is allowed and
//! the nearest known word. What is not built yet is refused and never ignored. Nothing here opens a port or an address; the
//! only files that are read are the configuration, those that it names for secrets and TLS, and this machine's CA certificates.

mod access;
mod answers;
mod batch;
mod changes;
mod content;
mod deliver;
mod example;
mod forms;
mod framing;
mod gateway;
mod listen_tls;
mod look;
mod nearest;
mod problem;
mod settings;
mod sources;
mod tcp;
mod tls;
mod units;
mod url;
mod walk;

pub use access::{Reread, Secrets};
pub use answers::{Answers, Confirm, Stuck};
pub use batch::{Batch, BatchForm};
pub use changes::{Change, Changes, SourceChange, needs_new_origin};
pub use example::EXAMPLE;
pub use framing::{PRESETS, preset, show_framing};
pub use look::{Look, Seen, look_at_nothing};
pub(crate) use nearest::nearest;
pub use problem::{Place, Problem, Problems};
pub use settings::*;
pub use units::{show_bytes, show_duration, show_line, show_size};
pub(crate) use url::overlap;

use crate::framing::Framing;
use std::collections::BTreeMap;
use std::path::Path;

/// Checked settings, and what is worth knowing about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The settings.
    pub settings: Settings,
    /// What is allowed but may not be meant, in the order of the file.
    pub notes: Vec<Problem>,
}

/// Reads and checks a file.
///
/// # Errors
/// All problems of the file; or one, if it cannot be read or is not TOML.
pub fn load(path: &Path) -> Result<Settings, Problems> {
    check(path).map(|checked| checked.settings)
}

/// As [`load`], with the notes.
///
/// # Errors
/// Those of [`load`].
pub fn check(path: &Path) -> Result<Checked, Problems> {
    check_here(path, &look_at_nothing)
}

/// As [`check`], on the machine that it is for: `look` sees what stands at the paths of serial ports. No port is opened.
///
/// # Errors
/// Those of [`load`].
pub fn check_here(path: &Path, look: Look<'_>) -> Result<Checked, Problems> {
    let file = path.display().to_string();
    let text = read(path)?;
    parse_checked(&text, &file, &usable_cpus(&file)?, look)
}

/// The text of a configuration file.
///
/// # Errors
/// One problem, if it cannot be read or is not UTF-8.
pub fn read(path: &Path) -> Result<String, Problems> {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        let what = format!("the file cannot be read: {error}");
        Problems::whole_file(file.clone(), what, "`ringest config example` prints a file to begin with")
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let line = memchr::memchr_iter(b'\n', &error.as_bytes()[..error.utf8_error().valid_up_to()]).count() + 1;
        let what = format!("line {line} is not valid UTF-8");
        Problems::whole_file(file, what, "save the file as UTF-8")
    })
}

/// Checks a text; `file` is how messages name it.
///
/// # Errors
/// All problems of the text; or one, if it is not TOML.
pub fn parse(text: &str, file: &str) -> Result<Settings, Problems> {
    parse_on(text, file, &usable_cpus(file)?)
}

/// As [`parse`], for a machine with these CPUs, in ascending order and at least one.
///
/// # Errors
/// Those of [`parse`].
pub fn parse_on(text: &str, file: &str, cpus: &[usize]) -> Result<Settings, Problems> {
    parse_checked(text, file, cpus, &look_at_nothing).map(|checked| checked.settings)
}

/// The framings of a file by their names, whatever else may be wrong with it; `file` is how messages name it.
///
/// # Errors
/// All problems of the framings; or one, if the text is not TOML.
pub fn parse_framings(text: &str, file: &str) -> Result<BTreeMap<String, Framing>, Problems> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = parse_document(text, file)?;
    let reader = walk::Reader::new(text);
    let root = walk::Section::new(&reader, String::new(), String::new(), Some(document.as_table()), None);
    let framings = framing::framings(&root.section("framing")).by_name();
    let (list, _) = reader.finish();
    if list.is_empty() { Ok(framings) } else { Err(Problems { file: file.to_owned(), list }) }
}

fn parse_document<'t>(text: &'t str, file: &str) -> Result<toml_edit::Document<&'t str>, Problems> {
    toml_edit::Document::parse(text).map_err(|error| Problems {
        file: file.to_owned(),
        list: vec![Problem {
            place: error.span().map(|span| problem::Lines::of(text).place(span.start)),
            key: String::new(),
            given: None,
            what: format!("this is not TOML: {}", error.message().replace('\n', "; ")),
            remedy: "problems behind this one are reported once it is mended".to_owned(),
            nearest: None,
        }],
    })
}

/// As [`parse_on`], with the notes and with what `look` sees at the paths of serial ports.
///
/// # Errors
/// Those of [`parse`].
pub fn parse_checked(text: &str, file: &str, cpus: &[usize], look: Look<'_>) -> Result<Checked, Problems> {
    // An editor's byte order mark is no part of the text; places count without it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = parse_document(text, file)?;
    let reader = walk::Reader::new(text);
    let settings = walk_document(&reader, document.as_table(), cpus, look);
    let (problems, notes) = reader.finish();
    match settings {
        Some(mut settings) if problems.is_empty() => {
            settings.gateway.file = std::path::absolute(file).unwrap_or_else(|_| file.into());
            Ok(Checked { settings, notes })
        }
        _ => {
            assert!(!problems.is_empty(), "settings are missing only where a problem was noted");
            Err(Problems { file: file.to_owned(), list: problems })
        }
    }
}

/// All sections; `None` only after a problem was noted.
fn walk_document<'d>(
    reader: &walk::Reader<'d>,
    table: &'d toml_edit::Table,
    cpus: &[usize],
    look: Look<'_>,
) -> Option<Settings> {
    let root = walk::Section::new(reader, String::new(), String::new(), Some(table), None);
    let gateway = gateway::gateway(root.section("gateway"), cpus);
    let journal = gateway::journal(root.section("journal"), gateway.cores.len());
    let limits = gateway::limits(root.section("limits"));
    let framing_section = root.section("framing");
    let mut framings = framing::framings(&framing_section);
    let sources = sources::sources(reader, &root, &mut framings, gateway.admin, look);
    framing::note_unused(&framing_section, &framings);
    let sequence_section = root.section("sequence");
    let has_sequence = sequence_section.is_present();
    let sequence = deliver::sequence(sequence_section);
    let id_url = sequence.as_ref().map(|sequence| &sequence.url);
    let deliver = deliver::deliver(root.section("deliver"), has_sequence, id_url, &sources);
    root.finish();
    let names = sources::names_of(&sources);
    Some(Settings { gateway, journal, sources, sequence, deliver: deliver?, limits, names })
}

/// The CPUs that this process may run on (sched_getaffinity(2)), ascending.
fn usable_cpus(file: &str) -> Result<Vec<usize>, Problems> {
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).map_err(|error| {
        let what = format!("the CPUs of this process cannot be read (sched_getaffinity): {error}");
        Problems::whole_file(file.to_owned(), what, "")
    })?;
    Ok((0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu) == Ok(true)).collect())
}
