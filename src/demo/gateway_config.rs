//! The gateway's configuration for a demonstration.

use super::Options;
use crate::simulate::machine_name;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use toml_edit::Value;

/// Name of the TCP source; its connections are `tcp@ADDRESS:PORT`.
pub(super) const TCP_SOURCE: &str = "tcp";

/// Where everything listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) receiver: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) tcp: SocketAddr,
    pub(super) http: SocketAddr,
}

/// The text of a configuration for `options`, with the CPUs `cores`, in the directory `dir`.
pub(super) fn text(options: &Options, cores: &[usize], dir: &Path, addresses: &Addresses) -> String {
    let mut text = String::new();
    let Addresses { receiver, admin, tcp, http } = addresses;
    let state_dir = quoted(&dir.join("state"));
    let durability = options.durability.name();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "[gateway]\nname = \"demo\"\ncores = {cores:?}\nstate_dir = {state_dir}\nadmin = \"{admin}\"\n\n\
         [journal]\ndurability = \"{durability}\"\n\n"
    );
    for index in 0..options.machines {
        let name = machine_name(index);
        let path = quoted(&dir.join("ports").join(&name));
        let _ = write!(
            text,
            // A simulated machine begins with a record.
            "[[source]]\nname = \"{name}\"\nkind = \"serial\"\npath = {path}\nline = \"115200 8N1\"\nfirst = \"keep\"\n\n"
        );
    }
    if options.tcp > 0 {
        let _ = write!(
            text,
            // All machines are on one address.
            "[[source]]\nname = \"{TCP_SOURCE}\"\nkind = \"tcp_listen\"\nlisten = \"{tcp}\"\nlane = \"connection\"\n\n"
        );
    }
    if options.http > 0 {
        let _ = write!(text, "[[source]]\nname = \"http\"\nkind = \"http\"\nlisten = \"{http}\"\n\n");
    }
    let id = if options.two_step {
        let _ = write!(text, "[sequence]\nurl = \"http://{receiver}/seq/\"\nid_at = \"/id\"\n\n");
        "\"id\": {{id}}, "
    } else {
        ""
    };
    let _ = write!(
        text,
        "[deliver]\nurl = \"http://{receiver}/films/\"\n\
         body = '{{{id}\"machine\": {{{{source|json}}}}, \"data\": {{{{data|json}}}}}}'\n\
         success = [201]\nconnections = {}\npipeline = {}\n",
        options.connections, options.pipeline
    );
    if options.two_step {
        text += "\n[deliver.confirm]\npath = \"/films/{{id}}/\"\ndata_at = \"/data\"\nsource_at = \"/machine\"\n";
    }
    text
}

fn quoted(path: &Path) -> String {
    Value::from(path.to_string_lossy().into_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, SourceKind};
    use crate::framing::Framing;

    #[test]
    fn the_gateway_takes_it_as_it_is_meant() {
        let options = Options { machines: 3, tcp: 5, http: 1, ..Options::default() };
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses { receiver: address(1), admin: address(2), tcp: address(3), http: address(4) };
        let dir = Path::new("/tmp/a \"b\"");
        let settings = config::parse_on(&text(&options, &[0, 2], dir, &addresses), "demo", &[0, 1, 2]).unwrap();
        assert_eq!(settings.gateway.cores, [0, 2]);
        assert_eq!(settings.gateway.state_dir, dir.join("state"));
        assert_eq!(settings.sources.len(), 5);
        let SourceKind::Serial(serial) = &settings.sources[2].kind else { panic!("{:?}", settings.sources[2]) };
        assert_eq!(serial.path, dir.join("ports/machine-0002"));
        assert_eq!(settings.sources[2].framing, Framing::default());
        assert!(matches!(settings.sources[3].kind, SourceKind::TcpListen { listen, .. } if listen.port() == 3));
        assert!(matches!(settings.sources[4].kind, SourceKind::Http { listen, .. } if listen.port() == 4));
        assert_eq!(settings.sequence.unwrap().url.target, "/seq/");
        assert_eq!(settings.deliver.body, r#"{"id": {{id}}, "machine": {{source|json}}, "data": {{data|json}}}"#);

        let one_step = Options { two_step: false, ..options };
        let settings = config::parse_on(&text(&one_step, &[0], dir, &addresses), "demo", &[0]).unwrap();
        assert_eq!(settings.sequence, None);
        assert_eq!(settings.deliver.body, r#"{"machine": {{source|json}}, "data": {{data|json}}}"#);
    }
}
