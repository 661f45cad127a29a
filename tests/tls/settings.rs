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
