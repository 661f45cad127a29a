//! What `ringest ports` says of a made-up sysfs, and of this machine.

use ringest::source::serial::{self, Port, Usb};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory with `sys`, `dev` and `proc` as the kernel and udev make them.
struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().expect("a directory") };
        for directory in ["sys/class/tty", "dev/serial/by-id", "dev/serial/by-path", "proc"] {
            fs::create_dir_all(machine.root().join(directory)).expect("a directory");
        }
        machine
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn link(&self, link: &str, target: &str) {
        let link = self.root().join(link);
        fs::create_dir_all(link.parent().expect("a parent")).expect("a directory");
        symlink(target, link).expect("a link");
    }

    /// A tty whose device is at `sys/devices/DEVICE`, with its node.
    fn tty(&self, name: &str, device: &str) {
        fs::create_dir_all(self.root().join("sys/devices").join(device)).expect("a directory");
        self.link(&format!("sys/class/tty/{name}/device"), &format!("../../../devices/{device}"));
        self.write(&format!("dev/{name}"), "");
    }

    /// An FTDI adapter as `ttyUSB{number}` at USB device `device`.
    fn ftdi(&self, number: u32, device: &str, serial: Option<&str>) {
        let usb = format!("sys/devices/pci0000:00/usb1/{device}");
        for (name, text) in [("idVendor", "0403\n"), ("idProduct", "6001\n"), ("manufacturer", "FTDI\n")] {
            self.write(&format!("{usb}/{name}"), text);
        }
        self.write(&format!("{usb}/product"), b"FT232R\x07 USB \xFF UART\n");
        if let Some(serial) = serial {
            self.write(&format!("{usb}/serial"), format!("{serial}\n"));
        }
        self.write(&format!("{usb}/{device}:1.0/bInterfaceNumber"), "00\n");
        self.link(&format!("{usb}/driver"), "../../../../bus/usb/drivers/usb");
        self.link(&format!("{usb}/{device}:1.0/driver"), "../../../../../bus/usb/drivers/ftdi_sio");
        self.tty(&format!("ttyUSB{number}"), &format!("pci0000:00/usb1/{device}/{device}:1.0/ttyUSB{number}"));
        let port = format!("{usb}/{device}:1.0/ttyUSB{number}");
        self.link(&format!("{port}/driver"), "../../../../../../bus/usb-serial/drivers/ftdi_sio");
        self.write(&format!("{port}/latency_timer"), "16\n");
    }

    fn built_in(&self, number: u32, type_: &str) {
        // As since Linux 6.5: the bus serial-base has its own devices between tty and chip.
        let chip = format!("pnp0/00:0{number}");
        let port = format!("{chip}/00:0{number}:0/00:0{number}:0.0");
        self.tty(&format!("ttyS{number}"), &port);
        self.write(&format!("sys/class/tty/ttyS{number}/type"), format!("{type_}\n"));
        for (device, driver) in [(port.clone(), "port"), (format!("{chip}/00:0{number}:0"), "ctrl")] {
            self.link(&format!("sys/devices/{device}/driver"), &format!("../bus/serial-base/drivers/{driver}"));
            self.link(&format!("sys/devices/{device}/subsystem"), "../bus/serial-base");
        }
        self.link(&format!("sys/devices/{chip}/driver"), "../../../bus/pnp/drivers/serial");
        self.link(&format!("sys/devices/{chip}/subsystem"), "../../../bus/pnp");
    }

    fn opened_by(&self, pid: u32, comm: &str, node: &str) {
        let node = self.root().join(node).canonicalize().expect("the node");
        self.write(&format!("proc/{pid}/comm"), format!("{comm}\n"));
        self.link(&format!("proc/{pid}/fd/3"), node.to_str().expect("text"));
        self.link(&format!("proc/{pid}/fd/4"), node.to_str().expect("text"));
        self.link(&format!("proc/{pid}/fd/5"), "/dev/null");
    }
}

fn names(ports: &[Port]) -> Vec<&str> {
    ports.iter().map(|port| port.name.as_str()).collect()
}

#[test]
fn ports_with_hardware_are_listed_in_the_order_of_their_numbers() {
    let machine = Machine::new();
    assert_eq!(serial::ports(machine.root()), []);
    machine.built_in(0, "4");
    machine.built_in(1, "0"); // a node without a chip
    machine.ftdi(10, "1-2", None);
    machine.ftdi(9, "1-1", None);
    machine.tty("ttyACM0", "pci0000:00/usb1/1-3/1-3:1.0");
    machine.tty("hvc0", "virtio0");
    for name in ["tty", "tty7", "console", "ptmx"] {
        fs::create_dir(machine.root().join("sys/class/tty").join(name)).unwrap();
    }
    let ports = serial::ports(machine.root());
    assert_eq!(names(&ports), ["ttyACM0", "ttyS0", "ttyUSB9", "ttyUSB10"]);
    assert_eq!(ports[1].path, machine.root().join("dev/ttyS0"));
}

#[test]
fn a_usb_adapter_is_described_from_its_port_up_to_its_device() {
    let machine = Machine::new();
    machine.ftdi(0, "1-1", Some("A10K2"));
    machine.ftdi(1, "1-2", None);
    machine.link("dev/serial/by-id/usb-FTDI_A10K2-if00-port0", "../../ttyUSB0");
    machine.link("dev/serial/by-id/usb-of-another-life", "../../ttyUSB7");
    machine.link("dev/serial/by-path/pci-1.0-port0", "../../ttyUSB0");
    let ports = serial::ports(machine.root());
    let by = |name: &str| vec![machine.root().join("dev/serial").join(name)];
    let expected = Port {
        name: "ttyUSB0".into(),
        path: machine.root().join("dev/ttyUSB0"),
        by_id: by("by-id/usb-FTDI_A10K2-if00-port0"),
        by_path: by("by-path/pci-1.0-port0"),
        driver: Some("ftdi_sio".into()),
        usb: Some(Usb {
            vendor_id: "0403".into(),
            product_id: "6001".into(),
            serial: Some("A10K2".into()),
            manufacturer: Some("FTDI".into()),
            product: Some("FT232R  USB \u{FFFD} UART".into()),
            interface: Some(0),
        }),
        latency_timer_ms: Some(16),
        holders: Vec::new(),
    };
    assert_eq!(ports[0], expected);
    assert_eq!((&ports[1].by_id, &ports[1].by_path), (&Vec::new(), &Vec::new()));
    assert_eq!(ports[1].usb.as_ref().and_then(|usb| usb.serial.as_ref()), None);
}

#[test]
fn a_modem_has_its_interface_as_device_and_a_built_in_port_no_usb() {
    let machine = Machine::new();
    machine.tty("ttyACM0", "pci0000:00/usb1/1-3/1-3:1.2");
    let usb = "sys/devices/pci0000:00/usb1/1-3";
    machine.write(&format!("{usb}/idVendor"), "2341\n");
    machine.write(&format!("{usb}/idProduct"), "0043\n");
    machine.write(&format!("{usb}/1-3:1.2/bInterfaceNumber"), "0a\n");
    machine.link(&format!("{usb}/1-3:1.2/driver"), "../../../../../bus/usb/drivers/cdc_acm");
    machine.built_in(0, "4");
    let ports = serial::ports(machine.root());
    assert_eq!(ports[0].driver.as_deref(), Some("cdc_acm"));
    let usb = ports[0].usb.as_ref().expect("a USB adapter");
    assert_eq!((usb.vendor_id.as_str(), usb.interface, usb.product.as_ref()), ("2341", Some(10), None));
    assert_eq!((ports[1].driver.as_deref(), &ports[1].usb), (Some("serial"), &None));
    assert_eq!(ports[1].latency_timer_ms, None);
}

#[test]
fn the_processes_that_have_a_port_open_are_named_once_each() {
    let machine = Machine::new();
    machine.built_in(0, "4");
    machine.built_in(1, "4");
    machine.opened_by(812, "minicom", "dev/ttyS0");
    machine.opened_by(99, "cat", "dev/ttyS0");
    let holders = |number: usize| -> Vec<(u32, Option<String>)> {
        let ports = serial::ports(machine.root());
        ports[number].holders.iter().map(|holder| (holder.pid, holder.name.clone())).collect()
    };
    let (cat, minicom) = ((99, Some("cat".to_owned())), (812, Some("minicom".to_owned())));
    assert_eq!(holders(0), [cat, minicom.clone()]);
    assert_eq!(holders(1), []);
    // The lock says which of them holds it; it says so too where no descriptor can be seen.
    for (number, node) in [(0, "dev/ttyS0"), (1, "dev/ttyS1")] {
        let meta = fs::metadata(machine.root().join(node)).unwrap();
        let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
        let lock = format!("1: FLOCK  ADVISORY  WRITE 812 {major:02x}:{minor:02x}:{} 0 EOF\n", meta.ino());
        machine.write("proc/locks", lock);
        assert_eq!(holders(number), std::slice::from_ref(&minicom));
    }
}

const RINGEST: &str = env!("CARGO_BIN_EXE_ringest");

fn output(arguments: &[&str], root: &Path) -> String {
    let mut command = Command::new(RINGEST);
    let output = command.arg("ports").args(arguments).arg("--root").arg(root).output().expect("it runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_command_shows_everything_and_warns_of_slow_adapters_and_names_that_may_change() {
    let machine = Machine::new();
    machine.ftdi(0, "1-1", Some("A10K2"));
    machine.link("dev/serial/by-id/usb-FTDI_A10K2-if00-port0", "../../ttyUSB0");
    machine.ftdi(1, "1-2", None);
    machine.link("dev/serial/by-path/pci-2-port0", "../../ttyUSB1");
    machine.write("sys/devices/pci0000:00/usb1/1-2/1-2:1.0/ttyUSB1/latency_timer", "1\n");
    machine.built_in(0, "4");
    machine.opened_by(812, "minicom", "dev/ttyUSB0");

    let text = output(&[], machine.root());
    let root = machine.root().display();
    let at = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("no {needle:?} in\n{text}"));
    assert!(at("/dev/ttyS0  serial\n") < at("/dev/ttyUSB0  ftdi_sio\n"));
    at("0403:6001 FTDI FT232R  USB \u{FFFD} UART, serial number A10K2, interface 0\n");
    at(&format!("name           {root}/dev/serial/by-id/usb-FTDI_A10K2-if00-port0\n"));
    at("in use by      minicom (PID 812)\n");
    at("`echo 1 > /sys/bus/usb-serial/devices/ttyUSB0/latency_timer`");
    at("ttyUSB1 may change; the adapter has no serial number: use ");
    assert_eq!(text.matches("warning").count(), 2, "{text}");
    assert_eq!(text.matches("latency timer is").count(), 1, "{text}");
    assert!(!text.contains('\x07'), "what an adapter says of itself cannot control the terminal");

    let document: Value = serde_json::from_str(&output(&["--json"], machine.root())).expect("JSON");
    let ports = document["ports"].as_array().expect("a list");
    let of = |key: &str| ports.iter().map(|port| port[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("name"), ["ttyS0", "ttyUSB0", "ttyUSB1"]);
    assert_eq!(of("latency_timer_ms"), [Value::Null, 16.into(), 1.into()]);
    assert_eq!(ports[1]["usb"]["serial"], "A10K2");
    assert_eq!(ports[1]["holders"][0]["pid"], 812);
    assert_eq!(of("warnings").iter().map(|list| list.as_array().unwrap().len()).collect::<Vec<_>>(), [0, 1, 1]);

    let nothing = Machine::new();
    assert_eq!(output(&[], nothing.root()), "no serial port with hardware behind it\n");
    assert_eq!(output(&["--json"], nothing.root()), "{\n  \"ports\": []\n}\n");
}

/// Whatever this machine has, the list agrees with its sysfs, and no port was opened.
#[test]
fn the_ports_of_this_machine_are_those_of_its_sysfs_and_none_is_opened() {
    let traces = tempfile::tempdir().unwrap();
    let trace = traces.path().join("trace");
    let mut strace = Command::new("strace");
    strace.arg("-o").arg(&trace).args(["-f", "-qq", "-e", "trace=open,openat,openat2", RINGEST, "ports", "--json"]);
    let output = strace.output().expect("strace must be installed");
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let listed: Vec<PathBuf> = document["ports"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|port| PathBuf::from(port["path"].as_str().expect("a path")))
        .collect();
    let mut expected: Vec<PathBuf> = fs::read_dir("/sys/class/tty")
        .expect("sysfs is mounted")
        .map(|entry| entry.expect("an entry").path())
        .filter(|tty| tty.join("device").exists())
        .filter(|tty| fs::read_to_string(tty.join("type")).map_or(true, |type_| type_.trim() != "0"))
        .map(|tty| Path::new("/dev").join(tty.file_name().expect("a name")))
        .filter(|path| !path.starts_with("/dev/hvc0"))
        .collect();
    let mut sorted = listed.clone();
    sorted.sort();
    expected.sort();
    assert_eq!(sorted, expected);
    let calls = fs::read_to_string(&trace).expect("a trace");
    assert!(calls.contains("\"/sys/class/tty\""), "the trace shows what is opened: {calls}");
    for path in listed {
        let opened = format!("\"{}\"", path.display());
        assert!(!calls.contains(&opened), "{opened} was opened");
    }
}

#[test]
fn an_adapter_is_told_by_its_numbers_and_by_where_it_is_plugged_in() {
    let machine = Machine::new();
    machine.ftdi(0, "1-1.4", Some("A5XK3RJT"));
    machine.ftdi(1, "1-1.3", Some("A5XK3RJT"));
    machine.ftdi(2, "1-1.2", None);
    machine.built_in(0, "4");
    let (usb, acm) = (libc::makedev(188, 0), libc::makedev(188, 1));
    for (number, device) in [(0, "1-1.4"), (1, "1-1.3"), (2, "1-1.2")] {
        let target = format!("../../devices/pci0000:00/usb1/{device}/{device}:1.0/ttyUSB{number}");
        machine.link(&format!("sys/dev/char/188:{number}"), &target);
    }
    machine.link("sys/dev/char/4:64", "../../devices/pnp0/00:00/00:00:0/00:00:0.0");
    let adapter = serial::adapter_of(machine.root(), usb).expect("an adapter");
    assert_eq!(adapter.to_string(), "USB adapter 0403:6001, serial number A5XK3RJT, at USB port 1-1.4:1.0");
    let twin = serial::adapter_of(machine.root(), acm).expect("an adapter");
    assert_eq!((&twin.serial, twin.port.as_str()), (&adapter.serial, "1-1.3:1.0"), "an equal serial number");
    let nameless = serial::adapter_of(machine.root(), libc::makedev(188, 2)).expect("an adapter");
    assert_eq!(nameless.to_string(), "USB adapter 0403:6001, without a serial number, at USB port 1-1.2:1.0");
    assert_eq!(serial::adapter_of(machine.root(), libc::makedev(4, 64)), None, "built in");
    assert_eq!(serial::adapter_of(machine.root(), libc::makedev(4, 65)), None, "not there");
}

#[test]
fn what_stands_at_a_path_is_seen_without_opening_it() {
    use ringest::config::Seen;
    let machine = Machine::new();
    let look = |path: &Path| serial::look_below(machine.root(), path);
    assert_eq!(look(&machine.root().join("dev/nothing")), Seen::Nothing);
    assert_eq!(look(&machine.root().join("dev")), Seen::NoTty("a directory"));
    machine.write("file", "");
    assert_eq!(look(&machine.root().join("file")), Seen::NoTty("a file"));
    let fifo = machine.root().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    assert_eq!(look(&fifo), Seen::NoTty("a FIFO"));
    // A name that stays is looked up below the root.
    let pty = nix::pty::openpty(None, None).expect("a pty");
    let port = nix::unistd::ttyname(&pty.slave).expect("its name");
    let device = fs::metadata(&port).expect("there").rdev();
    assert_eq!(look(&port), Seen::Tty { device, stable: None });
    let stable = machine.root().join("dev/serial/by-id/usb-gauge");
    symlink(&port, &stable).expect("linked");
    assert_eq!(look(&port), Seen::Tty { device, stable: Some(stable.clone()) });
    assert_eq!(look(&stable), Seen::Tty { device, stable: Some(stable.clone()) });
    // sysfs names the class of a device.
    let (major, minor) = (libc::major(fs::metadata("/dev/null").unwrap().rdev()), 3);
    machine.link(&format!("sys/dev/char/{major}:{minor}/subsystem"), "../../../../class/mem");
    assert_eq!(look(Path::new("/dev/null")), Seen::NoTty("a device that is no tty"));
}
