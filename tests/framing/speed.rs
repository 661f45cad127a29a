//! How fast each kind of framing is: `cargo test --release --test framing speed -- --ignored --nocapture`.

use crate::damage::machines;
use ringest::framing::{Framer, Framing, search_bytes_max};
use std::time::Instant;

/// MB/s of a stream in chunks as they are read, and how many times its budget was used up.
fn measure(framing: &Framing, stream: &[u8]) -> (f64, u64, u64) {
    let (mut framer, mut records, mut turns) = (Framer::new(), 0, 0);
    let begun = Instant::now();
    for mut chunk in stream.chunks(4096) {
        loop {
            let mut budget = search_bytes_max(framing);
            while framer.next_within(framing, 0, &mut chunk, &mut budget).is_some() {
                records += 1;
            }
            if !framer.is_starved() {
                break;
            }
            turns += 1;
        }
    }
    (stream.len() as f64 / begun.elapsed().as_secs_f64() / 1e6, records, turns)
}

#[test]
#[ignore = "it measures"]
fn speed_of_each_kind() {
    let mut rng = fastrand::Rng::with_seed(1);
    for machine in machines() {
        let mut stream = Vec::new();
        while stream.len() < 4 << 20 {
            stream.extend((machine.encode)(&(machine.payload)(&mut rng)));
        }
        let (speed, frames, _) = measure(&machine.framing, &stream);
        // The worst: each byte is a start, or may be the first one of a frame.
        let start = machine.framing.starts.first().cloned().unwrap_or_else(|| vec![1]);
        let starts: Vec<u8> = start.iter().copied().cycle().take(256 << 10).collect();
        let (worst, _, turns) = measure(&machine.framing, &starts);
        println!("{:40} {speed:8.1} MB/s, {frames:7} frames; all starts {worst:8.2} MB/s, {turns} turns", machine.name);
    }
}
