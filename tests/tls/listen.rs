//! Machines that speak TLS: what becomes of their requests and streams, who is let in, and what the others are told.

use crate::machines::{Files, HOST, HTTP, Maker, SECOND, TCP, World, post};
use crate::pki::{Authority, BOTH, Issued, ONLY_1_2, ONLY_1_3};
use ringest::tls::TicketKeys;

/// A plant's CA, and the gateway's certificate that it has signed.
fn plant() -> (Authority, Issued) {
    let authority = Authority::new("Plant");
    let ours = authority.issue(&[HOST]);
    (authority, ours)
}

fn open_to_all(ours: &Issued) -> Files<'_> {
    Files { ours, client_ca: None, revoked: None }
}

fn asking<'a>(ours: &'a Issued, clients: &'a Authority) -> Files<'a> {
    Files { ours, client_ca: Some(clients), revoked: None }
}

#[test]
fn requests_over_tls_are_records_whole_byte_by_byte_and_pipelined() {
    let (authority, ours) = plant();
    for versions in [ONLY_1_2, ONLY_1_3] {
        for piece in [usize::MAX, 1, 7, 1_000] {
            let mut world = World::new(HTTP, &open_to_all(&ours));
            let mut machine = Maker::new(&authority, None, versions).machine(&mut world, 0);
            machine.piece = piece;
            let requests: String = (0..10).map(|number| post("cam-1", &format!("record {number}"))).collect();
            machine.say(requests.as_bytes()).exchange(&mut world);
            assert_eq!(machine.statuses(), [201; 10], "pieces of {piece}");
            let expected: Vec<String> = (0..10).map(|number| format!("cam-1 record {number}")).collect();
            assert_eq!(world.delivered, expected);
            assert_eq!((world.count("tls_handshakes"), world.count("tls_resumed")), (1, 0));
            assert_eq!(world.source(0).open, 1);
        }
    }
}

#[test]
fn a_body_of_many_tls_records_is_one_record() {
    let (authority, ours) = plant();
    let mut world = World::new(HTTP, &open_to_all(&ours));
    let mut machine = Maker::new(&authority, None, BOTH).machine(&mut world, 0);
    machine.piece = 4_096;
    let record = "0123456789abcdef".repeat(3_900);
    machine.say(post("cam-1", &record).as_bytes()).exchange(&mut world);
    assert_eq!(machine.statuses(), [201]);
    assert_eq!(world.delivered, [format!("cam-1 {record}")]);
}

#[test]
fn the_last_answer_is_followed_by_a_close_notify_and_a_fin() {
    let (authority, ours) = plant();
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::new(HTTP, &open_to_all(&ours));
        let mut machine = Maker::new(&authority, None, versions).machine(&mut world, 0);
        let request = post("cam-1", "last").replace("Host:", "Connection: close\r\nHost:");
        machine.say(request.as_bytes()).exchange(&mut world);
        assert_eq!(machine.statuses(), [201]);
        assert!(machine.tls.process_new_packets().expect("good records").peer_has_closed(), "close_notify");
        assert!(world.has_ended(machine.fd) && !world.is_closed(machine.fd), "a lingering close");
        world.pass(2 * SECOND);
        assert!(world.is_closed(machine.fd));
    }
}

#[test]
fn a_machine_that_ends_its_half_is_still_answered() {
    let (authority, ours) = plant();
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::new(HTTP, &open_to_all(&ours));
        let mut machine = Maker::new(&authority, None, versions).machine(&mut world, 0);
        machine.exchange(&mut world);
        machine.say(post("cam-1", "first").as_bytes());
        machine.say(post("cam-1", "second").as_bytes());
        machine.tls.send_close_notify();
        machine.exchange(&mut world);
        assert_eq!(machine.statuses(), [201, 201]);
        world.hang_up(machine.fd);
        assert!(world.is_closed(machine.fd));
        assert_eq!(world.source(0).open, 0);
    }
}

#[test]
fn only_a_machine_with_a_good_certificate_is_let_in() {
    let (authority, ours) = plant();
    let clients = Authority::new("Machines");
    let good = clients.issue(&["cam-1"]);
    let revoked = clients.issue(&["cam-2"]);
    let expired = clients.issue_until(&["cam-3"], 2027);
    let stranger = Authority::new("Others").issue(&["cam-1"]);
    let list = clients.revoke(&[&revoked]);
    for versions in [ONLY_1_2, ONLY_1_3] {
        for (shown, is_good) in [
            (Some(&good), true),
            (Some(&revoked), false),
            (Some(&expired), false),
            (Some(&stranger), false),
            (None, false),
        ] {
            let files = Files { revoked: Some(list.clone()), ..asking(&ours, &clients) };
            let mut world = World::new(HTTP, &files);
            let mut machine = Maker::new(&authority, shown, versions).machine(&mut world, 0);
            machine.say(post("cam-1", "record").as_bytes()).exchange(&mut world);
            assert_eq!(machine.statuses().as_slice(), if is_good { &[201][..] } else { &[] });
            assert_eq!(world.delivered.len(), usize::from(is_good));
            assert_eq!(world.count("tls_failed_certificate"), u64::from(!is_good));
            assert_eq!(world.count("tls_handshakes"), u64::from(is_good));
            if !is_good {
                assert!(matches!(machine.error, Some(rustls::Error::AlertReceived(_))), "{:?}", machine.error);
                assert!(world.has_ended(machine.fd));
                world.pass(2 * SECOND);
                assert!(world.is_closed(machine.fd));
                assert_eq!(world.source(0).open, 0);
            }
        }
    }
}

#[test]
fn a_later_connection_resumes_until_its_ticket_is_too_old_or_the_client_ca_is_another_one() {
    let (authority, ours) = plant();
    let clients = Authority::new("Machines");
    let cam = clients.issue(&["cam-1"]);
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::new(HTTP, &asking(&ours, &clients));
        let mut keys = TicketKeys::draw().expect("randomness");
        world.shard.set_ticket_keys(keys.clone());
        let maker = Maker::new(&authority, Some(&cam), versions);
        let resumed = |world: &mut World, source: u16| {
            let before = world.count("tls_resumed");
            let mut machine = maker.machine(world, source);
            machine.say(post("cam-1", "record").as_bytes()).exchange(world);
            assert_eq!(machine.statuses(), [201]);
            world.count("tls_resumed") - before
        };
        assert_eq!((resumed(&mut world, 0), resumed(&mut world, 0)), (0, 1));
        keys = keys.rotated().expect("randomness");
        world.shard.set_ticket_keys(keys.clone());
        assert_eq!(resumed(&mut world, 0), 1, "the last one's tickets are still read");
        for _ in 0..2 {
            keys = keys.rotated().expect("randomness");
            world.shard.set_ticket_keys(keys.clone());
        }
        assert_eq!(resumed(&mut world, 0), 0, "those before are not");
        assert_eq!(resumed(&mut world, 0), 1);
        // A list that revokes another machine: nobody goes on by what was before.
        let other = clients.issue(&["cam-2"]);
        world.reload(HTTP, &Files { revoked: Some(clients.revoke(&[&other])), ..asking(&ours, &clients) });
        assert_eq!((resumed(&mut world, 1), resumed(&mut world, 1)), (0, 1));
    }
}

#[test]
fn a_ticket_of_an_open_source_opens_no_other_one() {
    let (authority, ours) = plant();
    let clients = Authority::new("Machines");
    let two = format!("{HTTP}\n{}", HTTP.replace("cams", "open").replace("8443", "8444"));
    let tls_of_open = |text: String| {
        // The second source asks for no certificate.
        let (first, second) = text.split_once("name = \"open\"").expect("two sources");
        format!("{first}name = \"open\"{}", second.replace("tls = TLS", "tls = OPEN"))
    };
    for versions in [ONLY_1_2, ONLY_1_3] {
        let directory = tempfile::tempdir().expect("a directory");
        let open = open_to_all(&ours).write(directory.path());
        let source = tls_of_open(two.clone()).replace("OPEN", &open);
        let mut world = World::new(&source, &asking(&ours, &clients));
        let maker = Maker::new(&authority, None, versions);
        for _ in 0..2 {
            let mut machine = maker.machine(&mut world, 1);
            assert_eq!(machine.say(post("a", "open").as_bytes()).exchange(&mut world).statuses(), [201]);
        }
        assert_eq!(world.count("tls_resumed"), 1);
        let mut machine = maker.machine(&mut world, 0);
        assert_eq!(machine.say(post("a", "in").as_bytes()).exchange(&mut world).statuses(), [0; 0]);
        assert_eq!((world.count("tls_failed_certificate"), world.delivered.len()), (1, 2));
    }
}

#[test]
fn one_handshake_begins_behind_a_turn_and_the_others_follow_in_their_order() {
    let (authority, ours) = plant();
    let mut world = World::new(HTTP, &open_to_all(&ours));
    let maker = Maker::new(&authority, None, BOTH);
    let mut machines: Vec<_> = (0..30).map(|_| maker.machine(&mut world, 0)).collect();
    for machine in &mut machines {
        let hello = machine.bytes();
        world.come(machine.fd, &hello);
    }
    let mut begun = Vec::new();
    for turn in 1..=30 {
        world.turn();
        let answers: Vec<(usize, Vec<u8>)> =
            machines.iter().enumerate().map(|(at, machine)| (at, world.take(machine.fd))).collect();
        let answered: Vec<usize> = answers.iter().filter(|(_, answer)| !answer.is_empty()).map(|(at, _)| *at).collect();
        assert_eq!(answered.len(), 1, "turn {turn}");
        begun.extend(answered);
        answers.iter().for_each(|(at, answer)| machines[*at].hear(answer));
        world.now_ns += 1;
    }
    assert_eq!(begun, (0..30).collect::<Vec<_>>());
    assert_eq!(world.count("tls_put_off"), 29);
    for machine in &mut machines {
        machine.say(post("cam-1", "record").as_bytes()).exchange(&mut world);
        assert_eq!(machine.statuses(), [201]);
    }
}

#[test]
fn a_machine_that_sends_its_hello_byte_by_byte_is_late() {
    let (authority, ours) = plant();
    let mut world = World::new(HTTP, &open_to_all(&ours));
    let mut machine = Maker::new(&authority, None, BOTH).machine(&mut world, 0);
    let hello = machine.bytes();
    for byte in &hello[..40] {
        world.come(machine.fd, &[*byte]);
        world.settle();
        world.now_ns += 500_000_000;
    }
    world.settle();
    assert_eq!(world.count("tls_failed_late"), 1);
}

#[test]
fn a_machine_that_waits_for_its_turn_is_not_late() {
    let (authority, ours) = plant();
    let mut world = World::new(HTTP, &open_to_all(&ours));
    let maker = Maker::new(&authority, None, BOTH);
    let mut machines: Vec<_> = (0..30).map(|_| maker.machine(&mut world, 0)).collect();
    for machine in &mut machines {
        let hello = machine.bytes();
        world.come(machine.fd, &hello);
    }
    // Longer than a header may take. Two were answered and have said nothing since.
    (0..2).for_each(|_| world.turn());
    world.now_ns += 11_000_000_000;
    (0..28).for_each(|_| world.turn());
    assert_eq!((world.count("tls_put_off"), world.count("tls_failed_late")), (29, 2));
    let mut statuses = Vec::new();
    for machine in &mut machines[2..] {
        let answer = world.take(machine.fd);
        machine.hear(&answer);
        machine.say(post("cam-1", "record").as_bytes()).exchange(&mut world);
        statuses.extend(machine.statuses());
    }
    assert_eq!(statuses, [201; 28]);
}

#[test]
fn http_without_tls_is_told_so_and_tls_without_a_need_is_counted() {
    let (_, ours) = plant();
    let source = format!("{HTTP}\n[[source]]\nname = \"plain\"\nkind = \"http\"\nlisten = \"127.0.0.1:8080\"");
    for piece in [1, 1_000] {
        let mut world = World::new(&source, &open_to_all(&ours));
        let fd = world.accept(0);
        for bytes in post("cam-1", "record").as_bytes().chunks(piece) {
            world.give(fd, bytes);
        }
        let answer = String::from_utf8(world.take(fd)).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("https://"), "{answer}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
        assert!(world.has_ended(fd));
        world.hang_up(fd);
        assert!(world.is_closed(fd));
        assert_eq!((world.count("tls_failed_plain"), world.delivered.len()), (1, 0));

        let fd = world.accept(1);
        for bytes in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3].chunks(piece) {
            world.give(fd, bytes);
        }
        assert_eq!((world.take(fd).len(), world.count("tls_hellos_on_plain_ports")), (0, 1));
        assert!(world.has_ended(fd));
    }
}

#[test]
fn an_old_device_gets_an_alert_and_is_counted() {
    let (_, ours) = plant();
    let mut world = World::new(HTTP, &open_to_all(&ours));
    let fd = world.accept(0);
    // TLS 1.0 with two suites of RSA key exchange.
    let mut hello = vec![0x16, 3, 1, 0, 47, 1, 0, 0, 43, 3, 1];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0, 0x2F, 0, 0x35, 1, 0]);
    assert_eq!(hello.len(), 5 + 47);
    world.give(fd, &hello);
    let alert = world.take(fd);
    assert_eq!((alert[0], alert.len()), (0x15, 7), "an alert");
    assert!([40, 70].contains(&alert[6]), "handshake_failure or protocol_version: {alert:?}");
    assert_eq!(world.count("tls_failed_offer"), 1);
    assert!(world.has_ended(fd));
}

#[test]
fn a_handshake_that_does_not_end_or_is_left_is_counted_and_a_look_at_the_port_is_not() {
    let (authority, ours) = plant();
    for source in [HTTP, TCP] {
        let mut world = World::new(source, &open_to_all(&ours));
        let mut machine = Maker::new(&authority, None, BOTH).machine(&mut world, 0);
        let hello = machine.bytes();
        world.give(machine.fd, &hello[..100]);
        world.pass(10 * SECOND - 1_000);
        assert!(!world.has_ended(machine.fd));
        world.pass(1_000);
        assert!(world.has_ended(machine.fd) && !world.is_closed(machine.fd));
        world.pass(2 * SECOND);
        assert!(world.is_closed(machine.fd));
        assert_eq!(world.count("tls_failed_late"), 1);
        let mut left = Maker::new(&authority, None, BOTH).machine(&mut world, 0);
        let hello = left.bytes();
        world.give(left.fd, &hello);
        world.hang_up(left.fd);
        let look = world.accept(0);
        world.hang_up(look);
        assert!(world.is_closed(left.fd) && world.is_closed(look));
        assert_eq!((world.count("tls_failed_left"), world.source(0).open), (1, 0));
    }
}

#[test]
fn a_machine_that_does_not_trust_the_certificate_is_told_apart() {
    let (_, ours) = plant();
    let mut world = World::new(HTTP, &open_to_all(&ours));
    let mut machine = Maker::new(&Authority::new("Other"), None, BOTH).machine(&mut world, 0);
    machine.exchange(&mut world);
    assert!(matches!(machine.error, Some(rustls::Error::InvalidCertificate(_))));
    assert_eq!((world.count("tls_failed_untrusted"), world.count("tls_handshakes")), (1, 0));
}

#[test]
fn a_changed_record_ends_the_connection_and_is_no_plaintext() {
    let (authority, ours) = plant();
    for source in [HTTP, TCP] {
        let mut world = World::new(source, &open_to_all(&ours));
        let mut machine = Maker::new(&authority, None, BOTH).machine(&mut world, 0);
        machine.exchange(&mut world);
        machine.say(post("cam-1", "record\r").as_bytes());
        let mut bytes = machine.bytes();
        bytes[20] ^= 1;
        world.give(machine.fd, &bytes);
        assert_eq!((world.delivered.len(), world.count("tls_failed_other")), (0, 1));
        world.pass(2 * SECOND);
        assert!(world.is_closed(machine.fd));
        assert_eq!(world.source(0).open, 0);
    }
}

#[test]
fn streams_over_tls_are_cut_into_records_and_a_cut_connection_ends_none() {
    let (authority, ours) = plant();
    let source = format!("{TCP}\non_close = \"emit\"\nlane = \"connection\"\nnames = {{ \"10.0.0.7\" = \"press\" }}");
    for versions in [ONLY_1_2, ONLY_1_3] {
        for is_cut in [false, true] {
            for piece in [1, usize::MAX] {
                let mut world = World::new(&source, &open_to_all(&ours));
                let mut machine = Maker::new(&authority, None, versions).machine(&mut world, 0);
                machine.piece = piece;
                machine.say(b"one\rtwo\rtail").exchange(&mut world);
                assert_eq!(world.delivered.len(), 2);
                if !is_cut {
                    machine.tls.send_close_notify();
                    machine.exchange(&mut world);
                }
                world.hang_up(machine.fd);
                assert!(world.is_closed(machine.fd));
                let records: Vec<&str> = world.delivered.iter().filter_map(|body| body.split(' ').nth(1)).collect();
                // What may be cut short by anybody on the way is no record.
                let expected: &[&str] = if is_cut { &["one", "two"] } else { &["one", "two", "tail"] };
                assert_eq!(records, expected);
                assert!(world.delivered[0].starts_with("press:"), "{}", world.delivered[0]);
            }
        }
    }
}

#[test]
fn a_machine_is_who_its_certificate_says() {
    let (authority, ours) = plant();
    let clients = Authority::new("Machines");
    let files = asking(&ours, &clients);
    let http = format!("{HTTP}\nname_from = \"certificate\"");
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::new(&http, &files);
        let maker = Maker::new(&authority, Some(&clients.issue(&["cam-1", "cam-2"])), versions);
        for _ in 0..2 {
            // The second time by a resumed session.
            let mut machine = maker.machine(&mut world, 0);
            let requests =
                [post("cam-1", "mine"), post("cam-2", "another's"), post("CAM-1", "another's"), post("cam-1", "mine")];
            machine.say(requests.concat().as_bytes()).exchange(&mut world);
            assert_eq!(machine.statuses(), [201, 403, 403, 201]);
        }
        assert_eq!(world.delivered, ["cam-1 mine"; 4]);
        assert_eq!(world.count("tls_resumed"), 1);
        // Names that cannot be a machine's.
        for bad in [clients.issue(&["*.plant"]), clients.issue(&["10.0.0.9"])] {
            let mut machine = Maker::new(&authority, Some(&bad), versions).machine(&mut world, 0);
            machine.say(post("cam-1", "mine").as_bytes()).exchange(&mut world);
            assert_eq!(machine.statuses(), [0; 0]);
        }
        assert_eq!(world.count("tls_failed_certificate"), 2);

        for (lane, name) in [("address", "press-4"), ("connection", "press-4:101")] {
            let tcp = format!("{TCP}\nname_from = \"certificate\"\nlane = \"{lane}\"");
            let mut world = World::new(&tcp, &files);
            let press = clients.issue(&["press-4"]);
            let mut machine = Maker::new(&authority, Some(&press), versions).machine(&mut world, 0);
            machine.say(b"12.5\r").exchange(&mut world);
            assert_eq!(world.delivered, [format!("{name} 12.5")]);
        }
    }
}

#[test]
fn a_certificate_that_ends_soon_is_a_problem_of_its_machine_and_one_that_is_over_ends_its_connection() {
    let (authority, ours) = plant();
    let clients = Authority::new("Machines");
    let mut world = World::new(HTTP, &asking(&ours, &clients));
    // An hour after the beginning it is over.
    let maker = Maker::new(&authority, Some(&clients.issue_until(&["cam-1"], 2030)), BOTH);
    let mut machine = maker.machine(&mut world, 0);
    machine.say(post("cam-1", "in time").as_bytes()).exchange(&mut world);
    assert_eq!(machine.statuses(), [201]);
    let problem = world.source(0).problem.expect("it ends soon");
    assert_eq!(problem, "the certificate of cam-1 ends on 2030-01-01, in 0 days");
    for _ in 0..80 {
        world.pass(50 * SECOND);
        machine.say(post("cam-1", "on").as_bytes()).exchange(&mut world);
    }
    // 3,600 s less the one at which all began.
    assert_eq!(machine.statuses().len(), 1 + 71);
    assert!(world.has_ended(machine.fd));
    assert_eq!(world.count("tls_failed_certificate"), 1);
    let mut machine = maker.machine(&mut world, 0);
    machine.say(post("cam-1", "again").as_bytes()).exchange(&mut world);
    assert_eq!(machine.statuses(), [0; 0], "nor by a ticket");
    assert_eq!(world.count("tls_failed_certificate"), 2);
    assert!(world.source(0).problem.expect("it is over").ends_with("ended on 2030-01-01"));
    let mut machine = Maker::new(&authority, Some(&clients.issue(&["cam-1"])), BOTH).machine(&mut world, 0);
    machine.say(post("cam-1", "renewed").as_bytes()).exchange(&mut world);
    assert_eq!((machine.statuses(), world.source(0).problem), (vec![201], None));
}

#[test]
fn another_certificate_is_shown_to_new_connections_and_another_client_ca_ends_the_old_ones() {
    let (authority, ours) = plant();
    let clients = Authority::new("Machines");
    let cam = clients.issue(&["cam-1"]);
    for source in [HTTP, TCP] {
        let mut world = World::new(source, &asking(&ours, &clients));
        let maker = Maker::new(&authority, Some(&cam), BOTH);
        let mut first = maker.machine(&mut world, 0);
        first.exchange(&mut world);
        let renewed = authority.issue(&[HOST]);
        world.reload(source, &asking(&renewed, &clients));
        let mut second = Maker::new(&authority, Some(&cam), BOTH).machine(&mut world, 0);
        second.exchange(&mut world);
        let shown = |machine: &crate::machines::Machine| machine.tls.peer_certificates().expect("one")[0].clone();
        assert_eq!((shown(&first), shown(&second)), (ours.certificate.clone(), renewed.certificate.clone()));
        assert!(!world.has_ended(first.fd));
        let others = Authority::new("Other machines");
        world.reload(source, &asking(&renewed, &others));
        for machine in [&mut first, &mut second] {
            machine.exchange(&mut world);
            assert!(machine.tls.process_new_packets().expect("good records").peer_has_closed());
            assert!(world.has_ended(machine.fd));
        }
        world.pass(3 * SECOND);
        assert!(world.is_closed(first.fd) && world.is_closed(second.fd));
        let mut third = Maker::new(&authority, Some(&cam), BOTH).machine(&mut world, 1);
        third.exchange(&mut world);
        assert_eq!(world.count("tls_failed_certificate"), 1);
        let theirs = others.issue(&["cam-1"]);
        let mut fourth = Maker::new(&authority, Some(&theirs), BOTH).machine(&mut world, 1);
        fourth.exchange(&mut world);
        assert_eq!(world.count("tls_handshakes"), 3);
    }
}

#[test]
fn a_full_journal_stops_the_reading_of_streams_over_tls_and_none_is_lost_or_doubled() {
    let (authority, ours) = plant();
    for versions in [ONLY_1_2, ONLY_1_3] {
        let mut world = World::new(TCP, &open_to_all(&ours));
        let mut machine = Maker::new(&authority, None, versions).machine(&mut world, 0);
        machine.exchange(&mut world);
        world.answers = false;
        let record = |number: usize| format!("{number:06}{}", "x".repeat(3_000));
        let (mut said, mut pauses) = (0, 0);
        while said < 3_000 {
            if !world.is_read(machine.fd) {
                pauses += 1;
                assert!(pauses < 100, "it goes on");
                world.answers = true;
                world.settle();
                assert!(world.is_read(machine.fd), "there is room again");
                world.answers = false;
            }
            machine.say(format!("{}\r", record(said)).as_bytes());
            said += 1;
            let bytes = machine.bytes();
            for piece in bytes.chunks(1_000) {
                world.give(machine.fd, piece); // also what came before reading stopped
            }
        }
        world.answers = true;
        world.settle();
        assert!(pauses > 0, "the journal was full");
        let numbers: Vec<usize> = world
            .delivered
            .iter()
            .map(|body| body.split(' ').nth(1).expect("a record")[..6].parse().expect("a number"))
            .collect();
        assert_eq!(numbers, (0..3_000).collect::<Vec<_>>());
    }
}

#[test]
fn a_full_journal_answers_503_over_tls_and_takes_records_when_there_is_room() {
    let (authority, ours) = plant();
    let mut world = World::new(HTTP, &open_to_all(&ours));
    let mut machine = Maker::new(&authority, None, BOTH).machine(&mut world, 0);
    machine.exchange(&mut world);
    world.answers = false;
    let record = "x".repeat(60_000);
    while machine.statuses().last() != Some(&503) {
        machine.heard.clear();
        machine.say(post("cam-1", &record).as_bytes()).exchange(&mut world);
        assert!(world.snapshot().terms.received < 200, "the journal is never full");
    }
    world.answers = true;
    world.settle();
    machine.heard.clear();
    machine.say(post("cam-1", "after").as_bytes()).exchange(&mut world);
    assert_eq!(machine.statuses(), [201]);
    assert_eq!(world.delivered.last().map(String::as_str), Some("cam-1 after"));
    assert_eq!(world.snapshot().terms.pending, 0);
}

#[test]
fn a_proxy_header_comes_in_front_of_the_handshake() {
    let (authority, ours) = plant();
    const HEADER: &[u8] = b"PROXY TCP4 10.0.4.21 10.0.0.5 56324 4001\r\n";
    for piece in [1, 1_000] {
        let proxied = |source: &str| format!("{source}\nproxies = [\"10.0.0.7\"]");
        let mut world = World::new(&proxied(TCP), &open_to_all(&ours));
        let mut machine = Maker::new(&authority, None, BOTH).machine(&mut world, 0);
        machine.piece = piece;
        HEADER.chunks(piece).for_each(|bytes| world.give(machine.fd, bytes));
        machine.say(b"record\r\n").exchange(&mut world);
        assert_eq!(world.delivered, ["plc@10.0.4.21 record"]);

        let mut world = World::new(&proxied(HTTP), &open_to_all(&ours));
        let mut machine = Maker::new(&authority, None, BOTH).machine(&mut world, 0);
        HEADER.chunks(piece).for_each(|bytes| world.give(machine.fd, bytes));
        machine.say(post("cam-1", "record").as_bytes()).exchange(&mut world);
        assert_eq!(machine.statuses(), [201]);
    }
    // Of a peer that is no proxy.
    let mut world = World::new(HTTP, &open_to_all(&ours));
    let fd = world.accept(0);
    world.give(fd, HEADER);
    let answer = String::from_utf8(world.take(fd)).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    assert!(head.starts_with("HTTP/1.1 400 ") && body.contains("not in proxies"), "{answer}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
    assert!(world.has_ended(fd));
    assert_eq!((world.count("tls_failed_plain"), world.delivered.len()), (1, 0));
}
