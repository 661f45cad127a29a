//! `tls` and `name_from` of a source: what its machines are shown, which of them may come, and who they are then.

use super::problem::Refusal;
use super::settings::{Authority, ListenTls};
use super::tls::{certificates, note_readable, read, read_key, wall_ns};
use super::walk::Section;
use crate::tls::{Clients, Identity, Server, ServerTls, SettingsError, Tls, server_expiries, server_name};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use std::sync::Arc;

const TLS: &str = "tls = { certificate = \"/etc/ringest/server.pem\", key = \"/etc/ringest/server.key\" }";
const CERTIFICATE: &str = "a PEM file with the server's certificate, and behind it those that lead to its CA";
const KEY: &str = "a PEM file with the certificate's private key, without a passphrase";
const CLIENT_CA: &str = "a PEM file with the certificate of the CA that has signed the machines'";
const CRL: &str = "a PEM file with what the CA of client_ca has revoked (-----BEGIN X509 CRL-----)";

/// `None` without TLS, or after a problem was noted; `default`: the word for who a machine is without a certificate.
pub(super) fn listen_tls(section: &Section<'_, '_>, default: &'static str) -> Option<ListenTls> {
    let names_machines = section.choice("name_from", &[(default, false), ("certificate", true)], false);
    let tls = section.get("tls");
    let asks_for_certificates = tls.as_ref().is_some_and(|entry| entry.item.get("client_ca").is_some());
    if names_machines && !asks_for_certificates {
        let remedy = format!("client_ca in tls of this source, {CLIENT_CA}; or name_from = {default:?}");
        let what = "no machine is asked for a certificate here, so that none says who it is";
        section.refuse("name_from", Refusal::new(what, remedy));
    }
    let tls = server_tls(tls?.section(TLS)?)?;
    Some(ListenTls { server: Arc::new(tls), names_machines })
}

/// `tls` of a source that connects: its keys are those of `[deliver.tls]`.
pub(super) fn connect_tls(section: &Section<'_, '_>, connect: Option<&Authority>) -> Option<Arc<Tls>> {
    let tls = super::tls::tls(section.get("tls")?.section("tls = { ca = \"/etc/ringest/devices-ca.pem\" }")?, true);
    if let Some(host) = connect.map(|connect| &connect.host)
        && server_name(host).is_none()
    {
        let what = format!("{host:?} is no name that a certificate can have");
        section
            .refuse("connect", Refusal::new(what, "a DNS name or an address that stands in the device's certificate"));
    }
    tls.map(Arc::new)
}

fn server_tls(section: Section<'_, '_>) -> Option<ServerTls> {
    let path = |key, remedy: &str| section.parsed(key, remedy, super::gateway::parse_path);
    let (certificate, key) = (path("certificate", CERTIFICATE), path("key", KEY));
    let (client_ca, crl) = (path("client_ca", CLIENT_CA), path("crl", CRL));
    let has = |key| section.get(key).is_some();
    if !has("certificate") {
        section.missing("certificate", CERTIFICATE);
    }
    if !has("key") {
        section.missing("key", KEY);
    }
    if has("crl") && !has("client_ca") {
        let what = "nobody is asked for a certificate, so that none can be revoked";
        section.refuse("crl", Refusal::new(what, format!("client_ca as well, {CLIENT_CA}; or no crl")));
    }
    if let Some(key) = &key {
        note_readable(&section, key);
    }
    let chain = read(&section, "certificate", CERTIFICATE, certificate, certificates);
    let key = read_key(&section, KEY, key);
    let authorities = read(&section, "client_ca", CLIENT_CA, client_ca, certificates);
    let revoked = read(&section, "crl", CRL, crl, revoked);
    let is_whole = has("client_ca") == authorities.is_some() && has("crl") == revoked.is_some();
    let identity = chain.zip(key).map(|(chain, key)| Identity { chain, key });
    let clients = authorities.map(|authorities| Clients { authorities, revoked: revoked.unwrap_or_default() });
    let tls = identity.filter(|_| is_whole).map(|identity| ServerTls { identity, clients });
    let tls = tls.filter(|tls| works(&section, tls));
    if let Some(tls) = &tls {
        note_what_ends(&section, tls);
        note_names(&section, tls);
    }
    section.finish();
    tls
}

fn revoked(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let found = CertificateRevocationListDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("there is no list of revoked certificates in this file (-----BEGIN X509 CRL-----)".to_owned()),
        Err(error) => Err(format!("this is no PEM file that can be read: {error}")),
    }
}

/// Certificates that end, and lists that should have been replaced: they still count, as old as they are.
fn note_what_ends(section: &Section<'_, '_>, tls: &ServerTls) {
    let wall_ns = wall_ns();
    for expiry in server_expiries(tls) {
        if let Some(what) = expiry.warning(wall_ns) {
            section.note(expiry.of.key(), what, "its successor in this file, and then a reload (SIGHUP)");
        }
    }
    for list in tls.clients.iter().flat_map(|clients| &clients.revoked) {
        let next_s = x509_parser::parse_x509_crl(list).ok().and_then(|(_, list)| Some(list.next_update()?.timestamp()));
        if let Some(next_s) = next_s.filter(|next_s| *next_s < (wall_ns / 1_000_000_000) as i64) {
            let day = jiff::Timestamp::from_second(next_s).map(|day| day.strftime("%Y-%m-%d").to_string());
            let day = day.unwrap_or_else(|_| "a day that no calendar has".to_owned());
            let what = format!("a newer list was due on {day}: what was revoked since is not known");
            section.note("crl", what, "the CA's present list in this file, and then a reload (SIGHUP)");
        }
    }
}

/// Clients look at the names of the extension only (RFC 9110 section 4.3.4).
fn note_names(section: &Section<'_, '_>, tls: &ServerTls) {
    let Some((_, first)) = tls.identity.chain.first().and_then(|first| x509_parser::parse_x509_certificate(first).ok())
    else {
        return;
    };
    if first.subject_alternative_name().is_ok_and(|names| names.is_none()) {
        let what = "there is no name in this certificate (subjectAltName): most machines refuse it";
        section.note("certificate", what, "a certificate with the names and addresses that machines connect to");
    }
}

/// Whether the library takes it; a problem is noted.
fn works(section: &Section<'_, '_>, tls: &ServerTls) -> bool {
    let Err(error) = Server::new("", tls) else { return true };
    let (key, remedy) = match &error {
        SettingsError::Authority { .. } | SettingsError::NoAuthority => ("client_ca", CLIENT_CA),
        SettingsError::KeyMismatch => ("key", "the private key of the first certificate in certificate"),
        SettingsError::Identity { .. } => ("certificate", CERTIFICATE),
        SettingsError::Revoked { .. } => ("crl", CRL),
    };
    section.refuse(key, Refusal::new(error.to_string(), remedy));
    false
}
