//! `ringest queue retry`, `discard` and `acknowledge`: a running gateway is told by its admin server, a stopped one finds the decision
//! when it starts.

use super::check::print;
use super::queue::{short_name, state_directory, unreadable, visit};
use super::{Failure, exit, tell as say};
use crate::config;
use crate::engine::admin::Token;
use crate::engine::admin::client;
use crate::engine::{Decision, LockError, Pending, StateLock, leave_decision, lock_holder, open_views};
use crate::ground::RecordName;
use crate::ground::text::counted;
use crate::observe::losses::{Acknowledged, LossSnapshot};
use crate::shard::Disposal;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Which parked records.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["records", "source", "status", "all"])))]
pub(super) struct Chosen {
    /// The configuration file; of a stopped gateway also the state directory
    place: PathBuf,
    /// Records as the list names them (CORE-NUMBER)
    #[arg(value_name = "RECORD")]
    records: Vec<String>,
    /// Those of this source
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Those that were parked by this status
    #[arg(long, value_name = "STATUS")]
    status: Option<u16>,
    /// All that are parked
    #[arg(long, conflicts_with_all = ["records", "source", "status"])]
    all: bool,
}

impl Chosen {
    /// The configuration file, or the state directory.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    fn has(&self, record: &Pending<'_>) -> bool {
        let Some(parked) = record.parked else { return false };
        (self.records.is_empty() || self.records.contains(&short_name(record)))
            && self.source.as_deref().is_none_or(|source| source == record.source || source == record.name)
            && self.status.is_none_or(|status| status == parked.status)
    }
}

/// Has it done. `is_yes`: nobody is asked before all of them are deleted.
///
/// # Errors
/// [`exit::USAGE`] if all are to be deleted, and nobody at a terminal has said yes.
/// [`exit::NOT_OK`] if no such record is parked or the gateway refuses, [`exit::LOCKED`] if it runs and cannot be asked.
pub(super) fn decide(disposal: Disposal, chosen: &Chosen, is_yes: bool) -> Result<(), Failure> {
    if let Some(wrong) = chosen.records.iter().find(|name| RecordName::parse(name).is_none()) {
        let message = format!("{wrong:?} names no record: the list names them, such as 0-1048577");
        return Err(Failure::new(exit::USAGE, message));
    }
    let directory = state_directory(&chosen.place)?;
    let holder = holder_of(&directory)?;
    if disposal == Disposal::Discard && chosen.all && !is_yes {
        if holder.is_some() {
            // Whoever may not decide is told so first.
            Token::read(&directory).map_err(|error| cannot_tell(&Token::path(&directory), &error))?;
        }
        confirm(chosen, &directory)?;
    }
    let count = match holder {
        Some(holder) => tell(disposal, chosen, &directory, holder)?,
        None => leave(disposal, chosen, &directory)?,
    };
    if count == 0 {
        let message = format!("no such record is parked: ringest queue list {} --parked", chosen.place.display());
        return Err(Failure::new(exit::NOT_OK, message));
    }
    Ok(())
}

/// All parked records are to be deleted: says how many, and asks whoever sits at the terminal.
fn confirm(chosen: &Chosen, directory: &Path) -> Result<(), Failure> {
    let count = Cell::new(0);
    visit(
        directory,
        || count.set(0),
        |record| {
            count.set(count.get() + u64::from(chosen.has(record)));
            ControlFlow::Continue(())
        },
    )?;
    let records = counted(count.get(), "parked record");
    if count.get() == 0 {
        return Ok(()); // told by the caller
    }
    let place = chosen.place.display();
    if !io::stdin().is_terminal() {
        let message = format!(
            "{records} would be deleted for good, and nobody can be asked here: ringest queue discard {place} --all --yes"
        );
        return Err(Failure::new(exit::USAGE, message));
    }
    say(&format!("{records} of {} will be deleted for good. Type yes to go on: ", directory.display()));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "yes" | "y" => Ok(()),
        _ => Err(Failure::new(exit::USAGE, format!("nothing was deleted: {records} are still parked"))),
    }
}

/// Says that what is missing is known.
///
/// # Errors
/// [`exit::NOT_OK`] if nothing is missing that is not acknowledged, or the gateway refuses, [`exit::LOCKED`] if it runs and cannot
/// be asked.
pub(super) fn acknowledge(place: &Path) -> Result<(), Failure> {
    let directory = state_directory(place)?;
    let (acknowledged, how) = match holder_of(&directory)? {
        Some(holder) => {
            let said = post(place, &directory, holder, "/api/acknowledge", &json!({}))?;
            let acknowledged = serde_json::from_value(said.clone());
            let acknowledged: Acknowledged = acknowledged.map_err(|_| {
                Failure::new(exit::NOT_OK, format!("the gateway answered {said}, which tells no number"))
            })?;
            (acknowledged, ": acknowledged")
        }
        None => {
            (leave_acknowledged(&directory)?, ": to be acknowledged when the gateway starts, since it is not running")
        }
    };
    if acknowledged.losses == 0 {
        return Err(Failure::new(exit::NOT_OK, "nothing is missing that is not acknowledged"));
    }
    print(&format!("{}{how}\n", acknowledged.words()))?;
    Ok(())
}

/// Ends all waits of a running gateway for the service.
///
/// # Errors
/// [`exit::NOT_OK`] if it does not run, [`exit::LOCKED`] if it cannot be told.
pub(super) fn retry_now(place: &Path) -> Result<(), Failure> {
    let directory = state_directory(place)?;
    let Some(holder) = holder_of(&directory)? else {
        let message = "the gateway is not running: when it starts, it tries all that waits at once";
        return Err(Failure::new(exit::NOT_OK, message));
    };
    post(place, &directory, holder, "/api/retry", &json!({}))?;
    print("whatever waits for the service is tried now\n")
}

/// Leaves to the next start that the losses known now are acknowledged: no others, should it find more.
fn leave_acknowledged(directory: &Path) -> Result<Acknowledged, Failure> {
    let _lock = StateLock::acquire(directory).map_err(|error| Failure::new(exit::LOCKED, error.to_string()))?;
    let views = open_views(directory).map_err(|error| unreadable(directory, &error))?;
    let seen: Vec<LossSnapshot> = views.iter().flat_map(|view| view.losses()).collect();
    let acknowledged = seen.iter().collect();
    if !seen.is_empty() {
        leave_decision(directory, &Decision::Missing { acknowledge: seen })?;
    }
    Ok(acknowledged)
}

/// Who holds the state directory, if anybody does.
fn holder_of(directory: &Path) -> Result<Option<Option<u32>>, Failure> {
    lock_holder(directory).map_err(|error| cannot_tell(&directory.join("lock"), &error))
}

/// Tells a running gateway something; its answer.
fn post(place: &Path, directory: &Path, holder: Option<u32>, path: &str, body: &Value) -> Result<Value, Failure> {
    if place.is_dir() {
        let error = LockError::Held { directory: directory.to_owned(), holder };
        let message = format!("{error}; to tell it, give its configuration file instead of the directory");
        return Err(Failure::new(exit::LOCKED, message));
    }
    let settings = config::load(place).map_err(|problems| Failure::new(exit::CONFIG, problems.to_string()))?;
    let admin = settings.gateway.admin.to_string();
    let token = Token::read(directory).map_err(|error| cannot_tell(&Token::path(directory), &error))?;
    let answer = client::post(&admin, path, &token, &body.to_string(), TIMEOUT)
        .map_err(|error| Failure::new(exit::LOCKED, format!("the gateway runs and cannot be told: {error}")))?;
    match serde_json::from_slice(&answer.body) {
        Ok(said) if answer.status == 200 => Ok(said),
        _ => {
            let words = String::from_utf8_lossy(&answer.body);
            Err(Failure::new(exit::NOT_OK, format!("the gateway answered {}: {words}", answer.status)))
        }
    }
}

/// Tells a running gateway about parked records.
fn tell(disposal: Disposal, chosen: &Chosen, directory: &Path, holder: Option<u32>) -> Result<u64, Failure> {
    let (path, done) = match disposal {
        Disposal::Retry => ("/api/parked/retry", "to be delivered now"),
        Disposal::Discard => ("/api/parked/discard", "to be deleted now"),
    };
    let body = match chosen.all {
        true => json!({ "all": true }),
        false => json!({
            "records": (!chosen.records.is_empty()).then_some(&chosen.records),
            "source": chosen.source,
            "status": chosen.status,
        }),
    };
    let said = post(&chosen.place, directory, holder, path, &body)?;
    let Some(count) = said["records"].as_u64() else {
        return Err(Failure::new(exit::NOT_OK, format!("the gateway answered {said}, which tells no number")));
    };
    if count > 0 {
        print(&format!("{} {done}\n", counted_are(count)))?;
    }
    Ok(count)
}

/// So many parked records, with their verb.
fn counted_are(count: u64) -> String {
    format!("{} {}", counted(count, "parked record"), if count == 1 { "is" } else { "are" })
}

/// A gateway obeys whoever can read what it keeps in its state directory.
fn cannot_tell(path: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let message = format!(
            "{}: {error}\n    only the user of the gateway, or root, may decide: run this as that user (sudo -u USER ringest queue …)",
            path.display()
        );
        return Failure::new(exit::PERMISSION, message);
    }
    Failure::new(exit::LOCKED, format!("the gateway cannot be told: {}: {error}", path.display()))
}

/// Leaves it to the next start.
fn leave(disposal: Disposal, chosen: &Chosen, directory: &Path) -> Result<u64, Failure> {
    // No gateway may start while its decisions are written.
    let _lock = StateLock::acquire(directory).map_err(|error| Failure::new(exit::LOCKED, error.to_string()))?;
    let records = RefCell::new(Vec::new());
    visit(
        directory,
        || records.borrow_mut().clear(),
        |record| {
            if chosen.has(record) {
                records.borrow_mut().push(short_name(record));
            }
            ControlFlow::Continue(())
        },
    )?;
    let records = records.into_inner();
    let count = records.len() as u64;
    if count > 0 {
        leave_decision(directory, &Decision::Parked { decision: disposal, records })?;
        let records = counted(count, "parked record");
        print(&format!("the gateway is not running: {records} {} when it starts\n", disposal.words()))?;
    }
    Ok(count)
}
