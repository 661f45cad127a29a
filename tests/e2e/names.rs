//! Names of the API and of device servers: a name server that does not answer, an address that changes.

use crate::api::{Api, Behaviour};
use crate::environment::{run, with_own_mounts, with_own_network};
use crate::machines::{Pty, TcpMachine};
use crate::process::{Gateway, Receiver, eventually};
use crate::site::{Site, assert_rows, assert_whole, free_address, numbers, record};
use nix::sys::signal::Signal;
use std::net::UdpSocket;
use std::path::Path;

/// More than there were threads for all that can wait.
const DEAD_NAMES: usize = 101;

/// Runs a test in a network with a name server that answers nobody, and with a list of hosts of its own.
fn with_silent_name_server(test: impl FnOnce(&Site) + Send + 'static) {
    with_own_mounts(|| {
        with_own_network(|| {
            let site = Site::new();
            let _server = UdpSocket::bind("127.0.0.1:53").expect("nobody else is in this network");
            let put = |name: &str, text: &str, over: &str| {
                let path = site.path(name);
                std::fs::write(&path, text).expect("written");
                run("mount", &["--bind".as_ref(), path.as_os_str(), Path::new(over).as_os_str()]);
            };
            // A look-up takes two and a half minutes.
            put("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n", "/etc/resolv.conf");
            put("hosts", "127.0.0.1 localhost\n", "/etc/hosts");
            test(&site);
        });
    });
}

#[test]
fn names_that_nobody_answers_for_hold_up_neither_deliveries_nor_ports_nor_a_reload() {
    with_silent_name_server(|site| {
        let receiver = Receiver::start(site);
        let tcp = free_address();
        let link = site.path("press");
        let dead = |config: crate::site::Config, index| {
            config.source(&format!("dead-{index}"), "tcp_connect", &format!("connect = \"dead-{index}.plant:4001\""))
        };
        let config = (0..DEAD_NAMES).fold(site.config(), dead).serial("press", &link).tcp_listen("servers", tcp);
        let url = |path: &str| format!("\"http://localhost:{}/{path}/\"", site.api.port());
        let path = config.deliver("url", &url("films")).write(site);
        let pty = Pty::create(&link);
        let mut gateway = Gateway::start(site, &path);
        eventually("the port to be opened", || (gateway.status().open("press") == 1).then_some(()));
        let mut machine = TcpMachine::connect(tcp);
        machine.send((0..10).map(|number| record("m", number))).expect("sent");
        gateway.wait_delivered(10);
        // A port that is plugged in again.
        drop(pty);
        eventually("the hang-up to be seen", || (gateway.status().open("press") == 0).then_some(()));
        let mut pty = Pty::create(&link);
        eventually("the port to be opened again", || (gateway.status().open("press") == 1).then_some(()));
        pty.send([record("p", 0)]);
        gateway.wait_delivered(11);
        let text = std::fs::read_to_string(&path).expect("the configuration");
        std::fs::write(&path, text.replace("max = \"200ms\"", "max = \"300ms\"")).expect("written");
        gateway.process.signal(Signal::SIGHUP);
        eventually("the reload", || gateway.process.log().contains("retry.max").then_some(()));
        assert_rows(&site.rows(), &[("m", 10), ("p", 1)]);
        assert!(gateway.process.is_running());
        gateway.stop();
        receiver.stop();
    });
}

#[test]
fn a_busy_connection_follows_its_name_and_the_last_good_address_is_used_while_the_name_server_is_silent() {
    with_silent_name_server(|site| {
        let hosts = |text: &str| std::fs::write(site.path("hosts"), text).expect("written");
        hosts("127.0.0.1 localhost api.plant\n");
        let first = Api::start(site.api, Behaviour::default());
        let second = Api::start((std::net::Ipv4Addr::new(127, 0, 0, 2), site.api.port()).into(), Behaviour::default());
        let tcp = free_address();
        let url = format!("\"http://api.plant:{}/films/\"", site.api.port());
        let config = site.config().one_step().tcp_listen("servers", tcp).deliver("url", &url);
        // Always one connection, which is never idle for so long.
        let config = config.deliver("connections", "1").deliver("idle", "\"60s\"");
        let config = config.deliver("max_connection_age", "\"500ms\"");
        let gateway = Gateway::start(site, &config.write(site));
        let mut machine = TcpMachine::connect(tcp);
        let mut sent = 0;
        let mut send = || {
            machine.send([record("m", sent)]).expect("sent");
            sent += 1;
            sent
        };
        let goes_to = |api: &Api, send: &mut dyn FnMut() -> usize| {
            let before = api.films().len();
            eventually("the other address to be used", || {
                send();
                std::thread::sleep(std::time::Duration::from_millis(10));
                (api.films().len() > before + 20).then_some(())
            });
        };
        goes_to(&first, &mut send);
        hosts("127.0.0.1 localhost\n127.0.0.2 api.plant\n");
        goes_to(&second, &mut send);
        hosts("127.0.0.1 localhost\n");
        eventually("the name to be missed", || {
            send();
            let problem = gateway.status().0["routes"][0]["problem"].as_str().map(str::to_owned)?;
            problem.contains("api.plant cannot be looked up").then_some(())
        });
        goes_to(&second, &mut send);
        let sent = send();
        gateway.wait_delivered(sent as u64);
        let films = [first.films(), second.films()].concat();
        let found = numbers(films.iter().map(|film| film.data.as_str()));
        assert_eq!(assert_whole("m", &found["m"]), sent);
        assert_eq!(gateway.status().counter("api_failures"), 0);
        gateway.stop();
    });
}
