//! Connections of one machine, one after the other.

use crate::{MS, World};
use ringest::shard::{Completion, Fd, RecvEnd, SourceId};

impl World {
    fn accept(&mut self, fd: i32, peer: &str) {
        let peer = peer.parse().unwrap();
        self.shard.handle(self.now(), Completion::Accepted { source: SourceId(0), fd: Fd(fd), peer });
        self.settle();
    }

    fn bring(&mut self, fd: i32, bytes: &[u8]) {
        let (link, mut bytes) = (self.others[&fd].0, bytes.to_vec());
        self.shard.handle(self.now(), Completion::Received { link, bytes: &mut bytes });
        self.settle();
    }
}

/// A message with a length in front and a CRC-16 behind.
fn message(data: &[u8]) -> Vec<u8> {
    let message = [&[2, data.len() as u8], data].concat();
    let crc = message[1..].iter().fold(0xFFFFu16, |state, byte| {
        (0..8).fold(state ^ u16::from(*byte), |state, _| (state >> 1) ^ ((state & 1) * 0xA001))
    });
    [&message[..], &crc.to_le_bytes()].concat()
}

#[test]
fn what_an_older_connection_is_searched_for_comes_before_what_a_newer_one_brings() {
    let framing = "start = \"0x02\"\nlength = { offset = 1, bytes = 1 }\nchecksum = \"crc16-modbus\"\nmax = \"64B\"";
    for stops in [false, true] {
        let mut world = World::with("kind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"", framing, 64 << 20);
        // The newer one has the place of another that was before both.
        world.accept(20, "10.0.0.9:40000");
        world.accept(21, "10.0.0.1:40000");
        let link = world.others[&20].0;
        world.shard.handle(world.now(), Completion::RecvEnded { link, end: RecvEnd::Closed });
        world.settle();
        world.accept(22, "10.0.0.1:40001");
        assert!(world.others[&22].0.index < world.others[&21].0.index);
        world.bring(21, &[&[2; 2_000][..], &message(b"first")].concat());
        world.bring(22, &message(b"second"));
        world.bring(22, &message(b"third"));
        assert_eq!(world.delivered, [""; 0], "the search takes many turns");
        match stops {
            true => world.shard.stop(world.now()),
            false => drop(world.pass(1_000 * MS)),
        }
        world.settle();
        assert_eq!(world.delivered, ["first", "second", "third"]);
        assert!(stops || world.others[&22].1, "it is read on");
    }
}

#[test]
fn what_came_behind_a_proxy_header_waits_for_the_older_connections_of_its_machine() {
    let source = "kind = \"tcp_listen\"\nlisten = \"127.0.0.1:4001\"\nproxies = [\"10.0.0.5\"]";
    let from = |machine: &str, text: &str| format!("PROXY TCP4 {machine} 10.0.0.5 9 4001\r\n{text}").into_bytes();
    for stops in [false, true] {
        let mut world = World::with(source, "end = \"\\r\"", 64 << 20);
        world.accept(20, "10.0.0.5:40000");
        world.bring(20, &from("10.0.4.21", "one\r"));
        // The same machine comes again, twice, and another one.
        for (fd, machine, text) in
            [(21, "10.0.4.21", "three\r"), (22, "10.0.4.21", "four\r"), (23, "10.0.4.22", "other\r")]
        {
            world.accept(fd, &format!("10.0.0.5:400{fd}"));
            world.bring(fd, &from(machine, text));
        }
        assert_eq!(world.delivered, ["one", "other"]);
        world.bring(20, b"two\r");
        let waiting = std::mem::take(&mut world.awaiting);
        assert_eq!(waiting, [world.others[&21].0, world.others[&22].0]);
        if stops {
            world.shard.stop(world.now());
        } else {
            // The driver tells them in another order.
            for link in waiting.into_iter().rev() {
                world.shard.handle(world.now(), Completion::RecvEnded { link, end: RecvEnd::Paused });
                world.settle();
            }
            world.pass(MS);
            assert!(world.others[&21].1 && world.others[&22].1, "they are read on");
        }
        world.settle();
        assert_eq!(world.delivered, ["one", "other", "two", "three", "four"]);
    }
}
