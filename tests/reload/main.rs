//! A shard without a kernel that is given another configuration: which operations that leads to, and what becomes of records;
//! and what it makes of streams that begin and end.

mod idle;
mod streams;
mod world;

use ringest::shard::{RecvEnd, SourceId};
use world::{MS, World};

const DELIVER: &str =
    "[deliver]\nurl = \"http://127.0.0.1:8000/\"\nbody = \"<{{data}}>\"\ncontent_type = \"text/plain\"\n";

fn tcp(name: &str, port: u16) -> String {
    format!(
        "[[source]]\nname = \"{name}\"\nkind = \"tcp_listen\"\nlisten = \"127.0.0.1:{port}\"\nlane = \"connection\"\n"
    )
}

fn serial(name: &str, line: &str) -> String {
    format!(
        "[[source]]\nname = \"{name}\"\nkind = \"serial\"\npath = \"/dev/{name}\"\nline = \"{line}\"\nfirst = \"keep\"\n"
    )
}

fn connect(name: &str, port: u16) -> String {
    format!("[[source]]\nname = \"{name}\"\nkind = \"tcp_connect\"\nconnect = \"127.0.0.1:{port}\"\nfirst = \"keep\"\n")
}

#[test]
fn the_same_settings_lead_to_no_operation() {
    let text = tcp("a", 4001) + &serial("b", "9600 8N1") + DELIVER;
    let mut world = World::new(&text);
    world.accept(0, 20);
    world.record(20, "one");
    let ops = world.ops.len();
    let reloaded = world.reload(&text, &[], &[]);
    assert!(reloaded.applied && reloaded.in_use.is_empty());
    assert_eq!(world.ops[ops..], [""; 0]);
    world.record(20, "two");
    assert_eq!(world.delivered, ["one", "two"]);
}

#[test]
fn a_removed_port_is_closed_and_its_waiting_records_go_out_while_the_others_are_left_alone() {
    let mut world = World::new(&(tcp("a", 4001) + &serial("b", "9600 8N1") + DELIVER));
    world.answers = false;
    world.accept(0, 20);
    let port = world.port(1);
    world.bytes(port, "one\rtwo\rhalf");
    world.record(20, "a1");
    let ops = world.ops.len();
    let reloaded = world.reload(&(tcp("a", 4001) + &serial("b", "9600 8N1") + DELIVER), &[1], &[]);
    assert_eq!(world.ops[ops..], [format!("close {port}")]);
    assert_eq!(reloaded.in_use, [SourceId(1)], "until it is closed");
    assert_eq!(world.shown("b"), 1);
    world.closed(port);
    assert_eq!(world.shown("b"), 0, "nothing is left of it but its records");
    assert_eq!(world.terms().pending, 3);
    assert_eq!(world.terms().rejected, 1, "what was unfinished");
    world.answer_all();
    world.delivered.sort_unstable();
    assert_eq!(world.delivered, ["a1", "one", "two"]);
    assert!(world.reload(&(tcp("a", 4001) + &serial("b", "9600 8N1") + DELIVER), &[], &[]).in_use.is_empty());
}

#[test]
fn a_changed_port_is_opened_when_the_old_one_is_closed_and_goes_on_in_its_lane() {
    let first = serial("b", "9600 8N1") + DELIVER;
    let mut world = World::new(&first);
    world.answers = false;
    let port = world.port(0);
    world.bytes(port, "one\rtwo\r");
    let opens = |world: &World| world.ops.iter().filter(|op| op.starts_with("open port")).count();
    world.reload(&(serial("b", "9600 8N1") + &serial("b", "19200 8N1") + DELIVER), &[0], &[1]);
    assert_eq!(opens(&world), 1, "not while it is open still");
    world.closed(port);
    assert_eq!(opens(&world), 2);
    let again = world.port(1);
    world.bytes(again, "three\r");
    assert_eq!(world.lanes(), 1, "one lane keeps their order");
    world.answer_all();
    assert_eq!(world.delivered, ["one", "two", "three"]);
    assert_eq!(world.source("b")["received"], 3, "its counts go on");
}

#[test]
fn a_port_that_is_being_opened_is_given_up() {
    let mut world = World::bare(&(serial("b", "9600 8N1") + DELIVER));
    world.opens = false;
    world.start();
    let link = world.opening[0];
    world.reload(&(serial("b", "9600 8N1") + &serial("b", "19200 8N1") + DELIVER), &[0], &[1]);
    assert!(world.ops.contains(&format!("close {}", link.index)), "{:?}", world.ops);
    assert_eq!(world.opening.len(), 1);
    world.opens = true;
    world.closed(link.index);
    world.bytes(world.port(1), "one\r");
    assert_eq!(world.delivered, ["one"]);
}

#[test]
fn a_removed_listener_accepts_no_more_and_its_machines_may_end_what_they_say() {
    let mut world = World::new(&(tcp("a", 4001) + &tcp("b", 4002) + DELIVER));
    let leaving = world.accept(0, 20);
    let staying = world.accept(1, 21);
    world.record(20, "one");
    let ops = world.ops.len();
    let text = tcp("a", 4001) + &tcp("b", 4002) + DELIVER;
    world.reload(&text, &[0], &[]);
    assert_eq!(world.ops[ops..], ["pause accept 0".to_owned(), format!("shutdown {leaving}")]);
    world.record(20, "two");
    // One that crossed it is turned away.
    let late = world.accept(0, 22);
    assert!(world.ops.contains(&format!("close {late}")), "{:?}", world.ops);
    world.closed(late);
    world.end(leaving, RecvEnd::Closed);
    world.closed(leaving);
    assert_eq!(world.shown("a"), 0);
    world.record(21, "three");
    assert_eq!(world.delivered, ["one", "two", "three"]);
    assert!(!world.ops.contains(&format!("close {staying}")));
}

#[test]
fn a_machine_that_does_not_hear_the_end_is_cut_after_a_second() {
    let mut world = World::new(&(tcp("a", 4001) + DELIVER));
    let link = world.accept(0, 20);
    world.reload(&(tcp("a", 4001) + DELIVER), &[0], &[]);
    world.pass(999 * MS);
    world.record(20, "in time");
    let close = format!("close {link}");
    assert!(!world.ops.contains(&close));
    world.pass(MS);
    assert!(world.ops.contains(&close));
    assert_eq!(world.delivered, ["in time"]);
}

#[test]
fn the_place_of_a_removed_source_is_used_again_and_old_timers_do_not_reach_the_new_one() {
    let alarm = "silence_alarm = \"1s\"\n";
    let mut world = World::new(&(connect("a", 1) + alarm + DELIVER));
    let link = world.port(0);
    world.end(link, RecvEnd::Closed);
    world.closed(link);
    // It is to be connected again in a moment; it is removed meanwhile, and another takes its place.
    assert!(world.reload(&(connect("a", 1) + alarm + DELIVER), &[0], &[]).in_use.is_empty());
    world.reload(&(connect("z", 2) + "silence_alarm = \"1h\"\n" + DELIVER), &[], &[0]);
    let connects = |world: &World| world.ops.iter().filter(|op| op.starts_with("connect source")).count();
    assert_eq!(connects(&world), 2);
    world.pass(10_000 * MS);
    assert_eq!(connects(&world), 2);
    assert_eq!(world.source("z")["problem"], serde_json::Value::Null, "it is not silent yet");
    world.bytes(world.port(0), "one\r");
    assert_eq!(world.delivered, ["one"]);
}

#[test]
fn a_retired_port_whose_bytes_wait_for_room_ends_when_they_are_framed_and_its_heir_begins_then() {
    let text = serial("b", "9600 8N1") + "flow = \"rtscts\"\n" + DELIVER;
    let mut world = World::small(&text, 4 << 20);
    world.answers = false;
    let port = world.port(0);
    let mut sent = 0;
    while !world.ops.contains(&format!("pause {port}")) {
        world.bytes(port, &format!("{sent:01000}\r"));
        sent += 1;
        assert!(sent < 10_000, "the journal is never full");
    }
    let heir = serial("b", "19200 8N1") + "flow = \"rtscts\"\n";
    world.reload(&(serial("b", "9600 8N1") + "flow = \"rtscts\"\n" + &heir + DELIVER), &[0], &[1]);
    let close = format!("close {port}");
    assert!(!world.ops.contains(&close), "what was read is not thrown away");
    world.answers = true;
    world.answer_all();
    assert!(world.ops.contains(&close));
    world.closed(port);
    world.bytes(world.port(1), "last\r");
    let mut expected: Vec<String> = (0..sent).map(|number| format!("{number:01000}")).collect();
    expected.push("last".to_owned());
    assert_eq!(world.delivered, expected);
    assert_eq!(world.terms().rejected, 0);
}

#[test]
fn requests_in_flight_are_judged_by_the_rules_they_were_sent_by() {
    let text = tcp("a", 4001) + DELIVER;
    let mut world = World::new(&text);
    world.answers = false;
    world.accept(0, 20);
    world.record(20, "one");
    world.record(20, "two");
    assert_eq!(world.unanswered.len(), 1);
    // 201 is no success any more.
    let other = text.replace("content_type", "success = [202]\ncontent_type").replace("<{{data}}>", "({{data}})");
    let reloaded = world.reload(&other, &[], &[]);
    assert_eq!(reloaded.tried, 1);
    world.answer(0, 201);
    assert_eq!(world.terms().delivered, 1, "it was one when the record was sent");
    assert_eq!(world.bodies(), ["<one>", "(two)"]);
    world.answer(0, 202);
    assert_eq!(world.terms().delivered, 2);
}

#[test]
fn a_record_that_fails_under_the_old_rules_goes_out_at_once_by_the_new_ones_under_its_key() {
    let text = tcp("a", 4001) + DELIVER;
    let mut world = World::new(&text);
    world.answers = false;
    world.accept(0, 20);
    world.record(20, "one");
    let moved = text.replace(":8000", ":8001").replace("<{{data}}>", "({{data}})");
    world.reload(&moved, &[], &[]);
    assert_eq!(world.routes(), ["127.0.0.1:8000", "127.0.0.1:8001"]);
    world.answer(0, 503);
    assert_eq!(world.bodies(), ["<one>", "(one)"]);
    assert_eq!(world.keys[0], world.keys[1]);
    let connects: Vec<&String> = world.ops.iter().filter(|op| op.starts_with("connect api")).collect();
    assert_eq!(connects.len(), 2);
    world.answer(0, 201);
    assert_eq!((world.terms().delivered, world.routes()), (1, vec!["127.0.0.1:8001".to_owned()]));
}

#[test]
fn idle_connections_to_an_old_address_are_closed_and_those_to_the_same_are_kept() {
    let text = tcp("a", 4001) + DELIVER;
    let mut world = World::new(&text);
    world.accept(0, 20);
    world.record(20, "one");
    let closes = |world: &World| world.ops.iter().filter(|op| op.starts_with("close")).count();
    world.reload(&text.replace("<{{data}}>", "({{data}})"), &[], &[]);
    world.record(20, "two");
    assert_eq!((closes(&world), world.connections), (0, 1), "the same connection");
    world.reload(&text.replace(":8000", ":8001"), &[], &[]);
    assert_eq!(closes(&world), 1);
    world.record(20, "three");
    assert_eq!(world.connections, 2);
    assert_eq!(world.delivered, ["one", "two", "three"]);
}

#[test]
fn a_step_that_was_held_back_goes_on_at_once_under_new_rules() {
    let slow = "retry = { first = \"10m\", max = \"10m\" }\n";
    let text = tcp("a", 4001) + DELIVER + slow;
    let mut world = World::new(&text);
    world.answers = false;
    for fd in 20..30 {
        world.accept(0, fd);
        world.record(fd, &format!("r{fd}"));
    }
    while !world.unanswered.is_empty() {
        world.answer(0, 401);
    }
    assert_eq!(world.terms().delivered, 0);
    world.answers = true;
    world.reload(&(text.clone() + "[deliver.headers]\nX-Key = \"new\"\n"), &[], &[]);
    assert_eq!(world.terms().delivered, 10);
}

#[test]
fn an_id_step_comes_and_goes_with_records_in_every_state() {
    let one = tcp("a", 4001) + DELIVER;
    let two = one.replace("<{{data}}>", "{{id}}:{{data}}")
        + "[sequence]\nurl = \"http://127.0.0.1:8001/seq\"\nid_at = \"/id\"\n";
    let mut world = World::new(&one);
    world.answers = false;
    for fd in 20..24 {
        world.accept(0, fd);
        world.record(fd, &format!("r{fd}"));
    }
    // One fails and waits for its next attempt.
    world.answer(0, 503);
    world.reload(&two, &[], &[]);
    // In flight without an id: it fails, and asks for one.
    while !world.unanswered.is_empty() {
        world.answer(0, 503);
        if world.bodies().iter().any(|body| body == "{}") {
            break;
        }
    }
    world.reload(&one, &[], &[]);
    world.reload(&two, &[], &[]);
    world.answers = true;
    world.answer_all();
    world.pass(1_000 * MS);
    world.answer_all();
    assert_eq!(world.terms().delivered, 4);
    world.answers = false;
    world.record(20, "late");
    assert_eq!(world.bodies().last().map(String::as_str), Some("{}"));
    // Asked for under rules that are gone: the answer is an id all the same, which nobody shows.
    world.reload(&one, &[], &[]);
    world.answer(0, 201);
    assert_eq!(world.bodies().last().map(String::as_str), Some("<late>"));
    world.answer(0, 201);
    assert_eq!(world.terms().delivered, 5);
}

#[test]
fn a_lower_limit_of_connections_pauses_accepting_and_a_higher_one_resumes_it() {
    let text = tcp("a", 4001) + DELIVER;
    let limited = |count: u32| format!("{text}[limits]\nconnections = {count}\n");
    let mut world = World::new(&limited(4));
    let first = world.accept(0, 20);
    world.accept(0, 21);
    world.reload(&limited(1), &[], &[]);
    assert_eq!(world.ops.last().map(String::as_str), Some("pause accept 0"));
    world.end(first, RecvEnd::Closed);
    world.closed(first);
    assert_eq!(world.accepts(), 1, "one is open still");
    world.reload(&limited(2), &[], &[]);
    assert_eq!(world.accepts(), 2);
    assert_eq!(world.source("a")["problem"], serde_json::Value::Null);
}

#[test]
fn idle_machines_of_one_source_do_not_lock_out_another_source() {
    let text = tcp("a", 4001) + &tcp("b", 4002) + DELIVER + "[limits]\nconnections = 3\n";
    let mut world = World::new(&text);
    let first: Vec<_> = (0..3).map(|index| world.accept(0, 20 + index)).collect();
    assert_eq!(world.ops.last().map(String::as_str), Some("pause accept 0"));
    assert!(world.source("a")["problem"].as_str().is_some_and(|problem| problem.contains("limits.connections")));
    assert_eq!(world.source("b")["problem"], serde_json::Value::Null);
    world.accept(1, 30);
    world.record(30, "one");
    assert_eq!((world.delivered.len(), world.accepts()), (1, 2));
    world.end(first[0], RecvEnd::Closed);
    world.closed(first[0]);
    assert_eq!((world.accepts(), &world.source("a")["problem"]), (3, &serde_json::Value::Null));
}

#[test]
fn a_connection_beyond_the_limit_that_was_accepted_all_the_same_is_closed() {
    // Where another core accepts for all, it does not know how many this one has.
    let text = tcp("a", 4001) + DELIVER + "[limits]\nconnections = 2\n";
    let mut world = World::new(&text);
    let first = world.accept(0, 20);
    world.accept(0, 21);
    let closes = |world: &World| world.ops.iter().filter(|op| op.starts_with("close")).count();
    assert_eq!(closes(&world), 0);
    world.accept_unknown(0, 22);
    assert_eq!(closes(&world), 1, "{:?}", world.ops);
    assert_eq!(world.source("a")["open"], 2);
    world.end(first, RecvEnd::Closed);
    world.closed(first);
    world.accept(0, 23);
    world.record(23, "one");
    assert_eq!(world.delivered, ["one"]);
}

#[test]
fn the_last_quarter_of_all_connections_is_shared_out_among_the_sources() {
    let text = (1..=4).map(|index| tcp(&format!("s{index}"), 4000 + index)).collect::<String>() + DELIVER;
    let mut world = World::crowded(&text, 16);
    for index in 0..12 {
        world.accept(index % 2, 20 + i32::from(index));
    }
    // The two that have taken three quarters have more than their share of the rest.
    assert_eq!(world.ops[world.ops.len() - 2..], ["pause accept 0", "pause accept 1"]);
    world.accept(2, 40);
    world.accept(3, 41);
    world.record(40, "c");
    world.record(41, "d");
    assert_eq!(world.delivered, ["c", "d"]);
}

#[test]
fn a_connection_handed_over_before_this_core_knows_its_source_is_read_once_it_does() {
    let mut world = World::new(&(tcp("a", 4001) + DELIVER));
    world.accept_unknown(1, 20);
    assert!(!world.ops.iter().any(|op| op.starts_with("close")), "{:?}", world.ops);
    world.reload(&(tcp("a", 4001) + &tcp("b", 4002) + DELIVER), &[], &[1]);
    world.record(20, "one");
    assert_eq!(world.delivered, ["one"]);
}

#[test]
fn nothing_is_taken_over_once_the_shard_is_told_to_stop() {
    let text = tcp("a", 4001) + DELIVER;
    let mut world = World::new(&text);
    world.answers = false;
    world.accept(0, 20);
    world.record(20, "one");
    world.shard.stop(world.now());
    world.settle();
    let reloaded = world.reload(&(tcp("a", 4001) + &tcp("b", 4002) + DELIVER), &[0], &[1]);
    assert!(!reloaded.applied);
    world.answer_all();
    assert_eq!(world.delivered, ["one"]);
    assert!(world.shard.is_stopped() || !world.ops.iter().any(|op| op == "accept 1"));
}

#[test]
fn what_is_told_before_the_journal_is_ready_is_in_force_when_intake_begins() {
    let text = tcp("a", 4001) + DELIVER;
    let mut world = World::bare(&text);
    world.reload(&(tcp("a", 4001) + &tcp("b", 4002) + DELIVER), &[0], &[1]);
    world.start();
    let accepts: Vec<&String> = world.ops.iter().filter(|op| op.starts_with("accept")).collect();
    assert_eq!(accepts, ["accept 1"]);
}
