//! What no module below the engine may name: runtimes, clocks, threads, descriptors, files,
//! sockets, the system's calls.

use crate::graph::{Source, module};
use crate::source::named;
use std::collections::BTreeSet;

/// Crates and parts of them; what lies below one is meant, too. A module that holds one may not be
/// named as a whole.
const WORLD: [&str; 25] = [
    "axum",
    "inotify",
    "io_uring",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "libc",
    "nix",
    "rusqlite",
    "rustls_native_certs",
    "socket2",
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os::fd",
    "std::os::unix",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
    "tokio",
    "tokio_uring",
];

/// A file that may name something of it, and why.
pub struct Exception {
    /// The path below `src`.
    pub file: &'static str,
    /// What it may name.
    pub names: &'static [&'static str],
    /// Why it does.
    pub why: &'static str,
}

/// What the modules of `below` name of the world, beyond the exceptions; and exceptions that
/// nothing needs. Tests may name all of it.
pub fn findings(sources: &[Source<'_>], below: &BTreeSet<String>, exceptions: &[Exception]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for (file, text) in sources {
        let is_test = file.ends_with("/tests.rs");
        if is_test || !module(file).first().is_some_and(|top| below.contains(top)) {
            continue;
        }
        for path in named(text).into_iter().filter(|path| !path.in_test) {
            let Some(name) = of_the_world(&path.parts) else { continue };
            let exception = exceptions.iter().find(|exception| exception.file == *file);
            if exception.is_some_and(|exception| exception.names.contains(&name)) {
                used.insert((*file, name));
            } else {
                wrong.push(format!("src/{file}:{}: `{}` below the engine", path.line, path.parts.join("::")));
            }
        }
    }
    for Exception { file, names, why } in exceptions {
        assert!(!why.is_empty(), "{file}: an exception has a reason");
        let unused = names.iter().filter(|name| !used.contains(&(*file, **name)));
        wrong.extend(unused.map(|name| format!("src/{file} does not name `{name}` any more: end its exception")));
    }
    wrong
}

/// What a path names of the world.
fn of_the_world(path: &[String]) -> Option<&'static str> {
    // Errors of the system are numbers, which operations carry.
    if let [of, name] = path
        && of == "libc"
        && name.starts_with('E')
    {
        return None;
    }
    let path: Vec<&str> = path.iter().map(|part| if part == "core" { "std" } else { part }).collect();
    let path = path.strip_suffix(&["*"]).unwrap_or(&path);
    WORLD.into_iter().find(|name| path.iter().copied().zip(name.split("::")).all(|(own, known)| own == known))
}
