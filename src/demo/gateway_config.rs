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
        let _ =
            write!(text, "[[source]]\nname = \"{name}\"\nkind = \"serial\"\npath = {path}\nline = \"115200 8N1\"\n\n");
    }
    if options.tcp > 0 {
        let _ = write!(text, "[[source]]\nname = \"{TCP_SOURCE}\"\nkind = \"tcp_listen\"\nlisten = \"{tcp}\"\n\n");
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
    text
}

fn quoted(path: &Path) -> String {
    Value::from(path.to_string_lossy().into_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_toml_with_one_source_a_port() {
        let options = Options { machines: 3, tcp: 5, http: 1, ..Options::default() };
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses { receiver: address(1), admin: address(2), tcp: address(3), http: address(4) };
        let text = text(&options, &[0, 2], Path::new("/tmp/a \"b\""), &addresses);
        let document = text.parse::<toml_edit::DocumentMut>().unwrap();
        let sources = document["source"].as_array_of_tables().unwrap();
        assert_eq!(sources.len(), 5);
        assert_eq!(sources.get(2).unwrap()["path"].as_str(), Some("/tmp/a \"b\"/ports/machine-0002"));
        let body = document["deliver"]["body"].as_str().unwrap();
        assert_eq!(body, r#"{"id": {{id}}, "machine": {{source|json}}, "data": {{data|json}}}"#);
        let one_step = super::text(&Options { two_step: false, ..options }, &[0], Path::new("/tmp"), &addresses);
        let document = one_step.parse::<toml_edit::DocumentMut>().unwrap();
        assert!(document.get("sequence").is_none());
        assert_eq!(
            document["deliver"]["body"].as_str(),
            Some(r#"{"machine": {{source|json}}, "data": {{data|json}}}"#)
        );
    }
}
