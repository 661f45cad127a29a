//! The shard by itself: what completions lead to which operations.

use ringest::config;
use ringest::engine::FsStorage;
use ringest::journal;
use ringest::shard::{
    Completion, ConnectAttempt, ConnectError, CoreId, Fd, LinkId, Now, Op, RecvEnd, Setup, Shard, SourceId,
};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// What a connect comes to where nobody listens.
fn refused() -> ConnectError {
    let address = "127.0.0.1:8000".parse().expect("an address");
    ConnectError::Unreachable { attempts: vec![ConnectAttempt { address, reason: "refused".to_owned() }] }
}

fn shard(directory: &Path, now: Now) -> Shard {
    seeded(directory, now, 1)
}

fn seeded(directory: &Path, now: Now, seed: u64) -> Shard {
    let text = r#"
        [[source]]
        name = "servers"
        kind = "tcp_listen"
        listen = "127.0.0.1:4001"
        lane = "address"
        [journal]
        window = "1MiB"
        [deliver]
        url = "http://127.0.0.1:8000/films/"
        body = "{{data}}"
        content_type = "text/plain"
    "#;
    let settings = Arc::new(config::parse(text, "test").expect("a valid configuration"));
    let mut storage = FsStorage::open_with_blocks_in(directory, directory).expect("a directory");
    let journal =
        journal::open(&mut storage, &journal::Options::new(&settings.journal, CoreId(0), 1)).expect("an empty journal");
    let owners = Arc::new(HashMap::new());
    Shard::new(Setup {
        settings,
        core: CoreId(0),
        cores: 1,
        sources: vec![SourceId(0)],
        journals: vec![journal],
        owners,
        seed,
        now,
    })
}

fn ops(shard: &mut Shard) -> Vec<Op> {
    std::iter::from_fn(|| shard.poll_op()).collect()
}

#[test]
fn a_connection_handed_over_before_the_journal_is_ready_is_read_once_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let now = Now { mono_ns: 1_000_000_000, wall_ns: 1_700_000_000_000_000_000 };
    let mut shard = shard(directory.path(), now);
    shard.start(now);
    let begun = ops(&mut shard);
    let prepare = begun.iter().find_map(|op| match op {
        Op::Journal { journal, op: journal::Op::PrepareSegment { segment, .. } } => Some((*journal, *segment)),
        _ => None,
    });
    let (journal, segment) = prepare.expect("a segment is asked for first");
    let peer = "127.0.0.1:40000".parse().expect("an address");
    shard.handle(now, Completion::Accepted { source: SourceId(0), fd: Fd(99), peer });
    shard.turn(now);
    let waiting = ops(&mut shard);
    assert!(waiting.is_empty(), "{waiting:?}");
    shard.handle(
        now,
        Completion::Journal { journal, completion: journal::Completion::SegmentPrepared { segment, result: Ok(()) } },
    );
    shard.turn(now);
    let running = ops(&mut shard);
    assert!(running.iter().any(|op| matches!(op, Op::Recv { fd: Fd(99), .. })), "{running:?}");
}

#[test]
fn a_connection_handed_over_to_a_core_that_never_got_ready_is_closed_at_the_stop() {
    let directory = tempfile::tempdir().expect("a directory");
    let now = Now { mono_ns: 1_000_000_000, wall_ns: 1_700_000_000_000_000_000 };
    let mut shard = shard(directory.path(), now);
    shard.start(now);
    let peer = "127.0.0.1:40000".parse().expect("an address");
    shard.handle(now, Completion::Accepted { source: SourceId(0), fd: Fd(99), peer });
    ops(&mut shard);
    shard.stop(now);
    let stopping = ops(&mut shard);
    assert!(stopping.iter().any(|op| matches!(op, Op::Close { fd: Some(Fd(99)), .. })), "{stopping:?}");
}

#[test]
fn what_a_full_journal_held_back_is_counted_when_the_gateway_stops() {
    let directory = tempfile::tempdir().expect("a directory");
    let now = Now { mono_ns: 1_000_000_000, wall_ns: 1_700_000_000_000_000_000 };
    let mut shard = shard(directory.path(), now);
    start(&mut shard, now);
    let peer = "127.0.0.1:40000".parse().expect("an address");
    shard.handle(now, Completion::Accepted { source: SourceId(0), fd: Fd(99), peer });
    let link = ops(&mut shard).into_iter().find_map(|op| match op {
        Op::Recv { link, .. } => Some(link),
        _ => None,
    });
    let link = link.expect("the connection is read");
    // No block is ever written, so that memory runs out.
    let mut sent = 0;
    while !ops(&mut shard).iter().any(|op| matches!(op, Op::PauseRecv { .. })) {
        let mut bytes = format!("{:>999}\r", sent).repeat(4).into_bytes();
        shard.handle(now, Completion::Received { link, bytes: &mut bytes });
        shard.turn(now);
        sent += 4;
        assert!(sent < 10_000, "the journal is never full");
    }
    shard.stop(now);
    let terms = shard.terms();
    assert_eq!(terms.received, sent, "{terms:?}");
    assert!(terms.rejected > 0 && terms.rejected < 8, "{terms:?}");
    assert!(terms.balance(), "{terms:?}");
}

/// Starts a shard; its first segment is ready.
fn start(shard: &mut Shard, now: Now) {
    shard.start(now);
    for op in ops(shard) {
        if let Op::Journal { journal, op: journal::Op::PrepareSegment { segment, .. } } = op {
            shard.handle(
                now,
                Completion::Journal {
                    journal,
                    completion: journal::Completion::SegmentPrepared { segment, result: Ok(()) },
                },
            );
        }
    }
    shard.turn(now);
}

#[test]
fn a_new_connection_of_an_address_follows_those_that_are_open_and_what_it_brings_may_wait_for_its_turn() {
    let directory = tempfile::tempdir().expect("a directory");
    let now = Now { mono_ns: 1_000_000_000, wall_ns: 1_700_000_000_000_000_000 };
    let mut shard = shard(directory.path(), now);
    start(&mut shard, now);
    ops(&mut shard);
    let accept = |shard: &mut Shard, fd: u16, address: u8| -> (LinkId, Vec<LinkId>) {
        let peer = std::net::SocketAddr::from(([10, 0, 0, address], fd));
        shard.handle(now, Completion::Accepted { source: SourceId(0), fd: Fd(fd.into()), peer });
        let read = ops(shard).into_iter().find_map(|op| match op {
            Op::Recv { link, older, .. } => Some((link, older)),
            _ => None,
        });
        read.expect("the connection is read")
    };
    let (first, older) = accept(&mut shard, 100, 1);
    assert_eq!(older, []);
    let (second, older) = accept(&mut shard, 101, 1);
    assert_eq!(older, [first]);
    assert!(shard.can_wait(second));
    let (_, older) = accept(&mut shard, 102, 2);
    assert_eq!(older, [], "of another address");
    let (third, older) = accept(&mut shard, 103, 1);
    assert_eq!(older, [first, second]);
    shard.handle(now, Completion::RecvEnded { link: second, end: RecvEnd::Closed });
    shard.turn(now);
    let (_, older) = accept(&mut shard, 104, 1);
    assert_eq!(older, [first, third]);
}

#[test]
fn connects_that_fail_together_are_one_failure_and_the_next_try_comes_soon() {
    for seed in 0..20 {
        let directory = tempfile::tempdir().expect("a directory");
        let mut now = Now { mono_ns: 1_000_000_000, wall_ns: 1_700_000_000_000_000_000 };
        let mut shard = seeded(directory.path(), now, seed);
        start(&mut shard, now);
        for machine in 1..=8 {
            let peer = std::net::SocketAddr::from(([127, 0, 0, machine], 40_000));
            shard.handle(now, Completion::Accepted { source: SourceId(0), fd: Fd(100 + i32::from(machine)), peer });
        }
        for op in ops(&mut shard) {
            if let Op::Recv { link, .. } = op {
                shard.handle(now, Completion::Received { link, bytes: &mut b"record\r".to_vec() });
            }
        }
        shard.turn(now);
        let connects = |shard: &mut Shard| {
            let all = ops(shard).into_iter();
            all.filter_map(|op| if let Op::Connect { link, .. } = op { Some(link) } else { None }).collect::<Vec<_>>()
        };
        let first = connects(&mut shard);
        assert_eq!(first.len(), 8);
        for link in first {
            shard.handle(now, Completion::Connected { link, result: Err(refused()) });
        }
        // The first delay is at most 500 ms, the second 1 s, the third 2 s.
        for (attempt, bound_ns) in [(1, 500_000_000), (2, 1_000_000_000), (3, 2_000_000_000)] {
            let failed_ns = now.mono_ns;
            let again = loop {
                shard.turn(now);
                let again = connects(&mut shard);
                if !again.is_empty() {
                    break again;
                }
                now.mono_ns = shard.next_deadline().expect("it tries again").max(now.mono_ns + 1);
            };
            assert_eq!(again.len(), 1, "one tries for all");
            assert!(now.mono_ns - failed_ns <= bound_ns, "seed {seed}, attempt {attempt}: {now:?}");
            shard.handle(now, Completion::Connected { link: again[0], result: Err(refused()) });
        }
    }
}
