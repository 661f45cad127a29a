//! `ringest cert`: a CA of the plant's own, certificates for the gateway and its machines, and what was revoked. Nothing is overwritten
//! without being asked, and a key is never readable by others.

mod files;
mod made;

use super::{Failure, exit};
use files::{Output, read_issuer};
use made::{Kind, alternative_names, check_machine_name, renewed};
use rcgen::{Issuer, KeyPair};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Arguments of `ringest cert`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a CA: ca.pem, which everybody may have, and ca.key, which stays away from the gateway
    Ca {
        /// What the CA is called, such as "Plant 7 machines"
        name: String,
        /// How long it is good, in days
        #[arg(long, value_name = "DAYS", default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        #[command(flatten)]
        to: To,
    },
    /// Make a server certificate for the gateway: server.pem and server.key
    Server {
        /// Names and addresses that machines connect to
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        signer: Signer,
        #[command(flatten)]
        to: To,
    },
    /// Make a client certificate for a machine: NAME.pem and NAME.key
    Client {
        /// The machine's name, then others that it has; the first one counts for name_from = "certificate"
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        signer: Signer,
        #[command(flatten)]
        to: To,
    },
    /// Make a certificate anew, in place: the same names, purpose and key, and another end
    Renew {
        /// The certificate
        certificate: PathBuf,
        /// Its key; by default beside it, with the ending .key
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        #[command(flatten)]
        signer: Signer,
    },
    /// Add certificates to the list of what the CA has revoked, for `crl` of a source
    Revoke {
        /// Certificates that count no longer
        #[arg(required = true)]
        certificates: Vec<PathBuf>,
        /// The list; what stands in it stays
        #[arg(long, value_name = "FILE", default_value = "revoked.crl")]
        list: PathBuf,
        #[command(flatten)]
        signer: Signer,
    },
}

/// Where what is made goes.
#[derive(Debug, clap::Args)]
struct To {
    /// The directory for the files
    #[arg(long = "to", value_name = "DIR", default_value = ".")]
    directory: PathBuf,
    /// Overwrite files that are there
    #[arg(long)]
    replace: bool,
}

/// Who signs.
#[derive(Debug, clap::Args)]
struct Signer {
    /// The CA's certificate
    #[arg(long, value_name = "FILE", default_value = "ca.pem")]
    ca: PathBuf,
    /// The CA's key; by default beside its certificate, with the ending .key
    #[arg(long, value_name = "FILE")]
    ca_key: Option<PathBuf>,
    /// How long what is made is good, in days
    #[arg(long, value_name = "DAYS", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

impl Signer {
    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Failure> {
        read_issuer(&self.ca, &self.ca_key.clone().unwrap_or_else(|| beside(&self.ca)))
    }
}

/// The key's usual name.
fn beside(certificate: &Path) -> PathBuf {
    certificate.with_extension("key")
}

/// Runs the command.
///
/// # Errors
/// A file that cannot be read, written, or is there already; a name that no certificate can have.
pub fn main(arguments: Arguments) -> Result<(), Failure> {
    let said = match arguments.what {
        What::Ca { name, days, to } => ca(&name, days, &to)?,
        What::Server { names, signer, to } => issue(Kind::Server, "server", &names, &signer, &to)?,
        What::Client { names, signer, to } => {
            check_machine_name(&names[0]).map_err(wrong)?;
            issue(Kind::Client, &names[0], &names, &signer, &to)?
        }
        What::Renew { certificate, key, signer } => renew(&certificate, key, &signer)?,
        What::Revoke { certificates, list, signer } => revoke(&certificates, &list, &signer)?,
    };
    match std::io::stdout().write_all(said.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn wrong(what: String) -> Failure {
    Failure::new(exit::USAGE, what)
}

fn ca(name: &str, days: u32, to: &To) -> Result<String, Failure> {
    let made = made::authority(name, days).map_err(wrong)?;
    let output = Output::begin(&to.directory, "ca", to.replace)?;
    let (certificate, key) = output.write(&made)?;
    Ok(format!(
        "{} is the CA's certificate: give it to the machines, and to the gateway as client_ca.\n{} is its key: whoever has it can make \
         machines. Keep it away from the gateway.\n",
        certificate.display(),
        key.display()
    ))
}

fn issue(kind: Kind, file: &str, names: &[String], signer: &Signer, to: &To) -> Result<String, Failure> {
    // All that can be wrong comes before a key is drawn.
    let params = alternative_names(names).map_err(wrong)?;
    let output = Output::begin(&to.directory, file, to.replace)?;
    let issuer = signer.issuer()?;
    let made = made::issued(kind, params, &names[0], signer.days, &issuer).map_err(wrong)?;
    let (certificate, key) = output.write(&made)?;
    let mut said = format!("{} and {} are made, until {}.\n", certificate.display(), key.display(), made.until);
    let _ = match kind {
        Kind::Server => writeln!(
            said,
            "On the gateway, readable by its user alone: tls = {{ certificate = \"…/server.pem\", key = \"…/server.key\" }} in a source."
        ),
        Kind::Client => writeln!(
            said,
            "Both go to the machine. Where its source has name_from = \"certificate\" it is called {}.",
            names[0]
        ),
    };
    Ok(said)
}

fn renew(certificate: &Path, key: Option<PathBuf>, signer: &Signer) -> Result<String, Failure> {
    let key = key.unwrap_or_else(|| beside(certificate));
    let issuer = signer.issuer()?;
    let (old, key_pem) = (files::read_certificate(certificate)?, files::read_key(&key)?);
    let made = renewed(&old, &key_pem, signer.days, &issuer)
        .map_err(|what| Failure::new(exit::FAILURE, format!("{}: {what}", certificate.display())))?;
    files::replace(certificate, &made.certificate, 0o644)?;
    Ok(format!(
        "{} is good until {}, with its names and its key as they were. A gateway takes it over by a reload (SIGHUP).\n",
        certificate.display(),
        made.until
    ))
}

fn revoke(certificates: &[PathBuf], list: &Path, signer: &Signer) -> Result<String, Failure> {
    let issuer = signer.issuer()?;
    let revoked = certificates.iter().map(|path| files::read_certificate(path)).collect::<Result<Vec<_>, _>>()?;
    let old = files::read_list(list)?;
    let (pem, count) = made::list(&revoked, old.as_deref(), &issuer)
        .map_err(|what| Failure::new(exit::FAILURE, format!("{}: {what}", list.display())))?;
    files::replace(list, &pem, 0o644)?;
    Ok(format!(
        "{} names {count} revoked certificate{}. A gateway that has it as crl refuses them after a reload (SIGHUP).\n",
        list.display(),
        if count == 1 { "" } else { "s" }
    ))
}
