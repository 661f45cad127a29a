//! TCP connections on which nothing comes: `idle`, `reconnect_after`, and what a reload changes of them.

use super::world::{MS, World};
use super::{DELIVER, connect, serial, tcp};
use ringest::shard::RecvEnd;

const S: u64 = 1_000 * MS;

fn idle(source: String, after: &str) -> String {
    source + &format!("idle = \"{after}\"\n")
}

fn reconnecting() -> String {
    connect("m", 4001) + "reconnect_after = \"10s\"\n"
}

fn has(world: &World, op: &str) -> bool {
    world.ops.iter().any(|found| found == op)
}

fn ended(world: &World) -> u64 {
    world.shard.snapshot(world.now()).counters.idle_connections_ended
}

fn problem(world: &World) -> String {
    world.source("m")["problem"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_connection_on_which_nothing_comes_is_told_and_closed_and_others_stay() {
    let mut world = World::new(&(idle(tcp("m", 4001), "10s") + &tcp("o", 4002) + DELIVER));
    let (link, other) = (world.accept(0, 20), world.accept(1, 21));
    world.pass(9 * S);
    world.bytes(link, "one\r");
    world.pass(10 * S - 1);
    assert!(!has(&world, &format!("shutdown {link}")), "it has sent something meanwhile");
    world.pass(1);
    assert!(has(&world, &format!("shutdown {link}")) && !has(&world, &format!("close {link}")));
    world.pass(S);
    assert!(has(&world, &format!("close {link}")));
    world.closed(link);
    world.pass(3_600 * S);
    assert!(!has(&world, &format!("shutdown {other}")) && !has(&world, &format!("close {other}")));
    assert_eq!((world.source("m")["open"].as_u64(), world.source("o")["open"].as_u64()), (Some(0), Some(1)));
    assert_eq!((&world.delivered[..], ended(&world)), (&["one".to_owned()][..], 1));
}

#[test]
fn what_comes_behind_our_end_counts_and_who_goes_on_is_read_on() {
    let mut world = World::new(&(idle(tcp("m", 4001), "10s") + DELIVER));
    let link = world.accept(0, 20);
    world.pass(10 * S);
    for number in 0..5 {
        world.pass(900 * MS);
        world.bytes(link, &format!("late {number}\r"));
    }
    assert_eq!(world.delivered.len(), 5);
    world.pass(S - 1);
    assert!(!has(&world, &format!("close {link}")));
    world.pass(1);
    assert!(has(&world, &format!("close {link}")));
    assert_eq!(ended(&world), 1);
}

#[test]
fn what_is_unfinished_becomes_what_a_close_of_the_machine_would_have_made_of_it() {
    for (keys, delivered, rejected) in [("", 0, 1), ("on_close = \"emit\"\n", 1, 0)] {
        for answers in [false, true] {
            let mut world = World::new(&(idle(tcp("m", 4001), "10s") + keys + DELIVER));
            let link = world.accept(0, 20);
            world.bytes(link, "half");
            world.pass(10 * S);
            match answers {
                true => world.end(link, RecvEnd::Closed),
                false => world.pass(S),
            }
            assert!(has(&world, &format!("close {link}")));
            assert_eq!((world.delivered.len(), world.terms().rejected), (delivered, rejected), "{keys}, {answers}");
        }
        // A reset is no close in order, whoever began.
        let mut world = World::new(&(idle(tcp("m", 4001), "10s") + keys + DELIVER));
        let link = world.accept(0, 20);
        world.bytes(link, "half");
        world.pass(10 * S);
        world.end(link, RecvEnd::Error(104));
        assert_eq!((world.delivered.len(), world.terms().rejected), (0, 1));
    }
}

#[test]
fn a_machine_that_is_not_read_for_want_of_room_is_not_idle() {
    let mut world = World::small(&(idle(tcp("m", 4001), "10s") + DELIVER), 4 << 20);
    let link = world.accept(0, 20);
    world.answers = false;
    let mut sent = 0;
    while !has(&world, &format!("pause {link}")) {
        world.bytes(link, &format!("{sent:01000}\r"));
        sent += 1;
        assert!(sent < 100_000, "the journal is never full");
    }
    world.pass(25 * S); // less than the service may take for an answer
    assert!(!has(&world, &format!("shutdown {link}")));
    world.answer_all();
    assert_eq!(world.delivered.len(), sent);
    world.pass(8 * S);
    assert!(!has(&world, &format!("shutdown {link}")), "it is read again, and has its time");
    world.pass(10 * S);
    assert!(has(&world, &format!("shutdown {link}")));
}

#[test]
fn a_silent_device_server_is_connected_to_anew_until_it_sends() {
    let mut world = World::new(&(reconnecting() + DELIVER));
    for round in 1..=3 {
        let link = world.port(0);
        assert_eq!(world.opened(), round);
        if round == 1 {
            world.bytes(link, "one\rhal");
            assert_eq!(problem(&world), "");
        }
        world.pass(10 * S);
        assert!(has(&world, &format!("shutdown {link}")), "round {round}");
        world.pass(S);
        assert!(has(&world, &format!("close {link}")));
        assert!(problem(&world).contains("reconnect_after"), "{}", problem(&world));
        world.closed(link);
        world.pass(S);
        assert!(problem(&world).contains("reconnect_after"), "{}", problem(&world));
    }
    let counters = world.shard.snapshot(world.now()).counters;
    assert_eq!((counters.idle_connections_ended, counters.lost_sources, counters.opened_sources), (3, 3, 4));
    assert_eq!(world.terms().rejected, 1, "the half of a record is counted");
    let link = world.port(0);
    world.bytes(link, "two\r");
    assert_eq!((&world.delivered[..], problem(&world)), (&["one".to_owned(), "two".to_owned()][..], String::new()));
}

#[test]
fn a_reload_changes_limits_of_what_is_open_and_closes_nothing_else() {
    let (a, b, line) = (tcp("a", 4001), connect("b", 4002), serial("c", "9600 8N1"));
    let mut world = World::new(&(a.clone() + &b + &line + DELIVER));
    let (link, device) = (world.accept(0, 20), world.port(1));
    world.bytes(link, "hal");
    world.pass(60 * S);
    let keys = "keepalive = \"5s\"\nuser_timeout = \"9s\"\n";
    let new = idle(a.clone(), "2m") + keys + &b + keys + "reconnect_after = \"1h\"\n" + &line + DELIVER;
    world.adjust(&new, &[0, 1]);
    for link in [link, device] {
        assert!(has(&world, &format!("watch over {link}")));
    }
    world.bytes(link, "f\r");
    assert_eq!(world.delivered, ["half"]);
    // A shorter limit, which is over.
    world.pass(60 * S);
    world.adjust(&new.replace("2m", "30s"), &[0]);
    world.pass(1);
    assert!(has(&world, &format!("shutdown {link}")));
    // And none again.
    let next = world.accept(0, 21);
    world.adjust(&(a + &b + &line + DELIVER), &[0, 1]);
    world.pass(7_200 * S);
    assert!(!has(&world, &format!("shutdown {next}")) && !has(&world, &format!("shutdown {device}")));
}

#[test]
fn a_proxy_that_tells_of_nobody_may_not_be_silent_for_ever() {
    let source = idle(tcp("m", 4001), "10s") + "proxies = [\"127.0.0.1\"]\n";
    let mut world = World::new(&(source + DELIVER));
    let link = world.accept(0, 20);
    world.bytes(link, "PROXY UNKNOWN\r\n");
    world.pass(10 * S - 1);
    assert!(!has(&world, &format!("close {link}")));
    world.pass(1);
    assert!(has(&world, &format!("close {link}")));
    assert_eq!(ended(&world), 1);
}

#[test]
fn a_source_that_is_removed_meanwhile_does_not_wait_for_who_goes_on_sending() {
    let (goes, stays) = (idle(tcp("m", 4001), "10s"), serial("c", "9600 8N1"));
    let mut world = World::new(&(goes.clone() + &stays + DELIVER));
    let link = world.accept(0, 20);
    world.pass(10 * S);
    world.bytes(link, "one\r");
    world.reload(&(goes + &stays + DELIVER), &[0], &[]);
    world.pass(900 * MS);
    world.bytes(link, "two\rhal");
    world.pass(100 * MS);
    assert!(has(&world, &format!("close {link}")));
    assert_eq!(world.ops.iter().filter(|op| **op == format!("shutdown {link}")).count(), 1);
    assert_eq!((&world.delivered[..], world.terms().rejected), (&["one".to_owned(), "two".to_owned()][..], 1));
}
