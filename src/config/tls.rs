//! `[deliver.tls]`: the files that say whom to trust and who we are. They are read here, so that nothing is missing later.

use super::problem::Refusal;
use super::walk::Section;
use crate::ground::secrets::{HANDSHAKE_STACK_BYTES, apart, scope, wipe_stack};
use crate::tls::{Client, SettingsError, expiries};
use crate::tls::{Identity, Tls};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const CA: &str =
    "a PEM file with the certificate of the CA that signed the server's, such as \"/etc/ringest/api-ca.pem\"";
const CERT: &str = "a PEM file with the client certificate, and behind it those that lead to its CA";
const KEY: &str = "a PEM file with the client certificate's private key, without a passphrase";
/// The largest file that is read; all CAs of the web have 250 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// `secure`: a URL is `https`. `None` if none is, or after a problem was noted.
pub(super) fn tls(section: Section<'_, '_>, secure: bool) -> Option<Tls> {
    let path = |key, remedy: &str| section.parsed(key, remedy, super::gateway::parse_path);
    let (ca, cert, key) = (path("ca", CA), path("cert", CERT), path("key", KEY));
    let (wants_ca, wants_cert, wants_key) =
        (section.get("ca").is_some(), section.get("cert").is_some(), section.get("key").is_some());
    if section.is_present() && !secure {
        section.note(
            "tls",
            "no URL is https, so that this section is not used",
            "https:// in [deliver] or [sequence] url",
        );
    }
    if wants_cert != wants_key {
        let (there, missing, remedy) = if wants_cert { ("cert", "key", KEY) } else { ("key", "cert", CERT) };
        section.refuse(missing, Refusal::new(format!("this key is missing, since {there} is there"), remedy));
    }
    let authorities = if wants_ca {
        read(&section, "ca", CA, ca, certificates)
    } else if secure {
        own_authorities(&section)
    } else {
        None
    };
    if let Some(key) = &key {
        note_readable(&section, key);
    }
    let chain = read(&section, "cert", CERT, cert, certificates);
    let key = read_key(&section, KEY, key);
    let complete = wants_cert == (chain.is_some() && key.is_some());
    let identity = chain.zip(key).map(|(chain, key)| Identity { chain, key });
    let tls = authorities.filter(|_| complete).map(|authorities| Tls { authorities, is_named: wants_ca, identity });
    let tls = tls.filter(|tls| works(&section, tls));
    let wall_ns = wall_ns();
    for expiry in tls.iter().flat_map(expiries) {
        if let Some(what) = expiry.warning(wall_ns) {
            section.note(expiry.of.key(), what, "its successor in this file, and then a reload (SIGHUP)");
        }
    }
    section.finish();
    tls.filter(|_| secure)
}

/// Nanoseconds since 1970, by which certificates are near their ends or not.
pub(super) fn wall_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Reads a file, and makes something of it; a problem is noted.
pub(super) fn read<T>(
    section: &Section<'_, '_>,
    key: &'static str,
    remedy: &str,
    path: Option<PathBuf>,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Option<T> {
    let path = path?;
    let read = || {
        let meta = fs::metadata(&path).map_err(|error| format!("the file cannot be read: {error}"))?;
        if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
            return Err(format!("this is no file of at most {} MiB", FILE_BYTES_MAX >> 20));
        }
        parse(&fs::read(&path).map_err(|error| format!("the file cannot be read: {error}"))?)
    };
    read().map_err(|what| section.refuse(key, Refusal::new(what, remedy))).ok()
}

pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("there is no certificate in this file (-----BEGIN CERTIFICATE-----)".to_owned()),
        Err(error) => Err(format!("this is no PEM file that can be read: {error}")),
    }
}

/// The private key in a file, which is a secret.
pub(super) fn read_key(
    section: &Section<'_, '_>,
    remedy: &str,
    path: Option<PathBuf>,
) -> Option<Arc<PrivateKeyDer<'static>>> {
    let key = apart(|| scope(|| read(section, "key", remedy, path, private_key).map(Arc::new)));
    wipe_stack::<HANDSHAKE_STACK_BYTES>();
    key
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let encrypted = |text: &str| text.contains("ENCRYPTED");
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        _ if encrypted(&String::from_utf8_lossy(text)) => {
            "this key has a passphrase, which nobody could type".to_owned()
        }
        pem::Error::NoItemsFound => "there is no private key in this file (-----BEGIN PRIVATE KEY-----)".to_owned(),
        error => format!("this is no PEM file that can be read: {error}"),
    })
}

/// A key is a secret: whoever reads it can be this gateway.
pub(super) fn note_readable(section: &Section<'_, '_>, path: &Path) {
    let mode = fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    if mode & 0o007 != 0 {
        let what = format!("everybody on this machine can read this private key (mode {:03o})", mode & 0o777);
        section.note("key", what, format!("chmod o= {}", path.display()));
    }
}

/// Those that this machine trusts.
fn own_authorities(section: &Section<'_, '_>) -> Option<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    // One that the library cannot read signs nothing; with all the others that is no reason to stop.
    let mut store = rustls::RootCertStore::empty();
    let good: Vec<_> = found.certs.into_iter().filter(|cert| store.add(cert.clone()).is_ok()).collect();
    if good.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        let what = format!("this machine has no CA certificates, so that no server can be trusted{why}");
        section.refuse("ca", Refusal::new(what, format!("{CA}; or install the package ca-certificates")));
        return None;
    }
    Some(good)
}

/// Whether the library takes it; a problem is noted.
fn works(section: &Section<'_, '_>, tls: &Tls) -> bool {
    let Err(error) = Client::new(tls) else { return true };
    let (key, remedy) = match &error {
        SettingsError::Authority { .. } | SettingsError::NoAuthority => ("ca", CA),
        SettingsError::KeyMismatch => ("key", "the private key of the first certificate in cert"),
        SettingsError::Identity { .. } => ("cert", CERT),
        SettingsError::Revoked { .. } => unreachable!("there is no list of revoked certificates here"),
    };
    section.refuse(key, Refusal::new(error.to_string(), remedy));
    false
}
