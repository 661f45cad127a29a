//! The allocator of secrets, as the real program has it: what a scope has allocated is in no core dump, is wiped when it is given
//! back, and is whole whatever threads do with it.

#[path = "e2e/dumped.rs"]
mod dumped;

use dumped::dumped;
use ringest::ground::secrets::{Allocator, scope, scoped, wipe_stack};
use std::collections::VecDeque;
use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// One test at a time: what is free is anybody's.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A secret that stands nowhere in this program: it is made when it is needed, of a number.
fn secret(of: u8) -> impl Iterator<Item = u8> {
    // No constant of the program either.
    let of = black_box(of);
    (0..48).map(move |at: u8| at.wrapping_mul(37).wrapping_add(of) ^ 0xA5)
}

/// Whether a core dump of this process would hold the secret.
fn is_dumped(of: u8) -> bool {
    let wanted: Vec<u8> = scope(|| secret(of).collect());
    let mut found = false;
    dumped(std::process::id(), |bytes| found |= memchr::memmem::find(bytes, &wanted).is_some());
    found
}

/// What stands at an address, whoever owns it.
fn memory(place: usize, bytes: usize) -> Vec<u8> {
    let mut found = vec![0; bytes];
    let file = File::open("/proc/self/mem").expect("the memory");
    file.read_exact_at(&mut found, place as u64).expect("it is mapped");
    found
}

#[test]
fn what_a_scope_allocates_is_in_no_dump_wherever_it_goes_and_what_is_outside_is() {
    let _alone = alone();
    let outside: Vec<u8> = secret(1).collect();
    assert!(is_dumped(1), "the test sees what is dumped");
    drop(black_box(outside));
    let mut kept: Vec<u8> = scope(|| secret(2).collect());
    assert!(!is_dumped(2));
    // Grown outside, to a size that was never there: it stays where secrets are.
    kept.reserve_exact(300_000);
    kept.extend(secret(3));
    assert!(!is_dumped(2) && !is_dumped(3));
    kept.shrink_to_fit();
    kept.extend(secret(4));
    assert!(!is_dumped(2) && !is_dumped(4));
    // What was outside and is grown within comes in.
    let mut late = vec![0_u8; 10];
    scope(|| late.extend(secret(5)));
    assert!(!is_dumped(5));
    let future = scoped(async {
        let first: Vec<u8> = secret(6).collect();
        tokio::task::yield_now().await;
        (first, secret(7).collect::<Vec<u8>>())
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (first, second) = runtime.block_on(future);
    assert!(!is_dumped(6) && !is_dumped(7));
    assert_eq!((first.len(), second.len(), late.len()), (48, 48, 58));
    // A panic leaves the scope.
    let panicked = std::panic::catch_unwind(|| scope(|| std::panic::resume_unwind(Box::new(()))));
    assert!(panicked.is_err());
    let outside: Vec<u8> = secret(8).collect();
    assert!(is_dumped(8));
    drop(black_box(outside));
}

#[test]
fn what_is_given_back_is_wiped_and_what_is_taken_is_zero() {
    let _alone = alone();
    for bytes in [48, 100, 5_000, 300_000, 3_000_000] {
        let place = {
            let mut block: Vec<u8> = scope(|| vec![0; bytes]);
            block.fill(0xEE);
            block.as_ptr().addr()
        };
        // The same block comes again.
        let block: Vec<u8> = scope(|| vec![0; bytes]);
        assert_eq!(block.as_ptr().addr(), place, "{bytes}");
        assert!(block.iter().all(|byte| *byte == 0), "{bytes}");
        drop(block);
        let now = memory(place, bytes);
        // Its first word leads to the next free one.
        assert!(now[8..].iter().all(|byte| *byte == 0), "{bytes}");
    }
    let mut short: Vec<u8> = scope(|| vec![0xEE; 60]);
    short.truncate(52);
    short.shrink_to_fit();
    short.reserve_exact(10);
    let (place, length) = (short.as_ptr().addr(), short.len());
    assert_eq!(memory(place + length, 8), [0; 8], "what was cut off");
}

#[test]
fn the_stack_below_is_wiped() {
    let _alone = alone();
    #[inline(never)]
    fn work() -> u8 {
        let mut copy = [0_u8; 48];
        copy.iter_mut().zip(secret(9)).for_each(|(place, byte)| *place = byte);
        *black_box(&mut copy).last().expect("some")
    }
    assert!(work() > 0);
    wipe_stack::<16_384>();
    assert!(!is_dumped(9));
}

/// A block with a pattern of its own.
struct Marked {
    bytes: Vec<u8>,
    mark: u8,
}

impl Marked {
    fn new(rng: &mut fastrand::Rng) -> Self {
        let mark = rng.u8(1..);
        let count = if rng.u8(..20) == 0 { rng.usize(1..400_000) } else { rng.usize(1..3_000) };
        let make = || vec![mark; count];
        Self { bytes: if rng.bool() { scope(make) } else { make() }, mark }
    }

    fn resize(&mut self, rng: &mut fastrand::Rng) {
        let count = rng.usize(1..6_000);
        let mark = self.mark;
        let bytes = &mut self.bytes;
        let mut change = || {
            bytes.resize(count, mark);
            bytes.shrink_to_fit();
        };
        if rng.bool() {
            scope(change)
        } else {
            change()
        };
    }

    fn check(&self) {
        assert!(self.bytes.iter().all(|byte| *byte == self.mark), "another one has written here");
    }
}

#[test]
fn blocks_that_threads_make_grow_and_give_to_each_other_stay_whole() {
    let _alone = alone();
    const THREADS: usize = 4;
    const ROUNDS: usize = 20_000;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..THREADS).map(|_| mpsc::channel::<Marked>()).unzip();
    std::thread::scope(|threads| {
        for (index, receiver) in receivers.into_iter().enumerate() {
            let next = senders[(index + 1) % THREADS].clone();
            threads.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(index as u64);
                let mut held: VecDeque<Marked> = VecDeque::new();
                for _ in 0..ROUNDS {
                    held.push_back(Marked::new(&mut rng));
                    held.extend(receiver.try_recv());
                    let any = rng.usize(..held.len());
                    held[any].check();
                    held[any].resize(&mut rng);
                    if held.len() > 40 {
                        let given = held.pop_front().expect("some");
                        given.check();
                        // Half of them end on another thread, which may have ended before.
                        if rng.bool() {
                            let _ = next.send(given);
                        }
                    }
                }
                held.iter().for_each(Marked::check);
            });
        }
        drop(senders);
    });
}
