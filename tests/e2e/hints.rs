//! What commands say can be typed as it stands, and what would mislead is an error.

use crate::environment::{run, with_own_mounts};
use crate::process::{Process, eventually, refused, ringest};
use crate::queue::queue;
use crate::site::{Site, free_address};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Stdio;

#[test]
fn a_place_without_a_journal_is_an_error_and_not_an_empty_queue() {
    let site = Site::new();
    std::fs::create_dir(site.path("state")).expect("a directory");
    let config = site.config().tcp_listen("servers", free_address()).write(&site);
    for place in [site.path("state"), config] {
        let place = place.to_str().expect("a path");
        let looks = [&["list", place][..], &["verify", place], &["export", place], &["show", place, "0-1"]];
        let decisions = [&["retry", place, "--all"][..], &["discard", place, "--all"], &["acknowledge", place]];
        for arguments in looks.into_iter().chain(decisions).chain([&["retry", place, "--now"][..]]) {
            let (code, text) = queue(arguments, &site);
            assert_eq!(code, 9, "{arguments:?}: {text}");
            assert!(text.contains("holds no journal"), "{text}");
        }
    }
}

#[test]
fn usage_lines_can_be_typed_in_their_order() {
    let site = Site::new();
    std::fs::create_dir(site.path("state")).expect("a directory");
    // A gateway has been here.
    std::fs::write(site.path("state/lock"), "").expect("a file");
    let state = site.path("state").display().to_string();
    for (command, lines) in [("retry", 4), ("discard", 3)] {
        let output = ringest().args(["queue", command, "--help"]).output().expect("it runs");
        let help = String::from_utf8(output.stdout).expect("text");
        let usage = help.lines().filter_map(|line| Some(line.split_once("ringest queue ")?.1)).collect::<Vec<_>>();
        assert_eq!(usage.len(), lines, "{help}");
        for line in usage {
            let typed = line.replace("<PLACE>", &state).replace("<RECORD>...", "0-1").replace("<NAME>", "a");
            let typed = typed.replace("<STATUS>", "400").replace(['[', ']'], "");
            let (code, text) = queue(&typed.split(' ').collect::<Vec<_>>(), &site);
            assert_eq!(code, 10, "{typed}: {text}");
            let words = match typed.ends_with("--now") {
                true => "the gateway is not running".to_owned(),
                false => format!("ringest queue list {state} --parked"),
            };
            assert!(text.contains(&words), "{text}");
        }
    }
}

#[test]
fn a_read_only_state_directory_is_one_line_with_the_remedy_and_code_7() {
    with_own_mounts(|| {
        let site = Site::new();
        let state = site.path("state");
        std::fs::create_dir(&state).expect("a directory");
        run("mount", &["-t", "tmpfs", "-o", "ro", "none", state.to_str().expect("a path")].map(AsRef::as_ref));
        let (code, words) = refused(&site, &site.config().tcp_listen("servers", free_address()).write(&site));
        assert_eq!(code, Some(7), "{words}");
        assert_eq!(words.lines().count(), 1, "{words}");
        assert!(words.contains("Read-only") && words.contains("mount it writable"), "{words}");
    });
}

/// A demonstration of machines on ptys; its standard output goes to one file, and what it shows meanwhile to another.
fn demo(site: &Site, arguments: &[&str]) -> Process {
    let mut command = ringest();
    command.args(["demo", "--machines", "4", "--rate", "20", "--durability", "process"]).args(arguments);
    Process::start("demo", &site.path("demo.log"), &mut command)
}

fn interrupt(demo: &Process) {
    kill(Pid::from_raw(demo.pid() as i32), Signal::SIGINT).expect("it runs");
}

#[test]
fn a_demonstration_that_is_ended_early_delivers_what_was_sent_and_says_so_on_standard_output() {
    for _ in 0..3 {
        let site = Site::new();
        let mut command = ringest();
        command.args(["demo", "--machines", "16", "--rate", "50", "--for", "5m", "--durability", "process"]);
        command.stdout(Stdio::piped()).stderr(std::fs::File::create(site.path("demo.err")).expect("a file"));
        let child = command.spawn().expect("it runs");
        let errors = || std::fs::read_to_string(site.path("demo.err")).unwrap_or_default();
        // Many records are under way in the ptys when it comes.
        eventually("records to be delivered", || {
            errors().lines().any(|line| line.contains("delivered") && !line.contains("delivered 0 ")).then_some(())
        });
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it runs");
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {text}\n{}", output.status, errors());
        assert!(text.contains("(ended early)") && text.contains("balanced"), "{text}");
        assert!(!errors().contains("no such port"), "{}", errors());
    }
}

#[test]
fn a_demonstration_with_chaos_loses_nothing_that_a_machine_can_send_again() {
    let mut command = ringest();
    command.args(["demo", "--chaos", "--machines", "4", "--tcp", "2", "--http", "4", "--rate", "20", "--for", "8s"]);
    command.args(["--durability", "process"]);
    let output = command.output().expect("it runs");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {text}\n{errors}", output.status);
    for deed in ["the gateway was killed (kill -9)", "the service is stopped", "the service is back"] {
        assert_eq!(errors.matches(&format!("chaos: {deed}")).count(), 1, "{errors}");
    }
    for part in ["Chaos  ", "a line was unplugged", "Verified  ", "balanced"] {
        assert!(text.contains(part), "{text}");
    }
    let refused = ringest().args(["demo", "--chaos", "--durability", "memory"]).output().expect("it runs");
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && words.contains("use --durability process or power"), "{words}");
}

#[test]
fn a_demonstration_can_keep_its_pages_until_it_is_told_to_end() {
    let site = Site::new();
    let mut demo = demo(&site, &["--for", "1s", "--hold"]);
    eventually("the end of the machines", || demo.log().contains("the pages stay").then_some(()));
    let log = demo.log();
    let page = log.split("http://").nth(2).and_then(|rest| rest.split('/').next()).expect("the gateway's page");
    let answer = ringest::engine::admin::client::get(page, "/healthz", std::time::Duration::from_secs(20));
    assert_eq!(answer.expect("the page is there").status, 200);
    interrupt(&demo);
    assert!(demo.wait().success(), "{}", demo.log());
    assert!(demo.log().contains("Accounting"), "{}", demo.log());
}
