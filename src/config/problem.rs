//! What is wrong with a configuration, for the person who wrote it.

use serde::Serialize;
use std::fmt;
use std::ops::Range;

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
}

/// Where the lines of a text begin, so that a file with very many problems is not searched anew for each.
pub(super) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    /// The lines of a text.
    pub fn of(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        Self { text, starts }
    }

    /// The place of a byte offset; one beyond the end is the end.
    pub fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let before = &self.text.as_bytes()[self.starts[line - 1]..offset];
        Place { line, column: String::from_utf8_lossy(before).chars().count() + 1 }
    }
}

/// One thing that is wrong, or in a list of notes: worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it stands; `None` if it concerns the whole file.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// The key with its section, such as `journal.window`; empty if it concerns no key.
    pub key: String,
    /// The value as it is written in the file, cut to one short line; none where a key is missing or unknown.
    pub given: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What is allowed, or what to do.
    pub remedy: String,
    /// The known word that was most likely meant.
    pub nearest: Option<String>,
}

impl fmt::Display for Problem {
    /// `KEY = GIVEN: WHAT`, and on a second line what is allowed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(given) = &self.given {
            write!(f, " = {given}")?;
        }
        if !self.key.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.what)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean {nearest}?")?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n    {}", self.remedy)?;
        }
        Ok(())
    }
}

/// All that is wrong with one file, in the order of the file. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Problems {
    /// The file as it was named.
    pub file: String,
    /// The problems.
    pub list: Vec<Problem>,
}

impl Problems {
    /// A single problem that concerns a whole file.
    pub(super) fn whole_file(file: String, what: String, remedy: &str) -> Self {
        let problem =
            Problem { place: None, key: String::new(), given: None, what, remedy: remedy.to_owned(), nearest: None };
        Self { file, list: vec![problem] }
    }
}

impl fmt::Display for Problems {
    /// `FILE:LINE:COLUMN: KEY = GIVEN: WHAT` with the remedy below it, and their number at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            match problem.place {
                Some(Place { line, column }) => writeln!(f, "{}:{line}:{column}: {problem}", self.file)?,
                None => writeln!(f, "{}: {problem}", self.file)?,
            }
        }
        let count = self.list.len();
        write!(f, "{count} problem{} in {}", if count == 1 { "" } else { "s" }, self.file)
    }
}

/// Why a value was refused, before it is known where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What is wrong.
    pub what: String,
    /// What is allowed, or what to do.
    pub remedy: String,
    /// The known word that was most likely meant.
    pub nearest: Option<String>,
    /// The value may hold a secret and is not shown.
    pub secret: bool,
}

impl Refusal {
    /// A refusal that suggests no single word.
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), nearest: None, secret: false }
    }

    /// A refusal of a value that is not to be shown.
    pub fn secret(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { secret: true, ..Self::new(what, remedy) }
    }

    /// Adds the word that was most likely meant.
    pub fn with_nearest(mut self, nearest: Option<&str>) -> Self {
        self.nearest = nearest.map(|word| format!("{word:?}"));
        self
    }
}

/// A piece of the file for a message: one line, at most 60 characters.
pub(super) fn excerpt(text: &str, span: &Range<usize>) -> String {
    let whole = text.get(span.clone()).unwrap_or_default();
    let line = whole.lines().next().unwrap_or_default();
    let short: String = line.chars().take(60).collect();
    if short.len() < whole.len() { format!("{short}…") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let text = "ab\nü = 1\n";
        let lines = Lines::of(text);
        assert_eq!(lines.place(0), Place { line: 1, column: 1 });
        assert_eq!(lines.place(2), Place { line: 1, column: 3 });
        assert_eq!(lines.place(text.find('=').unwrap()), Place { line: 2, column: 3 });
        assert_eq!(lines.place(text.len()), Place { line: 3, column: 1 });
        assert_eq!(lines.place(99), Place { line: 3, column: 1 });
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt("a = 12", &(4..6)), "12");
        assert_eq!(excerpt("[1,\n2]", &(0..6)), "[1,…");
        assert_eq!(excerpt(&"x".repeat(100), &(0..100)), format!("{}…", "x".repeat(60)));
    }
}
