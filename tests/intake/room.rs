//! Who gets the room that a full journal has: lines that cannot wait, and then who has waited longest.

use super::{World, fill, numbered};
use ringest::shard::{Completion, Fd, LinkId, SourceId};

const TCP: &str = "kind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"\nlane = \"connection\"";

impl World {
    /// With a machine of the first source, as `first` says, and one on TCP, of which records come by descriptor 20.
    fn beside_tcp(first: &str) -> Self {
        let mut world = Self::with(&format!("{first}\n[[source]]\nname = \"t\"\n{TCP}"), "end = \"\\r\"", 4 << 20);
        world.connect(1, 20);
        world
    }

    /// A machine connects.
    fn connect(&mut self, source: u16, fd: i32) {
        let peer = format!("127.0.0.1:{fd}").parse().unwrap();
        self.shard.handle(self.now(), Completion::Accepted { source: SourceId(source), fd: Fd(fd), peer });
        self.settle();
    }

    /// Bytes of such a machine come; the turn is not over.
    fn come(&mut self, fd: i32, bytes: &str) {
        let (link, mut bytes) = (self.others[&fd].0, bytes.as_bytes().to_vec());
        self.shard.handle(self.now(), Completion::Received { link, bytes: &mut bytes });
    }

    /// The machine on TCP sends until the API, which does not answer, has left no room for it, and `more` records beyond.
    fn fill_by_tcp(&mut self, more: usize) {
        self.answers = false;
        let mut number = 0;
        while self.others[&20].1 {
            self.come(20, &format!("{}\r", numbered(number)));
            self.settle();
            number += 1;
            assert!(number < 100_000, "the journal is never full");
        }
        for number in number..number + more {
            self.come(20, &format!("{}\r", numbered(number)));
        }
        self.settle();
    }

    /// The API answers the oldest request.
    fn answer_one(&mut self) {
        let (link, _) = self.unanswered.remove(0);
        let mut answer = *b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
        self.shard.handle(self.now(), Completion::Received { link, bytes: &mut answer });
    }

    /// Bytes that are held of a source.
    fn held(&self, source: usize) -> u64 {
        let snapshot = self.shard.snapshot(self.now());
        serde_json::to_value(&snapshot.sources[source]).unwrap()["held_bytes"].as_u64().unwrap()
    }
}

#[test]
fn a_line_that_cannot_wait_has_room_when_machines_that_can_have_none() {
    let serial = "kind = \"serial\"\npath = \"/dev/ttyS0\"\nline = \"9600 8N1\"\nfirst = \"keep\"";
    let mut world = World::beside_tcp(serial);
    world.fill_by_tcp(5);
    assert!(world.held(1) > 0 && !world.others[&20].1, "machines that can wait do");
    // Six times what is held of a line without room; an eighth of the journal is kept.
    for number in 0..400 {
        world.receive(format!("{}\r", numbered(number)).as_bytes());
    }
    assert_eq!((world.held(0), &world.show().1["rejected_full"]), (0, &0.into()));
    assert!(world.held(1) > 0, "nothing of that is the others'");
    world.answers = true;
    world.settle();
    assert_eq!((world.held(1), world.shard.terms().pending), (0, 0));
}

#[test]
fn a_request_does_not_overtake_a_stream_that_waits_for_room() {
    let mut world = World::beside_tcp("kind = \"http\"\nlisten = \"127.0.0.1:8080\"");
    world.connect(0, 21);
    // More than comes free at once.
    world.fill_by_tcp(400);
    let post = "POST /v1/records/w HTTP/1.1\r\nHost: r\r\nContent-Length: 1\r\n\r\nx";
    world.come(21, post);
    world.settle();
    assert!(world.told.pop().unwrap().starts_with("HTTP/1.1 503"), "there is no room, and none is being made");
    let mut steps = 0;
    loop {
        // In the turn in which room comes free a request comes again.
        world.answer_one();
        world.come(21, post);
        world.settle();
        let told = world.told.pop().expect("it is not held back where nobody makes room");
        if told.starts_with("HTTP/1.1 201") {
            break;
        }
        assert!(told.starts_with("HTTP/1.1 503"), "{told}, with {} bytes held", world.held(1));
        steps += 1;
        assert!(steps < 10_000, "there is never room");
    }
    assert!(steps > 10, "room came free {steps} times before");
    assert_eq!(world.held(1), 0, "it was taken behind all that had waited");
}

#[test]
fn nobody_reads_on_before_all_that_was_read_is_framed() {
    const OTHERS: i32 = 30;
    let mut world = World::new("end = \"\\r\"", 4 << 20);
    for fd in 20..20 + OTHERS {
        let peer = format!("127.0.0.1:{fd}").parse().unwrap();
        world.shard.handle(world.now(), Completion::Accepted { source: SourceId(0), fd: Fd(fd), peer });
    }
    world.settle();
    let filled = fill(&mut world);
    // What was on its way when each of them was told to stop: more than the room that one block gives, of each.
    let links: Vec<LinkId> = world.others.values().map(|other| other.0).collect();
    for (machine, link) in links.iter().enumerate() {
        for piece in 0..100 {
            let mut bytes = format!("{}\r", numbered(1_000 * (machine + 1) + piece)).into_bytes();
            world.shard.handle(world.now(), Completion::Received { link: *link, bytes: &mut bytes });
        }
    }
    world.settle();
    let held = |world: &World| world.show().0["held_bytes"].as_u64().unwrap();
    assert!(held(&world) > 3_000_000 - 10_000, "{}", held(&world));
    let reading = |world: &World| world.others.values().filter(|other| other.1).count() + usize::from(!world.paused);
    let mut steps = 0;
    // The API answers one request after the other, so that there is a little room again and again.
    while !world.unanswered.is_empty() {
        let (link, _) = world.unanswered.remove(0);
        let mut answer = *b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
        world.shard.handle(world.now(), Completion::Received { link, bytes: &mut answer });
        world.settle();
        if held(&world) > 0 {
            assert_eq!(reading(&world), 0, "after {steps} answers, with {} bytes held", held(&world));
            steps += 1;
        }
    }
    assert!(steps > 100, "{steps}");
    assert_eq!(reading(&world), OTHERS as usize + 1, "all are read again");
    let delivered = world.shard.terms().delivered;
    assert_eq!(delivered, (filled + 100 * OTHERS as usize) as u64);
}

#[test]
fn room_of_a_full_journal_is_taken_by_turns_where_requests_were_refused() {
    let mut world = World::beside_tcp("kind = \"http\"\nlisten = \"127.0.0.1:8080\"");
    world.connect(0, 21);
    let post = |world: &mut World| {
        world.come(21, "POST /v1/records/w HTTP/1.1\r\nHost: r\r\nContent-Length: 1\r\n\r\nx");
        world.settle();
        world.told.pop().expect("an answer")[9..12].to_owned()
    };
    let free = |world: &mut World| {
        world.answers = true;
        world.settle();
        assert_eq!(world.held(1), 0);
    };
    world.fill_by_tcp(5);
    assert_eq!(post(&mut world), "503");
    free(&mut world);
    assert!(!world.others[&20].1, "what was refused is awaited first");
    assert_eq!(post(&mut world), "201");
    world.pass(2_000_000_000);
    assert!(world.others[&20].1, "requests have had their turn");
    world.fill_by_tcp(5);
    assert_eq!(post(&mut world), "503");
    free(&mut world);
    assert!(world.others[&20].1, "this is the turn of streams");
    world.fill_by_tcp(5);
    assert_eq!(post(&mut world), "503");
    free(&mut world);
    assert!(!world.others[&20].1, "and this one of requests again");
}
