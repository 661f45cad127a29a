//! The last of what did not become a record, kept for each source.

use crate::framing::SAMPLE_BYTES;
use crate::ground::{LinkId, Now, RecordFlags};
use crate::observe::snapshot::{Refused, Sample};
use std::collections::VecDeque;

/// Most samples of a source.
pub(super) const SAMPLES_MAX: usize = 8;
/// Garbage of one link that comes within this time is one sample.
const GARBAGE_JOIN_NS: u64 = 1_000_000_000;

/// The last samples of a source. Nothing is allocated before there is one.
#[derive(Debug, Default)]
pub(super) struct Samples {
    last: VecDeque<Sample>,
    /// Whose garbage the last sample is, and when the latest of it came.
    garbage: Option<(LinkId, u64)>,
}

impl Samples {
    pub fn push(&mut self, now: Now, reason: Refused, flags: RecordFlags, bytes: &[u8]) {
        if self.last.len() == SAMPLES_MAX {
            self.last.pop_front();
        }
        let bytes = bytes[..bytes.len().min(SAMPLE_BYTES)].to_vec();
        self.last.push_back(Sample { at_wall_ns: now.wall_ns, reason, flags, bytes });
        self.garbage = None;
    }

    /// Garbage comes in pieces, down to single bytes: what belongs together is one sample.
    pub fn push_garbage(&mut self, now: Now, link: LinkId, bytes: &[u8]) {
        let joins = |(last, at_ns)| last == link && now.mono_ns.saturating_sub(at_ns) < GARBAGE_JOIN_NS;
        match self.last.back_mut().filter(|_| self.garbage.is_some_and(joins)) {
            Some(sample) => {
                let room = SAMPLE_BYTES - sample.bytes.len();
                sample.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            None => self.push(now, Refused::Garbage, RecordFlags::default(), bytes),
        }
        self.garbage = Some((link, now.mono_ns));
    }

    /// Takes over those of an earlier source of the same name.
    pub fn inherit(&mut self, earlier: Self) {
        for sample in earlier.last.into_iter().rev().take(SAMPLES_MAX - self.last.len()) {
            self.last.push_front(sample);
        }
    }

    /// The samples, oldest first.
    pub fn list(&self) -> Vec<Sample> {
        self.last.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(mono_ns: u64) -> Now {
        Now { mono_ns, wall_ns: 1_000 + mono_ns }
    }

    #[test]
    fn only_the_last_samples_are_kept_and_each_is_short() {
        let mut samples = Samples::default();
        for number in 0..100 {
            samples.push(now(number), Refused::Checksum, RecordFlags::default(), &[number as u8; 100]);
        }
        let list = samples.list();
        let expected = (92..100).map(|number| Sample {
            at_wall_ns: 1_000 + number,
            reason: Refused::Checksum,
            flags: RecordFlags::default(),
            bytes: vec![number as u8; SAMPLE_BYTES],
        });
        assert_eq!(list, expected.collect::<Vec<_>>());
    }

    #[test]
    fn garbage_of_one_link_is_one_sample_until_something_else_comes_or_a_second_passes() {
        let (a, b) = (LinkId { index: 1, generation: 1 }, LinkId { index: 2, generation: 1 });
        let mut samples = Samples::default();
        for byte in b"abc" {
            samples.push_garbage(now(0), a, &[*byte]);
        }
        samples.push_garbage(now(GARBAGE_JOIN_NS - 1), a, &[b'd'; 100]);
        samples.push_garbage(now(GARBAGE_JOIN_NS), b, b"e");
        samples.push_garbage(now(GARBAGE_JOIN_NS), a, b"f");
        samples.push(now(GARBAGE_JOIN_NS), Refused::Unfinished, RecordFlags::default(), b"g");
        samples.push_garbage(now(GARBAGE_JOIN_NS), a, b"h");
        samples.push_garbage(now(2 * GARBAGE_JOIN_NS), a, b"i");
        let bytes: Vec<Vec<u8>> = samples.list().into_iter().map(|sample| sample.bytes).collect();
        let mut long = b"abc".to_vec();
        long.resize(SAMPLE_BYTES, b'd');
        assert_eq!(bytes, [&long[..], b"e", b"f", b"g", b"h", b"i"]);
    }
}
