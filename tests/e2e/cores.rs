//! The level `memory`, more than one core, and another number of cores than before.

use crate::machines::{HttpMachine, Pty, TcpMachine};
use crate::process::{Gateway, Receiver, eventually};
use crate::site::{Config, Site, assert_rows, free_address, record};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use std::net::{IpAddr, Ipv4Addr};

/// The first CPUs that this process may use, as in a configuration.
pub fn cpus(count: usize) -> String {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("a system call");
    let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).take(count).collect::<Vec<_>>();
    assert_eq!(cpus.len(), count, "this test needs {count} CPUs");
    format!("{cpus:?}")
}

#[test]
fn the_level_memory_delivers_and_keeps_nothing_on_disk() {
    let site = Site::new();
    let receiver = Receiver::start(&site);
    let (tcp, http) = (free_address(), free_address());
    let config = site.config().journal("durability", "\"memory\"").tcp_listen("servers", tcp).http("cameras", http);
    let config = config.deliver("drain", "\"100ms\"").write(&site);
    let gateway = Gateway::start(&site, &config);
    let (mut tcp, mut http) = (TcpMachine::connect(tcp), HttpMachine::connect(http));
    tcp.send((0..500).map(|number| record("tcp", number))).expect("sent");
    for number in 0..100 {
        assert_eq!(http.post("camera", &record("http", number)).expect("an answer").status, 201);
    }
    gateway.wait_delivered(600);
    receiver.stop();
    tcp.send((500..600).map(|number| record("tcp", number))).expect("sent");
    gateway.wait_terms("intake", |terms| terms.received == 700);
    let receiver = Receiver::start(&site);
    gateway.wait_delivered(700);
    assert_rows(&site.rows(), &[("tcp", 600), ("http", 100)]);
    receiver.stop();
    tcp.send([record("tcp", 600)]).expect("sent");
    gateway.wait_terms("intake", |terms| terms.received == 701);
    gateway.stop();
    // What could not be delivered is lost with the process, as the level says.
    let gateway = Gateway::start(&site, &config);
    assert_eq!(gateway.terms().recovered, 0);
}

#[test]
fn a_gateway_on_one_core_delivers_what_two_cores_left() {
    const EACH: usize = 100;
    let site = Site::new();
    let (tcp, http) = (free_address(), free_address());
    let mut ptys = (0..4).map(|index| Pty::create(&site.path(&format!("press-{index}")))).collect::<Vec<_>>();
    let sources = |mut config: Config| {
        for index in 0..4 {
            config = config.serial(&format!("press-{index}"), &site.path(&format!("press-{index}")));
        }
        config.tcp_listen("servers", tcp).http("cameras", http)
    };
    let config = sources(site.config().cores(&cpus(2))).write(&site);
    let mut gateway = Gateway::start(&site, &config);
    for index in 0..4 {
        let name = format!("press-{index}");
        eventually("the ptys to be opened", || (gateway.status().open(&name) == 1).then_some(()));
    }
    let mut names = Vec::new();
    for (index, pty) in ptys.iter_mut().enumerate() {
        let name = format!("pty-{index}");
        pty.send((0..EACH).map(|number| record(&name, number)));
        names.push(name);
    }
    let mut machines = Vec::new();
    for index in 0..16 {
        let (name, mut machine) = (format!("tcp-{index}"), TcpMachine::connect(tcp));
        machine.send((0..EACH).map(|number| record(&name, number))).expect("sent");
        names.push(name);
        machines.push(machine);
        let (name, mut machine) = (format!("http-{index}"), HttpMachine::connect(http));
        for number in 0..EACH {
            assert_eq!(machine.post("camera", &record(&name, number)).expect("an answer").status, 201);
        }
        names.push(name);
    }
    let total = (names.len() * EACH) as u64;
    gateway.wait_terms("intake", |terms| terms.received == total);
    let of_core = |core: usize| gateway.status().0["shards"][core]["terms"]["pending"].as_u64().expect("a number");
    let (first, second) = (of_core(0), of_core(1));
    assert_eq!(first + second, total);
    // The kernel spreads connections by a hash; that all 32 and both ptys fall to one core cannot be.
    assert!(first >= 2 * EACH as u64 && second >= 2 * EACH as u64, "{first} and {second}");
    gateway.process.kill();

    let receiver = Receiver::start(&site);
    let config = sources(site.config().cores(&cpus(1))).write(&site);
    let gateway = Gateway::start(&site, &config);
    assert_eq!(gateway.terms().recovered, total);
    for (index, pty) in ptys.iter_mut().enumerate() {
        let name = format!("press-{index}");
        eventually("the ptys to be opened", || (gateway.status().open(&name) == 1).then_some(()));
        pty.send((EACH..2 * EACH).map(|number| record(&format!("pty-{index}"), number)));
    }
    gateway.wait_delivered(total + 4 * EACH as u64);
    let count = |name: &str| if name.starts_with("pty") { 2 * EACH } else { EACH };
    let counts = names.iter().map(|name| (name.as_str(), count(name))).collect::<Vec<_>>();
    assert_rows(&site.rows(), &counts);
    gateway.stop();

    // Nothing comes back, on one core or on two.
    for cores in [1, 2] {
        let gateway = Gateway::start(&site, &sources(site.config().cores(&cpus(cores))).write(&site));
        assert_eq!(gateway.terms().recovered, 0, "on {cores} cores");
        gateway.stop();
    }
    receiver.stop();
}

#[test]
fn what_comes_from_one_address_keeps_its_order_across_reconnects_on_two_cores() {
    const ROUNDS: usize = 40;
    const EACH: usize = 10;
    let site = Site::new();
    let tcp = free_address();
    let keys = format!("listen = \"{tcp}\"\nlane = \"address\"");
    let config = site.config().cores(&cpus(2)).source("servers", "tcp_listen", &keys).write(&site);
    let mut gateway = Gateway::start(&site, &config);
    let addresses = (2..10).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect::<Vec<_>>();
    let mut sent = 0;
    for round in 0..ROUNDS {
        // A restart in between, with records pending. But for that each machine connects again as soon as it has closed.
        if round == ROUNDS / 2 {
            gateway.wait_terms("intake", |terms| terms.received == sent);
            gateway.process.kill();
            gateway = Gateway::start(&site, &config);
            assert_eq!(gateway.terms().recovered, sent);
            sent = 0;
        }
        for address in &addresses {
            let mut machine = TcpMachine::from_ip(IpAddr::V4(*address), tcp);
            let records = (round * EACH..(round + 1) * EACH).map(|number| record(&address.to_string(), number));
            machine.send(records).expect("sent");
            sent += EACH as u64;
        }
    }
    gateway.wait_terms("intake", |terms| terms.received == sent);
    let _receiver = Receiver::start(&site);
    gateway.wait_terms("all of it", |terms| terms.pending == 0);
    let rows = site.rows();
    let names = addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let counts = names.iter().map(|name| (name.as_str(), ROUNDS * EACH)).collect::<Vec<_>>();
    assert_rows(&rows, &counts);
    for row in &rows {
        let (address, _) = row.data.split_once(' ').expect("a record");
        assert_eq!(row.machine, format!("servers@{address}"));
    }
    let of_core = |core: usize| gateway.status().0["shards"][core]["terms"]["delivered"].as_u64().expect("a number");
    assert!(of_core(0) > 0 && of_core(1) > 0, "all addresses fell to one core");
}

#[test]
fn what_comes_from_one_address_keeps_its_order_across_reconnects_while_machines_flood() {
    const ROUNDS: usize = 8;
    const EACH: usize = 400;
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let tcp = free_address();
    let keys = format!("listen = \"{tcp}\"\nlane = \"address\"");
    let config = site.config().one_step().source("servers", "tcp_listen", &keys).write(&site);
    let gateway = Gateway::start(&site, &config);
    let names: Vec<(Ipv4Addr, String)> = (2..8)
        .map(|last| Ipv4Addr::new(127, 0, 0, last))
        .map(|address| (address, format!("{address}-{}", "x".repeat(100))))
        .collect();
    std::thread::scope(|scope| {
        for (address, name) in &names {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mut machine = TcpMachine::from_ip(IpAddr::V4(*address), tcp);
                    let records = (round * EACH..(round + 1) * EACH).map(|number| record(name, number));
                    machine.send(records).expect("sent");
                }
            });
        }
    });
    gateway
        .wait_terms("all of it", |terms| terms.received == (names.len() * ROUNDS * EACH) as u64 && terms.pending == 0);
    let counts = names.iter().map(|(_, name)| (name.as_str(), ROUNDS * EACH)).collect::<Vec<_>>();
    assert_rows(&site.rows(), &counts);
}
