//! What all bodies need: an input is taken apart from its front, and what a run met is counted.

use std::collections::BTreeMap;

/// Largest stream that [`Input::stream`] gives.
const STREAM_BYTES_MAX: usize = 1_200_000;

/// An input that is taken apart from its front. Behind its end everything is zero.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// Two bytes, little-endian.
    pub fn word(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    /// At most so many bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// Lengths of pieces: up to 15 of them, behind their number.
    pub fn cuts(&mut self) -> &'a [u8] {
        let count = self.byte() % 16;
        self.bytes(count.into())
    }

    /// All the rest. With `expand`, `00 byte n` stands for `16 × (n + 1)²` times that byte: limits are far away otherwise.
    pub fn stream(&mut self, expand: bool) -> Vec<u8> {
        let rest = self.bytes(usize::MAX);
        if !expand {
            return rest.to_vec();
        }
        let mut stream = Vec::new();
        let mut input = Self(rest);
        while !input.is_empty() && stream.len() < STREAM_BYTES_MAX {
            match input.byte() {
                0 => {
                    let (byte, count) = (input.byte(), usize::from(input.byte()) + 1);
                    stream.resize(stream.len() + 16 * count * count, byte);
                }
                byte => stream.push(byte),
            }
        }
        stream
    }
}

/// `bytes` in pieces whose lengths are `cuts`, again and again; pieces may be empty.
pub fn pieces<'a>(mut bytes: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    if cuts.iter().all(|cut| *cut == 0) {
        return vec![bytes];
    }
    let mut pieces = Vec::new();
    for cut in cuts.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(usize::from(*cut).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// How often things happened.
#[derive(Debug, Default)]
pub struct Seen(pub BTreeMap<&'static str, u64>);

impl Seen {
    pub fn count(&mut self, what: &'static str, times: usize) {
        if times > 0 {
            *self.0.entry(what).or_default() += times as u64;
        }
    }
}
