//! Streams that are joined inside, that end soon, and that end a record by their end.

use super::world::{MS, World};
use super::{DELIVER, connect, serial, tcp};
use ringest::shard::RecvEnd;

const S: u64 = 1_000 * MS;
const NAMED: &str =
    "[deliver]\nurl = \"http://127.0.0.1:8000/\"\nbody = \"<{{source}}|{{data}}>\"\ncontent_type = \"text/plain\"\n";

/// A source whose first bytes may be the rest of a record.
fn joined(source: String) -> String {
    source.replace("first = \"keep\"\n", "") + "first = \"discard\"\n"
}

/// Its link has ended, and is closed.
fn end(world: &mut World, link: u32, end: RecvEnd) {
    world.end(link, end);
    world.closed(link);
}

/// Time passes until it is opened again.
fn await_open(world: &mut World, opened: usize) -> u32 {
    for _ in 0..600 {
        if world.opened() > opened {
            return world.port(0);
        }
        world.pass(10 * MS);
    }
    panic!("it is not opened again");
}

fn problem(world: &World, source: &str) -> String {
    world.source(source)["problem"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn what_comes_right_behind_an_open_is_the_rest_of_a_record_and_is_rejected() {
    for source in [joined(serial("m", "9600 8N1")), joined(connect("m", 4001))] {
        let mut world = World::new(&(source + DELIVER));
        let link = world.port(0);
        world.pass(99 * MS);
        world.bytes(link, "34");
        world.pass(S);
        world.bytes(link, "5\r+0012345\r+0012346\r");
        assert_eq!(world.delivered, ["+0012345", "+0012346"]);
        let shown = world.source("m");
        assert_eq!((&shown["received"], &shown["rejected"]), (&3.into(), &1.into()));
        assert_eq!((&shown["samples"][0]["reason"], &shown["samples"][0]["text"]), (&"joined".into(), &"345".into()));
        assert_eq!(problem(&world, "m"), "");
    }
}

#[test]
fn a_machine_that_is_silent_behind_the_open_begins_with_a_record() {
    for (line, wait_ms) in [("9600 8N1", 100), ("300 8N1", 1_000), ("300 7E2", 1_100)] {
        for (ms, delivered) in [(wait_ms - 1, 0), (wait_ms, 1)] {
            let mut world = World::new(&(joined(serial("m", line)) + DELIVER));
            world.pass(ms * MS);
            let link = world.port(0);
            world.bytes(link, "whole\r");
            assert_eq!(world.delivered.len(), delivered, "{line}, {ms} ms behind the open");
            assert_eq!(world.terms().rejected as usize, 1 - delivered);
        }
    }
}

#[test]
fn a_core_that_was_held_up_takes_no_rest_of_a_record_for_a_beginning() {
    let mut world = World::new(&(joined(serial("m", "9600 8N1")) + DELIVER));
    let link = world.port(0);
    // These may have come at once; nobody has looked since.
    world.stall(5 * S);
    world.bytes(link, "345\r+0012345\r");
    assert_eq!(world.delivered, ["+0012345"]);
}

#[test]
fn behind_bytes_that_were_thrown_away_nothing_is_a_beginning_however_late_it_comes() {
    let mut world = World::bare(&(joined(serial("m", "9600 8N1")) + DELIVER));
    world.discarded = true;
    world.start();
    world.pass(60 * S);
    let link = world.port(0);
    world.bytes(link, "345\r+0012345\r");
    assert_eq!(world.delivered, ["+0012345"]);
    assert_eq!(world.terms().rejected, 1);
}

#[test]
fn a_record_that_a_reload_has_cut_does_not_go_on_behind_it_however_late_that_is() {
    for (first, end_of_first) in [("one\r+00", true), ("one\r", false)] {
        let (old, new) = (joined(serial("m", "9600 8N1")), joined(serial("m", "19200 8N1")));
        let mut world = World::new(&(old.clone() + DELIVER));
        let port = world.port(0);
        world.pass(S);
        world.bytes(port, first);
        world.reload(&(old + &new + DELIVER), &[0], &[1]);
        world.closed(port);
        let again = world.port(1);
        world.pass(S);
        world.bytes(again, "12345\r+0012346\r");
        let expected: &[&str] = if end_of_first { &["one", "+0012346"] } else { &["one", "12345", "+0012346"] };
        assert_eq!(world.delivered, expected);
    }
}

#[test]
fn a_machine_that_connects_begins_with_a_record_unless_the_source_says_otherwise() {
    let mut world = World::new(&(tcp("a", 4001) + &joined(tcp("b", 4002)) + DELIVER));
    world.accept(0, 20);
    world.accept(1, 21);
    world.record(20, "a1");
    world.record(21, "b1");
    world.record(21, "b2");
    assert_eq!(world.delivered, ["a1", "b2"]);
}

#[test]
fn what_follows_a_start_needs_no_end_before_it() {
    let framing = "[framing.f]\nstart = \"0x02\"\nend = \"0x03\"\n";
    let source = joined(serial("m", "9600 8N1")) + "framing = \"f\"\n";
    let mut world = World::new(&(framing.to_owned() + &source + DELIVER));
    let link = world.port(0);
    world.bytes(link, "345\x03\x02one\x03");
    assert_eq!(world.delivered, ["one"]);
    assert_eq!(world.source("m")["garbage_bytes"], 4);
}

#[test]
fn three_connections_that_bring_one_record_each_are_a_problem_that_names_the_remedy() {
    let mut world = World::new(&(joined(connect("m", 4001)) + DELIVER));
    for number in 1..=3 {
        assert!(!problem(&world, "m").contains("first = \"keep\""), "{number}");
        let link = await_open(&mut world, number - 1);
        world.bytes(link, "a whole record\r");
        world.pass(4 * S);
        end(&mut world, link, RecvEnd::Closed);
    }
    assert!(problem(&world, "m").contains("first = \"keep\""), "{}", problem(&world, "m"));
    // One that brings nothing says nothing.
    let link = await_open(&mut world, 3);
    world.pass(4 * S);
    end(&mut world, link, RecvEnd::Closed);
    assert!(problem(&world, "m").contains("first = \"keep\""));
    let link = await_open(&mut world, 4);
    world.pass(S);
    world.bytes(link, "a record\r");
    assert_eq!(problem(&world, "m"), "");
    assert_eq!(world.delivered, ["a record"]);
}

#[test]
fn a_connection_that_its_machine_closes_ends_a_record_where_the_source_says_so() {
    let emits = |name, port| tcp(name, port) + "on_close = \"emit\"\n";
    let mut world = World::new(&(tcp("a", 4001) + &emits("b", 4002) + &joined(emits("c", 4003)) + DELIVER));
    for (source, how, delivered) in [
        (0, RecvEnd::Closed, false),
        (1, RecvEnd::Closed, true),
        (1, RecvEnd::Error(104), false),
        (2, RecvEnd::Closed, false), // joined inside
    ] {
        let before = (world.delivered.len(), world.terms().rejected);
        let link = world.accept(source, 20);
        world.bytes(link, "unended");
        end(&mut world, link, how);
        let now = (world.delivered.len() - before.0, world.terms().rejected - before.1);
        assert_eq!(now, if delivered { (1, 0) } else { (0, 1) }, "source {source}, {how:?}");
    }
    assert_eq!(world.delivered, ["unended"]);
    assert_eq!(world.shard.snapshot(world.now()).counters.unended_records, 1);
    // Our own FIN is not the machine's end of a record.
    let link = world.accept(1, 20);
    world.bytes(link, "half");
    let text = tcp("a", 4001) + &emits("b", 4002) + &joined(emits("c", 4003)) + DELIVER;
    world.reload(&text, &[1], &[]);
    world.end(link, RecvEnd::Closed);
    assert_eq!(world.delivered, ["unended"]);
}

/// Whatever is opened says `text` and ends after `life_ns`, for a minute; how often that was.
fn flap(world: &mut World, text: &str, life_ns: u64) -> usize {
    let before = world.opened();
    let mut seen = before - 1; // one is open
    let mut passed = 0;
    while passed < 60 * S {
        if world.opened() > seen {
            seen = world.opened();
            let link = world.port(0);
            world.bytes(link, text);
            world.pass(life_ns);
            end(world, link, RecvEnd::Closed);
            passed += life_ns;
        }
        world.pass(10 * MS);
        passed += 10 * MS;
    }
    if world.opened() > seen {
        let link = world.port(0);
        end(world, link, RecvEnd::Closed);
    }
    world.opened() - before + 1
}

#[test]
fn what_ends_soon_after_each_open_is_opened_seldom_until_one_lives() {
    for source in [joined(connect("m", 4001)), joined(serial("m", "9600 8N1")), connect("m", 4001)] {
        for (text, life_ns) in [("", 0), ("Port already in use\r\n", 0), ("Port already in use\r\n", 2_900 * MS)] {
            let mut world = World::new(&(source.clone() + DELIVER));
            let count = flap(&mut world, text, life_ns);
            assert!((8..=20).contains(&count), "{count} in a minute: {source} {text:?} {life_ns}");
            if source.contains("discard") {
                assert_eq!(world.delivered, [""; 0]);
            }
            assert!(problem(&world, "m").contains("three times in a row"), "{}", problem(&world, "m"));
            // One is open and lives.
            let opened = world.opened();
            await_open(&mut world, opened);
            world.pass(2_900 * MS);
            assert!(problem(&world, "m").contains("three times in a row"), "not before it has lived");
            world.pass(200 * MS);
            assert!(!problem(&world, "m").contains("three times in a row"), "{}", problem(&world, "m"));
            let (link, opened) = (world.port(0), world.opened());
            end(&mut world, link, RecvEnd::Closed);
            world.pass(100 * MS);
            assert_eq!(world.opened(), opened + 1, "as soon as ever");
        }
    }
}

#[test]
fn keys_that_no_open_port_was_made_with_change_while_it_is_open() {
    let text = |alarm: &str| serial("m", "9600 8N1") + &format!("silence_alarm = \"{alarm}\"\n") + DELIVER;
    let mut world = World::new(&text("1h"));
    let link = world.port(0);
    world.bytes(link, "half a re");
    let ops = world.ops.len();
    world.adjust(&text("10s"), &[0]);
    assert_eq!(world.ops[ops..], [""; 0]);
    world.bytes(link, "cord\r");
    assert_eq!(world.delivered, ["half a record"]);
    world.pass(9 * S);
    assert_eq!(problem(&world, "m"), "");
    world.pass(2 * S);
    assert!(problem(&world, "m").contains("silent"), "{}", problem(&world, "m"));
    world.adjust(&text("1h"), &[0]);
    assert_eq!(problem(&world, "m"), "");
}

#[test]
fn a_machine_that_is_named_anew_keeps_its_connection_and_its_lane() {
    let text = |names: &str| tcp("a", 4001).replace("\"connection\"", "\"address\"") + names + NAMED;
    let mut world = World::new(&text(""));
    world.answers = false;
    world.accept(0, 20);
    world.record(20, "one");
    let ops = world.ops.len();
    world.adjust(&text("names = { \"127.0.0.1\" = \"press-4\" }\n"), &[0]);
    assert_eq!(world.ops[ops..], [""; 0]);
    world.record(20, "two");
    world.adjust(&text("names = { \"127.0.0.1\" = \"press-5\" }\n"), &[0]);
    world.accept(0, 21);
    world.record(21, "three");
    assert_eq!(world.lanes(), 1, "one lane keeps their order");
    world.answer_all();
    assert_eq!(world.delivered, ["a@127.0.0.1|one", "press-4|two", "press-5|three"]);
}
