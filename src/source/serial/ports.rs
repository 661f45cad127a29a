//! The serial ports of this machine, from sysfs: nothing is opened, for that alone raises DTR and resets some machines.

use super::holder::{Holder, holders};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// An FTDI chip that waits so long or longer with bytes that do not fill a USB packet is worth a warning.
pub const LATENCY_TIMER_SLOW_MS: u32 = 16;

/// A serial port with hardware behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The kernel's name, such as `ttyUSB0`: it can be another one after the next plug or boot.
    pub name: String,
    /// The device node.
    pub path: PathBuf,
    /// Links that follow the adapter, by its serial number.
    pub by_id: Vec<PathBuf>,
    /// Links that follow the socket that it is plugged into.
    pub by_path: Vec<PathBuf>,
    /// The kernel driver, such as `ftdi_sio` or `serial`.
    pub driver: Option<String>,
    /// Of a USB adapter.
    pub usb: Option<Usb>,
    /// How long an FTDI chip waits for more bytes before it sends what it has, in milliseconds.
    pub latency_timer_ms: Option<u32>,
    /// The processes that have it open, as far as this user may see.
    pub holders: Vec<Holder>,
}

/// What a USB adapter tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usb {
    /// Four hexadecimal digits.
    pub vendor_id: String,
    /// Four hexadecimal digits.
    pub product_id: String,
    /// Serial number; cheap adapters have none, or all the same.
    pub serial: Option<String>,
    /// Maker, in its own words.
    pub manufacturer: Option<String>,
    /// Product, in its maker's words.
    pub product: Option<String>,
    /// Which interface of an adapter with several ports.
    pub interface: Option<u8>,
}

/// Which USB adapter a port belongs to, and where that is plugged in. Adapters can have equal serial numbers, a socket cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adapter {
    /// Four hexadecimal digits.
    pub vendor_id: String,
    /// Four hexadecimal digits.
    pub product_id: String,
    /// Serial number, if it has one.
    pub serial: Option<String>,
    /// Bus, sockets on the way and interface, such as `1-1.4:1.0`: the kernel's name of the interface.
    pub port: String,
}

impl fmt::Display for Adapter {
    /// `USB adapter 0403:6001, serial number A5XK3RJT, at USB port 1-1.4:1.0`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vendor_id, product_id, serial, port } = self;
        write!(f, "USB adapter {vendor_id}:{product_id}, ")?;
        match serial {
            Some(serial) => write!(f, "serial number {serial}, ")?,
            None => f.write_str("without a serial number, ")?,
        }
        write!(f, "at USB port {port}")
    }
}

/// The USB adapter of a tty, by its device number. `root` is where `sys` is: `/`.
pub fn adapter_of(root: &Path, device: u64) -> Option<Adapter> {
    let device = of_device(root, device).canonicalize().ok()?;
    let top = root.canonicalize().ok()?;
    let above = below(&top, &device);
    let Usb { vendor_id, product_id, serial, .. } = usb(&above)?;
    let is_plugged = |device: &&&Path| device.join("bInterfaceNumber").exists() || device.join("idVendor").exists();
    let port = above.iter().find(is_plugged)?.file_name()?.to_str()?.to_owned();
    Some(Adapter { vendor_id, product_id, serial, port })
}

/// Whether a character device is a tty, as far as sysfs tells: not every one is named there.
pub(super) fn may_be_tty(root: &Path, device: u64) -> bool {
    let subsystem = fs::read_link(of_device(root, device).join("subsystem"));
    subsystem.ok().is_none_or(|subsystem| subsystem.ends_with("tty"))
}

/// The first of a port's names that stay when it is plugged in again.
pub(super) fn stable_name(root: &Path, path: &Path) -> Option<PathBuf> {
    let links = |directory| links_to(&root.join(directory), path);
    links("dev/serial/by-id").into_iter().chain(links("dev/serial/by-path")).next()
}

/// Where sysfs has a character device.
fn of_device(root: &Path, device: u64) -> PathBuf {
    root.join(format!("sys/dev/char/{}:{}", libc::major(device), libc::minor(device)))
}

/// A device and those above it; not above `top`.
fn below<'p>(top: &Path, device: &'p Path) -> Vec<&'p Path> {
    device.ancestors().take_while(|above| above.starts_with(top) && *above != top).collect()
}

/// The ports, in the order of their names and numbers. `root` is where `sys`, `dev` and `proc` are: `/`.
pub fn ports(root: &Path) -> Vec<Port> {
    let class = root.join("sys/class/tty");
    let Ok(entries) = fs::read_dir(&class) else { return Vec::new() };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| is_real(&class.join(name), name));
    names.sort_by_key(|name| split_number(name));
    let mut ports: Vec<Port> = names.into_iter().map(|name| describe(root, name)).collect();
    let paths: Vec<&Path> = ports.iter().map(|port| port.path.as_path()).collect();
    let holders = holders(root, &paths);
    for (port, holders) in ports.iter_mut().zip(holders) {
        port.holders = holders;
    }
    ports
}

/// `ttyUSB10` is `ttyUSB` and 10.
fn split_number(name: &str) -> (String, u32) {
    let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (kind.to_owned(), name[kind.len()..].parse().unwrap_or(0))
}

/// Whether there is hardware: consoles and virtual terminals have no device, and drivers of built-in ports make their nodes
/// whether there is a chip or not; type 0 is PORT_UNKNOWN (linux/serial_core.h).
fn is_real(class: &Path, name: &str) -> bool {
    // hvc: a hypervisor's console, which has a device but no line.
    !name.starts_with("hvc")
        && class.join("device").exists()
        && text(&class.join("type")).is_none_or(|type_| type_ != "0")
}

fn describe(root: &Path, name: String) -> Port {
    let path = root.join("dev").join(&name);
    let device = root.join("sys/class/tty").join(&name).join("device");
    let latency_timer_ms = text(&device.join("latency_timer")).and_then(|text| text.parse().ok());
    let device = device.canonicalize().unwrap_or(device);
    // Not above `root`: there is no device, and in a test there may be the real ones.
    let top = root.canonicalize().unwrap_or_default();
    let above = below(&top, &device);
    Port {
        by_id: links_to(&root.join("dev/serial/by-id"), &path),
        by_path: links_to(&root.join("dev/serial/by-path"), &path),
        driver: driver(&above),
        usb: usb(&above),
        latency_timer_ms,
        holders: Vec::new(),
        name,
        path,
    }
}

/// The driver of the nearest device that has one. The `serial-base` bus (Linux 6.5) puts two devices of its own, with the
/// drivers `port` and `ctrl`, between a built-in port and its chip.
fn driver(above: &[&Path]) -> Option<String> {
    let link =
        |device: &Path, name: &str| Some(fs::read_link(device.join(name)).ok()?.file_name()?.to_str()?.to_owned());
    above
        .iter()
        .filter(|device| link(device, "subsystem").is_none_or(|bus| bus != "serial-base"))
        .find_map(|device| link(device, "driver"))
}

/// The adapter above a port: an interface has `bInterfaceNumber`, the device above it `idVendor`
/// (Documentation/ABI/stable/sysfs-bus-usb).
fn usb(above: &[&Path]) -> Option<Usb> {
    let device = above.iter().find(|device| device.join("idVendor").exists())?;
    let interface = above.iter().find_map(|device| text(&device.join("bInterfaceNumber")));
    let of_device = |name: &str| text(&device.join(name));
    Some(Usb {
        vendor_id: of_device("idVendor")?,
        product_id: of_device("idProduct")?,
        serial: of_device("serial"),
        manufacturer: of_device("manufacturer"),
        product: of_device("product"),
        interface: interface.and_then(|number| u8::from_str_radix(&number, 16).ok()),
    })
}

/// A line of text of sysfs, if there is one and it is not empty.
fn text(path: &Path) -> Option<String> {
    // What an adapter says of itself need not be valid UTF-8.
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    (!text.is_empty()).then_some(text)
}

/// The links in a directory that lead to a node, in the order of their names.
fn links_to(directory: &Path, node: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let Ok(node) = node.canonicalize() else { return Vec::new() };
    let mut links: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|link| link.canonicalize().is_ok_and(|target| target == node))
        .collect();
    links.sort();
    links
}
