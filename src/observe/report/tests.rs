use super::*;

fn shard(core: u16, delivered: u64) -> Snapshot {
    let terms =
        Terms { received: delivered + 6, recovered: 5, delivered, pending: 4, parked: 0, rejected: 2, discarded: 5 };
    let mut shard = Snapshot { core, terms, lanes: 7, ..Snapshot::default() };
    shard.counters.received_bytes = 1000 + u64::from(core);
    shard.stages.record(Stage::Whole, 2_000_000 * (u64::from(core) + 1));
    shard
}

fn source(name: &str, received: u64, silent_s: Option<f64>, problem: Option<&str>) -> SourceSnapshot {
    SourceSnapshot {
        name: name.to_owned(),
        kind: "tcp_listen",
        open: 1,
        received,
        rejected: 1,
        bytes: 10 * received,
        garbage_bytes: 2,
        samples: Vec::new(),
        silent_s,
        problem: problem.map(str::to_owned),
        ..SourceSnapshot::default()
    }
}

#[test]
fn what_is_to_be_typed_names_the_configuration_file() {
    let mut parked = shard(0, 1);
    parked.terms.parked = 1;
    let mut report = Report::merge(vec![parked], &[]);
    report.name_file(Path::new("/srv/plant 3/it's.toml"));
    let parked = report.problems.iter().find(|problem| problem.area == Area::Parked).expect("told");
    let words =
        r"1 record is parked, since the API refused it: ringest queue list '/srv/plant 3/it'\''s.toml' --parked";
    assert_eq!(parked.text, words);
}

#[test]
fn terms_counters_histograms_and_lanes_add_up_and_balance() {
    let report = Report::merge(vec![shard(1, 20), shard(0, 10)], &[]);
    let expected =
        Terms { received: 42, recovered: 10, delivered: 30, pending: 8, parked: 0, rejected: 4, discarded: 10 };
    assert_eq!(report.terms, expected);
    assert!(report.terms.balance());
    assert_eq!(report.counters.received_bytes, 2001);
    assert_eq!(report.lanes, 14);
    assert_eq!(report.stages.stage(Stage::Whole).len(), 2);
    assert_eq!(report.shards.iter().map(|shard| shard.core).collect::<Vec<_>>(), [0, 1], "sorted by core");
    assert_eq!(report.problems, []);
}

#[test]
fn sources_merge_by_name_and_keep_their_order() {
    let (mut first, mut second) = (shard(0, 1), shard(1, 1));
    first.sources = vec![source("b", 3, None, None), source("a", 5, Some(9.0), Some("silent"))];
    second.sources = vec![source("a", 7, Some(2.0), Some("silent")), source("c", 1, None, Some("busy"))];
    let report = Report::merge(vec![first, second], &[]);
    let names: Vec<_> = report.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "c"]);
    let a = &report.sources[1];
    assert_eq!((a.open, a.received, a.rejected, a.bytes), (2, 12, 2, 120));
    assert_eq!(a.silent_s, Some(2.0), "the youngest byte counts");
    assert_eq!(a.problem.as_deref(), Some("silent"), "said once");
}

#[test]
fn routes_merge_by_authority_and_join_different_problems() {
    let route = |problem: &str, last_success_s| RouteSnapshot {
        authority: "api:80".to_owned(),
        connections: 2,
        in_flight: 1,
        problem: Some(problem.to_owned()),
        last_success_s,
        waits_s: last_success_s.map(|_| 247.0),
        waits_as_told: last_success_s.is_some(),
    };
    let (mut first, mut second) = (shard(0, 1), shard(1, 1));
    // A core that waits for less, by itself, does not shorten what the service told the other one.
    first.routes = vec![RouteSnapshot { waits_s: Some(2.0), ..route("refused", None) }];
    second.routes = vec![route("timed out", Some(4.0))];
    let report = Report::merge(vec![first, second], &[]);
    assert_eq!(report.routes.len(), 1);
    assert_eq!((report.routes[0].connections, report.routes[0].in_flight), (4, 2));
    assert_eq!(report.routes[0].problem.as_deref(), Some("refused; timed out"));
    assert_eq!(report.routes[0].last_success_s, Some(4.0));
    let told = "refused; timed out; next try in 4 min 7 s, as the service told by Retry-After; to try at once: ringest queue retry \
                CONFIG --now";
    assert_eq!(report.problems[0].text, told);
}

#[test]
fn lanes_that_stand_still_degrade_by_name_and_beyond_ten_by_number() {
    let failing = |number: u32, stuck| FailingRecord {
        record: format!("0-{number}"),
        source: "gauges".to_owned(),
        name: format!("gauges@10.0.0.{number}"),
        attempts: 42,
        failing_s: 200.0 - f64::from(number),
        status: Some(500),
        answer: "answered 500 to a record (text/plain, \"boom\")".to_owned(),
        next_s: (number > 1).then_some(7.5),
        behind: u64::from(number) - 1,
        stuck,
    };
    let mut one = shard(0, 1);
    (one.failing, one.lanes_stuck) = (vec![failing(1, true), failing(9, false)], 1);
    let mut other = shard(1, 1);
    other.failing = (2..=13).map(|number| failing(number, true)).collect();
    other.lanes_stuck = 40;
    let report = Report::merge(vec![other, one], &[]);
    assert_eq!((report.lanes_stuck, report.problems.len(), report.is_failing()), (41, 11, false));
    assert!(report.problems.iter().all(|problem| problem.area == Area::Lane));
    assert_eq!(report.problems[0].name, "gauges@10.0.0.1", "the longest first");
    let told = "record 0-1 is not taken, though those of other machines are: 42 attempts in 3 min 19 s, last: answered 500 to a record \
                (text/plain, \"boom\"); being tried now: ringest queue list CONFIG";
    assert_eq!(report.problems[0].text, told);
    assert!(
        report.problems[1].text.contains("next try in 7 s; 1 record waits behind it"),
        "{}",
        report.problems[1].text
    );
    let others = "31 other lanes stand still while others get through: ringest queue list CONFIG";
    assert_eq!(report.problems[10].text, others);
}

#[test]
fn source_and_route_problems_degrade_and_the_others_fail() {
    let mut degraded = shard(0, 1);
    degraded.sources = vec![source("a", 1, None, Some("no such port"))];
    let report = Report::merge(vec![degraded], &[]);
    assert_eq!(report.problems.len(), 1);
    assert!(!report.is_failing());

    let mut full = shard(0, 1);
    full.journal.block_file_lost = Some("it was removed".to_owned());
    let degraded = Report::merge(vec![full.clone()], &[]);
    assert_eq!((degraded.problems[0].area, degraded.is_failing()), (Area::BlockFile, false));
    full.journal.block_file_lost = None;
    full.journal.problem = Some("the journal is full".to_owned());
    assert!(Report::merge(vec![full], &[]).is_failing());

    let mut wrong = shard(0, 1);
    wrong.terms.pending += 1;
    let report = Report::merge(vec![wrong, shard(1, 1)], &[]);
    assert!(report.is_failing());
    assert_eq!(report.problems[0].name, "core 0");
}

#[test]
fn what_is_parked_degrades_and_is_said_with_what_to_do() {
    let mut parked = shard(0, 1);
    (parked.terms.parked, parked.terms.discarded) = (1, 4);
    let report = Report::merge(vec![parked], &[]);
    assert_eq!((report.problems.len(), report.problems[0].area, report.is_failing()), (1, Area::Parked, false));
    assert_eq!(
        report.problems[0].text,
        "1 record is parked, since the API refused it: ringest queue list CONFIG --parked"
    );
}

#[test]
fn what_is_missing_degrades_and_is_told_by_journal_with_what_to_do() {
    let loss = |core, first, records, exact| LossSnapshot {
        found_wall_ns: 1_795_892_400_000_000_000,
        core,
        first: Some(first),
        last: Some(first + 9),
        records,
        exact,
    };
    let (mut first, mut second) = (shard(0, 1), shard(1, 1));
    // Core 0 has adopted the directory of a core that is no more.
    first.journal.losses = vec![loss(0, 5, 2, true), loss(2, 1, 4, false)];
    second.journal.losses = vec![loss(1, 7, 1, true), loss(1, 90, 2, true)];
    let report = Report::merge(vec![first, second], &[]);
    assert!(report.problems.iter().all(|problem| problem.area == Area::Missing) && !report.is_failing());
    let texts: Vec<&str> = report.problems.iter().map(|problem| problem.text.as_str()).collect();
    let found = "found 2026-11-28T19:00:00Z: ringest queue acknowledge CONFIG";
    let several = found.replace("found", "found first");
    let expected = [
        format!("2 records are missing in the journal of core 0 (numbers 5 to 14), {found}"),
        format!("3 records are missing in the journal of core 1 (numbers 7 to 99, 2 losses), {several}"),
        format!("at most 4 records are missing in the journal of core 2 (numbers 1 to 10), {found}"),
    ];
    assert_eq!(texts, expected);
    let status = report.status("plant", "process", 1.5, ProcessUsage::default());
    let missing = &status["missing"];
    assert_eq!((&missing["records"], &missing["exact"]), (&json!(9), &json!(false)));
    let cores: Vec<u64> = (0..4).filter_map(|place| missing["losses"][place]["core"].as_u64()).collect();
    assert_eq!(cores, [0, 1, 1, 2]);
    let none = Report::merge(vec![shard(0, 1)], &[]).status("plant", "process", 1.5, ProcessUsage::default());
    assert_eq!(none["missing"], json!({ "records": 0, "exact": true, "losses": [] }));
}

#[test]
fn a_silent_core_is_named_and_its_last_figures_still_count() {
    let report = Report::merge(vec![shard(0, 10), shard(1, 20)], &[1]);
    assert!(report.is_failing());
    assert_eq!(report.terms.delivered, 30);
    assert_eq!(report.problems[0].text, "does not answer; its last figures are shown");
    let report = Report::merge(vec![shard(0, 10)], &[1]);
    assert_eq!(report.problems[0].text, "does not answer");
}

#[test]
fn two_errors_that_cancel_out_in_the_sum_are_still_found() {
    let (mut more, mut less) = (shard(0, 10), shard(1, 10));
    more.terms.pending += 1;
    less.terms.pending -= 1;
    let report = Report::merge(vec![more, less], &[]);
    assert!(report.terms.balance());
    assert_eq!(report.problems.len(), 2);
}

#[test]
fn the_status_document_shows_terms_quantiles_and_cost() {
    let process = ProcessUsage { rss_bytes: 4096, cpu_user_s: 0.0003, cpu_system_s: 0.0002 };
    let status = Report::merge(vec![shard(0, 10), shard(1, 20)], &[]).status("plant", "process", 1.5, process);
    assert_eq!(status["terms"]["delivered"], 30);
    assert_eq!(status["balanced"], true);
    assert_eq!(status["durability"], "process");
    assert_eq!(status["stages"]["whole"]["count"], 2);
    let p50 = status["stages"]["whole"]["p50_us"].as_f64().expect("a number");
    assert!((1_980.0..2_020.0).contains(&p50), "{p50}");
    assert_eq!(status["stages"].as_object().expect("an object").len(), 1, "a stage without a measurement is left out");
    let per_record = status["process"]["cpu_us_per_record"].as_f64().expect("a number");
    assert!((per_record - 500.0 / 52.0).abs() < 0.01, "{per_record}");
    assert_eq!(status["shards"][1]["core"], 1);
}
