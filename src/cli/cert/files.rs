//! The files of certificates and keys.

use super::made::Made;
use crate::cli::{Failure, exit};
use rcgen::{Issuer, KeyPair};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Mode of a key's file, and of those that everybody may have.
const KEY_MODE: u32 = 0o600;
const MODE: u32 = 0o644;

/// Where a certificate and its key go.
pub(super) struct Output {
    certificate: PathBuf,
    key: PathBuf,
    replace: bool,
}

impl Output {
    /// Names both files; without `replace` neither may be there.
    pub fn begin(directory: &Path, name: &str, replace: bool) -> Result<Self, Failure> {
        let [certificate, key] = ["pem", "key"].map(|ending| directory.join(format!("{name}.{ending}")));
        let there = [&certificate, &key].into_iter().find(|path| fs::symlink_metadata(path).is_ok());
        if let Some(there) = there.filter(|_| !replace) {
            let what = "is there already, and a key that is gone is gone: --replace overwrites it, --to DIR makes it elsewhere";
            return Err(Failure::new(exit::FAILURE, format!("{} {what}", there.display())));
        }
        Ok(Self { certificate, key, replace })
    }

    /// Writes both; their paths.
    pub fn write(self, made: &Made) -> Result<(PathBuf, PathBuf), Failure> {
        let Self { certificate, key, replace: is_replaced } = self;
        for (path, text, mode) in [(&key, &made.key, KEY_MODE), (&certificate, &made.certificate, MODE)] {
            match is_replaced {
                true => replace(path, text, mode)?,
                false => create(path, text, mode)?,
            }
        }
        Ok((certificate, key))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    let code = if error.kind() == ErrorKind::PermissionDenied { exit::PERMISSION } else { exit::FAILURE };
    Failure::new(code, format!("{}: it cannot be written: {error}", path.display()))
}

/// A new file; one that has come meanwhile stays.
fn create(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| failed(path, &error))
}

/// A file in the place of another one, whole or not at all.
pub(super) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // Of an earlier run that was cut short.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&new, &error)),
        _ => create(&new, text, mode)?,
    }
    fs::rename(&new, path).map_err(|error| failed(path, &error))
}

fn read(path: &Path, remedy: &str) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        let code = if error.kind() == ErrorKind::PermissionDenied { exit::PERMISSION } else { exit::FAILURE };
        Failure::new(code, format!("{}: it cannot be read: {error}; {remedy}", path.display()))
    })
}

const CA_REMEDY: &str = "`ringest cert ca NAME` makes a CA, --ca FILE and --ca-key FILE name one";

/// The CA.
pub(super) fn read_issuer(certificate: &Path, key: &Path) -> Result<Issuer<'static, KeyPair>, Failure> {
    let (pem, key_pem) = (read(certificate, CA_REMEDY)?, read(key, CA_REMEDY)?);
    let wrong =
        |path: &Path, what: String| Failure::new(exit::FAILURE, format!("{}: {what}; {CA_REMEDY}", path.display()));
    let pair = KeyPair::from_pem(&key_pem).map_err(|error| wrong(key, format!("this key cannot be used: {error}")))?;
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| wrong(certificate, format!("there is no certificate in it: {error}")))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der)
        .map_err(|error| wrong(certificate, format!("the certificate cannot be read: {error}")))?;
    if !parsed.is_ca() {
        return Err(wrong(certificate, "this is no CA's certificate".to_owned()));
    }
    if parsed.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&pair) {
        return Err(wrong(key, format!("this is not the key of {}", certificate.display())));
    }
    Issuer::from_ca_cert_der(&der, pair).map_err(|error| wrong(certificate, format!("it cannot be used: {error}")))
}

/// A certificate, as DER.
pub(super) fn read_certificate(path: &Path) -> Result<Vec<u8>, Failure> {
    let text = read(path, "name a certificate's PEM file")?;
    let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| {
        let what = format!("{}: there is no certificate in it (-----BEGIN CERTIFICATE-----): {error}", path.display());
        Failure::new(exit::FAILURE, what)
    })?;
    Ok(der.to_vec())
}

/// A key, as PEM.
pub(super) fn read_key(path: &Path) -> Result<String, Failure> {
    read(path, "--key FILE names the certificate's key")
}

/// A list of revoked certificates, as DER, if there is one.
pub(super) fn read_list(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    if matches!(fs::symlink_metadata(path), Err(error) if error.kind() == ErrorKind::NotFound) {
        return Ok(None);
    }
    let text = read(path, "--list FILE names the list")?;
    match CertificateRevocationListDer::from_pem_slice(text.as_bytes()) {
        Ok(list) => Ok(Some(list.to_vec())),
        Err(error) => {
            let why = match error {
                pem::Error::NoItemsFound => "there is no list in it (-----BEGIN X509 CRL-----)".to_owned(),
                error => format!("it cannot be read: {error}"),
            };
            Err(Failure::new(exit::FAILURE, format!("{}: {why}; --list FILE names another one", path.display())))
        }
    }
}
