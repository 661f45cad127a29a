//! The kept inputs of all fuzz targets, and many small changes of each, pass the same bodies as under libFuzzer (`fuzz/README.md`).
//! `RINGEST_FUZZ_CHANGED=200000 RINGEST_FUZZ_SEED=8` makes more changes, and others.

#[path = "../fuzz/bodies/lib.rs"]
mod bodies;

use bodies::input::Seen;
use std::path::PathBuf;

/// A corpus stays small.
const FILES_MAX: usize = 220;
const BYTES_MAX: usize = 200_000;
/// Changed inputs a target, unless the environment says otherwise.
const CHANGED: u64 = 5_000;
/// Longest input that is changed; expanded ones take too long for many rounds.
const CHANGED_BYTES_MAX: usize = 1_000;

type Body = fn(&[u8], &mut Seen);

/// Names the input if the body panics.
struct Running<'a>(&'a str, &'a [u8]);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}: \"{}\"", self.0, self.1.escape_ascii());
        }
    }
}

/// The kept inputs of a target by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a file of the corpus"))
        .map(|entry| {
            (entry.file_name().into_string().expect("a plain name"), std::fs::read(entry.path()).expect("a file"))
        })
        .collect();
    files.sort();
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(files.len() <= FILES_MAX && bytes <= BYTES_MAX, "{} files of {bytes} bytes", files.len());
    files
}

/// Runs all files, then changed ones; `expected` must be met by the files alone.
fn run(target: &str, body: Body, expected: &[&'static str]) {
    let files = corpus(target);
    let mut seen = Seen::default();
    for (name, bytes) in &files {
        let _running = Running(name, bytes);
        body(bytes, &mut seen);
    }
    let missing: Vec<_> = expected.iter().filter(|what| !seen.0.contains_key(*what)).collect();
    assert!(missing.is_empty(), "no file leads to {missing:?}, but {:?}", seen.0);

    let small: Vec<_> = files.iter().filter(|(_, bytes)| bytes.len() <= CHANGED_BYTES_MAX).collect();
    let number = |name: &str, default| std::env::var(name).map_or(default, |it| it.parse().expect("a number"));
    let changes = number("RINGEST_FUZZ_CHANGED", CHANGED);
    let mut rng = fastrand::Rng::with_seed(number("RINGEST_FUZZ_SEED", 7));
    for round in 0..changes as usize {
        let (name, bytes) = small[round % small.len()];
        let (_, other) = small[rng.usize(..small.len())];
        let changed = change(&mut rng, bytes, other);
        let _running = Running(name, &changed);
        body(&changed, &mut seen);
    }
    println!("{target}: {} files, {changes} changed ones, {:?}", files.len(), seen.0);
}

/// One to four small changes; parts of `other` among them.
fn change(rng: &mut fastrand::Rng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(..=changed.len());
        match rng.u8(..5) {
            0 => changed.insert(at, rng.u8(..)),
            1 if at < changed.len() => changed[at] ^= 1 << rng.u8(..8),
            2 if at < changed.len() => drop(changed.remove(at)),
            3 => {
                let from = rng.usize(..=other.len());
                let part = &other[from..(from + rng.usize(..20)).min(other.len())];
                changed.splice(at..at, part.iter().copied());
            }
            _ => changed.truncate(changed.len().saturating_sub(rng.usize(..4))),
        }
    }
    changed
}

#[test]
fn the_corpus_of_the_journal_s_recovery_passes() {
    let expected = [
        "found all",
        "found none",
        "lost some",
        "settled came back",
        "damaged",
        "torn",
        "finished blocks",
        "alarms",
        "failed start",
        "power fails",
    ];
    run("journal", bodies::journal::run, &expected);
}

#[test]
fn the_corpus_of_framing_passes() {
    let expected = [
        "record",
        "flagged record",
        "empty",
        "oversized",
        "unfinished",
        "wrong checksum",
        "impossible length",
        "garbage",
    ];
    run("framing", bodies::framing::run, &expected);
}

#[test]
fn the_corpus_of_gzip_passes() {
    run("gzip", bodies::gzip::run, &["taken", "damaged", "too large"]);
}

#[test]
fn the_corpus_of_client_hellos_passes() {
    let expected = ["offer", "no offer", "old", "RSA alone", "no version", "taken by the library"];
    run("hello", bodies::hello::run, &expected);
}

#[test]
fn the_corpus_of_proxy_headers_passes() {
    run("proxy", bodies::proxy::run, &["a machine", "nobody", "no header", "forwarded", "no address"]);
}

#[test]
fn the_corpus_of_the_http_server_passes() {
    let expected = [
        "taken",
        "refused",
        "closed",
        "tls",
        "chunked",
        "expects",
        "204",
        "400",
        "404",
        "405",
        "411",
        "413",
        "414",
        "415",
        "417",
        "431",
        "501",
        "503",
        "505",
        "post",
        "get",
        "query dropped",
        "bare lf",
        "lines",
        "no lines",
        "array",
        "no array",
    ];
    run("http_server", bodies::http_server::run, &expected);
}

#[test]
fn the_corpus_of_the_http_client_passes() {
    let expected = [
        "answer",
        "last answer",
        "answer with a body",
        "retry-after",
        "not HTTP",
        "status line",
        "bare line end",
        "field",
        "fields",
        "head bytes",
        "body bytes",
        "framing",
        "chunks",
        "switches protocols",
        "interim",
        "head cut",
        "body cut",
    ];
    run("http_client", bodies::http_client::run, &expected);
}

#[test]
fn the_corpus_of_parmrk_passes() {
    run("parmrk", bodies::parmrk::run, &["break", "error", "ff"]);
}
