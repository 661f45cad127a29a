//! Segment files and commits.

use crate::echo::Echo;
use crate::harness::{Input, PATIENCE, Remote, listening, settings, setup, start};
use ringest::ground::SegmentNumber;
use ringest::journal;
use ringest::shard::{Completion, JournalId, Op};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;

fn of_journal(op: journal::Op) -> Op {
    Op::Journal { journal: JournalId::OWN, op }
}

fn prepare(segment: u64, bytes: u64) -> Op {
    of_journal(journal::Op::PrepareSegment {
        segment: SegmentNumber(segment),
        bytes,
        header: vec![segment as u8; 4096],
        sync: true,
    })
}

fn prepared(segment: u64) -> String {
    format!("SegmentPrepared {{ segment: SegmentNumber({segment}), result: Ok(()) }}")
}

#[test]
fn segments_are_prepared_committed_to_synced_read_back_and_reused() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut setup = setup(settings(Vec::new()), Vec::new());
    setup.journal = Some(directory.path().join("core-0"));
    let remote = Remote::start(setup, Vec::new());
    let bytes = 3 << 20;
    remote.ask(prepare(1, bytes));
    assert_eq!(remote.next(), prepared(1));
    let path = |name: &str| directory.path().join("core-0").join(name);
    let file = std::fs::read(path("segment-0000000000000001")).expect("is there");
    assert_eq!(file.len() as u64, bytes);
    assert!(file[..4096].iter().all(|&byte| byte == 1) && file[4096..].iter().all(|&byte| byte == 0));

    // Four in flight at once, in any order, with and without a sync.
    for (at, sync) in [(1, true), (2, false), (3, true), (4, false)] {
        let offset = at * 8192;
        let (memory_offset, bytes) = (at * 4096, 8192);
        remote.ask(of_journal(journal::Op::Commit { memory_offset, segment: SegmentNumber(1), offset, bytes, sync }));
    }
    let mut committed: Vec<String> = (0..4).map(|_| remote.next()).collect();
    committed.sort();
    let expected = |at| format!("Committed {{ segment: SegmentNumber(1), offset: {}, result: Ok(()) }}", at * 8192);
    let mut all: Vec<String> = (1..=4).map(expected).collect();
    all.sort();
    assert_eq!(committed, all);
    remote.ask(of_journal(journal::Op::SyncSegment { segment: SegmentNumber(1) }));
    assert_eq!(remote.next(), "SegmentSynced { segment: SegmentNumber(1), result: Ok(()) }");
    let file = std::fs::read(path("segment-0000000000000001")).expect("is there");
    for at in 1..=4_usize {
        assert!(file[at * 8192..][..4096].iter().all(|&byte| byte == at as u8 ^ 0x5a));
        assert!(file[at * 8192 + 4096..][..4096].iter().all(|&byte| byte == (at + 1) as u8 ^ 0x5a));
    }

    remote.ask(of_journal(journal::Op::ReadBack { segment: SegmentNumber(1), offset: 8192 - 10, buffer: vec![7; 20] }));
    assert_eq!(remote.next(), "read back Ok(20)");
    let read = remote.bytes.recv_timeout(PATIENCE).expect("bytes");
    assert_eq!((&read[..10], &read[10..]), (&[0; 10][..], &[1 ^ 0x5a; 10][..]));
    remote.ask(of_journal(journal::Op::ReadBack {
        segment: SegmentNumber(1),
        offset: bytes as u32 - 5,
        buffer: vec![7; 20],
    }));
    assert_eq!(remote.next(), "read back Ok(5)");
    remote.ask(of_journal(journal::Op::ReadBack { segment: SegmentNumber(99), offset: 0, buffer: vec![7; 20] }));
    assert_eq!(remote.next(), format!("read back Err({})", libc::ENOENT));

    remote.ask(of_journal(journal::Op::FreeSegment { segment: SegmentNumber(1), reuse: true }));
    assert_eq!(remote.next(), "SegmentFreed { segment: SegmentNumber(1), result: Ok(()) }");
    assert!(path("spare-0000000000000001").exists() && !path("segment-0000000000000001").exists());
    // The spare is taken, with its old bytes behind the new header; one of another size is not.
    remote.ask(prepare(2, bytes));
    assert_eq!(remote.next(), prepared(2));
    let file = std::fs::read(path("segment-0000000000000002")).expect("is there");
    assert_eq!((file[0], file[8192], path("spare-0000000000000001").exists()), (2, 1 ^ 0x5a, false));
    remote.ask(of_journal(journal::Op::FreeSegment { segment: SegmentNumber(2), reuse: true }));
    remote.next();
    remote.ask(prepare(3, 1 << 20));
    assert_eq!(remote.next(), prepared(3));
    let file = std::fs::read(path("segment-0000000000000003")).expect("is there");
    assert_eq!((file.len(), file[8192], path("spare-0000000000000002").exists()), (1 << 20, 0, false));
    // A commit to a segment that is not there is an error, not a panic.
    let lost =
        journal::Op::Commit { memory_offset: 0, segment: SegmentNumber(9), offset: 4096, bytes: 4096, sync: false };
    remote.ask(of_journal(lost));
    let errno = libc::ENOENT;
    assert_eq!(remote.next(), format!("Committed {{ segment: SegmentNumber(9), offset: 4096, result: Err({errno}) }}"));
    remote.running.stop();
}

#[test]
fn cold_work_goes_on_while_the_core_is_busy() {
    let directory = tempfile::tempdir().expect("a directory");
    let (settings, listeners, address) = listening();
    let mut setup = setup(settings, listeners);
    setup.journal = Some(directory.path().join("core-0"));
    let (report, prepared) = mpsc::channel();
    let mut echo = Echo::default();
    let (mut next, mut stopping) = (1, false);
    let gateway = start(setup, move |world, _, input| match input {
        Input::Completion(Completion::Journal {
            completion: journal::Completion::SegmentPrepared { segment, result },
            ..
        }) => {
            result.expect("prepared");
            // The test may have counted enough.
            let _ = report.send(*segment);
            next += 1;
            if !stopping {
                world.push(prepare(next, 1 << 20));
            }
        }
        Input::Stop => {
            stopping = true;
            echo.input(world, Input::Stop);
        }
        Input::Start => {
            world.push(prepare(1, 1 << 20));
            echo.input(world, Input::Start);
        }
        input => echo.input(world, input),
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Clients that never let the core rest.
        for _ in 0..2 {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(address).expect("connected");
                let mut reader = stream.try_clone().expect("duplicated");
                scope.spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    while matches!(reader.read(&mut buffer), Ok(1..)) {}
                });
                let chunk = vec![1; 1 << 16];
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    match stream.write(&chunk) {
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                stream.shutdown(std::net::Shutdown::Write).expect("shut down");
            });
        }
        for expected in 1..=20 {
            let segment = prepared.recv_timeout(PATIENCE).expect("segments are prepared all the while");
            assert_eq!(segment, SegmentNumber(expected));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    gateway.stop();
}
