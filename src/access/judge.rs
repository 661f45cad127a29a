//! What a listener says to a request once its head is whole: the rules in their order, and the
//! answer to who breaks one. An answer names the rule, what came and what is allowed, and no secret.

use super::Access;
use super::credentials::Credentials;
use super::denial::Denial;
use super::tokens::{SECRET_BYTES_MIN, Token, digest_of};
use super::typed::{Looked, SecretCheck, Vetted};
use crate::http::server::{Caller, Denied, Once};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

/// Longest piece of a request that is said back.
const CAME_CHARS_MAX: usize = 100;
const UNKNOWN: &str = "a token that is not known, or no longer";
const BEARER: &str = "Bearer realm=\"ringest\"";
const BEARER_INVALID: &str = "Bearer realm=\"ringest\", error=\"invalid_token\"";
const BEARER_OR_BASIC: &str = "Bearer realm=\"ringest\", Basic realm=\"ringest\", charset=\"UTF-8\"";

/// What the sources of a configuration are called.
#[derive(Debug, Clone, Copy)]
pub struct Names<'n> {
    /// The listener's own source.
    pub own: &'n str,
    /// All sources and machines with a name in the configuration, sorted.
    pub taken: &'n [String],
}

/// A request that is let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admitted<'t> {
    /// The origin whose pages may read the answer, where it has one.
    pub origin: Option<Arc<String>>,
    /// The token that it shows, where one is needed.
    pub token: Option<&'t Token>,
}

/// Why a request is not let in, and what it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turned {
    /// As it is counted.
    pub denial: Denial,
    /// As it is told.
    pub answer: Denied,
}

/// What is said to a request that breaks no rule so far.
#[derive(Debug)]
pub enum Judged<'t> {
    /// It is let in.
    In(Admitted<'t>),
    /// A secret that somebody has typed is to be looked at; then it is judged again, with what came of that.
    Look(Box<SecretCheck>),
    /// Nobody could look at its secret.
    Later,
}

/// What is known of a token.
enum Shown<'t> {
    Token(&'t Token),
    Look(Box<SecretCheck>),
    Later,
}

/// A rule that is broken.
struct Broken {
    denial: Denial,
    status: u16,
    rule: &'static str,
    came: Value,
    allowed: Value,
}

impl Turned {
    /// As many connections show a token as may.
    pub fn crowded(most: u32) -> Self {
        let denial = Denial::TokenConnections;
        let body = json!({ "rule": "connections_per_token", "came": "one more connection with this token", "allowed": format!("{most} at a time") });
        let answer = Denied { status: 429, authenticate: None, body: body.to_string(), origin: None, held_until_ns: 0 };
        Self { denial, answer }
    }
}

impl Access {
    /// Whether a request is let in. `vetted`: the last secret of its connection that was looked at.
    ///
    /// # Errors
    /// [`Turned`], by the first rule that is broken.
    pub fn judge(
        &self,
        caller: &Caller<'_>,
        names: Names<'_>,
        wall_ns: u64,
        vetted: Option<&Vetted>,
    ) -> Result<Judged<'_>, Turned> {
        let origin = self.check_origin(caller).map_err(|broken| self.turned(broken, None))?;
        match self.check_sender(caller, names, wall_ns, vetted) {
            Ok(Judged::In(admitted)) => Ok(Judged::In(Admitted { origin, ..admitted })),
            Ok(judged) => Ok(judged),
            Err(broken) => Err(self.turned(broken, origin)),
        }
    }

    /// Who sends a request that came from `from`: as its proxies tell, where it came from one.
    ///
    /// # Errors
    /// [`Turned`]: they tell something that is no address, or one that may not send.
    pub fn client(&self, from: SocketAddr, caller: &Caller<'_>) -> Result<SocketAddr, Turned> {
        if self.proxies.is_empty() {
            return Ok(from);
        }
        let fields = caller.forwarded_for.values();
        let last = || fields.clone().next_back().map(shown).unwrap_or_default();
        let client = self.proxies.client(from, fields.clone()).map_err(|_| Broken {
            denial: Denial::Forwarded,
            status: 400,
            rule: "X-Forwarded-For of a proxy ends in the address of a machine",
            came: json!(last()),
            allowed: json!("the address that has connected to the proxy, alone or behind others and a comma"),
        });
        let admitted = client.and_then(|client| match client == from || self.networks.admits(client.ip()) {
            true => Ok(client),
            false => Err(Broken {
                denial: Denial::Network,
                status: 403,
                rule: "allow and deny",
                came: json!(client.ip()),
                allowed: json!("an address that may send; of a proxy, and of the machine behind it"),
            }),
        });
        admitted.map_err(|broken| self.turned(broken, None))
    }

    fn turned(&self, broken: Broken, origin: Option<Arc<String>>) -> Turned {
        let Broken { denial, status, rule, came, allowed } = broken;
        let authenticate = match denial {
            _ if status != 401 => None,
            _ if self.basic => Some(BEARER_OR_BASIC),
            Denial::NoToken => Some(BEARER),
            _ => Some(BEARER_INVALID),
        };
        let body = json!({ "rule": rule, "came": came, "allowed": allowed }).to_string();
        Turned { denial, answer: Denied { status, authenticate, body, origin, held_until_ns: 0 } }
    }

    /// A browser says for which page it sends. No machine does, so whoever does is let in by name only.
    fn check_origin(&self, caller: &Caller<'_>) -> Result<Option<Arc<String>>, Broken> {
        let came = match (caller.origin, caller.fetch_site) {
            (Once::Absent, Once::Absent | Once::Value(b"same-origin" | b"none")) => return Ok(None),
            (Once::Absent, Once::Value(site)) => format!("Sec-Fetch-Site: {}", shown(site)),
            (Once::Absent, Once::Several) => "more than one Sec-Fetch-Site".to_owned(),
            (Once::Value(origin), _) => match self.origins.iter().find(|known| known.as_bytes() == origin) {
                Some(known) => return Ok(Some(Arc::clone(known))),
                None => format!("Origin: {}", shown(origin)),
            },
            (Once::Several, _) => "more than one Origin".to_owned(),
        };
        let allowed = match self.origins.is_empty() {
            true => json!("no request of a web page: origins of this source has none"),
            false => json!(self.origins.iter().map(|origin| origin.as_str()).collect::<Vec<_>>()),
        };
        Err(Broken { denial: Denial::Origin, status: 403, rule: "origins", came: json!(came), allowed })
    }

    fn check_sender(
        &self,
        caller: &Caller<'_>,
        names: Names<'_>,
        wall_ns: u64,
        vetted: Option<&Vetted>,
    ) -> Result<Judged<'_>, Broken> {
        // A browser asks beforehand without a token, and learns nothing.
        if caller.is_options {
            return Ok(Judged::In(Admitted::default()));
        }
        let token = match &self.tokens {
            Some(_) => match self.check_token(caller, wall_ns, vetted)? {
                Shown::Token(token) => Some(token),
                Shown::Look(check) => return Ok(Judged::Look(check)),
                Shown::Later => return Ok(Judged::Later),
            },
            None => None,
        };
        let admitted = Ok(Judged::In(Admitted { origin: None, token }));
        let Some(source) = caller.source else { return admitted };
        self.check_source(source, names)?;
        match token {
            Some(token) if !token.sources.have(source) => Err(Broken {
                denial: Denial::TokenSource,
                status: 403,
                rule: "the SOURCEs of this token",
                came: json!(source),
                allowed: json!(token.sources.texts()),
            }),
            _ => admitted,
        }
    }

    fn check_source(&self, source: &str, names: Names<'_>) -> Result<(), Broken> {
        let broken = |denial, rule, allowed| Broken { denial, status: 404, rule, came: json!(source), allowed };
        let listed = || json!(self.sources.texts());
        if source != names.own && names.taken.binary_search_by(|name| name.as_str().cmp(source)).is_ok() {
            let any = || json!("a SOURCE that no other source has for its name");
            let allowed = if self.sources.0.is_empty() { any() } else { listed() };
            return Err(broken(Denial::OtherSource, "the name of another source", allowed));
        }
        match self.sources.0.is_empty() || self.sources.have(source) {
            true => Ok(()),
            false => Err(broken(Denial::Source, "sources", listed())),
        }
    }

    fn check_token(&self, caller: &Caller<'_>, wall_ns: u64, vetted: Option<&Vetted>) -> Result<Shown<'_>, Broken> {
        let value = match caller.authorization {
            Once::Value(value) => value,
            Once::Absent => return Err(self.no_token(Denial::NoToken, "no Authorization")),
            Once::Several => return Err(self.no_token(Denial::WrongToken, "more than one Authorization")),
        };
        let wrong = |came| self.no_token(Denial::WrongToken, came);
        let credentials = Credentials::parse(value).ok_or_else(|| wrong("an Authorization that is not Bearer"))?;
        if credentials.user().is_some() && !self.basic {
            return Err(wrong("Basic, which this source does not take"));
        }
        let tokens = self.tokens.as_ref().map(|file| &*file.tokens);
        let secret = credentials.secret();
        let is_long = secret.len() >= SECRET_BYTES_MIN;
        let token = tokens.filter(|_| is_long).and_then(|tokens| tokens.by_digest(&digest_of(secret)));
        if let Some(token) = token.filter(|token| credentials.user().is_none_or(|user| user == token.name.as_bytes())) {
            return self.unless_over(token, wall_ns);
        }
        // Which names are known is nobody's business: a secret of any name is looked at, and what is
        // wrong with it is said in the same words.
        let named = credentials.named().and_then(|(name, secret)| Some((tokens?.typed_or_any(name)?, secret)));
        if let Some(((hash, token), secret)) = named {
            return match (vetted.and_then(|vetted| vetted.of(hash, secret)), token) {
                (None, _) => Ok(Shown::Look(Box::new(SecretCheck::new(hash, secret)))),
                (Some(Looked::Right), Some(token)) => self.unless_over(token, wall_ns),
                (Some(Looked::Right | Looked::Wrong), _) => Err(wrong(UNKNOWN)),
                (Some(Looked::Unknown), _) => Ok(Shown::Later),
            };
        }
        Err(wrong(if is_long { UNKNOWN } else { "a secret under 32 characters, which anybody could guess" }))
    }

    /// The token of a secret that is right.
    fn unless_over<'t>(&self, token: &'t Token, wall_ns: u64) -> Result<Shown<'t>, Broken> {
        match token.is_expired(wall_ns) {
            true => Err(self.no_token(Denial::ExpiredToken, "a token whose time is over")),
            false => Ok(Shown::Token(token)),
        }
    }

    fn no_token(&self, denial: Denial, came: &str) -> Broken {
        let allowed = match self.basic {
            true => "Authorization: Bearer TOKEN, or Basic with the token's name and the token",
            false => "Authorization: Bearer TOKEN",
        };
        Broken { denial, status: 401, rule: "tokens_file", came: json!(came), allowed: json!(allowed) }
    }
}

/// A piece of a request, as text of a bounded length.
fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().take(CAME_CHARS_MAX).collect()
}
