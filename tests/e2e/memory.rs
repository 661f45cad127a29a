//! The level `memory`: no journal on disk, and nothing behind the window.

use crate::machines::TcpMachine;
use crate::process::{Gateway, Receiver};
use crate::site::{Site, assert_rows, free_address, record};
use std::time::{Duration, Instant};

#[test]
fn at_level_memory_a_gateway_with_waiting_records_sleeps() {
    let site = Site::new();
    let tcp = free_address();
    let config = site.config().tcp_listen("servers", tcp).journal("durability", "\"memory\"");
    let config = config.journal("max_size", "\"64MiB\"").write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send([record("m", 0)]).expect("sent");
    gateway.wait_terms("intake", |terms| terms.pending == 1);
    // Past the moment at which a block of a journal on disk would be written.
    std::thread::sleep(Duration::from_millis(1_500));
    let (begun, before) = (Instant::now(), gateway.status().counter("turns"));
    std::thread::sleep(Duration::from_millis(500));
    let turns = gateway.status().counter("turns") - before;
    assert!(turns < 2_000, "{turns} turns in {:?} without anything to do but connect again", begun.elapsed());
}

/// More than one lane keeps in memory where there is a disk to read the rest back from.
#[test]
fn at_level_memory_a_long_backlog_of_one_connection_arrives_whole() {
    const COUNT: usize = 20_000;
    let site = Site::new();
    let tcp = free_address();
    let config = site.config().one_step().tcp_listen("servers", tcp).journal("durability", "\"memory\"");
    let config = config.journal("max_size", "\"64MiB\"").write(&site);
    let gateway = Gateway::start(&site, &config);
    let mut machine = TcpMachine::connect(tcp);
    machine.send((0..COUNT).map(|number| record("m", number))).expect("sent");
    gateway.wait_terms("intake", |terms| terms.pending == COUNT as u64);
    let _receiver = Receiver::start(&site);
    gateway.wait_delivered(COUNT as u64);
    assert_rows(&site.rows(), &[("m", COUNT)]);
}
