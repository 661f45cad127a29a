//! `ringest token`: draws a token for a machine that sends by HTTP, and the line that lets it in.

use super::check::print;
use super::{Failure, exit, tell};
use crate::access::tokens::{self, Tokens};
use crate::access::{Pattern, Patterns};
use crate::ground::text::{hex, typed};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// 256 bits, which nobody guesses.
const RANDOM_BYTES: usize = 32;

/// Arguments of `ringest token`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// The token's own name, for whoever reads the file: 1 to 64 of A-Z a-z 0-9 . _ -
    name: String,
    /// What its holder may send: patterns of SOURCEs, with commas between them, such as 'cam-*'
    #[arg(long, value_name = "PATTERNS", required = true, value_delimiter = ',')]
    sources: Vec<String>,
    /// Its end: a day (the last one that counts, UTC), a moment such as 2027-12-31T18:00:00Z, or never
    #[arg(long, value_name = "DATE")]
    until: String,
    /// Add the line to this file, the tokens_file of a source; made for this user alone (mode 0600) if it is not there
    #[arg(long, value_name = "FILE")]
    add: Option<PathBuf>,
}

const HELP: &str = "\
The token is shown this once: only its digest is in the line. The machine sends it with each request, as
  Authorization: Bearer TOKEN
Without --add the second line of the output is what belongs into the file that tokens_file names. A running gateway
reads that file again within 2 s of a change; a line that is removed refuses the next request.";

/// Runs the command.
///
/// # Errors
/// What is wrong with an argument, or with the file.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { name, sources, until, add } = arguments;
    let wrong = |what: String, allowed: &str| Failure::new(exit::USAGE, format!("{what}: {allowed}"));
    tokens::check_name(&name).map_err(|(what, allowed)| wrong(format!("{name:?}: {what}"), allowed))?;
    let pattern = |text: &String| {
        Pattern::parse(text).map_err(|fault| wrong(format!("--sources {text:?}: {fault}"), Pattern::ALLOWED))
    };
    let patterns = Patterns(sources.iter().map(pattern).collect::<Result<_, _>>()?);
    let end = tokens::parse_until(&until)
        .ok_or_else(|| wrong(format!("--until {until:?}: this is no end"), tokens::UNTIL))?;
    let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    if end.is_some_and(|end_ns| end_ns <= now_ns) {
        return Err(wrong(format!("--until {until:?} is over already"), tokens::UNTIL));
    }
    let mut random = [0; RANDOM_BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| Failure::new(exit::FAILURE, "the kernel gives no random numbers"))?;
    let token = hex(&random);
    let line = tokens::line(&name, &token, &patterns, &until);
    match add {
        None => print(&format!("{token}\n{line}\n")),
        Some(path) => {
            add_line(&path, &line)?;
            print(&format!("{token}\n"))
        }
    }
}

/// Adds a line to a file of tokens, if the file is then one.
fn add_line(path: &Path, line: &str) -> Result<(), Failure> {
    let failed = |what: &str, error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::PermissionDenied { exit::PERMISSION } else { exit::FAILURE };
        Failure::new(code, format!("{} cannot be {what}: {error}", path.display()))
    };
    let mut file: File = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed("opened", error))?;
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| failed("read", error))?;
    let is_cut = !text.is_empty() && !text.ends_with('\n');
    let added = format!("{}{line}\n", if is_cut { "\n" } else { "" });
    if let Err(faults) = Tokens::parse(&(text + &added)) {
        let faults: Vec<String> = faults.iter().map(|fault| format!("{fault}: {}", fault.allowed)).collect();
        let what = format!("{} would not be a file of tokens, and is as it was", path.display());
        return Err(Failure::new(exit::CONFIG, format!("{what}\n    {}", faults.join("\n    "))));
    }
    file.write_all(added.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| failed("written", error))?;
    let mode = file.metadata().map_or(0, |meta| meta.permissions().mode());
    if mode & 0o007 != 0 {
        let path = typed(path);
        tell(&format!(
            "ringest: everybody on this machine can open {path} (mode {:03o}): chmod o= {path}\n",
            mode & 0o777
        ));
    }
    Ok(())
}
