//! `ringest ports`: the serial ports of this machine, from sysfs. No port is opened.

use super::Failure;
use crate::source::serial::{self, LATENCY_TIMER_SLOW_MS, Port, Usb};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Arguments of `ringest ports`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Where sys, dev and proc are, to look at another system's tree
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// A port as `--json` shows it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    port: &'a Port,
    /// What should be changed about it, with the remedy.
    warnings: Vec<String>,
}

/// Runs the command. No port at all is no failure.
///
/// # Errors
/// Standard output cannot be written.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let ports = serial::ports(&arguments.root);
    let shown: Vec<Shown<'_>> = ports.iter().map(|port| Shown { port, warnings: warnings(port) }).collect();
    let text = if arguments.json {
        serde_json::to_string_pretty(&serde_json::json!({ "ports": shown }))? + "\n"
    } else {
        render(&shown)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn warnings(port: &Port) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(ms) = port.latency_timer_ms.filter(|ms| *ms >= LATENCY_TIMER_SLOW_MS) {
        warnings.push(format!(
            "the latency timer is {ms} ms: the end of a record waits up to that long in the adapter. Now: `echo 1 > \
             /sys/bus/usb-serial/devices/{}/latency_timer`; for good, a udev rule: ACTION==\"add\", \
             SUBSYSTEM==\"usb-serial\", DRIVER==\"ftdi_sio\", ATTR{{latency_timer}}=\"1\"",
            port.name
        ));
    }
    if let (Some(usb), true) = (&port.usb, port.by_id.is_empty()) {
        let why = if usb.serial.is_none() { "; the adapter has no serial number" } else { "" };
        let instead = match port.by_path.first() {
            Some(link) => format!("use {}, which stays with its socket", link.display()),
            None => "udev makes them: is it running?".to_owned(),
        };
        warnings.push(format!("no name of it in /dev/serial/by-id, and {} may change{why}: {instead}", port.name));
    }
    warnings
}

fn render(ports: &[Shown<'_>]) -> String {
    let mut out = String::new();
    for Shown { port, warnings } in ports {
        let driver = port.driver.as_deref().unwrap_or("no driver named");
        let _ = writeln!(out, "{}  {}", shown_path(&port.path), driver);
        let mut line = |what: &str, words: &str| {
            let _ = writeln!(out, "  {what:<13}  {words}");
        };
        if let Some(usb) = &port.usb {
            line("USB", &usb_words(usb));
        }
        for link in port.by_id.iter().chain(&port.by_path) {
            line("name", &shown_path(link));
        }
        if let Some(ms) = port.latency_timer_ms {
            line("latency timer", &format!("{ms} ms"));
        }
        if let Some(holders) = serial::holder_words(&port.holders) {
            line("in use by", &holders);
        }
        for warning in warnings {
            line("warning", warning);
        }
    }
    if ports.is_empty() {
        out.push_str("no serial port with hardware behind it\n");
    } else if !nix::unistd::Uid::effective().is_root() {
        out.push_str("\nwho uses a port is shown as far as this user may see; root sees all\n");
    }
    out
}

fn usb_words(usb: &Usb) -> String {
    let mut words = format!("{}:{}", usb.vendor_id, usb.product_id);
    for text in [&usb.manufacturer, &usb.product].into_iter().flatten() {
        let _ = write!(words, " {text}");
    }
    match &usb.serial {
        Some(serial) => drop(write!(words, ", serial number {serial}")),
        None => words.push_str(", no serial number"),
    }
    if let Some(interface) = usb.interface {
        let _ = write!(words, ", interface {interface}");
    }
    words
}

fn shown_path(path: &Path) -> String {
    path.display().to_string()
}
