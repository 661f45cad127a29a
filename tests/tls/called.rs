//! Device servers that speak TLS: what is read of them once they have proved who they are, and what is said of the others.

use crate::machines::{Files, SECOND, World};
use crate::pki::{Authority, BOTH, ONLY_1_2, ONLY_1_3};
use rustls::{ServerConfig, ServerConnection};
use std::io::Write;
use std::sync::Arc;

const HOST: &str = "press-4.plant";

/// A source that connects, and trusts the CA of `client_ca`.
fn world(authority: &Authority, keys: &str) -> World {
    // The files that the world writes have the names of a listener's.
    let files = Files { ours: &authority.issue(&["client"]), client_ca: Some(authority), revoked: None };
    let directory = tempfile::tempdir().expect("a directory");
    let tls = files.write(directory.path()).replace("certificate =", "cert =").replace("client_ca =", "ca =");
    let source = format!(
        "[[source]]\nname = \"press-4\"\nkind = \"tcp_connect\"\nconnect = \"{HOST}:4001\"\nfirst = \"keep\"\n{keys}\ntls = {tls}"
    );
    World::new(&source, &files)
}

/// The device's end of the last connection to it.
struct Device {
    fd: i32,
    tls: ServerConnection,
    piece: usize,
    is_refused: bool,
}

impl Device {
    fn new(world: &World, config: &ServerConfig) -> Self {
        let tls = ServerConnection::new(Arc::new(config.clone())).expect("a server");
        Self { fd: *world.called.last().expect("it was called"), tls, piece: usize::MAX, is_refused: false }
    }

    fn exchange(&mut self, world: &mut World) {
        loop {
            let mut bytes = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut bytes).expect("memory");
            }
            for piece in bytes.chunks(self.piece) {
                world.give(self.fd, piece);
            }
            let answer = world.take(self.fd);
            let mut rest = answer.as_slice();
            while !rest.is_empty() && !self.is_refused {
                self.tls.read_tls(&mut rest).expect("memory");
                self.is_refused = self.tls.process_new_packets().is_err();
            }
            if bytes.is_empty() && answer.is_empty() {
                return;
            }
        }
    }
}

#[test]
fn a_device_server_is_read_over_tls_once_it_has_proved_who_it_is() {
    let authority = Authority::new("Devices");
    for versions in [ONLY_1_2, ONLY_1_3] {
        // One that asks for our certificate, and one that does not.
        for asks in [None, Some(&authority)] {
            for (piece, is_cut) in [(1, false), (usize::MAX, true)] {
                let mut world = world(&authority, "on_close = \"emit\"");
                let mut device = Device::new(&world, &authority.issue(&[HOST]).server(versions, asks));
                device.piece = piece;
                device.exchange(&mut world);
                device.tls.writer().write_all(b"one\rtwo\rtail").expect("memory");
                if !is_cut {
                    device.tls.send_close_notify();
                }
                device.exchange(&mut world);
                world.hang_up(device.fd);
                let expected: &[&str] = if is_cut { &["one", "two"] } else { &["one", "two", "tail"] };
                let records: Vec<&str> = world.delivered.iter().filter_map(|body| body.split(' ').nth(1)).collect();
                assert_eq!(records, expected, "{versions:?}, pieces of {piece}");
                assert_eq!(world.count("tls_handshakes"), 1);
                world.pass(10 * SECOND);
                assert!(world.called.len() > 1, "it is called again");
            }
        }
    }
}

#[test]
fn a_device_server_that_does_not_prove_who_it_is_is_not_read_and_told() {
    let authority = Authority::new("Devices");
    for (config, said, remedy) in [
        (Authority::new("Other").issue(&[HOST]).server(BOTH, None), "unknown CA", "in tls of this source: ca"),
        (authority.issue(&["press-5.plant"]).server(BOTH, None), "not for this host, but for press-5.plant", "names"),
        (authority.issue_until(&[HOST], 2029).server(BOTH, None), "expired on 2029", "renew"),
    ] {
        let mut world = world(&authority, "");
        let mut device = Device::new(&world, &config);
        device.exchange(&mut world);
        // In TLS 1.3 it may be sent before the device hears of the refusal.
        let _ = device.tls.writer().write_all(b"secret\r");
        device.exchange(&mut world);
        assert!(device.is_refused && world.is_closed(device.fd), "{said}");
        let problem = world.source(0).problem.expect("a problem");
        assert!(problem.contains(said) && problem.contains(remedy), "{problem}");
        assert_eq!((world.delivered.len(), world.count("tls_failed_other")), (0, 1));
        world.pass(10 * SECOND);
        let mut device = Device::new(&world, &authority.issue(&[HOST]).server(BOTH, None));
        device.exchange(&mut world);
        device.tls.writer().write_all(b"good\r").expect("memory");
        device.exchange(&mut world);
        assert_eq!(world.delivered, ["press-4 good"]);
    }
}

#[test]
fn a_device_server_that_speaks_no_tls_or_says_nothing_is_told() {
    let authority = Authority::new("Devices");
    let mut world = world(&authority, "");
    world.give(world.called[0], b"12.5\r12.6\r");
    let problem = world.source(0).problem.expect("a problem");
    assert!(problem.contains("no TLS with it: it does not speak TLS on this port"), "{problem}");
    world.pass(SECOND);
    let silent = *world.called.last().expect("it was called again");
    assert_eq!(world.called.len(), 2);
    world.pass(10 * SECOND);
    assert!(world.is_closed(silent));
    assert_eq!((world.delivered.len(), world.count("tls_failed_other")), (0, 2));
}
