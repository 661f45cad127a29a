//! The forms in which HTTP machines send: several records in a body, a body packed by gzip, and one
//! SOURCE on several connections. Drawn apart, so that a world without them is what it was.

use super::context::{MS, S};
use super::machines::MachinePlan;
use super::payload::{Alphabet, make, make_string};
use super::plan::{Fault, FaultKind};
use super::proxy::PROXY;
use super::receiver::Contract;
use flate2::Compression;
use flate2::write::GzEncoder;
use ringest::access::Proxies;
use ringest::config::{Deliver, LaneKey, Source, SourceKind};
use ringest::http::server::Array;
use std::io::Write;

/// The forms of a world. All its HTTP machines send so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// Records in each body. The shard counts requests that it refuses: with one number for all it
    /// is known how many records those are.
    pub records: usize,
    /// Longest record of a body of several.
    pub bytes_max: usize,
    /// Some bodies are packed.
    pub is_packed: bool,
    /// Connections on which a machine sends by turns, each time after the answer to the request
    /// before.
    pub connections: usize,
    /// A proxy is in front of them.
    pub is_proxied: bool,
}

/// Beside its data: an entry's header, a record's own, and what a machine gives in a header.
const RECORD_MORE_BYTES: usize = 130;
/// Of a block, beside its records: its header, a key and who sent them.
const BLOCK_MORE_BYTES: usize = 1_200;

impl Forms {
    /// One record in a body, as it is, on one connection.
    pub const PLAIN: Self = Self { records: 1, bytes_max: 0, is_packed: false, connections: 1, is_proxied: false };

    /// Of a world with such blocks: one in three has some. `is_by_source`: the order of a SOURCE holds
    /// across connections.
    pub fn of(seed: u64, block_bytes: u32, is_by_source: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x666f_726d);
        let kind = rng.u8(..20);
        let (is_batched, is_spread) = (kind < 4, (2..6).contains(&kind));
        let (records, connections) = (*rng.choice(&[2, 3, 5, 12, 30]).expect("some"), rng.usize(2..=4));
        let records = if is_batched { records } else { 1 };
        Self {
            records,
            bytes_max: (block_bytes as usize - BLOCK_MORE_BYTES) / records - RECORD_MORE_BYTES,
            is_packed: kind < 8 && kind % 2 == 1,
            connections: if is_spread && is_by_source { connections } else { 1 },
            is_proxied: (4..8).contains(&kind),
        }
    }

    /// A machine as it is with these forms. On several connections it waits for each answer.
    pub fn given_to(self, machine: MachinePlan) -> MachinePlan {
        let depth = if self.is_spread() { 1 } else { machine.depth };
        MachinePlan { forms: self, depth, ..machine }
    }

    /// What the gateway and the service must know of them.
    pub fn tell(&self, sources: &mut [Source], deliver: &mut Deliver, contract: &mut Contract) {
        for source in sources.iter_mut().filter(|source| matches!(source.kind, SourceKind::Http { .. })) {
            if self.is_batched() {
                source.forms.array = Array::Split;
            }
            if self.is_proxied {
                source.access.proxies = Proxies(vec![PROXY.into()]);
            }
        }
        if self.is_proxied {
            deliver.body = contract.body.with_address(&deliver.body);
            contract.has_addresses = true;
        }
    }

    /// A disk is at least so slow: what it has a part of is to be met at a crash.
    pub fn disk_delay_ns(&self) -> u64 {
        if self.is_batched() { 30 * MS } else { 0 }
    }

    pub fn is_batched(&self) -> bool {
        self.records > 1
    }

    pub fn is_spread(&self) -> bool {
        self.connections > 1
    }

    /// What a machine puts in front of the names under which it sends.
    pub fn prefix(&self) -> &'static str {
        if self.is_batched() { BATCHES } else { SINGLES }
    }
}

/// The power is cut while several records are on their way to the disk, which may have a part of them.
pub fn cuts(seed: u64) -> [Fault; 3] {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x746f_726e);
    [(); 3].map(|()| Fault { at_ns: S + rng.u64(100 * MS..1_500 * MS), lasts_ns: 0, kind: FaultKind::PowerCut })
}

const SINGLES: &str = "h-";
const BATCHES: &str = "b-";

/// Whether a name is one of an HTTP machine.
pub fn is_of_http(name: &str) -> bool {
    name.starts_with(SINGLES) || is_of_batches(name)
}

/// Whether a name is one under which several records come in a body.
pub fn is_of_batches(name: &str) -> bool {
    name.starts_with(BATCHES)
}

/// Whether the order of each HTTP source is that of its SOURCEs.
pub fn is_by_source(sources: &[Source]) -> bool {
    let is_so = |kind: &SourceKind| !matches!(kind, SourceKind::Http { lane, .. } if *lane != LaneKey::Source);
    sources.iter().all(|source| is_so(&source.kind))
}

/// What a request brings. It is the same whenever it is sent: a key stands for a body.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    pub records: Vec<Vec<u8>>,
    /// Of several records.
    pub media: Option<&'static str>,
    pub body: Vec<u8>,
}

impl Load {
    pub fn single(record: Vec<u8>) -> Self {
        Self { body: record.clone(), records: vec![record], media: None }
    }

    /// Records with the numbers from `first` on. Each can be told from all others.
    pub fn several(rng: &mut fastrand::Rng, forms: &Forms, (machine, first): (usize, u64), alphabet: Alphabet) -> Self {
        let is_array = rng.bool();
        let numbers = first..first + forms.records as u64;
        let mut record = |number| {
            let bytes = rng.usize(40..=forms.bytes_max);
            match is_array {
                true => make_string(rng, machine, number, bytes),
                false => make(rng, machine, number, bytes, alphabet, Some(b'\n')),
            }
        };
        let records: Vec<Vec<u8>> = numbers.map(&mut record).collect();
        let body = if is_array { array(rng, &records) } else { lines(rng, &records) };
        let media = match is_array {
            true => *rng.choice(&["application/json", "application/json; charset=utf-8"]).expect("some"),
            false => *rng.choice(&["application/x-ndjson", "application/jsonl"]).expect("some"),
        };
        Self { records, media: Some(media), body }
    }
}

/// A record a line; empty lines are nothing.
fn lines(rng: &mut fastrand::Rng, records: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for record in records {
        if rng.u8(..8) == 0 {
            body.extend_from_slice(rng.choice(&[&b"\n"[..], b" \r\n"]).expect("some"));
        }
        body.extend_from_slice(record);
        body.extend_from_slice(rng.choice(&[&b"\n"[..], b"\r\n"]).expect("some"));
    }
    if rng.bool() {
        body.truncate(body.trim_ascii_end().len()); // the last line need not end
    }
    body
}

/// An element a record, with white space around some.
fn array(rng: &mut fastrand::Rng, records: &[Vec<u8>]) -> Vec<u8> {
    let mut body = b"[".to_vec();
    for (index, record) in records.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(rng.choice(&[&b""[..], b" ", b"\r\n\t"]).expect("some"));
        body.extend_from_slice(record);
        body.extend_from_slice(rng.choice(&[&b""[..], b"", b"\n"]).expect("some"));
    }
    body.push(b']');
    body
}

/// Packed by gzip, more or less.
pub fn pack(rng: &mut fastrand::Rng, body: &[u8]) -> Vec<u8> {
    let level = *rng.choice(&[Compression::none(), Compression::fast(), Compression::best()]).expect("some");
    let mut packer = GzEncoder::new(Vec::new(), level);
    packer.write_all(body).and_then(|()| packer.finish()).expect("memory takes all")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::inspect;
    use crate::plan::Plan;

    #[test]
    fn each_form_is_in_many_of_the_first_worlds_and_many_have_none() {
        let plans: Vec<Forms> = (0..300).map(|seed| Plan::of(seed).forms).collect();
        let worlds = |is_so: fn(&Forms) -> bool| plans.iter().filter(|forms| is_so(forms)).count();
        let plain = worlds(|forms| *forms == Forms { bytes_max: forms.bytes_max, ..Forms::PLAIN });
        let is_proxied = worlds(|forms| forms.is_proxied);
        let packed = worlds(|forms| forms.is_packed);
        let counts = [worlds(Forms::is_batched), packed, worlds(Forms::is_spread), is_proxied, plain];
        assert!(counts.iter().all(|worlds| *worlds >= 20) && plain >= 150, "{counts:?}");
    }

    #[test]
    fn records_of_a_body_can_be_told_apart_and_fit_into_a_block() {
        let mut rng = fastrand::Rng::with_seed(3);
        for seed in 0..500 {
            let forms = Forms::of(seed, 8192, true);
            if !forms.is_batched() {
                continue;
            }
            for alphabet in [Alphabet::Bytes, Alphabet::Ascii, Alphabet::Text] {
                let load = Load::several(&mut rng, &forms, (7, 100), alphabet);
                let numbers: Vec<_> = load.records.iter().map(|record| inspect(record)).collect();
                let expected: Vec<_> = (0..forms.records as u64).map(|index| Some((7, 100 + index, true))).collect();
                assert_eq!(numbers, expected);
                assert!(load.records.iter().map(Vec::len).sum::<usize>() + BLOCK_MORE_BYTES <= 8192);
            }
        }
    }
}
