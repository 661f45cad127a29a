//! Walking a parsed document: typed access to the keys of a section, where every problem is noted and the walk goes on.
//!
//! What the code asks for is what is known: when a section is finished, each of its keys that nobody asked for is unknown.

use super::nearest::nearest;
use super::problem::{Lines, Problem, Refusal, excerpt};
use super::units;
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use toml_edit::{Item, TableLike, Value};

/// The file under the walk, and what was found wrong with it.
pub(super) struct Reader<'d> {
    text: &'d str,
    lines: Lines<'d>,
    problems: RefCell<Vec<Problem>>,
    notes: RefCell<Vec<Problem>>,
    /// Keys that were asked for and are not in the file, such as `source[serial].flow`.
    #[cfg(test)]
    pub absent: RefCell<std::collections::BTreeSet<String>>,
    /// Keys that were asked for and are in the file.
    #[cfg(test)]
    pub present: RefCell<std::collections::BTreeSet<String>>,
}

impl<'d> Reader<'d> {
    /// A walk over the document of `text`.
    pub fn new(text: &'d str) -> Self {
        Self {
            text,
            lines: Lines::of(text),
            problems: RefCell::default(),
            notes: RefCell::default(),
            #[cfg(test)]
            absent: RefCell::default(),
            #[cfg(test)]
            present: RefCell::default(),
        }
    }

    fn problem(&self, span: Option<&Range<usize>>, key: &str, given: Option<String>, refusal: Refusal) -> Problem {
        let Refusal { what, remedy, nearest, secret } = refusal;
        let given = given.filter(|_| !secret);
        let place = span.map(|span| self.lines.place(span.start));
        Problem { place, key: key.to_owned(), given, what, remedy, nearest }
    }

    /// Problems and notes, in the order of the file.
    pub fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        let (mut problems, mut notes) = (self.problems.into_inner(), self.notes.into_inner());
        problems.sort_by_key(|problem| problem.place);
        notes.sort_by_key(|note| note.place);
        (problems, notes)
    }
}

/// A value in the file, with where it stands.
#[derive(Clone)]
pub(super) struct Entry<'r, 'd> {
    reader: &'r Reader<'d>,
    key: String,
    span: Range<usize>,
    /// It is no value of the file, but one of a base that the file names at `span`.
    is_of_base: bool,
    pub item: &'d Item,
}

impl<'r, 'd> Entry<'r, 'd> {
    /// Notes that the value is refused.
    pub fn refuse(&self, refusal: Refusal) {
        let refusal = self.told(refusal);
        let given = (!self.is_of_base).then(|| excerpt(self.reader.text, &self.span));
        let problem = self.reader.problem(Some(&self.span), &self.key, given, refusal);
        self.reader.problems.borrow_mut().push(problem);
    }

    /// What is refused is not in the file where it comes from a base.
    fn told(&self, mut refusal: Refusal) -> Refusal {
        if self.is_of_base {
            refusal.remedy += "; it comes from the preset, and a key of this section counts before it";
        }
        refusal
    }

    /// Notes that the key is refused, without its value, which may be secret or long.
    pub fn refuse_key(&self, refusal: Refusal) {
        let problem = self.reader.problem(Some(&self.span), &self.key, None, refusal);
        self.reader.problems.borrow_mut().push(problem);
    }

    /// The value as a whole number within bounds, or a problem.
    pub fn integer(&self, range: RangeInclusive<i64>, remedy: &str) -> Option<i64> {
        let Some(value) = self.item.as_integer() else {
            self.wrong_type("an integer", remedy);
            return None;
        };
        let value = Some(value).filter(|value| range.contains(value));
        if value.is_none() {
            self.refuse(Refusal::new("out of bounds", remedy));
        }
        value
    }

    /// Notes that the value has another type than it should have.
    pub fn wrong_type(&self, expected: &str, remedy: &str) {
        let what = format!("this is {}, not {expected}", with_article(self.item.type_name()));
        self.refuse(Refusal::new(what, remedy));
    }

    /// The value as a string, or a problem.
    pub fn string(&self, remedy: &str) -> Option<&'d str> {
        let text = self.item.as_str();
        if text.is_none() {
            self.wrong_type("a string", remedy);
        }
        text
    }

    /// The value as a section of its own, or a problem.
    pub fn section(&self, remedy: &str) -> Option<Section<'r, 'd>> {
        let Some(table) = self.item.as_table_like() else {
            self.wrong_type("a section", remedy);
            return None;
        };
        let (key, span) = (self.key.clone(), self.span.clone());
        let section = Section::new(self.reader, key.clone(), key, Some(table), Some(span));
        Some(Section { is_of_base: self.is_of_base, ..section })
    }

    /// The elements of an array, or a problem.
    pub fn elements(&self, remedy: &str) -> Option<Vec<(&'d Value, Range<usize>)>> {
        let Some(array) = self.item.as_array() else {
            self.wrong_type("a list", remedy);
            return None;
        };
        let span = |value: &Value| value.span().filter(|_| !self.is_of_base).unwrap_or(self.span.clone());
        Some(array.iter().map(|value| (value, span(value))).collect())
    }

    /// The value as a string or a list of strings, each with where it stands; what is none is a problem.
    pub fn strings(&self, remedy: &str) -> Vec<(&'d str, Range<usize>)> {
        if let Some(text) = self.item.as_str() {
            return vec![(text, self.span.clone())];
        }
        if !self.item.is_array() {
            self.wrong_type("a string or a list of strings", remedy);
            return Vec::new();
        }
        let mut strings = Vec::new();
        for (value, span) in self.elements(remedy).unwrap_or_default() {
            match value.as_str() {
                Some(text) => strings.push((text, span)),
                None => {
                    let what = format!("this is {}, not a string", with_article(value.type_name()));
                    self.refuse_element(&span, Refusal::new(what, remedy));
                }
            }
        }
        strings
    }

    /// Notes that one element of the value is refused.
    pub fn refuse_element(&self, span: &Range<usize>, refusal: Refusal) {
        let refusal = self.told(refusal);
        let given = (!self.is_of_base).then(|| excerpt(self.reader.text, span));
        let problem = self.reader.problem(Some(span), &self.key, given, refusal);
        self.reader.problems.borrow_mut().push(problem);
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {noun}")
}

/// A table of the file; or one that is not there, where every key has its default.
pub(super) struct Section<'r, 'd> {
    reader: &'r Reader<'d>,
    /// As messages name it; empty for the root.
    path: String,
    /// As `Reader::absent` names it.
    #[cfg_attr(not(test), allow(dead_code))]
    schema: String,
    table: Option<&'d dyn TableLike>,
    /// Where the absence of a key is reported.
    span: Option<Range<usize>>,
    /// It is not in the file, but in a base that the file names at `span`.
    is_of_base: bool,
    /// What the keys have that are not in `table`.
    base: Option<Base<'d>>,
    known: RefCell<Vec<&'static str>>,
    refused: RefCell<Vec<&'static str>>,
}

/// Values that a section has unless it says something else, such as those of a preset.
struct Base<'d> {
    table: &'d dyn TableLike,
    /// Where the file names it.
    span: Range<usize>,
    /// Keys of it that do not count.
    hidden: Vec<&'static str>,
}

impl<'r, 'd> Section<'r, 'd> {
    /// A section; `table` is `None` if it is not in the file. `span` is where it stands, if it stands at one place.
    pub fn new(
        reader: &'r Reader<'d>,
        path: String,
        schema: String,
        table: Option<&'d dyn TableLike>,
        span: Option<Range<usize>>,
    ) -> Self {
        Self {
            reader,
            path,
            schema,
            table,
            span,
            is_of_base: false,
            base: None,
            known: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    /// Has the keys of `table` where it says nothing else, but for those in `hidden`; `entry` named it.
    pub fn set_base(&mut self, table: &'d dyn TableLike, entry: &Entry<'_, '_>, hidden: Vec<&'static str>) {
        self.base = Some(Base { table, span: entry.span.clone(), hidden });
    }

    /// Whether it is in the file.
    pub fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Names the section anew for the messages that follow, once it is known what it is.
    pub fn rename(&mut self, path: String, schema: String) {
        (self.path, self.schema) = (path, schema);
    }

    fn key_path(&self, key: &str) -> String {
        let key = key.escape_debug();
        if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) }
    }

    fn entry_of(&self, key: &str, item: &'d Item) -> Entry<'r, 'd> {
        // A table that only dotted keys made has no place of its own: its key has.
        let key_span = || self.table.and_then(|table| table.key(key)).and_then(|key| key.span());
        let own = if self.is_of_base { None } else { item.span().or_else(key_span) };
        let span = own.or(self.span.clone()).unwrap_or_default();
        Entry { reader: self.reader, key: self.key_path(key), span, is_of_base: self.is_of_base, item }
    }

    fn base_entry(&self, key: &str) -> Option<Entry<'r, 'd>> {
        let base = self.base.as_ref().filter(|base| !base.hidden.contains(&key))?;
        let item = base.table.get(key)?;
        let (key, span) = (self.key_path(key), base.span.clone());
        Some(Entry { reader: self.reader, key, span, is_of_base: true, item })
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &'static str) -> Option<Entry<'r, 'd>> {
        if !self.known.borrow().contains(&key) {
            self.known.borrow_mut().push(key);
        }
        let item = self.table.and_then(|table| table.get(key));
        #[cfg(test)]
        {
            let path = if self.schema.is_empty() { key.to_owned() } else { format!("{}.{key}", self.schema) };
            let asked = if item.is_some() { &self.reader.present } else { &self.reader.absent };
            asked.borrow_mut().insert(path);
        }
        item.map(|item| self.entry_of(key, item)).or_else(|| self.base_entry(key))
    }

    /// All entries: for a section whose keys are names of the user's choice. They count as known.
    pub fn entries(&self) -> Vec<(&'d str, Entry<'r, 'd>)> {
        let entries = self.table.iter().flat_map(|table| table.iter());
        entries.map(|(name, item)| (name, self.entry_of(name, item))).collect()
    }

    /// A section in this one; also if it is not there, so that its defaults can be asked for.
    pub fn section(&self, key: &'static str) -> Section<'r, 'd> {
        let path = self.key_path(key);
        let entry = self.get(key);
        let present = entry.and_then(|entry| {
            let remedy =
                if self.path.is_empty() { format!("a section: [{key}]") } else { format!("{key} = {{ … }}") };
            entry.section(&remedy)
        });
        present.unwrap_or_else(|| Section::new(self.reader, path.clone(), path, None, None))
    }

    /// Notes a problem at a key: at its value, or at the section if the key has its default.
    pub fn refuse(&self, key: &'static str, refusal: Refusal) {
        let item = self.table.and_then(|table| table.get(key));
        match item.map(|item| self.entry_of(key, item)).or_else(|| self.base_entry(key)) {
            Some(entry) => entry.refuse(refusal),
            None => {
                let problem = self.reader.problem(self.span.as_ref(), &self.key_path(key), None, refusal);
                self.reader.problems.borrow_mut().push(problem);
            }
        }
    }

    /// Notes something that is worth knowing, at a key or at the section.
    pub fn note(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let item = self.table.and_then(|table| table.get(key));
        let span = item.map_or(self.span.clone(), |item| Some(self.entry_of(key, item).span));
        let note = self.reader.problem(span.as_ref(), &self.key_path(key), None, Refusal::new(what, remedy));
        self.reader.notes.borrow_mut().push(note);
    }

    /// A key that is known elsewhere, with where.
    pub fn misplaced(&self, key: &'static str, what: &str, remedy: &str) {
        self.refused.borrow_mut().push(key);
        if let Some(item) = self.table.and_then(|table| table.get(key)) {
            self.entry_of(key, item).refuse(Refusal::new(what, remedy));
        }
    }

    /// Notes a key that must be there and is not.
    pub fn missing(&self, key: &'static str, remedy: &str) {
        self.refuse(key, Refusal::new("this key is missing", remedy));
    }

    /// A string that `parse` makes something of.
    pub fn parsed<T>(
        &self,
        key: &'static str,
        remedy: &str,
        parse: impl FnOnce(&'d str) -> Result<T, Refusal>,
    ) -> Option<T> {
        let entry = self.get(key)?;
        match parse(entry.string(remedy)?) {
            Ok(value) => Some(value),
            Err(refusal) => {
                entry.refuse(refusal);
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let names: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        let remedy = format!("one of {}", names.join(", "));
        self.parsed(key, &remedy, |given| {
            let found = words.iter().find(|(word, _)| *word == given);
            found.map(|(_, value)| *value).ok_or_else(|| {
                Refusal::new("this word is not known here", remedy.clone())
                    .with_nearest(nearest(given, words.iter().map(|(word, _)| *word)))
            })
        })
        .unwrap_or(default)
    }

    /// A duration within bounds, if it is there and good.
    pub fn duration_if_given(&self, key: &'static str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (low, high) = (units::show_duration(*range.start()), units::show_duration(*range.end()));
        let remedy = format!("\"{low}\" to \"{high}\": a whole number with its unit");
        self.quantity(key, range, &remedy, "a duration needs a unit: us, ms, s, m, h or d", units::parse_duration)
    }

    /// A duration within bounds.
    pub fn duration(&self, key: &'static str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.duration_if_given(key, range).unwrap_or(default)
    }

    /// A size in bytes within bounds, if it is there and good.
    pub fn size_if_given(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let (low, high) = (units::show_size(*range.start()), units::show_size(*range.end()));
        let remedy = format!("\"{low}\" to \"{high}\": a whole number with its unit");
        self.quantity(key, range, &remedy, "a size needs a unit: B, KiB, MiB, GiB or TiB", units::parse_size)
    }

    /// A size in bytes within bounds.
    pub fn size(&self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.size_if_given(key, range).unwrap_or(default)
    }

    fn quantity<T: PartialOrd>(
        &self,
        key: &'static str,
        range: RangeInclusive<T>,
        remedy: &str,
        no_unit: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let entry = self.get(key)?;
        if entry.item.is_integer() || entry.item.is_float() {
            entry.refuse(Refusal::new(no_unit, remedy));
            return None;
        }
        match parse(entry.string(remedy)?) {
            Ok(value) if range.contains(&value) => Some(value),
            Ok(_) => {
                entry.refuse(Refusal::new("out of bounds", remedy));
                None
            }
            Err(what) => {
                entry.refuse(Refusal::new(what, remedy));
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn integer(&self, key: &'static str, default: usize, range: RangeInclusive<usize>) -> usize {
        let remedy = format!("a whole number, {} to {}", range.start(), range.end());
        let Some(entry) = self.get(key) else { return default };
        let range = *range.start() as i64..=*range.end() as i64;
        entry.integer(range, &remedy).map_or(default, |value| value as usize)
    }

    /// A whole number within bounds, which may be negative.
    pub fn signed(&self, key: &'static str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let remedy = format!("a whole number, {} to {}", range.start(), range.end());
        self.get(key).and_then(|entry| entry.integer(range, &remedy)).unwrap_or(default)
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &'static str, default: bool) -> bool {
        let Some(entry) = self.get(key) else { return default };
        entry.item.as_bool().unwrap_or_else(|| {
            entry.wrong_type("a boolean", "true or false, without quotes");
            default
        })
    }

    /// Ends the section: each key that nobody asked for is a problem.
    pub fn finish(self) {
        self.finish_with(|_| None);
    }

    /// Ends the section; `elsewhere` may say where an unknown key belongs.
    pub fn finish_with(self, elsewhere: impl Fn(&str) -> Option<String>) {
        let Some(table) = self.table else { return };
        let (known, refused) = (self.known.borrow(), self.refused.borrow());
        for (key, _) in table.iter().filter(|(key, _)| !known.contains(key) && !refused.contains(key)) {
            let span = table.key(key).and_then(|key| key.span()).or(self.span.clone());
            let refusal = match elsewhere(key) {
                Some(what) => Refusal::new(what, format!("known here: {}", known.join(", "))),
                None => Refusal::new("this key is not known here", format!("known here: {}", known.join(", ")))
                    .with_nearest(nearest(key, known.iter().copied())),
            };
            let problem = self.reader.problem(span.as_ref(), &self.key_path(key), None, refusal);
            self.reader.problems.borrow_mut().push(problem);
        }
    }
}
