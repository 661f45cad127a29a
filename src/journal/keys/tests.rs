//! Tests of the window of machines' keys.

use super::*;
use std::collections::HashMap;

const S: u64 = 1_000_000_000;
const LIMITS: KeyLimits = KeyLimits { count: 100, age_ns: 64 * S };

fn at(seconds: u64) -> Now {
    Now { mono_ns: seconds * S, wall_ns: 1_700_000_000 * S + seconds * S }
}

fn hashes(key: &str, body: &str) -> KeyHashes {
    KeyHashes::of("press-4", key.as_bytes(), body.as_bytes())
}

/// Keys `from..to`, each taken at its own second, with the record of its own number.
fn taken(limits: KeyLimits, numbers: std::ops::Range<u64>) -> Keys {
    let mut keys = Keys::new(limits, Vec::new());
    for number in numbers {
        keys.take(at(number), hashes(&number.to_string(), "body"), RecordNumber(number));
        keys.check();
    }
    keys
}

#[test]
fn source_key_and_body_are_told_apart_and_source_alone_says_whose_a_key_is() {
    let all = [("a", "b", "c"), ("a", "bc", ""), ("ab", "", "c"), ("a", "c", "b"), ("b", "b", "c"), ("a", "b", "d")];
    let mut seen = HashMap::new();
    for (source, key, body) in all {
        let one = KeyHashes::of(source, key.as_bytes(), body.as_bytes());
        assert_eq!(KeyHashes::decode(&one.encode()), one);
        assert_eq!(one.owner(7), owner_of(source, 7));
        assert_eq!(seen.insert((one.key, one.body), (source, key, body)), None);
    }
    assert_eq!(seen.len(), all.len());
    let cores: std::collections::HashSet<CoreId> = (0..64).map(|n| owner_of(&format!("press-{n}"), 4)).collect();
    assert_eq!(cores.len(), 4, "sources are spread");
}

#[test]
fn where_a_source_belongs_never_changes() {
    // It is part of what lies on disk.
    let routes = ["press-4", "a", "cam.north_7"].map(|source| owner_of(source, u16::MAX).0);
    assert_eq!(routes, [29_283, 33_504, 62_934]);
}

#[test]
fn a_key_is_known_with_its_body_until_so_many_have_followed_it() {
    let mut keys = taken(LIMITS, 1..41);
    assert_eq!(keys.find(at(40), hashes("7", "body")), Some(Known::Same(RecordNumber(7))));
    assert_eq!(keys.find(at(40), hashes("7", "other")), Some(Known::Other));
    assert_eq!(keys.find(at(40), hashes("41", "body")), None);
    let few = KeyLimits { count: 10, ..LIMITS };
    let mut keys = taken(few, 1..41);
    assert_eq!(keys.find(at(40), hashes("30", "body")), None);
    assert_eq!(keys.find(at(40), hashes("31", "body")), Some(Known::Same(RecordNumber(31))));
    let mut none = taken(KeyLimits { count: 0, ..LIMITS }, 1..5);
    assert!(!none.is_on() && none.find(at(5), hashes("4", "body")).is_none());
}

#[test]
fn a_key_is_known_for_its_age_and_hardly_longer_whatever_the_wall_clock_does() {
    let mut keys = taken(LIMITS, 1..3);
    let jumped = Now { wall_ns: 2_000_000_000 * S, ..at(60) };
    assert!(keys.find(jumped, hashes("1", "body")).is_some());
    assert!(keys.find(at(64), hashes("1", "body")).is_some());
    assert!(keys.find(at(65), hashes("1", "body")).is_none());
    assert!(keys.find(at(65), hashes("2", "body")).is_some());
    assert!(keys.find(at(66), hashes("2", "body")).is_none());
    keys.check();
    assert_eq!(keys.floor(), None);
}

#[test]
fn a_start_goes_on_with_the_ages_of_what_it_found() {
    let keys = taken(LIMITS, 1..41);
    let found: Vec<FoundKey> = keys.found().collect();
    let mut later = Keys::new(LIMITS, found.clone());
    later.check();
    // The monotonic clock has begun anew.
    let after = |seconds| Now { mono_ns: 0, ..at(seconds) };
    assert!(later.find(after(70), hashes("3", "body")).is_none());
    assert!(later.find(after(70), hashes("8", "body")).is_some());
    // A clock that was set back by a year makes nothing live for ever.
    let mut earlier = Keys::new(LIMITS, found);
    let back = Now { mono_ns: 0, wall_ns: 1_600_000_000 * S };
    assert!(earlier.find(back, hashes("3", "body")).is_some());
    assert!(earlier.find(Now { mono_ns: 66 * S, ..back }, hashes("40", "body")).is_none());
}

#[test]
fn of_a_key_that_is_found_twice_the_newest_entry_counts_and_the_oldest_keys_go_first() {
    let key = |name: &str, body: &str, seconds: u64, number| FoundKey {
        hashes: hashes(name, body),
        taken_wall_ns: at(seconds).wall_ns,
        order: RecordNumber(number),
        said_in: RecordNumber(number),
    };
    let found = vec![key("a", "old", 1, 5), key("b", "x", 9, 9), key("a", "new", 20, 12), key("c", "x", 2, 6)];
    let mut keys = Keys::new(KeyLimits { count: 2, ..LIMITS }, found);
    keys.check();
    assert_eq!(keys.find(at(21), hashes("a", "new")), Some(Known::Same(RecordNumber(12))));
    assert_eq!(keys.find(at(21), hashes("b", "x")), Some(Known::Same(RecordNumber(9))));
    assert_eq!(keys.find(at(21), hashes("c", "x")), None);
}

#[test]
fn what_old_entries_say_is_said_again_once_by_time_and_in_pieces() {
    let mut keys = taken(LIMITS, 1..41);
    keys.say_again(RecordNumber(21));
    let (mut payload, mut said, mut number) = (Vec::new(), Vec::new(), 100);
    loop {
        let count = keys.next_again(3, &mut payload);
        if count == 0 {
            break;
        }
        assert!(!keys.is_said_below(RecordNumber(number)));
        assert_eq!(payload.len(), 16 + 32 * count);
        said.extend(payload[16..].chunks(32).map(KeyHashes::decode));
        keys.said_again(count, RecordNumber(number));
        number += 1;
        keys.check();
    }
    let expected: Vec<KeyHashes> = (1..21).map(|number| hashes(&number.to_string(), "body")).collect();
    assert_eq!(said, expected);
    assert_eq!(keys.floor(), Some(RecordNumber(21)));
    assert!(!keys.is_said_below(RecordNumber(number - 1)) && keys.is_said_below(RecordNumber(number)));
    assert!(matches!(keys.find(at(41), hashes("1", "body")), Some(Known::Same(n)) if n >= RecordNumber(100)));
    // What is forgotten meanwhile is not said.
    keys.say_again(RecordNumber(200));
    keys.expire(at(64 + 35));
    assert_eq!(keys.next_again(100, &mut payload), 1);
    assert_eq!(KeyHashes::decode(&payload[16..]), hashes("36", "body"));
}

#[test]
fn keys_of_another_journal_are_known_at_once_and_are_to_be_said() {
    let other = taken(LIMITS, 1..21);
    let mut keys = taken(LIMITS, 15..41);
    keys.import(other.found());
    keys.check();
    assert!(keys.has_unsaid());
    assert!(keys.find(at(41), hashes("3", "body")).is_some());
    assert_eq!(keys.find(at(41), hashes("16", "body")), Some(Known::Same(RecordNumber(16))), "its own counts");
    keys.say_again(RecordNumber(1));
    let mut payload = Vec::new();
    let mut said = 0;
    loop {
        let count = keys.next_again(100, &mut payload);
        if count == 0 {
            break;
        }
        said += count;
        keys.said_again(count, RecordNumber(50));
    }
    assert_eq!((said, keys.has_unsaid()), (14, false));
}
