//! The serial ports of this machine, from sysfs: nothing is opened, for that alone raises DTR and resets some machines.

use std::fs;
use std::path::{Path, PathBuf};

/// USB adapters (`ttyUSB`, `ttyACM`) and built-in ports (`ttyS`, `ttyAMA`) with hardware behind them, as device nodes, in
/// the order of their names and numbers.
pub fn ports() -> Vec<PathBuf> {
    ports_in(Path::new("/sys/class/tty"), Path::new("/dev"))
}

fn ports_in(class: &Path, dev: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(class) else { return Vec::new() };
    let mut found: Vec<(String, u32)> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let number = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
            let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
            is_real(class, &name, kind).then(|| (kind.to_owned(), number))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(kind, number)| dev.join(format!("{kind}{number}"))).collect()
}

fn is_real(class: &Path, name: &str, kind: &str) -> bool {
    match kind {
        "ttyUSB" | "ttyACM" => true,
        // The driver makes these whether there is a chip or not; type 0 is PORT_UNKNOWN (linux/serial_core.h).
        "ttyS" | "ttyAMA" => {
            let type_ = fs::read_to_string(class.join(name).join("type"));
            type_.is_ok_and(|type_| type_.trim() != "0")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_with_hardware_are_listed_in_order() {
        let class = tempfile::tempdir().unwrap();
        for (name, type_) in [
            ("ttyS0", Some("4\n")),
            ("ttyS1", Some("0\n")),
            ("ttyS2", None),
            ("ttyUSB10", None),
            ("ttyUSB9", None),
            ("ttyACM0", None),
            ("tty7", None),
            ("console", None),
        ] {
            fs::create_dir(class.path().join(name)).unwrap();
            if let Some(type_) = type_ {
                fs::write(class.path().join(name).join("type"), type_).unwrap();
            }
        }
        let expected = ["/dev/ttyACM0", "/dev/ttyS0", "/dev/ttyUSB9", "/dev/ttyUSB10"];
        assert_eq!(ports_in(class.path(), Path::new("/dev")), expected.map(PathBuf::from));
    }
}
