//! A [`Report`] as metrics text: OpenMetrics 1.0, and the older Prometheus text format 0.0.4 made from it.
//!
//! The terms of the accounting identity are five counters (`ringest_received_total`, …) and two gauges (`ringest_pending`,
//! `ringest_parked`). All durations are in seconds. A scrape makes the text anew from one report, so its numbers belong
//! together.

use super::loaded::Loaded;
use super::process::ProcessUsage;
use super::report::Report;
use super::snapshot::{RouteSnapshot, Snapshot, SourceSnapshot};
use crate::ground::count::Stage;
use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// Content-Type of [`openmetrics`].
pub const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content-Type of [`prometheus`].
pub const PROMETHEUS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the histograms' buckets, in seconds; `+Inf` follows.
pub const BUCKETS_S: [f64; 21] = [
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 60.0, 600.0,
];

/// What is shown beside the report.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The gateway's configured name.
    pub name: String,
    /// The journal's level.
    pub durability: &'static str,
    /// Seconds since the process started.
    pub uptime_s: f64,
    /// Cost of the process.
    pub process: ProcessUsage,
    /// What became of the last attempt to read the configuration.
    pub loaded: Loaded,
    /// How many machines are in each state, by its word.
    pub machines: Vec<(&'static str, u64)>,
}

/// The report as OpenMetrics text.
pub fn openmetrics(report: Report, identity: Identity) -> String {
    let mut registry = Registry::with_prefix("ringest");
    registry.register_collector(Box::new(Page { report, identity }));
    let mut text = String::with_capacity(16 * 1024);
    encode(&mut text, &registry).expect("writing to a string does not fail");
    text
}

/// The report as Prometheus text 0.0.4, which names a counter's family with its `_total`.
pub fn prometheus(report: Report, identity: Identity) -> String {
    let text = openmetrics(report, identity);
    let mut converted = String::with_capacity(text.len() + 1024);
    // Each family starts with its HELP line, and its TYPE line follows.
    let mut help = None;
    for line in text.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
        } else if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').expect("the encoder writes a name and a type");
            let suffix = if kind == "counter" { "_total" } else { "" };
            let words =
                help.take().and_then(|help| help["# HELP ".len()..].split_once(' ')).map_or("", |(_, words)| words);
            converted.push_str(&format!("# HELP {name}{suffix} {words}\n# TYPE {name}{suffix} {kind}\n"));
        } else if line != "# EOF" {
            converted.push_str(line);
            converted.push('\n');
        }
    }
    converted
}

#[derive(Debug)]
struct Page {
    report: Report,
    identity: Identity,
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.terms(&mut encoder)?;
        for (name, help, value) in self.report.counters.each() {
            counter(&mut encoder, name, help, value)?;
        }
        self.stages(&mut encoder)?;
        self.sources(&mut encoder)?;
        self.routes(&mut encoder)?;
        self.shards(&mut encoder)?;
        self.process(&mut encoder)
    }
}

impl Page {
    fn terms(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let terms = &self.report.terms;
        counter(encoder, "received", "Records framed from sources, rejected ones included.", terms.received)?;
        counter(encoder, "recovered", "Unsettled and parked records found in the journal at start.", terms.recovered)?;
        counter(encoder, "delivered", "Records answered with success.", terms.delivered)?;
        counter(encoder, "rejected", "Records not accepted, by a documented rule.", terms.rejected)?;
        counter(encoder, "discarded", "Parked records that an operator deleted.", terms.discarded)?;
        gauge(encoder, "pending", "Records kept, on their way.", terms.pending as f64)?;
        gauge(encoder, "parked", "Records kept aside for an operator.", terms.parked as f64)?;
        let help =
            "Records that are missing from the journals (at most, after a kill), until an operator acknowledges it.";
        gauge(encoder, "missing_records", help, self.report.missing().records as f64)?;
        let help = "Age of the oldest record in memory that waits to be delivered.";
        gauge(encoder, "oldest_pending_seconds", help, self.report.oldest_pending_s())?;
        let help = "Lanes whose first record is not taken, though those of other lanes are.";
        gauge(encoder, "lanes_stuck", help, self.report.lanes_stuck as f64)?;
        let rows =
            self.identity.machines.iter().map(|(state, count)| ([("state", (*state).to_owned())], *count as f64));
        family(encoder, "machines", "Machines that are known, by how they are.", false, rows)?;
        let balanced = self.report.shards.iter().all(|shard| shard.terms.balance());
        let help = "1 while received + recovered = delivered + pending + parked + rejected + discarded on every core.";
        gauge(encoder, "balanced", help, f64::from(u8::from(balanced)))
    }

    fn stages(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help =
            "Time that a record spends in a stage; whole is from its first byte to the answer that delivered it.";
        let mut family = encoder.encode_descriptor("stage_seconds", help, None, MetricType::Histogram)?;
        for stage in Stage::ALL {
            let labels = [("stage", stage.name())];
            let (sum_s, buckets) = buckets(self.report.stages.stage(stage));
            let count = buckets.iter().map(|(_, count)| count).sum();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum_s, count, &buckets, None)?;
        }
        Ok(())
    }

    fn sources(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        type Column = (&'static str, &'static str, bool, fn(&SourceSnapshot) -> f64);
        let columns: [Column; 5] = [
            ("source_received", "Records received from a source, rejected ones included.", true, |s| s.received as f64),
            ("source_rejected", "Records of a source that were rejected.", true, |s| s.rejected as f64),
            ("source_bytes", "Bytes read from a source.", true, |s| s.bytes as f64),
            ("source_open", "Open ports or connections of a source.", false, |s| s.open as f64),
            ("source_problem", "1 while something is wrong with a source.", false, |s| {
                f64::from(u8::from(s.problem.is_some()))
            }),
        ];
        let label = |source: &SourceSnapshot| [("source", source.name.clone()), ("kind", source.kind.to_owned())];
        for (name, help, counts, value) in columns {
            let rows = self.report.sources.iter().map(|source| (label(source), value(source)));
            family(encoder, name, help, counts, rows)?;
        }
        let rows = self.report.sources.iter().filter_map(|source| Some((label(source), source.silent_s?)));
        family(encoder, "source_silent_seconds", "Seconds since the last byte of a source.", false, rows)?;
        let oldest_s = |name: &str| self.report.oldest_pending_s.get(name).copied().unwrap_or(0.0);
        let rows = self.report.sources.iter().map(|source| (label(source), oldest_s(&source.name)));
        let help = "Age of the oldest record in memory that waits to be delivered, of a source.";
        family(encoder, "source_oldest_pending_seconds", help, false, rows)?;
        let denied = self.report.sources.iter().flat_map(|source| {
            source.reasons_to_deny().iter().map(|denial| {
                let labels = [("source", source.name.clone()), ("reason", denial.label().to_owned())];
                (labels, source.denied.of(*denial) as f64)
            })
        });
        let help = "Connections and requests that a listener turned away, for who sent them.";
        family(encoder, "source_denied", help, true, denied)?;
        self.refused(encoder)?;
        self.lines(encoder)
    }

    /// What listeners refused for any reason. `machine` is the SOURCE of the request, and empty where it named none.
    fn refused(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let kinds = self.report.sources.iter().flat_map(|source| source.refused.iter().map(move |kind| (source, kind)));
        let rows = kinds.flat_map(|(source, kind)| {
            let nameless = kind.count - kind.machines.values().sum::<u64>();
            let machines = kind.machines.iter().map(|(machine, count)| (machine.as_str(), *count));
            let rest = (nameless > 0).then_some(("", nameless));
            machines.chain(rest).map(move |(machine, count)| {
                let labels = [("source", source.name.as_str()), ("reason", kind.reason.as_str()), ("machine", machine)];
                (labels.map(|(label, value)| (label, value.to_owned())), count as f64)
            })
        });
        let help = "Connections and requests that a listener refused, by reason and SOURCE.";
        family(encoder, "source_refused", help, true, rows)
    }

    /// What happened on serial lines: what the ttys marked, and what their drivers counted where they do.
    fn lines(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let lines = || self.report.sources.iter().filter_map(|source| Some((&source.name, source.line?)));
        let help = "Breaks and errors that the tty marked in the stream of a serial line.";
        let rows = lines().flat_map(|(source, line)| {
            [("break", line.breaks), ("error", line.errors)]
                .map(|(mark, count)| ([("source", source.clone()), ("mark", mark.to_owned())], count as f64))
        });
        family(encoder, "line_marks", help, true, rows)?;
        let counted = || lines().filter_map(|(source, line)| Some((source, line.driver?)));
        let help = "What the driver of a serial line counted while its port was open.";
        let rows = counted().flat_map(|(source, counts)| {
            let events = [
                ("framing_error", counts.framing_errors),
                ("parity_error", counts.parity_errors),
                ("overrun", counts.overruns),
                ("buffer_overrun", counts.buffer_overruns),
                ("break", counts.breaks),
            ];
            events.map(|(event, count)| ([("source", source.clone()), ("event", event.to_owned())], count as f64))
        });
        family(encoder, "line_events", help, true, rows)?;
        let help = "Bytes that the driver of a serial line counted while its port was open.";
        let rows = counted().flat_map(|(source, counts)| {
            [("received", counts.received_bytes), ("sent", counts.sent_bytes)].map(|(direction, bytes)| {
                ([("source", source.clone()), ("direction", direction.to_owned())], bytes as f64)
            })
        });
        family(encoder, "line_bytes", help, true, rows)
    }

    fn routes(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        type Column = (&'static str, &'static str, fn(&RouteSnapshot) -> f64);
        let columns: [Column; 3] = [
            ("route_connections", "Open connections to the API.", |r| r.connections as f64),
            ("route_in_flight", "Requests to the API without an answer yet.", |r| r.in_flight as f64),
            ("route_problem", "1 while deliveries to the API fail.", |r| f64::from(u8::from(r.problem.is_some()))),
        ];
        let label = |route: &RouteSnapshot| [("authority", route.authority.clone())];
        for (name, help, value) in columns {
            family(encoder, name, help, false, self.report.routes.iter().map(|route| (label(route), value(route))))?;
        }
        let rows = self.report.routes.iter().filter_map(|route| Some((label(route), route.last_success_s?)));
        family(encoder, "route_last_success_seconds", "Seconds since the API's last success.", false, rows)
    }

    fn shards(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        type Column = (&'static str, &'static str, fn(&Snapshot) -> f64);
        let columns: [Column; 8] = [
            ("lanes", "Lanes of a core in memory: those behind the window that nobody sends into are not.", |s| {
                s.lanes as f64
            }),
            ("journal_segments", "Segment files in use.", |s| s.journal.segments as f64),
            ("journal_segment_bytes", "Bytes of the segment files in use.", |s| s.journal.bytes as f64),
            ("journal_window_bytes", "Bytes of records in memory.", |s| s.journal.window_bytes as f64),
            ("journal_behind", "Records behind the window, to be read back from disk.", |s| s.journal.behind as f64),
            ("journal_commit_age_seconds", "How long the oldest block has waited to be on disk.", |s| {
                s.journal.commit_age_s
            }),
            ("journal_problem", "1 while the journal takes no records: full or failed.", |s| {
                f64::from(u8::from(s.journal.problem.is_some()))
            }),
            (
                "journal_block_file_lost",
                "1 once a block file in use was removed: a kill costs what is not on disk.",
                |s| f64::from(u8::from(s.journal.block_file_lost.is_some())),
            ),
        ];
        for (name, help, value) in columns {
            let rows = self.report.shards.iter().map(|shard| ([("core", shard.core.to_string())], value(shard)));
            family(encoder, name, help, false, rows)?;
        }
        Ok(())
    }

    fn process(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Identity { name, durability, uptime_s, process, loaded, .. } = &self.identity;
        let modes = [("user", process.cpu_user_s), ("system", process.cpu_system_s)];
        let rows = modes.map(|(mode, seconds)| ([("mode", mode.to_owned())], seconds));
        family(encoder, "process_cpu_seconds", "CPU time of the process.", true, rows.into_iter())?;
        gauge(encoder, "process_resident_bytes", "Resident memory of the process.", process.rss_bytes as f64)?;
        gauge(encoder, "uptime_seconds", "Time since the gateway started.", *uptime_s)?;
        let help = "1 if the last attempt to read the configuration succeeded; else the earlier one is in force.";
        gauge(encoder, "config_last_reload_successful", help, f64::from(u8::from(loaded.is_successful())))?;
        let help = "When the configuration in force was read, in seconds since 1970.";
        gauge(encoder, "config_last_reload_success_timestamp_seconds", help, loaded.success_s())?;
        let ends = loaded.certificates().into_iter().map(|end| {
            let labels = [("certificate", end.of.name().to_owned()), ("subject", end.subject)];
            (labels, end.not_after_s as f64)
        });
        let help = "When a certificate ends that the configuration names, in seconds since 1970.";
        family(encoder, "tls_certificate_expiry_timestamp_seconds", help, false, ends)?;
        let labels = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("name", name.clone()),
            ("durability", (*durability).to_owned()),
        ];
        let help = "What runs: version, the gateway's name, the journal's level.";
        family(encoder, "build_info", help, false, std::iter::once((labels, 1.0)))
    }
}

fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> fmt::Result {
    Number(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

/// A gauge that is written as an integer where it is one.
struct Number(f64);

impl EncodeMetric for Number {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        match whole(self.0) {
            Some(value) => encoder.encode_gauge(&value),
            None => encoder.encode_gauge(&self.0),
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// The value as an integer, where that loses nothing.
fn whole(value: f64) -> Option<u64> {
    (value >= 0.0 && value < 2f64.powi(53) && value.fract() == 0.0).then_some(value as u64)
}

fn family<const N: usize>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    counts: bool,
    rows: impl Iterator<Item = ([(&'static str, String); N], f64)>,
) -> fmt::Result {
    let kind = if counts { MetricType::Counter } else { MetricType::Gauge };
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        let mut metric = family.encode_family(&labels)?;
        match (counts, whole(value)) {
            (true, Some(value)) => metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
            (true, None) => metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
            (false, _) => Number(value).encode(metric)?,
        }
    }
    Ok(())
}

/// Sum in seconds and the count of each bucket (not cumulative), `+Inf` last. Values are as exact as the histogram's two
/// digits: a value within 1 % of a bound may count on either side of it.
fn buckets(histogram: &Histogram<u64>) -> (f64, Vec<(f64, u64)>) {
    let mut buckets: Vec<(f64, u64)> = BUCKETS_S.iter().map(|bound| (*bound, 0)).collect();
    buckets.push((f64::INFINITY, 0));
    let mut sum_s = 0.0;
    for value in histogram.iter_recorded() {
        let seconds = histogram.median_equivalent(value.value_iterated_to()) as f64 / 1e9;
        let place = BUCKETS_S.partition_point(|bound| *bound < seconds);
        buckets[place].1 += value.count_at_value();
        sum_s += seconds * value.count_at_value() as f64;
    }
    (sum_s, buckets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::count::StageHistograms;

    #[test]
    fn durations_fall_into_the_bucket_that_holds_them_and_add_up() {
        let mut stages = StageHistograms::new();
        for ns in [9_000, 30_000, 30_000, 2_000_000, 3_000_000_000_000] {
            stages.record(Stage::Whole, ns);
        }
        let (sum_s, buckets) = buckets(stages.stage(Stage::Whole));
        let filled: Vec<_> = buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(filled, [(1e-5, 1), (5e-5, 2), (2.5e-3, 1), (f64::INFINITY, 1)]);
        assert!((sum_s / 3000.002069 - 1.0).abs() < 0.01, "{sum_s}");
    }

    #[test]
    fn the_older_format_names_counters_with_total() {
        let identity = Identity {
            name: "a".into(),
            durability: "process",
            uptime_s: 1.5,
            process: ProcessUsage::default(),
            loaded: Loaded::at(0),
            machines: vec![("ok", 2)],
        };
        let report = Report::merge(vec![Snapshot::default()], &[]);
        let new = openmetrics(report.clone(), identity.clone());
        assert!(new.contains("# TYPE ringest_received counter\nringest_received_total 0\n"), "{new}");
        assert!(new.ends_with("# EOF\n"));
        let old = prometheus(report, identity);
        assert!(old.contains("# TYPE ringest_received_total counter\nringest_received_total 0\n"), "{old}");
        assert!(old.contains("# HELP ringest_turns_total Turns of the loop.\n"), "{old}");
        assert!(!old.contains("# EOF"));
    }
}
