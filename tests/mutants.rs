//! The planted bugs of `tests/mutants` change the code that they were written for: each context line of a patch stands where it is
//! changed, and in one place only. `scripts/mutants` then proves that the simulator finds them.

use std::fs;
use std::path::Path;

/// What a hunk expects to find, as it stands in the file.
struct Hunk {
    file: String,
    before: String,
}

/// The hunks of a unified diff.
fn hunks(patch: &str) -> Vec<Hunk> {
    let mut hunks: Vec<Hunk> = Vec::new();
    let mut file = String::new();
    for line in patch.lines() {
        if let Some(path) = line.strip_prefix("+++ b/") {
            file = path.split('\t').next().unwrap_or_default().to_owned();
        } else if line.starts_with("--- a/") {
        } else if line.starts_with("@@ ") {
            hunks.push(Hunk { file: file.clone(), before: String::new() });
        } else if let (Some(hunk), false) = (hunks.last_mut(), line.starts_with('+')) {
            hunk.before.push_str(line.get(1..).unwrap_or_default());
            hunk.before.push('\n');
        }
    }
    hunks
}

/// Why a patch does not apply, if it does not.
fn fault(root: &Path, patch: &str) -> Option<String> {
    let hunks = hunks(patch);
    if hunks.is_empty() {
        return Some("changes nothing".to_owned());
    }
    hunks.iter().find_map(|Hunk { file, before }| {
        let places = fs::read_to_string(root.join(file)).map_or(0, |text| text.matches(before.as_str()).count());
        (places != 1).then(|| format!("{file} has {places} places, not 1, like\n{before}"))
    })
}

#[test]
fn each_planted_bug_applies_where_it_was_meant_to() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut patches = 0;
    let mut faults = String::new();
    for entry in fs::read_dir(root.join("tests/mutants")).expect("tests/mutants can be read") {
        let path = entry.expect("tests/mutants can be read").path();
        let patch = fs::read_to_string(&path).expect("a patch can be read");
        patches += 1;
        if let Some(fault) = fault(root, &patch) {
            faults += &format!("{}: {fault}\n", path.display());
        }
    }
    assert!(patches >= 50, "{patches} patches");
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn a_patch_for_other_code_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let patch =
        "A bug.\n\n--- a/tests/mutants.rs\n+++ b/tests/mutants.rs\n@@ -1,1 +1,1 @@\n-this line is\u{20}\n+in no file\n";
    assert!(fault(root, patch).is_some_and(|fault| fault.starts_with("tests/mutants.rs has 0 places")));
    assert_eq!(fault(root, "A bug without a change.\n"), Some("changes nothing".to_owned()));
}
