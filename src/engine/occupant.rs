//! Who listens on an address: looked up in /proc when it turns out to be in use, and before a start is tried.

use crate::source::serial::Holder;
use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// State of a listening socket in /proc/net/tcp (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// The sockets that keep an address from being bound (proc_pid_net(5), `tcp` and `tcp6`).
#[derive(Debug, Default)]
pub struct Occupants {
    /// Whether somebody listens there.
    pub is_taken: bool,
    /// The processes, as far as this user may see them: other users' are visible to root only.
    pub holders: Vec<Holder>,
}

/// Who listens on `address`, or on every address with its port.
pub fn occupants(address: SocketAddr) -> Occupants {
    let inodes: HashSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening(&table, address))
        .collect();
    let holders = if inodes.is_empty() { Vec::new() } else { owners(Path::new("/proc"), &inodes) };
    Occupants { is_taken: !inodes.is_empty(), holders }
}

/// The inodes of the sockets in a table that `address` would collide with.
fn listening(table: &str, address: SocketAddr) -> Vec<String> {
    let sockets = table.lines().skip(1).filter_map(|line| {
        // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (host, port) = local.split_once(':')?;
        let same_port = u16::from_str_radix(port, 16).ok()? == address.port();
        let host = parse(host)?;
        // `::` listens for both families, unless it was told not to: then it is named without need.
        let collides = host.is_unspecified() || address.ip().is_unspecified() || host == address.ip();
        (*state == LISTEN && same_port && collides).then(|| (*inode).to_owned())
    });
    sockets.collect()
}

/// An address of the tables: 32-bit words in hexadecimal, each in the byte order of this machine.
fn parse(text: &str) -> Option<IpAddr> {
    let mut octets = Vec::new();
    for word in text.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical()),
        _ => None,
    }
}

/// The processes with a descriptor on one of these sockets, in the order of their ids.
fn owners(proc: &Path, inodes: &HashSet<String>) -> Vec<Holder> {
    let Ok(processes) = fs::read_dir(proc) else { return Vec::new() };
    let mut pids: Vec<u32> = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let holds = |pid: &u32| {
        let Ok(files) = fs::read_dir(proc.join(pid.to_string()).join("fd")) else { return false };
        files.flatten().filter_map(|file| fs::read_link(file.path()).ok()).any(|target| {
            let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
            inode.is_some_and(|inode| inodes.contains(inode))
        })
    };
    pids.into_iter().filter(holds).map(|pid| Holder::of(proc, pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn whoever_listens_on_an_address_or_on_all_is_named() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let listener = TcpListener::bind(bound).expect("a port");
            let address = listener.local_addr().expect("bound");
            let mut asked = vec![address];
            if address.ip().is_unspecified() {
                asked.push(SocketAddr::from(([127, 0, 0, 1], address.port())));
            }
            for asked in asked {
                let found = occupants(asked);
                assert!(found.is_taken, "{asked} is taken by {address}");
                let pids: Vec<u32> = found.holders.iter().map(|holder| holder.pid).collect();
                assert_eq!(pids, [std::process::id()], "{asked}");
            }
            drop(listener);
            assert!(!occupants(address).is_taken, "{address} is free again");
        }
    }

    #[test]
    fn other_addresses_and_connections_do_not_count() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connected");
        assert!(!occupants(SocketAddr::from(([127, 0, 0, 2], port))).is_taken);
        assert!(!occupants(client.local_addr().expect("connected")).is_taken, "a connection is no listener");
    }
}
