//! Values through the whole way: recorded as a shard records them, written as intervals, read by the command.

use crate::json;
use ringest::ground::count::{Stage, StageHistograms};
use ringest::observe::histlog::HistogramLog;
use std::time::{Duration, Instant};

const SAMPLES: usize = 60_000;
const INTERVALS: usize = 7;
/// Two significant digits: a bucket is no wider than a 128th of its values.
const PRECISION: f64 = 1.0 / 128.0;

type Draw = fn(&mut fastrand::Rng) -> f64;

/// From a normal distribution, nearly (Irwin-Hall).
fn normal(random: &mut fastrand::Rng) -> f64 {
    (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
}

const DISTRIBUTIONS: [(Stage, Draw); 6] = [
    (Stage::Frame, |random| random.f64() * 5e6),
    (Stage::Journaled, |random| if random.f64() < 0.999 { 1.0 } else { 3e9 * random.f64() }),
    (Stage::Durable, |random| 2e5 * normal(random).exp()),
    (Stage::Id, |random| -1e6 * (1.0 - random.f64()).ln()),
    (Stage::Answered, |random| 1e4 / (1.0 - random.f64()).powf(1.5)),
    (Stage::Whole, |random| if random.f64() < 0.7 { 8e4 + 5e3 * normal(random) } else { 4e7 + 1e6 * normal(random) }),
];

#[test]
fn percentiles_of_a_report_are_those_of_the_raw_samples_within_two_digits() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("samples.hlog");
    let mut log = HistogramLog::open(path.clone()).expect("a new log");
    let mut stages = StageHistograms::new();
    let mut samples = vec![Vec::new(); DISTRIBUTIONS.len()];
    let begun = Instant::now();
    for interval in 1..=INTERVALS {
        for ((stage, draw), samples) in DISTRIBUTIONS.iter().zip(&mut samples) {
            for _ in 0..SAMPLES / INTERVALS {
                let ns = (draw(&mut random) as u64).clamp(1, StageHistograms::MAX_NS);
                stages.record(*stage, ns);
                samples.push(ns);
            }
        }
        log.write(begun + Duration::from_secs(interval as u64), &stages).expect("written");
    }
    let report = json(&[path.to_str().expect("a path")]);
    let run = &report["runs"][0];
    assert_eq!(run["intervals"], INTERVALS as u64);
    for (index, ((stage, _), samples)) in DISTRIBUTIONS.iter().zip(&mut samples).enumerate() {
        samples.sort_unstable();
        let tag = &run["tags"][index];
        assert_eq!((&tag["tag"], &tag["count"]), (&stage.name().into(), &samples.len().into()));
        let quantiles = [
            ("p50_ns", 0.5),
            ("p90_ns", 0.9),
            ("p99_ns", 0.99),
            ("p999_ns", 0.999),
            ("p9999_ns", 0.9999),
            ("max_ns", 1.0),
        ];
        for (figure, quantile) in quantiles {
            // The nearest rank: the least value that as many samples do not exceed.
            let rank = ((quantile * samples.len() as f64).ceil() as usize).max(1);
            let (raw, told) = (samples[rank - 1] as f64, tag[figure].as_f64().expect("a number"));
            assert!(told >= raw && told <= raw * (1.0 + PRECISION) + 1.0, "{figure} of {stage:?}: {told}, raw {raw}");
        }
        let mean = samples.iter().map(|ns| *ns as f64).sum::<f64>() / samples.len() as f64;
        let told = tag["mean_ns"].as_f64().expect("a number");
        assert!((told / mean - 1.0).abs() < PRECISION, "mean of {stage:?}: {told}, raw {mean}");
    }
}
