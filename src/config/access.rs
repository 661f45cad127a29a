//! The keys of a listener about who may send, and the files of tokens, which are read here and again while the gateway runs.

use super::deliver::read_headers;
use super::problem::Refusal;
use super::settings::{Deliver, ListenTls, Settings, Source};
use super::walk::Section;
use crate::access::{Access, Networks, Pattern, Patterns, Proxies, Quotas, Tokens, TokensFile};
use crate::ground::secrets::scope;
use ipnet::IpNet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

const NETWORKS: &str = "networks or addresses, such as [\"10.0.4.0/24\", \"10.0.5.7\"]";
const TOKENS: &str = "a file with a line for each token: `ringest token` prints one";
const ORIGIN: &str = "an origin as browsers write it: \"https://HOST\" or \"https://HOST:PORT\", in lower case, without a path \
                      and without the port that the scheme has anyway";
/// The largest file of tokens that is read; 65,536 lines have less.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The keys that every listener has.
pub(super) fn networks_only(section: &Section<'_, '_>) -> Access {
    let networks = Networks { allow: networks(section, "allow"), deny: networks(section, "deny") };
    let proxies = proxies(section, &networks.allow);
    let quotas = Quotas {
        connections: whole(section, "connections", 1_000_000).map(|most| most as usize),
        connections_per_address: whole(section, "connections_per_address", 1_000_000),
        ..Quotas::default()
    };
    Access { networks, proxies, quotas, ..Access::default() }
}

/// A whole number of 1 or more, where it is given.
fn whole(section: &Section<'_, '_>, key: &'static str, most: i64) -> Option<u32> {
    let remedy = format!("a whole number, 1 to {most}; without this key there is no such limit");
    section.get(key)?.integer(1..=most, &remedy).map(|value| value as u32)
}

/// The keys of an HTTP listener, with TLS or without.
pub(super) fn of_http(section: &Section<'_, '_>, has_tls: bool) -> Access {
    let basic = section.boolean("basic", false);
    if basic && !has_tls {
        let what = "Basic sends the same secret with each request, and this listener has no TLS that would hide it";
        section.refuse(
            "basic",
            Refusal::new(what, "tls in this source; or leave it out: tokens are sent as Authorization: Bearer TOKEN"),
        );
    }
    let (sources, tokens, origins) = (sources(section), tokens(section), origins(section));
    let access = networks_only(section);
    let connections_per_token = whole(section, "connections_per_token", 1_000_000);
    if connections_per_token.is_some() && tokens.is_none() {
        let what = "nobody shows a token to this source";
        section.refuse("connections_per_token", Refusal::new(what, "tokens_file in this source, or no such limit"));
    }
    let quotas = Quotas {
        connections_per_token,
        requests_per_second: whole(section, "requests_per_second", 1_000_000),
        bytes_per_second: section.size_if_given("bytes_per_second", 1..=1 << 30),
        ..access.quotas
    };
    Access { sources, tokens, basic, origins, quotas, ..access }
}

/// A list that is not empty, if it is there: each of its texts, as `parse` has it, once.
fn listed<T: PartialEq>(
    section: &Section<'_, '_>,
    key: &'static str,
    remedy: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let Some(entry) = section.get(key) else { return Vec::new() };
    if entry.item.as_array().is_some_and(toml_edit::Array::is_empty) {
        let what = "an empty list does not say whether it is none or all";
        entry.refuse(Refusal::new(what, format!("{remedy}; or no {key} at all")));
    }
    let mut list = Vec::new();
    for (text, span) in entry.strings(remedy) {
        match parse(text) {
            Err(what) => entry.refuse_element(&span, Refusal::new(what, remedy)),
            Ok(value) if list.contains(&value) => {
                entry.refuse_element(&span, Refusal::new("this stands in the list twice", "each of them once"));
            }
            Ok(value) => list.push(value),
        }
    }
    list
}

fn networks(section: &Section<'_, '_>, key: &'static str) -> Vec<IpNet> {
    listed(section, key, NETWORKS, |text| Networks::parse(text).map_err(|fault| fault.to_string()))
}

/// The proxies of a listener. `allow` judges each of them before it is heard.
fn proxies(section: &Section<'_, '_>, allow: &[IpNet]) -> Proxies {
    let proxies = networks(section, "proxies");
    let may_come = |proxy: &IpNet| allow.iter().any(|network| network.contains(proxy) || proxy.contains(network));
    if let Some(proxy) = proxies.iter().find(|proxy| !allow.is_empty() && !may_come(proxy)) {
        let what = format!("{proxy} may not connect: allow of this source does not have it");
        let remedy = "allow with the addresses of the proxies, and of the machines behind them";
        section.refuse("proxies", Refusal::new(what, remedy));
    }
    Proxies(proxies)
}

fn sources(section: &Section<'_, '_>) -> Patterns {
    let remedy = format!("patterns of SOURCEs: {}", Pattern::ALLOWED);
    Patterns(listed(section, "sources", &remedy, |text| Pattern::parse(text).map_err(|fault| fault.to_string())))
}

fn origins(section: &Section<'_, '_>) -> Vec<Arc<String>> {
    listed(section, "origins", ORIGIN, |text| match is_origin(text) {
        true => Ok(Arc::new(text.to_owned())),
        false => Err("this is no origin".to_owned()),
    })
}

/// Whether a text can be the value of an Origin field (RFC 6454 section 6.2).
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number.to_string() == port));
    !host.is_empty() && authority.chars().all(known) && is_port && !authority.ends_with(own_port)
}

fn tokens(section: &Section<'_, '_>) -> Option<TokensFile> {
    let path = section.parsed("tokens_file", TOKENS, super::gateway::parse_path)?;
    note_readable(section, &path);
    match read(&path) {
        Ok(tokens) => Some(TokensFile { path, tokens: Arc::new(tokens) }),
        Err(faults) => {
            for Refusal { what, remedy, .. } in faults {
                section.refuse("tokens_file", Refusal::new(what, remedy));
            }
            None
        }
    }
}

/// The tokens of a file.
fn read(path: &Path) -> Result<Tokens, Vec<Refusal>> {
    let text = scope(|| read_text(path)).map_err(|what| vec![Refusal::new(what, TOKENS)])?;
    let refusal = |fault: crate::access::tokens::TokenFault| Refusal::new(fault.to_string(), fault.allowed);
    scope(|| Tokens::parse(&text)).map_err(|faults| faults.into_iter().map(refusal).collect())
}

fn read_text(path: &Path) -> Result<String, String> {
    let unreadable = |error| format!("{} cannot be read: {error}", path.display());
    let meta = fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        return Err(format!("{} is no file of at most {} MiB", path.display(), FILE_BYTES_MAX >> 20));
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// Who may write into it lets in whom he likes, and who may read it can try words at short secrets.
fn note_readable(section: &Section<'_, '_>, path: &Path) {
    let mode = fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    if mode & 0o007 != 0 {
        let can = if mode & 0o002 != 0 { "write" } else { "read" };
        let what = format!("everybody on this machine can {can} this file (mode {:03o})", mode & 0o777);
        section.note("tokens_file", what, format!("chmod o= {}", path.display()));
    }
}

/// Whether somebody has said that a listener may be reached from elsewhere without protection.
pub(super) fn allow_remote(section: &Section<'_, '_>) -> bool {
    const PLAIN: &str =
        "allow_remote = \"plain\", which says that all who reach the address may write, and be read on the way";
    let Some(entry) = section.get("allow_remote") else { return false };
    match (entry.item.as_bool(), entry.item.as_str()) {
        (_, Some("plain")) => true,
        (Some(true), _) => {
            entry.refuse(Refusal::new("true does not say what is given up", PLAIN));
            // What it was meant for is not told again.
            true
        }
        (Some(false), _) => {
            entry.refuse(Refusal::new("nothing is allowed unless it is said", format!("leave it out, or {PLAIN}")));
            false
        }
        (None, Some(_)) => {
            entry.refuse(Refusal::new("this word is not known here", PLAIN));
            true
        }
        (None, None) => {
            entry.wrong_type("a string", PLAIN);
            true
        }
    }
}

/// Refuses a TCP listener that everybody could write to.
pub(super) fn check_remote_tcp(section: &Section<'_, '_>, listen: SocketAddr, access: &Access, is_plain: bool) {
    if listen.ip().is_loopback() || !access.networks.allow.is_empty() {
        return;
    }
    if is_plain {
        section.note(
            "listen",
            "anyone who reaches this address can write records",
            "allow = [\"10.0.4.0/24\"] names who may",
        );
    } else {
        section.refuse(
            "listen",
            Refusal::new(
                "this address is reachable from other machines, and anyone who reaches it could write records",
                "allow = [\"10.0.4.0/24\"] in this source, with the networks of its machines; or allow_remote = \"plain\" if \
                 all who reach the address may write",
            ),
        );
    }
}

/// Refuses an HTTP listener whose records and tokens others could read and write.
pub(super) fn check_remote_http(
    section: &Section<'_, '_>,
    listen: SocketAddr,
    (access, tls): (&Access, Option<&ListenTls>),
    is_plain: bool,
) {
    let has_tokens = access.tokens.is_some();
    let is_guarded = tls.is_some_and(|tls| has_tokens || tls.asks_for_certificates());
    if listen.ip().is_loopback() || is_guarded {
        return;
    }
    if is_plain {
        let what = match (has_tokens, tls) {
            (true, _) => "there is no TLS: whoever reads the network on the way has the tokens of all who send here",
            (false, Some(_)) => {
                "anyone who reaches this address can write records: nobody needs a token or a certificate"
            }
            (false, None) => {
                "anyone who reaches this address can write records: there is no TLS, and nobody needs a token"
            }
        };
        section.note("listen", what, "tls with tokens_file or client_ca in this source");
        return;
    }
    let what = match (has_tokens, tls) {
        (true, _) => {
            "this address is reachable from other machines, and there is no TLS: tokens could be read on the way"
        }
        (false, Some(_)) => {
            "this address is reachable from other machines, and nothing says which of them may come: anyone who reaches \
             it could write records"
        }
        (false, None) => {
            "this address is reachable from other machines, and there is neither TLS nor a token: anyone who reaches it \
             could write records"
        }
    };
    let remedy = "tls with tokens_file or client_ca in this source; or allow_remote = \"plain\" if all who reach the \
                  address may write, and be read on the way";
    section.refuse("listen", Refusal::new(what, remedy));
}

/// The files of secrets that settings name, and what they held when they were read.
#[derive(Debug)]
pub struct Secrets {
    deliver: Deliver,
    /// By the place of their source.
    tokens: Vec<(usize, TokensFile)>,
}

/// What such files hold now that is other than before.
#[derive(Debug, Default)]
pub struct Reread {
    headers: Option<Vec<(String, Arc<str>)>>,
    tokens: Vec<(usize, Arc<Tokens>)>,
    /// Why some cannot be used, in words; none of their content is shown.
    pub faults: Vec<String>,
}

impl Secrets {
    /// Those of these settings; `None` where there are none.
    pub fn of(settings: &Settings) -> Option<Self> {
        let has_tokens = |(index, source): (usize, &Source)| Some((index, source.access.tokens.clone()?));
        let tokens: Vec<_> = settings.sources.iter().enumerate().filter_map(has_tokens).collect();
        let is_any = !tokens.is_empty() || !settings.deliver.header_files.is_empty();
        is_any.then(|| Self { deliver: settings.deliver.clone(), tokens })
    }

    /// Reads the files. One that cannot be used leaves what it held before in force, and keeps no other from being used.
    pub fn read(&self) -> Reread {
        let mut reread = Reread::default();
        match read_headers(&self.deliver) {
            Ok(headers) => reread.headers = headers,
            Err(fault) => reread.faults.push(fault),
        }
        for (index, file) in &self.tokens {
            match again(&file.path, &file.tokens) {
                Ok(tokens) => reread.tokens.extend(tokens.map(|tokens| (*index, Arc::new(tokens)))),
                Err(fault) => reread.faults.push(fault),
            }
        }
        reread
    }
}

impl Reread {
    /// Whether something is other than before.
    pub fn is_changed(&self) -> bool {
        self.headers.is_some() || !self.tokens.is_empty()
    }

    /// Puts it into the settings that the files were those of.
    pub fn put_into(self, settings: &mut Settings) {
        if let Some(headers) = self.headers {
            settings.deliver.headers = headers;
        }
        for (index, tokens) in self.tokens {
            if let Some(file) = &mut settings.sources[index].access.tokens {
                file.tokens = tokens;
            }
        }
    }
}

/// The tokens of a file if it is other than before.
fn again(path: &Path, before: &Tokens) -> Result<Option<Tokens>, String> {
    let text = scope(|| read_text(path))?;
    if before.is_of(&text) {
        return Ok(None);
    }
    scope(|| Tokens::parse(&text)).map(Some).map_err(|faults| {
        let faults: Vec<String> = faults.iter().take(3).map(|fault| format!("{fault} ({})", fault.allowed)).collect();
        format!("{}: {}", path.display(), faults.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        for good in ["https://plant.example", "http://10.0.4.7:8080", "https://[fd00::7]", "https://[fd00::7]:8443"] {
            assert!(is_origin(good), "{good}");
        }
        for wrong in [
            "null",
            "*",
            "plant.example",
            "https://",
            "https://Plant.example",
            "https://plant.example/",
            "https://plant.example:443",
            "http://plant.example:80",
            "https://plant.example:x",
            "https://plant.example:08443",
            "ftp://plant.example",
        ] {
            assert!(!is_origin(wrong), "{wrong}");
        }
    }
}
