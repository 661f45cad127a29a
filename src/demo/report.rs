//! A demonstration's outcome in words and as JSON.

use super::status::{Stage, Terms};
use super::{Options, Outcome};
use crate::ground::count;
use crate::ground::text::{counted, fold_sum, grouped};
use serde::Serialize;
use std::fmt::Write;

/// The line on standard output.
#[derive(Debug, Serialize)]
struct Line {
    received: u64,
    recovered: u64,
    delivered: u64,
    pending: u64,
    parked: u64,
    rejected: u64,
    discarded: u64,
    latency_us: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// `{"received":…,"recovered":…,"delivered":…,"pending":…,"parked":…,"rejected":…,"discarded":…,"latency_us":{"p50":…,"p99":…,"p999":…,"max":…}}`:
/// the gateway's terms, and the latency from a record's scheduled time to its row.
pub fn json(outcome: &Outcome) -> String {
    let Terms { received, recovered, delivered, pending, parked, rejected, discarded } = outcome.status.terms;
    let quantile = |quantile| outcome.verification.latency_us.value_at_quantile(quantile);
    let latency_us = Latency {
        p50: quantile(0.5),
        p99: quantile(0.99),
        p999: quantile(0.999),
        max: outcome.verification.latency_us.max(),
    };
    let line = Line { received, recovered, delivered, pending, parked, rejected, discarded, latency_us };
    serde_json::to_string(&line).expect("numbers only")
}

/// Everything, for people; many lines.
pub fn text(options: &Options, outcome: &Outcome) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut text, options, outcome);
    text
}

fn write_text(text: &mut String, options: &Options, outcome: &Outcome) -> std::fmt::Result {
    let summary = &outcome.summary;
    let seconds = summary.elapsed_ms as f64 / 1e3;
    writeln!(
        text,
        "{} machines sent {} records in {seconds:.1} s, at most {} late{}\n",
        grouped(summary.machines),
        grouped(summary.sent),
        duration(summary.late_max_us as f64),
        if summary.stopped { " (ended early)" } else { "" },
    )?;
    let Terms { received, recovered, delivered, pending, parked, rejected, discarded } = outcome.status.terms;
    if options.chaos {
        write_chaos(text, outcome)?;
    }
    let sum = format!(
        "received {} + recovered {} = delivered {} + pending {} + parked {} + rejected {} + discarded {} ({})",
        grouped(received),
        grouped(recovered),
        grouped(delivered),
        grouped(pending),
        grouped(parked),
        grouped(rejected),
        grouped(discarded),
        if outcome.status.balanced { "balanced" } else { "NOT BALANCED" },
    );
    fold_sum(text, ("Accounting   ", 13), 13, &sum);
    text.push('\n');
    write_latencies(text, outcome)?;
    let cpu_us = outcome.gateway_cpu.as_secs_f64() * 1e6;
    let delivered = if options.chaos { outcome.verification.rows } else { delivered };
    let cores = options.cores;
    writeln!(
        text,
        "\nGateway      {:.1} us of CPU per record, {:.0} MiB resident, {cores} core{}, durability {}\n",
        cpu_us / delivered.max(1) as f64,
        outcome.status.process.rss_bytes as f64 / f64::from(1 << 20),
        if cores == 1 { "" } else { "s" },
        options.durability.name(),
    )?;
    write_verdict(text, outcome)
}

fn write_chaos(text: &mut String, outcome: &Outcome) -> std::fmt::Result {
    writeln!(text, "Chaos        the gateway was killed with kill -9 and the service stopped in the middle")?;
    let unplugged = if outcome.summary.hang_ups > 0 { "a line was unplugged; " } else { "" };
    let lost = match outcome.verification.lost_on_the_line {
        0 => "no record was on a line at the kill".to_owned(),
        lost => {
            format!("lost on a line that the kill cut off, which cannot be asked again: {}", counted(lost, "record"))
        }
    };
    writeln!(text, "             {unplugged}{lost}")?;
    writeln!(text, "             below are the accounting and the stages since the kill\n")
}

fn write_latencies(text: &mut String, outcome: &Outcome) -> std::fmt::Result {
    writeln!(text, "{:<38}{:>8}{:>8}{:>8}{:>8}{:>8}", "Latency", "p50", "p90", "p99", "p99.9", "max")?;
    for stage in count::Stage::ALL {
        let Some(Stage { p50_us, p90_us, p99_us, p999_us, max_us, .. }) = outcome.status.stages.get(stage.name())
        else {
            continue;
        };
        let label = format!("{:<11}{}", stage.name(), stage.description());
        write!(text, "  {label:<36}{:>8}", duration(*p50_us))?;
        write!(text, "{:>8}", p90_us.map_or("-".to_owned(), duration))?;
        writeln!(text, "{:>8}{:>8}{:>8}", duration(*p99_us), duration(*p999_us), duration(*max_us))?;
    }
    let histogram = &outcome.verification.latency_us;
    write!(text, "  {:<36}", "end to end scheduled send to row")?;
    for quantile in [0.5, 0.9, 0.99, 0.999] {
        write!(text, "{:>8}", duration(histogram.value_at_quantile(quantile) as f64))?;
    }
    writeln!(text, "{:>8}", duration(histogram.max() as f64))
}

fn write_verdict(text: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let verification = &outcome.verification;
    if verification.holds() {
        let (expected, rows) = (grouped(verification.expected), grouped(verification.rows));
        let each = match verification.lost_on_the_line {
            0 => "each once".to_owned(),
            lost => format!("{} lost on a line, the others once", grouped(lost)),
        };
        writeln!(
            text,
            "Verified     {expected} records sent, {rows} rows: {each}, in order per machine, byte for byte"
        )?;
    } else {
        let mut findings = verification.findings.iter().collect::<Vec<_>>();
        findings.sort_by_key(|(finding, _)| **finding as u8);
        let findings = findings.into_iter().map(|(finding, count)| format!("{} {finding}", grouped(*count)));
        writeln!(
            text,
            "NOT VERIFIED {} records sent, {} rows: {}",
            grouped(verification.expected),
            grouped(verification.rows),
            findings.collect::<Vec<_>>().join(", ")
        )?;
        for example in &verification.examples {
            writeln!(text, "             {example}")?;
        }
    }
    if outcome.summary.unsent > 0 {
        writeln!(text, "warning: {} records were due but not sent", grouped(outcome.summary.unsent))?;
    }
    // Machines that were ended before their first record have taken their ports with them.
    let has_begun = outcome.summary.sent > 0 || !outcome.summary.stopped;
    for problem in outcome.status.problems.iter().filter(|_| has_begun) {
        writeln!(text, "problem: {}: {}", problem.name, problem.text)?;
    }
    for failure in &outcome.failures {
        writeln!(text, "failure: {failure}")?;
    }
    Ok(())
}

/// Microseconds with three digits and a fitting unit.
fn duration(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 1e3 => return format!("{us:.0} us"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(
            [0.4, 950.0, 1_500.0, 25_000.0, 2_000_000.0].map(duration),
            ["0 us", "950 us", "1.50 ms", "25.0 ms", "2.00 s"]
        );
    }
}
