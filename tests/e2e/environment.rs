//! A machine that lacks something, or forbids it: each is one clear line, an exit code of its own where nothing can be done without
//! it, and else a gateway that works. Needs root, and from util-linux mount, prlimit and setpriv.

use crate::machines::{Pty, TcpMachine};
use crate::process::{Gateway, Receiver, eventually, refused_by};
use crate::site::{Site, assert_rows, free_address, record};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Group, Uid, chown};
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The user `nobody`, who is in no group here.
const NOBODY: u32 = 65_534;

/// `ringest` as an ordinary user, who may enter the site's directory.
fn as_nobody(site: &Site) -> Command {
    let directory = site.path("");
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).expect("a directory");
    // The target directory may be closed to that user.
    let binary = site.path("ringest");
    if !binary.exists() {
        let built = env!("CARGO_BIN_EXE_ringest");
        fs::hard_link(built, &binary).or_else(|_| fs::copy(built, &binary).map(drop)).expect("a copy of the binary");
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}")).arg("--clear-groups").arg(binary);
    command
}

/// Lets that user write into the site's directory.
fn give_site(site: &Site) {
    chown(&site.path(""), Some(Uid::from_raw(NOBODY)), None).expect("root runs the tests");
}

/// Makes the state directory, for that user.
fn give_state(site: &Site) {
    fs::create_dir(site.path("state")).expect("a directory");
    chown(&site.path("state"), Some(Uid::from_raw(NOBODY)), None).expect("root runs the tests");
}

pub fn run(program: &str, arguments: &[&OsStr]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

fn mount(kind: &str, at: &Path) {
    run("mount", &["-t".as_ref(), kind.as_ref(), "none".as_ref(), at.as_ref()]);
}

/// Runs a test in a mount namespace of its own, which the thread's children share.
pub fn with_own_mounts(test: impl FnOnce() + Send + 'static) {
    let alone = move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("root runs the tests");
        run("mount", &["--make-rprivate".as_ref(), "/".as_ref()]);
        test();
    };
    if let Err(panic) = std::thread::spawn(alone).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a test in a network of its own, which the thread's children share; it has a loopback.
pub fn with_own_network(test: impl FnOnce() + Send + 'static) {
    let alone = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root runs the tests");
        run("ip", &["link", "set", "lo", "up"].map(OsStr::new));
        test();
    };
    if let Err(panic) = std::thread::spawn(alone).join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_forbidden_port_names_the_group_to_join_and_ends_the_start_with_code_7() {
    let site = Site::new();
    let link = site.path("press");
    let mut pty = Pty::create(&link);
    let group = Group::from_name("dialout").expect("the groups").expect("Debian has a group dialout");
    let port = link.canonicalize().expect("the port");
    chown(&port, None, Some(group.gid)).expect("root runs the tests");
    fs::set_permissions(&port, Permissions::from_mode(0o660)).expect("the port");
    give_state(&site);
    let keys =
        |on_missing: &str| format!("path = \"{}\"\nline = \"9600 8N1\"\non_missing = \"{on_missing}\"", link.display());
    let (code, words) =
        refused_by(&site, &site.config().source("press", "serial", &keys("fail")).write(&site), as_nobody(&site));
    assert_eq!(code, Some(7), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
    for part in ["press", "permission denied", "group dialout", "`usermod -aG dialout nobody`"] {
        assert!(words.contains(part), "no {part:?} in {words}");
    }

    give_site(&site);
    // A port that is waited for is said to be forbidden, and is opened once it is not.
    let _receiver = Receiver::start(&site);
    let config = site.config().source("press", "serial", &keys("wait")).write(&site);
    let mut gateway = Gateway::spawn_by(&site, &config, as_nobody(&site));
    gateway.process.wait_ready(&site.path("run.ready"));
    let problem = eventually("the problem to be said", || {
        gateway.status().source("press")["problem"].as_str().map(str::to_owned)
    });
    assert!(problem.contains("group dialout"), "{problem}");
    chown(&port, None, Some(Gid::from_raw(NOBODY))).expect("the port");
    eventually("the port to be opened", || (gateway.status().open("press") == 1).then_some(()));
    pty.send([record("m", 0)]);
    gateway.wait_delivered(1);
    gateway.stop();
}

#[test]
fn a_forbidden_state_directory_is_one_line_with_the_remedy_and_code_7() {
    let site = Site::new();
    let config = site.config().tcp_listen("servers", free_address()).write(&site);
    // The site belongs to root: it can neither be made there, nor used when it is there.
    for made in [false, true] {
        if made {
            fs::create_dir(site.path("state")).expect("a directory");
        }
        let (code, words) = refused_by(&site, &config, as_nobody(&site));
        assert_eq!(code, Some(7), "{words}");
        assert_eq!(words.lines().count(), 1, "{words}");
        assert!(words.contains(&site.path("state").display().to_string()), "{words}");
        assert!(words.contains("`chown -R nobody`") && words.contains("StateDirectory="), "{words}");
    }
}

#[test]
fn a_forbidden_address_is_one_line_with_the_remedy_and_code_7() {
    let site = Site::new();
    give_state(&site);
    let unprivileged = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("a setting");
    let port: u16 = unprivileged.trim().parse().expect("a number");
    assert!(port > 0, "net.ipv4.ip_unprivileged_port_start is 0: no port is forbidden here");
    let config = site.config().tcp_listen("servers", format!("127.0.0.1:{}", port - 1).parse().expect("an address"));
    let (code, words) = refused_by(&site, &config.write(&site), as_nobody(&site));
    assert_eq!(code, Some(7), "{words}");
    assert_eq!(words.lines().count(), 1, "{words}");
    assert!(words.contains("servers") && words.contains("CAP_NET_BIND_SERVICE"), "{words}");
}

#[test]
fn without_descriptors_accepting_pauses_and_the_work_goes_on() {
    const FILES: usize = 300;
    let site = Site::new();
    let _receiver = Receiver::start(&site);
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).write(&site);
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={FILES}:{FILES}")).arg(env!("CARGO_BIN_EXE_ringest"));
    let mut gateway = Gateway::spawn_by(&site, &config, command);
    gateway.process.wait_ready(&site.path("run.ready"));
    let log = gateway.process.log();
    assert!(
        log.contains(&format!("the limit of open files, {FILES}, allows")) && log.contains("LimitNOFILE="),
        "{log}"
    );

    let mut machines = Vec::new();
    for _ in 0..FILES {
        machines.push(TcpMachine::connect(tcp));
    }
    let problem =
        eventually("accepting to pause", || gateway.status().source("servers")["problem"].as_str().map(str::to_owned));
    assert!(problem.contains("accepting pauses"), "{problem}");
    let open = gateway.status().open("servers");
    assert!(open > 20 && open < FILES as u64, "{open} of {FILES}");
    // It does not spin.
    let (begun, before) = (Instant::now(), gateway.status().counter("turns"));
    std::thread::sleep(Duration::from_millis(500));
    let turns = gateway.status().counter("turns") - before;
    assert!(turns < 500, "{turns} turns in {:?} with nothing to do", begun.elapsed());
    // Those that are connected are served, also after all connections to the API were closed for being idle.
    for number in 0..2 {
        machines[0].send([record("m", number)]).expect("sent");
        gateway.wait_delivered(number as u64 + 1);
        eventually("the API to be left", || {
            (gateway.status().0["shards"][0]["routes"][0]["connections"] == 0).then_some(())
        });
    }
    // Those that wait get their turn when others leave.
    let mut last = machines.pop().expect("there are many");
    last.send([record("late", 0)]).expect("it lies in the socket");
    machines.truncate(1);
    gateway.wait_delivered(3);
    eventually("accepting to go on", || gateway.status().source("servers")["problem"].is_null().then_some(()));
    assert_rows(&site.rows(), &[("m", 2), ("late", 1)]);
    drop((machines, last));
    gateway.stop();
}

/// Records that are received while nobody takes them, survive a kill, and are delivered by the next start.
fn keeps_its_promise(site: &Site, said: &[&str]) {
    const COUNT: usize = 500;
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).write(site);
    let mut gateway = Gateway::start(site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..COUNT).map(|number| record("m", number))).expect("sent");
    gateway.wait_terms("intake", |terms| terms.received == COUNT as u64);
    let log = gateway.process.log();
    for part in said {
        assert_eq!(log.lines().filter(|line| line.contains(part)).count(), 1, "{part:?} in one line of: {log}");
    }
    assert!(!log.contains("ERROR"), "{log}");
    gateway.process.kill();
    let gateway = Gateway::start(site, &config);
    assert_eq!(gateway.terms().recovered, COUNT as u64);
    let _receiver = Receiver::start(site);
    gateway.wait_delivered(COUNT as u64);
    assert_rows(&site.rows(), &[("m", COUNT)]);
    gateway.stop();
    let gateway = Gateway::start(site, &config);
    assert_eq!(gateway.terms().recovered, 0);
    gateway.stop();
}

#[test]
fn without_dev_shm_blocks_live_in_the_state_directory_and_survive_a_kill() {
    with_own_mounts(|| {
        let site = Site::new();
        mount("tmpfs", Path::new("/dev"));
        for (node, minor) in [("null", "3"), ("zero", "5"), ("urandom", "9")] {
            run("mknod", &[format!("/dev/{node}").as_ref(), "c".as_ref(), "1".as_ref(), minor.as_ref()]);
        }
        assert!(!Path::new("/dev/shm").exists());
        keeps_its_promise(&site, &["the block file is kept in the state directory"]);
    });
}

#[test]
fn a_dev_shm_without_room_is_as_good_as_none() {
    with_own_mounts(|| {
        let site = Site::new();
        run(
            "mount",
            &[
                "-t".as_ref(),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                "size=64k".as_ref(),
                "none".as_ref(),
                "/dev/shm".as_ref(),
            ],
        );
        keeps_its_promise(&site, &["the block file is kept in the state directory"]);
    });
}

#[test]
fn on_a_file_system_without_o_direct_a_line_says_what_that_costs_and_all_works() {
    with_own_mounts(|| {
        let site = Site::new();
        fs::create_dir(site.path("state")).expect("a directory");
        mount("ramfs", &site.path("state"));
        keeps_its_promise(&site, &["on a file system without O_DIRECT"]);
        // The mount keeps the directory.
        run("umount", &["-l".as_ref(), site.path("state").as_ref()]);
    });
}

#[test]
fn another_user_of_the_machine_cannot_decide_about_parked_records() {
    let site = Site::new();
    let config = site.config().tcp_listen("servers", free_address()).write(&site);
    let gateway = Gateway::start(&site, &config);
    let place = config.to_str().expect("a path");
    let decide = || as_nobody(&site).args(["queue", "discard", place, "--all"]).output().expect("it runs");
    // Also where the directory itself was opened, the token is not.
    for mode in [0o700, 0o755] {
        fs::set_permissions(site.path("state"), Permissions::from_mode(mode)).expect("a directory");
        let lock = Permissions::from_mode(if mode == 0o700 { 0o600 } else { 0o644 });
        fs::set_permissions(site.path("state/lock"), lock).expect("the lock");
        let output = decide();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{words}");
        assert!(words.contains("only the user of the gateway, or root, may decide"), "{words}");
    }
    gateway.stop();
}

#[test]
fn check_online_says_which_memory_the_rings_lack() {
    let site = Site::new();
    let config = site.config().tcp_listen("servers", free_address());
    let config = config.limit("read_buffers", "32768").limit("read_buffer", "\"64KiB\"").write(&site);
    // Two GiB of buffers for each core, of one that the process may have.
    let mut command = Command::new("prlimit");
    command.args([&format!("--as={}", 1_u64 << 30), env!("CARGO_BIN_EXE_ringest"), "check", "--online"]).arg(&config);
    let output = command.output().expect("prlimit");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{out}{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("the rings for 1 core cannot be made") && out.contains("LimitMEMLOCK=infinity"), "{out}");
}
