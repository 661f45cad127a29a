//! The arrows between the top-level modules are those of ARCHITECTURE.md, section Arrows, and below
//! the engine nothing touches the world. The sources are read as text: what a module names is what
//! it depends on, also in its tests.

mod graph;
mod planted;
mod source;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use world::Exception;

/// Who names something of the world below the engine, and why.
const EXCEPTIONS: &[Exception] = &[
    Exception {
        file: "ground/secrets.rs",
        names: &["libc"],
        why: "asks the kernel for no dump of a stack on which a library works on secrets",
    },
    Exception {
        file: "ground/secrets/arena.rs",
        names: &["libc"],
        why: "memory of secrets: it asks the kernel for a mapping, for no dump of it, and to take pages back",
    },
    Exception {
        file: "journal/blocks.rs",
        names: &["nix", "std::fs"],
        why: "the block file's mapping: memory that outlives the process, and no call but for mapping and unmapping it",
    },
    Exception {
        file: "observe/histlog.rs",
        names: &["std::fs", "std::os::unix", "std::time::Instant", "std::time::SystemTime"],
        why: "the histogram log is a file with times of its own; the engine writes it on a thread that may wait",
    },
    Exception {
        file: "config/mod.rs",
        names: &["nix", "std::fs"],
        why: "reads the configuration, and on which CPUs this process may run",
    },
    Exception {
        file: "config/access.rs",
        names: &["std::fs", "std::os::unix"],
        why: "reads the files of tokens, and who else may",
    },
    Exception {
        file: "config/deliver.rs",
        names: &["std::env", "std::fs"],
        why: "reads the files that headers are taken from, and where systemd has put credentials",
    },
    Exception {
        file: "config/tls.rs",
        names: &["rustls_native_certs", "std::fs", "std::os::unix", "std::time::SystemTime", "std::time::UNIX_EPOCH"],
        why: "reads certificates and keys, and notes those that end soon",
    },
    Exception {
        file: "source/serial/mod.rs",
        names: &["libc", "nix", "std::fs", "std::os::fd", "std::os::unix", "std::thread", "std::time::Instant"],
        why: "opens ports, on a thread that may wait",
    },
    Exception {
        file: "source/serial/counts.rs",
        names: &["libc", "nix", "std::os::fd"],
        why: "asks a driver for its counts",
    },
    Exception {
        file: "source/serial/holder.rs",
        names: &["libc", "std::fs", "std::os::unix", "std::process"],
        why: "looks in /proc for whoever holds a port",
    },
    Exception { file: "source/serial/ports.rs", names: &["libc", "std::fs"], why: "looks in /sys for ports" },
    Exception { file: "source/serial/termios.rs", names: &["libc", "nix", "std::os::fd"], why: "sets a line" },
    Exception {
        file: "source/serial/watch.rs",
        names: &["inotify", "std::fs", "std::os::fd", "tokio"],
        why: "waits for missing ports, on the control thread",
    },
];

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("below src").to_str().expect("a name in UTF-8");
                found.push((name.to_owned(), fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    found.sort();
    found
}

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).expect("the document")
}

fn lent(sources: &[(String, String)]) -> Vec<graph::Source<'_>> {
    sources.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect()
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_arrow_is_one_that_the_document_allows_and_every_allowed_one_is_used() {
    let sources = sources();
    let (found, mut wrong) = graph::arrows(&lent(&sources));
    wrong.extend(graph::differences(&found, &graph::allowed(&document())));
    assert_none(&wrong);
}

#[test]
fn every_allowed_arrow_leads_down_in_the_layers_that_are_drawn() {
    let document = document();
    assert_none(&graph::not_downwards(&graph::allowed(&document), &graph::layers(&document)));
}

#[test]
fn no_modules_name_each_other_in_a_circle() {
    let sources = sources();
    let (found, _) = graph::arrows(&lent(&sources));
    assert_eq!(graph::circle(&found), None);
}

#[test]
fn owners_inside_a_module_do_not_name_what_is_not_theirs() {
    let (sources, forbidden) = (sources(), graph::forbidden(&document()));
    for (from, to) in &forbidden {
        for module in to.iter().chain([from]) {
            let is_there = |(file, _): &(String, String)| graph::module(file).starts_with(module);
            assert!(sources.iter().any(is_there), "{} is not there", module.join("::"));
        }
    }
    assert!(forbidden.len() >= 3, "the document forbids something");
    assert_none(&graph::trespasses(&lent(&sources), &forbidden));
}

#[test]
fn below_the_engine_nothing_names_a_runtime_a_clock_a_thread_or_a_call_of_the_system() {
    let sources = sources();
    let (found, _) = graph::arrows(&lent(&sources));
    let below = graph::below(&found, "engine");
    assert!(below.contains("shard") && below.contains("ground") && !below.contains("engine"), "{below:?}");
    assert_none(&world::findings(&lent(&sources), &below, EXCEPTIONS));
}
