//! The shard by itself: what completions lead to which operations.

use ringest::config;
use ringest::engine::FsStorage;
use ringest::journal;
use ringest::shard::{Completion, Fd, Now, Op, Setup, Shard, SourceId};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

fn shard(directory: &Path, now: Now) -> Shard {
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
    "#;
    let settings = Arc::new(config::parse(text, "test").expect("a valid configuration"));
    let mut storage = FsStorage::open(directory).expect("a directory");
    let journal =
        journal::open(&mut storage, &journal::Options::new(&settings.journal, 0, 1)).expect("an empty journal");
    let owners = Arc::new(HashMap::new());
    Shard::new(Setup {
        settings,
        core: 0,
        cores: 1,
        sources: vec![SourceId(0)],
        journals: vec![journal],
        owners,
        seed: 1,
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
        Op::PrepareSegment { journal, segment, .. } => Some((*journal, *segment)),
        _ => None,
    });
    let (journal, segment) = prepare.expect("a segment is asked for first");
    let peer = "127.0.0.1:40000".parse().expect("an address");
    shard.handle(now, Completion::Accepted { source: SourceId(0), fd: Fd(99), peer });
    shard.turn(now);
    let waiting = ops(&mut shard);
    assert!(waiting.is_empty(), "{waiting:?}");
    shard.handle(now, Completion::SegmentPrepared { journal, segment, result: Ok(()) });
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
    shard.start(now);
    for op in ops(&mut shard) {
        if let Op::PrepareSegment { journal, segment, .. } = op {
            shard.handle(now, Completion::SegmentPrepared { journal, segment, result: Ok(()) });
        }
    }
    shard.turn(now);
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
