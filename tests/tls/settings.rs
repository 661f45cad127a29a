//! `[deliver.tls]`: what is wrong with its files, what is only worth knowing, and whose CAs count without it.

use crate::pki::{Authority, Issued};
use ringest::config::{self, Checked};
use ringest::tls::Tls;
use ringest::tls::{Use, expiries};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A directory with good files: `ca.pem`, `client.pem`, `client.key`.
fn files() -> (TempDir, Issued) {
    let directory = tempfile::tempdir().expect("a directory");
    let clients = Authority::new("Gateways");
    let ours = clients.issue(&["gateway-3"]);
    let put = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("a mode");
    };
    put("ca.pem", &format!("# The plant's\n{}", Authority::new("Plant").pem()));
    put("client.pem", &(ours.pem.clone() + &clients.pem()));
    put("client.key", &ours.key_pem);
    (directory, ours)
}

/// Writes a configuration with these keys of `[deliver.tls]`.
fn write(directory: &Path, url: &str, tls: &str) -> PathBuf {
    let tls = tls.replace("DIR", &directory.display().to_string());
    let text = format!(
        "[[source]]\nname = \"a\"\nkind = \"serial\"\npath = \"/dev/serial/by-id/port-1\"\n[deliver]\nurl = \"{url}\"\n{tls}\n"
    );
    let path = directory.join("ringest.toml");
    fs::write(&path, text).expect("a file");
    path
}

const URL: &str = "https://api.example/films/";
const ALL: &str = "[deliver.tls]\nca = \"DIR/ca.pem\"\ncert = \"DIR/client.pem\"\nkey = \"DIR/client.key\"";

fn check(directory: &Path, url: &str, tls: &str) -> Result<Checked, String> {
    config::check(&write(directory, url, tls)).map_err(|problems| problems.to_string())
}

#[test]
fn good_files_are_read_and_secrets_are_not_shown() {
    let (directory, ours) = files();
    let checked = check(directory.path(), URL, ALL).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(checked.notes, []);
    let tls = checked.settings.deliver.tls.clone().expect("a URL is https");
    let identity = tls.identity.expect("a certificate");
    assert_eq!((tls.authorities.len(), identity.chain.len()), (1, 2));
    assert_eq!(identity.chain[0], ours.certificate);
    assert!(format!("{:?}", checked.settings).contains("secret key elided"));
}

#[test]
fn each_broken_file_is_named_with_the_remedy() {
    let (directory, _) = files();
    let path = |name: &str| directory.path().join(name);
    let other = Authority::new("Other").issue(&["other"]);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (name, text, key, what, remedy) in [
        ("ca.pem", "", "deliver.tls.ca", "there is no certificate in this file", "the CA that signed the server's"),
        ("ca.pem", &other.key_pem, "deliver.tls.ca", "there is no certificate in this file", "a PEM file"),
        ("ca.pem", garbage, "deliver.tls.ca", "certificate number 1 of the file cannot be read", "a PEM file"),
        ("ca.pem", "-----BEGIN CERTIFICATE-----\n!\n", "deliver.tls.ca", "no PEM file that can be read", "a PEM file"),
        ("client.pem", "", "deliver.tls.cert", "there is no certificate", "the client certificate"),
        ("client.pem", garbage, "deliver.tls.cert", "cannot be used", "the client certificate"),
        ("client.key", "", "deliver.tls.key", "there is no private key", "without a passphrase"),
        ("client.key", encrypted, "deliver.tls.key", "a passphrase, which nobody could type", "without a passphrase"),
        (
            "client.key",
            &other.key_pem,
            "deliver.tls.key",
            "does not belong to the certificate",
            "first certificate in cert",
        ),
    ] {
        let good = fs::read_to_string(path(name)).expect("a file");
        fs::write(path(name), text).expect("a file");
        let problems = check(directory.path(), URL, ALL).expect_err(what);
        let first = problems.lines().next().expect("a line");
        assert!(first.contains(key) && first.contains(what) && first.contains(name), "{problems}");
        assert!(problems.contains(remedy) && problems.contains("1 problem in"), "{problems}");
        fs::write(path(name), good).expect("a file");
    }
    assert!(check(directory.path(), URL, ALL).is_ok());
}

#[test]
fn a_key_that_everybody_can_read_and_a_section_without_https_are_worth_a_note() {
    let (directory, _) = files();
    let key = directory.path().join("client.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("a mode");
    let notes = check(directory.path(), URL, ALL).expect("good").notes;
    let [note] = notes.as_slice() else { panic!("{notes:?}") };
    assert!(note.what.contains("everybody on this machine can read this private key (mode 644)"), "{note}");
    assert_eq!(note.remedy, format!("chmod o= {}", key.display()));
    fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("a mode");

    let checked = check(directory.path(), "http://api.example/films/", ALL).expect("good");
    assert_eq!(checked.settings.deliver.tls, None);
    assert!(checked.notes[0].what.contains("no URL is https"), "{:?}", checked.notes);
}

#[test]
fn without_a_ca_file_those_of_this_machine_count_and_their_absence_is_said() {
    let (directory, _) = files();
    let config = write(directory.path(), URL, "");
    let run = |file: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringest"));
        let command = command.arg("check").arg(&config).env_remove("SSL_CERT_DIR");
        let output = command.env("SSL_CERT_FILE", directory.path().join(file)).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = run("ca.pem");
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("record step  POST https://api.example/films/ "), "{out}");
    let (code, _, err) = run("missing.pem");
    assert_eq!(code, Some(3));
    assert!(err.contains("deliver.tls.ca: this machine has no CA certificates"), "{err}");
    assert!(err.contains("install the package ca-certificates"), "{err}");
}

#[test]
fn a_certificate_that_ends_soon_or_is_over_is_worth_a_note() {
    let (directory, _) = files();
    let tls = check(directory.path(), URL, ALL).expect("good").settings.deliver.tls.expect("a URL is https");
    let found = expiries(&tls);
    let shown: Vec<(Use, i64)> = found.iter().map(|end| (end.of, end.not_after_s)).collect();
    // 2090, and two CAs without an end of their own: that of the client's chain, and the one that is trusted.
    assert!(shown.contains(&(Use::Client, 3_786_912_000)), "{found:?}");
    assert_eq!(shown.iter().filter(|(of, _)| *of == Use::Authority).count(), 1, "{found:?}");
    assert!(found.iter().any(|end| end.of == Use::Authority && end.subject.contains("CN=Plant")), "{found:?}");
    assert_eq!(expiries(&Tls { is_named: false, ..tls }).iter().filter(|end| end.of == Use::Authority).count(), 0);

    let clients = Authority::new("Gateways");
    let old = clients.issue_until(&["gateway-3"], 2020);
    fs::write(directory.path().join("client.pem"), &old.pem).expect("a file");
    fs::write(directory.path().join("client.key"), &old.key_pem).expect("a file");
    let notes = check(directory.path(), URL, ALL).expect("good").notes;
    let [note] = notes.as_slice() else { panic!("{notes:?}") };
    assert_eq!(note.key, "deliver.tls.cert");
    assert!(note.what.starts_with("the client certificate ") && note.what.ends_with(" ended on 2020-01-01"), "{note}");
}

/// A source with `tls`, and what is wrong with it.
fn check_source(directory: &Path, keys: &str) -> Result<Checked, String> {
    let keys = keys.replace("DIR", &directory.display().to_string());
    let text = format!(
        "[[source]]\nname = \"cams\"\nkind = \"http\"\nlisten = \"127.0.0.1:8443\"\n{keys}\n[deliver]\n\
         url = \"http://127.0.0.1:8000/films/\"\n"
    );
    let path = directory.join("ringest.toml");
    fs::write(&path, text).expect("a file");
    config::check(&path).map_err(|problems| problems.to_string())
}

/// A directory with good files of a source: `server.pem`, `server.key`, `machines.pem`, `machines.crl`.
fn server_files() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let (plant, machines) = (Authority::new("Plant"), Authority::new("Machines"));
    let ours = plant.issue(&["gateway.plant"]);
    let list = machines.revoke(&[&machines.issue(&["cam-9"])]);
    for (name, text) in [
        ("server.pem", &ours.pem),
        ("server.key", &ours.key_pem),
        ("machines.pem", &machines.pem()),
        ("machines.crl", &list),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("a mode");
    }
    directory
}

const SERVER: &str = "tls = { certificate = \"DIR/server.pem\", key = \"DIR/server.key\", client_ca = \"DIR/machines.pem\", \
    crl = \"DIR/machines.crl\" }";

#[test]
fn tls_of_a_source_is_read_and_may_listen_beyond_loopback_where_machines_show_certificates() {
    let directory = server_files();
    let checked = check_source(directory.path(), SERVER).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(checked.notes, []);
    let tls = checked.settings.sources[0].tls.clone().expect("it has TLS");
    assert!(tls.asks_for_certificates() && !tls.names_machines);
    let clients = tls.server.clients.as_ref().expect("a client CA");
    assert_eq!((tls.server.identity.chain.len(), clients.authorities.len(), clients.revoked.len()), (1, 1, 1));
    let beyond = |keys: &str| {
        let path = directory.path().join("ringest.toml");
        check_source(directory.path(), keys).expect("good");
        let text = fs::read_to_string(&path).expect("a file").replace("127.0.0.1:8443", "0.0.0.0:8443");
        fs::write(&path, text).expect("a file");
        config::check(&path).map_err(|problems| problems.to_string())
    };
    assert_eq!(beyond(SERVER).expect("who may come is known").notes, []);
    let without = SERVER.split(", client_ca").next().expect("a part").to_owned() + " }";
    let problems = beyond(&without).expect_err("anybody may come");
    assert!(problems.contains("client_ca") && problems.contains("allow_remote"), "{problems}");
}

#[test]
fn each_fault_of_tls_of_a_source_is_named_with_its_line_and_the_remedy() {
    let directory = server_files();
    let other = Authority::new("Other").issue(&["other"]);
    let whole = |from: &str, to: &str| SERVER.replace(from, to);
    for (keys, key, what, remedy) in [
        ("tls = {}".to_owned(), "tls.certificate", "this key is missing", "the server's certificate"),
        ("tls = true".to_owned(), ".tls", "not a section", "tls = { certificate"),
        (whole("crl =", "crls ="), "tls.crls", "not known here", "known here: certificate, key, client_ca, crl"),
        (whole("server.pem", "missing.pem"), "tls.certificate", "the file cannot be read", "the server's certificate"),
        (whole("server.key", "server.pem"), "tls.key", "there is no private key", "without a passphrase"),
        (whole("machines.pem", "server.key"), "tls.client_ca", "there is no certificate", "has signed the machines'"),
        (whole("machines.crl", "machines.pem"), "tls.crl", "no list of revoked", "X509 CRL"),
        (whole("client_ca = \"DIR/machines.pem\", ", ""), "tls.crl", "nobody is asked", "client_ca as well"),
        (
            format!(
                "{}\nname_from = \"certificate\"",
                whole(", client_ca = \"DIR/machines.pem\", crl = \"DIR/machines.crl\"", "")
            ),
            "name_from",
            "no machine is asked for a certificate",
            "client_ca in tls",
        ),
        ("name_from = \"certificat\"".to_owned(), "name_from", "not known here", "\"certificate\""),
    ] {
        let problems = check_source(directory.path(), &keys).expect_err(what);
        let first = problems.lines().next().expect("a line");
        assert!(first.contains(key) && first.contains(what) && first.contains("ringest.toml:"), "{problems}");
        assert!(problems.contains(remedy), "{problems}");
    }
    fs::write(directory.path().join("server.key"), &other.key_pem).expect("a file");
    let problems = check_source(directory.path(), SERVER).expect_err("another key");
    assert!(
        problems.contains("tls.key") && problems.contains("the key does not belong to the certificate"),
        "{problems}"
    );
}

#[test]
fn what_ends_or_everybody_can_read_is_worth_a_note_at_a_source_too() {
    let directory = server_files();
    let plant = Authority::new("Plant");
    let old = plant.issue_until(&["gateway.plant"], 2020);
    fs::write(directory.path().join("server.pem"), &old.pem).expect("a file");
    let key = directory.path().join("server.key");
    fs::write(&key, &old.key_pem).expect("a file");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).expect("a mode");
    let notes = check_source(directory.path(), SERVER).expect("good").notes;
    let said: Vec<&str> = notes.iter().map(|note| note.what.as_str()).collect();
    assert!(said.iter().any(|what| what.contains("everybody on this machine can read this private key")), "{said:?}");
    assert!(
        said.iter().any(|what| what.starts_with("the server certificate") && what.ends_with("ended on 2020-01-01")),
        "{said:?}"
    );
}
