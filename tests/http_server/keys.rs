//! Row 60: what a request with the machine's own key is answered, and when. Which answer it is decides the owner; each test plays one.

use super::{GOOD, Machine, SECOND_NS, post};
use ringest::http::server::{Awaited, Limits, Ruling, ServerConnection, Verdict};

fn keyed(body: &str) -> String {
    post(&format!("Idempotency-Key: k\r\nContent-Length: {}\r\n", body.len()), body)
}

/// Feeds a request in pieces and answers it by a verdict.
fn feed(machine: &mut Machine, bytes: &str, piece_bytes: usize, verdict: Verdict) {
    let mut taken = 0;
    for piece in bytes.as_bytes().chunks(piece_bytes) {
        let mut input = piece;
        while let Some(request) =
            machine.connection.next_request((&machine.limits).into(), 0, &mut input, &mut Ruling::everybody)
        {
            assert_eq!(request.idempotency_key, Some(b"k".as_slice()));
            machine.connection.respond(verdict);
            taken += 1;
        }
    }
    assert_eq!(taken, 1);
}

const FIRST: Verdict = Verdict::Accepted { last_number: 5, records: 1, keyed: true };

#[test]
fn row_60_a_key_with_another_body_is_422_and_the_connection_goes_on() {
    for piece_bytes in [usize::MAX, 1] {
        let mut machine = Machine::new();
        feed(&mut machine, &keyed("hello"), piece_bytes.min(4096), Verdict::KeyReused);
        machine.flush(0);
        machine.feed(GOOD.as_bytes());
        let answers = machine.outcome.answers(&[]);
        assert_eq!(machine.outcome.statuses(), [422, 201]);
        assert!(answers[0].body.contains("another body"), "{}", answers[0].body);
        assert_eq!((machine.outcome.refused, machine.outcome.closed), (1, false));
    }
}

#[test]
fn row_60_a_repeat_waits_for_the_first_one_and_is_answered_with_it() {
    let mut machine = Machine::new();
    feed(&mut machine, &keyed("hello"), 4096, FIRST);
    feed(&mut machine, &keyed("hello"), 4096, FIRST);
    machine.connection.release(5);
    machine.flush(0);
    assert!(machine.outcome.statuses().is_empty());
    assert_eq!(machine.connection.awaits(), Some(Awaited::Durable(5)));
    machine.connection.release(6);
    machine.flush(0);
    assert_eq!(machine.outcome.statuses(), [201, 201]);
    assert_eq!(machine.connection.awaits(), None);
}

#[test]
fn row_60_what_waits_too_long_is_409_with_retry_after_if_it_has_a_key_and_the_connection_ends() {
    for verdict in [FIRST, Verdict::Elsewhere { ticket: 3, keyed: true }] {
        let mut machine = Machine::new();
        feed(&mut machine, &keyed("hello"), 4096, verdict);
        feed(&mut machine, &keyed("hello"), 4096, FIRST);
        assert!(machine.connection.give_up());
        machine.flush(30 * SECOND_NS);
        let answers = machine.outcome.answers(&[]);
        assert_eq!(machine.outcome.statuses(), [409]);
        assert_eq!((answers[0].field("retry-after"), answers[0].field("connection")), (Some("1"), Some("close")));
        assert!(machine.outcome.closed && machine.connection.settle(3, Verdict::Taken { records: 1 }).is_none());
    }
    // Without a key nothing true can be said.
    for verdict in
        [Verdict::Accepted { last_number: 5, records: 1, keyed: false }, Verdict::Elsewhere { ticket: 3, keyed: false }]
    {
        let mut machine = Machine::new();
        feed(&mut machine, &keyed("hello"), 4096, verdict);
        assert!(!machine.connection.give_up());
        machine.flush(0);
        assert!(machine.outcome.statuses().is_empty());
    }
    let mut idle = ServerConnection::new(0);
    assert!(!idle.give_up() && idle.deadline_ns(&Limits::default()).is_some());
}

#[test]
fn a_request_that_somebody_else_has_is_answered_in_its_turn() {
    let mut machine = Machine::new();
    for ticket in [7, 8, 9] {
        feed(&mut machine, &keyed("hello"), 4096, Verdict::Elsewhere { ticket, keyed: true });
    }
    assert_eq!(machine.connection.awaits(), Some(Awaited::Elsewhere));
    assert_eq!(machine.connection.settle(8, Verdict::KeyReused), Some(false));
    machine.flush(0);
    assert!(machine.outcome.statuses().is_empty());
    assert_eq!(machine.connection.settle(7, Verdict::Taken { records: 1 }), Some(true));
    assert_eq!(machine.connection.settle(7, Verdict::Taken { records: 1 }), None, "once");
    machine.flush(0);
    assert_eq!(machine.outcome.statuses(), [201, 422]);
    assert_eq!(machine.connection.settle(9, Verdict::Unavailable { retry_after_s: 1 }), Some(true));
    machine.flush(0);
    machine.feed(GOOD.as_bytes());
    assert_eq!(machine.outcome.statuses(), [201, 422, 503, 201]);
    assert_eq!((machine.outcome.accepted, machine.outcome.refused, machine.outcome.unavailable), (2, 1, 1));
}
