//! What certificates say.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::extensions::GeneralName;

const DAY_S: u64 = 86_400;
/// Clocks of machines are wrong by some hours, and then a new certificate is none yet.
const EARLIER_S: u64 = DAY_S;
/// A list of what was revoked is to be replaced after this. Until a newer one is there it counts on.
const LIST_S: u64 = 365 * DAY_S;

/// Whose a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Server,
    Client,
}

/// A certificate and its key, as PEM.
pub(super) struct Made {
    pub certificate: String,
    pub key: String,
    /// The day on which it ends.
    pub until: String,
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Until when, in seconds since 1970.
fn set_validity(params: &mut CertificateParams, days: u32) -> u64 {
    let epoch = date_time_ymd(1970, 1, 1);
    let (from_s, until_s) = (now_s() - EARLIER_S, now_s() + u64::from(days) * DAY_S);
    params.not_before = epoch + Duration::from_secs(from_s);
    params.not_after = epoch + Duration::from_secs(until_s);
    until_s
}

/// One that nobody has: what is revoked is told by it, and a renewed certificate is another one.
fn serial() -> Result<SerialNumber, String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gives no random numbers".to_owned())?;
    bytes[0] = bytes[0] & 0x7F | 0x40; // positive, and of one length
    Ok(SerialNumber::from_slice(&bytes))
}

fn day(second: u64) -> String {
    let day = jiff::Timestamp::from_second(second as i64).map(|day| day.strftime("%Y-%m-%d").to_string());
    day.unwrap_or_else(|_| "a day that no calendar has".to_owned())
}

fn new_key() -> Result<KeyPair, String> {
    KeyPair::generate().map_err(|error| format!("a key cannot be made: {error}")) // ECDSA on P-256
}

fn finish(made: &Certificate, key: &KeyPair, until_s: u64) -> Made {
    Made { certificate: made.pem(), key: key.serialize_pem(), until: day(until_s) }
}

/// A CA that signs certificates, and no other CA.
pub(super) fn authority(name: &str, days: u32) -> Result<Made, String> {
    if name.trim().is_empty() || name.len() > 64 || name.contains(|c: char| c.is_control()) {
        return Err("the CA's name cannot stand in a certificate: 1 to 64 bytes without control characters".to_owned());
    }
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(serial()?);
    let until_s = set_validity(&mut params, days);
    let key = new_key()?;
    let made = params.self_signed(&key).map_err(|error| format!("the CA cannot be made: {error}"))?;
    Ok(finish(&made, &key, until_s))
}

/// What `name_from = "certificate"` takes as a name.
pub(super) fn check_machine_name(name: &str) -> Result<(), String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match (1..=64).contains(&name.len()) && name.chars().all(is_good) {
        true => Ok(()),
        false => Err(format!("{name:?} cannot be a machine's name: 1 to 64 of the characters A-Z a-z 0-9 . _ -")),
    }
}

/// Names and addresses for the extension.
pub(super) fn alternative_names(names: &[String]) -> Result<CertificateParams, String> {
    const ALLOWED: &str = "a host name, *.DOMAIN, or an IP address without a port";
    for name in names {
        let is_good = |c: char| c.is_ascii_alphanumeric() || "._-:*".contains(c);
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        if name.is_empty() || name.len() > 253 || !name.chars().all(is_good) || name.contains(':') && !is_address {
            return Err(format!("{name:?} cannot stand in a certificate: {ALLOWED}"));
        }
    }
    CertificateParams::new(names).map_err(|error| format!("these names cannot stand in a certificate: {error}"))
}

/// One that the CA has signed, for the names of `params`.
pub(super) fn issued(
    kind: Kind,
    params: CertificateParams,
    name: &str,
    days: u32,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<Made, String> {
    let key = new_key()?;
    sign(params, name, &[usage(kind)], days, (&key, issuer))
}

fn usage(kind: Kind) -> ExtendedKeyUsagePurpose {
    match kind {
        Kind::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Kind::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }
}

fn sign(
    mut params: CertificateParams,
    name: &str,
    usages: &[ExtendedKeyUsagePurpose],
    days: u32,
    (key, issuer): (&KeyPair, &Issuer<'static, KeyPair>),
) -> Result<Made, String> {
    params.distinguished_name = rcgen::DistinguishedName::new();
    // A longer common name than this is none (RFC 5280 appendix A.1); the names of the extension count.
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    let until_s = set_validity(&mut params, days);
    let made = params.signed_by(key, issuer).map_err(|error| format!("it cannot be signed: {error}"))?;
    Ok(finish(&made, key, until_s))
}

/// The certificate `old` with another end: its names, its purpose and its key stay.
pub(super) fn renewed(old: &[u8], key_pem: &str, days: u32, issuer: &Issuer<'static, KeyPair>) -> Result<Made, String> {
    let (_, old) = x509_parser::parse_x509_certificate(old).map_err(|error| format!("it cannot be read: {error}"))?;
    let key = KeyPair::from_pem(key_pem).map_err(|error| format!("its key cannot be used: {error}"))?;
    if key.subject_public_key_info() != old.public_key().raw {
        return Err("the key does not belong to it: name its own by --key FILE".to_owned());
    }
    if old.is_ca() {
        return Err(
            "this is a CA, which `ringest cert ca` makes anew: all that it has signed is then signed anew, too"
                .to_owned(),
        );
    }
    let names = old.subject_alternative_name().map_err(|error| format!("its names cannot be read: {error}"))?;
    let mut params = CertificateParams::default();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        params.subject_alt_names.push(match name {
            GeneralName::DNSName(name) => SanType::DnsName(
                (*name).try_into().map_err(|error| format!("its name {name:?} cannot be used: {error}"))?,
            ),
            GeneralName::IPAddress([a, b, c, d]) => SanType::IpAddress([*a, *b, *c, *d].into()),
            GeneralName::IPAddress(bytes) => {
                let bytes: [u8; 16] = (*bytes).try_into().map_err(|_| "its address cannot be read".to_owned())?;
                SanType::IpAddress(bytes.into())
            }
            other => {
                return Err(format!(
                    "it has a name of a kind that is not made here ({other}): make it by what made it"
                ));
            }
        });
    }
    let name = old.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
    let usages =
        old.extended_key_usage().ok().flatten().map(|usages| (usages.value.server_auth, usages.value.client_auth));
    let usages: Vec<_> = match usages {
        Some((true, true)) => vec![usage(Kind::Server), usage(Kind::Client)],
        Some((true, false)) => vec![usage(Kind::Server)],
        Some((false, true)) => vec![usage(Kind::Client)],
        _ => {
            return Err(
                "it is neither a server's nor a client's (extendedKeyUsage): make it by what made it".to_owned()
            );
        }
    };
    sign(params, name, &usages, days, (&key, issuer))
}

/// The list `old` with these certificates; and how many are in it.
pub(super) fn list(
    revoked: &[Vec<u8>],
    old: Option<&[u8]>,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<(String, usize), String> {
    let epoch = date_time_ymd(1970, 1, 1);
    let mut entries = BTreeMap::new();
    let mut number = 0_u64;
    if let Some(old) = old {
        let (_, old) = x509_parser::parse_x509_crl(old).map_err(|error| format!("the list cannot be read: {error}"))?;
        let at_s =
            |entry: &x509_parser::revocation_list::RevokedCertificate<'_>| entry.revocation_date.timestamp().max(0);
        entries.extend(old.iter_revoked_certificates().map(|entry| (entry.raw_serial().to_vec(), at_s(entry) as u64)));
        number = old.crl_number().and_then(|number| number.to_u64_digits().first().copied()).unwrap_or_default();
    }
    for certificate in revoked {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| format!("a certificate cannot be read: {error}"))?;
        entries.entry(certificate.raw_serial().to_vec()).or_insert_with(now_s);
    }
    let count = entries.len();
    let revoked_certs = entries.into_iter().map(|(serial, at_s)| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial),
        revocation_time: epoch + Duration::from_secs(at_s),
        reason_code: None,
        invalidity_date: None,
    });
    let list = CertificateRevocationListParams {
        this_update: epoch + Duration::from_secs(now_s() - EARLIER_S),
        next_update: epoch + Duration::from_secs(now_s() + LIST_S),
        crl_number: SerialNumber::from(number + 1),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(issuer).map_err(|error| format!("the list cannot be signed: {error}"))?;
    Ok((list.pem().map_err(|error| format!("the list cannot be written: {error}"))?, count))
}
