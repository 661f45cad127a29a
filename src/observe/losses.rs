//! Records that are missing, as they are shown until an operator acknowledges them. Pure; no clock, no I/O.

use crate::ground::text::rfc3339;
use serde::{Deserialize, Serialize, Serializer};

/// One loss: records of one journal that a start found to be missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossSnapshot {
    /// When it was found, in nanoseconds since 1970; 0 while it is not written down.
    #[serde(rename = "found_at", serialize_with = "found_at", skip_deserializing)]
    pub found_wall_ns: u64,
    /// The core whose directory it is; that may be a core of an earlier start.
    pub core: u16,
    /// The lowest number that is missing, where numbers are known.
    pub first: Option<u64>,
    /// The highest number that is missing.
    pub last: Option<u64>,
    /// How many records.
    pub records: u64,
    /// So many are missing; else at most so many.
    pub exact: bool,
}

fn found_at<S: Serializer>(wall_ns: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    (*wall_ns > 0).then(|| rfc3339(*wall_ns)).serialize(serializer)
}

impl LossSnapshot {
    /// Whether both are the same loss, whenever it was found.
    pub fn is_same(&self, other: &Self) -> bool {
        let what = |loss: &Self| Self { found_wall_ns: 0, ..loss.clone() };
        what(self) == what(other)
    }
}

/// What becomes known of losses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LossNews {
    /// An operator knows of all.
    All,
    /// An operator knows of these.
    Seen(Vec<LossSnapshot>),
    /// Records are not missing any more.
    Returned {
        /// The core whose journal they were missing in.
        core: u16,
        /// Their first numbers, and those behind the last.
        records: Vec<(u64, u64)>,
        /// The losses that they were part of, as those were then: said twice, it changes nothing.
        losses: Vec<LossSnapshot>,
    },
}

/// Several losses added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// How many losses.
    pub losses: u64,
    /// How many records.
    pub records: u64,
    /// So many were missing; else at most so many.
    pub exact: bool,
}

impl Default for Acknowledged {
    fn default() -> Self {
        Self { losses: 0, records: 0, exact: true }
    }
}

impl Acknowledged {
    /// One more loss.
    pub fn count(&mut self, loss: &LossSnapshot) {
        self.add(Self { losses: 1, records: loss.records, exact: loss.exact });
    }

    /// Adds another sum.
    pub fn add(&mut self, other: Self) {
        self.losses += other.losses;
        self.records = self.records.saturating_add(other.records);
        self.exact &= other.exact;
    }

    /// `12 missing records`, or `at most 12 missing records`.
    pub fn words(&self) -> String {
        format!("{} missing record{}", self.count_in_words(), if self.records == 1 { "" } else { "s" })
    }

    fn count_in_words(&self) -> String {
        format!("{}{}", if self.exact { "" } else { "at most " }, self.records)
    }
}

impl<'a> FromIterator<&'a LossSnapshot> for Acknowledged {
    fn from_iter<I: IntoIterator<Item = &'a LossSnapshot>>(losses: I) -> Self {
        let mut sum = Self::default();
        losses.into_iter().for_each(|loss| sum.count(loss));
        sum
    }
}

/// The losses of one journal in words: how many records, which numbers, when that was found. `None` where there are none.
pub fn words<'a>(losses: impl IntoIterator<Item = &'a LossSnapshot>) -> Option<String> {
    let losses: Vec<&LossSnapshot> = losses.into_iter().collect();
    let sum: Acknowledged = losses.iter().copied().collect();
    let core = losses.first()?.core;
    let records = if sum.records == 1 { "record is" } else { "records are" };
    let mut words = format!("{} {records} missing in the journal of core {core}", sum.count_in_words());
    let first = losses.iter().filter_map(|loss| loss.first).min();
    let last = losses.iter().filter_map(|loss| loss.last).max();
    let numbers = first.zip(last).map(|(first, last)| match first == last {
        true => format!("number {first}"),
        false => format!("numbers {first} to {last}"),
    });
    let several = (losses.len() > 1).then(|| format!("{} losses", losses.len()));
    let inside: Vec<String> = numbers.into_iter().chain(several).collect();
    if !inside.is_empty() {
        words.push_str(&format!(" ({})", inside.join(", ")));
    }
    let found = losses.iter().map(|loss| loss.found_wall_ns).filter(|found| *found > 0).min();
    if let Some(found) = found {
        let to_the_second = &rfc3339(found)[..19];
        let first = if losses.len() > 1 { "first " } else { "" };
        words.push_str(&format!(", found {first}{to_the_second}Z"));
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn loss(first: u64, last: u64, records: u64) -> LossSnapshot {
        let found_wall_ns = 1_795_892_400_123_456_789 + first;
        LossSnapshot { found_wall_ns, core: 0, first: Some(first), last: Some(last), records, exact: true }
    }

    #[test]
    fn a_loss_is_told_with_its_number_its_range_and_its_time() {
        assert_eq!(words(&[]), None);
        let exact = loss(1_048_577, 1_048_600, 12);
        let told =
            "12 records are missing in the journal of core 0 (numbers 1048577 to 1048600), found 2026-11-28T19:00:00Z";
        assert_eq!(words([&exact]).as_deref(), Some(told));
        let bound = LossSnapshot { exact: false, ..exact };
        assert_eq!(words([&bound]), Some(format!("at most {told}")));
        let one = LossSnapshot { found_wall_ns: 0, core: 3, ..loss(7, 7, 1) };
        assert_eq!(words([&one]).as_deref(), Some("1 record is missing in the journal of core 3 (number 7)"));
        let unknown = LossSnapshot { first: None, last: None, found_wall_ns: 0, ..bound };
        assert_eq!(words([&unknown]).as_deref(), Some("at most 12 records are missing in the journal of core 0"));
    }

    #[test]
    fn several_losses_are_told_together() {
        let told = words(&[loss(20, 29, 2), loss(1, 9, 3)]).expect("losses");
        let start = "5 records are missing in the journal of core 0 (numbers 1 to 29, 2 losses), found first 2026-";
        assert!(told.starts_with(start), "{told}");
        let bound = LossSnapshot { exact: false, ..loss(1, 9, 3) };
        assert!(words(&[loss(20, 29, 2), bound]).expect("losses").starts_with("at most 5 records"));
    }

    #[test]
    fn a_loss_is_read_as_it_was_written_but_for_its_time() {
        let written = loss(5, 9, 2);
        let value = serde_json::to_value(&written).expect("JSON");
        let found_at = "2026-11-28T19:00:00.123456Z";
        let expected = json!({ "found_at": found_at, "core": 0, "first": 5, "last": 9, "records": 2, "exact": true });
        assert_eq!(value, expected);
        let read: LossSnapshot = serde_json::from_value(value).expect("a loss");
        assert!(read.is_same(&written) && read != written);
        assert!(!read.is_same(&loss(5, 9, 3)) && !read.is_same(&LossSnapshot { core: 1, ..written }));
    }
}
