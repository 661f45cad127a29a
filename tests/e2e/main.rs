//! End to end, with the real binary: from a pty, a socket and an HTTP POST to rows of the film API, with whatever goes wrong in
//! between. Every test has a fresh directory and ports of its own; nothing is waited for by time where it can be looked at.

mod answers;
mod api;
mod backlog;
mod batches;
mod burst;
mod cores;
mod crashes;
mod environment;
mod forbid;
mod forms;
mod full;
mod hints;
mod histograms;
mod http;
mod joined;
mod keys;
mod leases;
mod losses;
mod machines;
mod memory;
mod names;
mod online;
mod outages;
mod parked;
mod paths;
mod ports;
mod process;
mod queue;
mod refusals;
mod reload;
mod rows;
mod site;
mod stops;
mod stuck;
mod tls;
