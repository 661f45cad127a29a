//! `ringest token`: draws a token for a machine that sends by HTTP, and the line that lets it in.

use super::check::print;
use super::{Failure, exit, tell};
use crate::access::tokens::{self, Tokens};
use crate::access::{NEW_SALT_BYTES, Pattern, Patterns, TYPED_CHARS_MIN, TypedHash};
use crate::ground::text::{hex, typed};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// 256 bits, which nobody guesses.
const RANDOM_BYTES: usize = 32;
/// Longest secret that somebody types: it fits into an Authorization field.
const SECRET_BYTES_MAX: usize = 256;

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
    /// For a secret that somebody types: it is read from the terminal or standard input, and its argon2id hash is in the line
    #[arg(long)]
    argon2id: bool,
    /// Add the line to this file, the tokens_file of a source; made for this user alone (mode 0600) if it is not there
    #[arg(long, value_name = "FILE")]
    add: Option<PathBuf>,
}

const HELP: &str = "\
The token is shown this once: only its digest is in the line. The machine sends it with each request, as
  Authorization: Bearer TOKEN
A secret that somebody types (--argon2id) is sent as Basic with the token's name as user, or as
  Authorization: Bearer NAME:SECRET
It is never shown, and the line is all that is printed.
Without --add the second line of the output is what belongs into the file that tokens_file names. A running gateway
reads that file again within 2 s of a change; a line that is removed refuses the next request.";

/// Runs the command.
///
/// # Errors
/// What is wrong with an argument, or with the file.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { name, sources, until, argon2id, add } = arguments;
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
    if argon2id {
        let secret = read_secret(&name)?;
        let hash = TypedHash::text_of(secret.as_bytes(), random::<NEW_SALT_BYTES>()?);
        let line = tokens::line_of(&name, &hash, &patterns, &until);
        return match add {
            None => print(&format!("{line}\n")),
            Some(path) => add_line(&path, &line),
        };
    }
    let token = hex(&random::<RANDOM_BYTES>()?);
    let line = tokens::line(&name, &token, &patterns, &until);
    match add {
        None => print(&format!("{token}\n{line}\n")),
        Some(path) => {
            add_line(&path, &line)?;
            print(&format!("{token}\n"))
        }
    }
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], Failure> {
    let mut random = [0; BYTES];
    let filled = SystemRandom::new().fill(&mut random);
    filled.map(|()| random).map_err(|_| Failure::new(exit::FAILURE, "the kernel gives no random numbers"))
}

/// A line of standard input; of a terminal, which then shows nothing of it.
fn read_secret(name: &str) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::new(exit::FAILURE, format!("the secret cannot be read: {error}"));
    let input = std::io::stdin();
    let mut secret = String::new();
    if input.is_terminal() {
        let prompt = format!("Secret of {name}, which is not shown: ");
        tell(&prompt);
        let before = tcgetattr(&input).map_err(|errno| failed(errno.into()))?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        watch_signals(before.clone(), silent.clone(), prompt).map_err(failed)?;
        tcsetattr(&input, SetArg::TCSAFLUSH, &silent).map_err(|errno| failed(errno.into()))?;
        let read = input.read_line(&mut secret);
        // The terminal goes on as it was, whatever was read.
        let restored = tcsetattr(&input, SetArg::TCSAFLUSH, &before);
        tell("\n");
        read.map_err(failed)?;
        restored.map_err(|errno| failed(errno.into()))?;
    } else {
        input.read_line(&mut secret).map_err(failed)?;
    }
    let secret = secret.trim_end_matches(['\r', '\n']);
    let allowed =
        format!("{TYPED_CHARS_MIN} characters or more, none of them a control character or at an end a blank");
    let is_good = secret.chars().count() >= TYPED_CHARS_MIN
        && secret.len() <= SECRET_BYTES_MAX
        && !secret.contains(char::is_control)
        && secret.trim() == secret;
    match is_good {
        true => Ok(secret.to_owned()),
        false => Err(Failure::new(exit::USAGE, format!("this is no secret that can be used: {allowed}"))),
    }
}

/// What ends or stops a process by default, and can be asked for at a terminal.
const SIGNALS: [Signal; 5] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTSTP];

/// From now on a thread waits for signals: it gives the terminal back as it was `before`, then lets the
/// signal do what it does. After a stop the terminal is `silent` again.
fn watch_signals(before: Termios, silent: Termios, prompt: String) -> std::io::Result<()> {
    let set = SigSet::from_iter(SIGNALS);
    set.thread_block()?;
    let watch = move || {
        let input = std::io::stdin();
        loop {
            let Ok(signal) = set.wait() else { return };
            // The terminal may be gone: SIGHUP says that.
            let _ = tcsetattr(&input, SetArg::TCSAFLUSH, &before);
            let this = SigSet::from(signal);
            if signal == Signal::SIGTSTP {
                // Of SIGTSTP itself the other thread would know nothing: it is blocked there.
                let _ = raise(Signal::SIGSTOP);
                let _ = tcsetattr(&input, SetArg::TCSAFLUSH, &silent);
                tell(&prompt);
            } else {
                tell("\n");
                let _ = this.thread_unblock().and_then(|()| raise(signal));
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop)
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
