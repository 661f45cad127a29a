//! Histogram logs and their reports: from values through log and command to figures, against other implementations, and what is written.

mod golden;
mod percentiles;
mod written;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file beside the tests.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report").join(name)
}

/// Runs `ringest report` in the fixtures' directory.
fn report(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringest"));
    command.arg("report").args(arguments).current_dir(fixture("."));
    command.output().expect("the binary")
}

/// What it prints; it must succeed.
fn printed(arguments: &[&str]) -> String {
    let output = report(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The document of `--json`.
fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(&[arguments, &["--json"]].concat())).expect("JSON")
}

/// What it says when it fails, and its exit code.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = report(arguments);
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}
