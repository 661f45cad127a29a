//! The admin server: page, metrics, health and status on loopback. It asks the shards for snapshots
//! and for what is parked, and passes on what an operator decides about that, about what is missing
//! and about the configuration. It runs on the control thread, never on a core of the data path.
//!
//! A request whose Host is not a name of this machine's loopback is refused, so that a page from elsewhere cannot read the
//! gateway by a name that it makes resolve to 127.0.0.1 (DNS rebinding). Who looks needs nothing else; who changes something needs the
//! token that the gateway leaves in its state directory.

use super::clock;
use super::process::usage;
use super::roll::MachineRoll;
use crate::config::Durability;
use crate::ground::RecordName;
use crate::observe::loaded::Loaded;
use crate::observe::losses::Acknowledged;
use crate::observe::metrics::{self, Identity};
use crate::observe::report::Report;
use crate::observe::snapshot::{ParkedList, Snapshot};
use crate::shard::{Disposal, Selection};
use axum::Json;
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

pub mod client;
mod doors;
mod machines;
mod token;

pub use doors::{CONNECTIONS_MAX, HEADER_TIMEOUT};
pub use token::Token;

/// A core that does not answer for so long is reported.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// As long for what is parked: it can be a long list.
pub const PARKED_TIMEOUT: Duration = Duration::from_secs(5);
/// A reload opens ports and asks all cores, which has deadlines of its own.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A request's body is to be whole within this time of its header.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest body of a request.
const BODY_BYTES_MAX: usize = 2 << 20;

/// The answers of all cores that did answer.
pub type SnapshotFuture = Pin<Box<dyn Future<Output = Vec<Snapshot>> + Send>>;

/// What the admin server needs of the gateway.
pub struct Gateway {
    /// Configured name.
    pub name: String,
    /// The file that its configuration came from.
    pub file: PathBuf,
    /// The journal's level.
    pub durability: Durability,
    /// When the process started.
    pub started: Instant,
    /// The cores that must answer.
    pub cores: Vec<u16>,
    /// What became of the last attempt to read the configuration.
    pub loaded: Loaded,
    /// Asks every core for a snapshot and leaves out those that do not answer within [`ANSWER_TIMEOUT`].
    pub request: Box<dyn Fn() -> SnapshotFuture + Send + Sync>,
    /// Has the configuration read again, where it came from a file.
    pub reload: Option<ReloadConfig>,
    /// The machines, where there are cores to be asked.
    pub machines: Option<Arc<MachineRoll>>,
    /// What is parked, where there are cores to be asked.
    pub parked: Option<Parked>,
    /// Has what is missing acknowledged, where there are cores to be told.
    pub acknowledge: Option<AcknowledgeMissing>,
    /// Has all that waits for the service tried at once, where there are cores to be told.
    pub retry: Option<Box<dyn Fn() + Send + Sync>>,
    /// What a request that changes something must show; without it there are none.
    pub token: Option<Token>,
}

/// Has the configuration read again: what was done, or why nothing was, in words.
pub type ReloadConfig = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;
/// Lists what is parked, and so many records of it.
pub type ListParked = Box<dyn Fn(usize) -> Pin<Box<dyn Future<Output = ParkedList> + Send>> + Send + Sync>;
/// Brings parked records back or deletes them; how many.
pub type DisposeParked = Box<dyn Fn(Disposal, Selection) -> Pin<Box<dyn Future<Output = u64> + Send>> + Send + Sync>;

/// Has all that is missing acknowledged, durably; how much that was.
pub type AcknowledgeMissing = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Acknowledged> + Send>> + Send + Sync>;

/// How the cores are asked about what is parked.
pub struct Parked {
    /// What there is.
    pub list: ListParked,
    /// What becomes of it.
    pub dispose: DisposeParked,
}

impl Gateway {
    /// A gateway whose cores 0 to `cores` - 1 are asked one by one: `ask` sends the request to a core and waits for its
    /// answer, which is `None` when the core has ended. The deadline is kept here.
    pub fn per_core<Ask, Asked>(name: String, durability: Durability, cores: u16, ask: Ask) -> Self
    where
        Ask: Fn(u16) -> Asked + Send + Sync + 'static,
        Asked: Future<Output = Option<Snapshot>> + Send + 'static,
    {
        let request = move || -> SnapshotFuture {
            let mut asked = tokio::task::JoinSet::new();
            for core in 0..cores {
                asked.spawn(tokio::time::timeout(ANSWER_TIMEOUT, ask(core)));
            }
            Box::pin(async move {
                let mut snapshots = Vec::new();
                while let Some(answer) = asked.join_next().await {
                    snapshots.extend(answer.ok().and_then(Result::ok).flatten());
                }
                snapshots
            })
        };
        Self {
            name,
            file: "CONFIG".into(),
            durability,
            started: Instant::now(),
            cores: (0..cores).collect(),
            loaded: Loaded::at(clock::now().wall_ns),
            request: Box::new(request),
            reload: None,
            machines: None,
            parked: None,
            acknowledge: None,
            retry: None,
            token: None,
        }
    }
}

/// Serves `gateway` on `listener` (loopback, bound by the caller) until `shutdown`.
///
/// # Errors
/// None today: what goes wrong on single connections concerns their peers alone.
pub async fn serve(
    listener: tokio::net::TcpListener,
    gateway: Gateway,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    doors::serve(listener, router(gateway), shutdown).await;
    Ok(())
}

/// The routes, for a server or a test.
pub fn router(gateway: Gateway) -> Router {
    let admin = Arc::new(Admin { gateway, last: Mutex::default() });
    let changing = Router::new()
        .route("/api/parked/retry", post(retry_parked))
        .route("/api/parked/discard", post(discard_parked))
        .route("/api/acknowledge", post(acknowledge))
        .route("/api/reload", post(reload))
        .route("/api/retry", post(retry))
        .route_layer(axum::middleware::from_fn(take_body))
        .route_layer(axum::middleware::from_fn_with_state(Arc::clone(&admin), check_token));
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/api/status", get(status))
        .route("/api/sources", get(sources))
        .route("/api/refused", get(refused))
        .route("/api/parked", get(parked))
        .route("/api/machines", get(machines::list))
        .route("/api/machines/{name}", get(machines::show))
        .merge(changing)
        .with_state(admin)
        .layer(axum::middleware::from_fn(check_host))
}

struct Admin {
    gateway: Gateway,
    /// The last snapshot of each core: kept for a core that does not answer, so that no counter goes backwards. The lock is
    /// held while the cores are asked, which keeps many pages from asking them all at once.
    last: Mutex<BTreeMap<u16, Snapshot>>,
}

impl Admin {
    async fn report(&self) -> Report {
        let mut last = self.last.lock().await;
        // The closure keeps the deadline itself; this one is for a closure that does not.
        let answered = tokio::time::timeout(ANSWER_TIMEOUT + ANSWER_TIMEOUT / 4, (self.gateway.request)()).await;
        let answered = answered.unwrap_or_default();
        let silent: Vec<u16> = self
            .gateway
            .cores
            .iter()
            .filter(|core| !answered.iter().any(|snapshot| snapshot.core == **core))
            .copied()
            .collect();
        for snapshot in answered {
            last.insert(snapshot.core, snapshot);
        }
        let mut report = Report::merge(last.values().cloned().collect(), &silent);
        report.problems.splice(0..0, self.gateway.loaded.problems());
        report.name_file(&self.gateway.file);
        report
    }

    fn uptime_s(&self) -> f64 {
        self.gateway.started.elapsed().as_secs_f64()
    }

    fn durability(&self) -> &'static str {
        match self.gateway.durability {
            Durability::Memory => "memory",
            Durability::Process => "process",
            Durability::Power => "power",
        }
    }
}

async fn page() -> Response {
    let mut response = Html(include_str!("page.html")).into_response();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

async fn status(State(admin): State<Arc<Admin>>) -> Response {
    let report = admin.report().await;
    let mut status = report.status(&admin.gateway.name, admin.durability(), admin.uptime_s(), usage());
    status["config"] = admin.gateway.loaded.status();
    Json(status).into_response()
}

async fn sources(State(admin): State<Arc<Admin>>) -> Response {
    Json(json!({ "sources": admin.report().await.sources })).into_response()
}

/// What listeners have refused, by source and reason, with the last of each.
async fn refused(State(admin): State<Arc<Admin>>) -> Response {
    let sources = admin.report().await.sources;
    let refused: Vec<_> = sources
        .iter()
        .flat_map(|source| {
            source.refused.iter().map(move |kind| {
                let mut kind = json!(kind);
                kind["source"] = json!(source.name);
                kind
            })
        })
        .collect();
    Json(json!({ "refused": refused })).into_response()
}

/// Parked records shown at a time: the list is made by the cores.
const SHOWN_MAX: usize = 1_000;

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn parked(State(admin): State<Arc<Admin>>, Query(Limit { limit }): Query<Limit>) -> Response {
    match &admin.gateway.parked {
        Some(parked) => match in_time(PARKED_TIMEOUT, (parked.list)(limit.unwrap_or(100).min(SHOWN_MAX))).await {
            Ok(list) => Json(list).into_response(),
            Err(silent) => silent,
        },
        None => (StatusCode::SERVICE_UNAVAILABLE, "no core can be asked").into_response(),
    }
}

/// What the cores answer, or the answer that one of them does not.
async fn in_time<T>(limit: Duration, asked: impl Future<Output = T>) -> Result<T, Response> {
    tokio::time::timeout(limit, asked).await.map_err(|_| {
        let words = format!(
            "a core has not answered within {limit:?}: /healthz says which. What was asked for may still be done when it goes on"
        );
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": words }))).into_response()
    })
}

/// Which parked records. All of them only if that is said.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    #[serde(default)]
    all: bool,
    records: Option<Vec<String>>,
    source: Option<String>,
    status: Option<u16>,
}

/// The media type keeps forms of other pages out: they cannot send JSON without asking first, and nobody answers that.
async fn retry_parked(State(admin): State<Arc<Admin>>, Json(chosen): Json<Chosen>) -> Response {
    dispose(&admin, Disposal::Retry, chosen).await
}

async fn discard_parked(State(admin): State<Arc<Admin>>, Json(chosen): Json<Chosen>) -> Response {
    dispose(&admin, Disposal::Discard, chosen).await
}

async fn dispose(admin: &Admin, disposal: Disposal, chosen: Chosen) -> Response {
    let refused = |words: String| (StatusCode::BAD_REQUEST, Json(json!({ "error": words }))).into_response();
    let Chosen { all, records, source, status } = chosen;
    if !all && records.is_none() && source.is_none() && status.is_none() {
        return refused("say which records: all, records, source or status".to_owned());
    }
    let wrong = records.iter().flatten().find(|name| RecordName::parse(name).is_none());
    if let Some(wrong) = wrong {
        return refused(format!("{wrong:?} is no record: they are named CORE-NUMBER"));
    }
    let records = records.map(|names| names.iter().filter_map(|name| RecordName::parse(name)).collect());
    let Some(parked) = &admin.gateway.parked else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no core can be asked").into_response();
    };
    match in_time(PARKED_TIMEOUT, (parked.dispose)(disposal, Selection { records, source, status })).await {
        Ok(count) => Json(json!({ "records": count })).into_response(),
        Err(silent) => silent,
    }
}

/// An operator knows what is missing. The empty JSON object keeps forms of other pages out, as above.
async fn acknowledge(State(admin): State<Arc<Admin>>, Json(Nothing {}): Json<Nothing>) -> Response {
    let Some(acknowledge) = &admin.gateway.acknowledge else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": "no core can be told" }))).into_response();
    };
    match in_time(PARKED_TIMEOUT, acknowledge()).await {
        Ok(acknowledged) => Json(acknowledged).into_response(),
        Err(silent) => silent,
    }
}

/// All that waits for the service is tried at once: what the service told, and what was waited for of itself, is over.
async fn retry(State(admin): State<Arc<Admin>>, Json(Nothing {}): Json<Nothing>) -> Response {
    let Some(retry) = &admin.gateway.retry else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": "no core can be told" }))).into_response();
    };
    tracing::info!("whatever waits for the service is tried now (POST /api/retry)");
    retry();
    Json(json!({ "done": "whatever waits for the service is tried now" })).into_response()
}

/// As SIGHUP does, for where nobody can send a signal. The empty JSON object keeps forms of other pages out, as above.
async fn reload(State(admin): State<Arc<Admin>>, Json(Nothing {}): Json<Nothing>) -> Response {
    let Some(reload) = &admin.gateway.reload else {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": "nobody can read it again" }))).into_response();
    };
    match in_time(RELOAD_TIMEOUT, reload()).await {
        Err(silent) => silent,
        Ok(Ok(done)) => Json(json!({ "done": done })).into_response(),
        Ok(Err(why)) => (StatusCode::CONFLICT, Json(json!({ "error": why }))).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn healthz(State(admin): State<Arc<Admin>>) -> Response {
    let report = admin.report().await;
    let status = match report.problems.as_slice() {
        [] => "ok",
        _ if report.is_failing() => "failing",
        _ => "degraded",
    };
    let code = if report.is_failing() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    if report.problems.is_empty() {
        (code, Json(json!({ "status": status }))).into_response()
    } else {
        (code, Json(json!({ "status": status, "reasons": report.problems }))).into_response()
    }
}

/// Ready means: every core takes records. A source or an API that is away does not change that.
async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let report = admin.report().await;
    if report.is_failing() {
        let reasons: Vec<_> = report.problems.iter().filter(|problem| problem.area.is_failing()).collect();
        let body = Json(json!({ "status": "not ready", "reasons": reasons }));
        return (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    }
    Json(json!({ "status": "ready" })).into_response()
}

async fn metrics_text(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let report = admin.report().await;
    let machines = match &admin.gateway.machines {
        Some(machines) => machines.look().await.states(&report, clock::now().wall_ns),
        None => Vec::new(),
    };
    let identity = Identity {
        machines,
        name: admin.gateway.name.clone(),
        durability: admin.durability(),
        uptime_s: admin.uptime_s(),
        process: usage(),
        loaded: admin.gateway.loaded.clone(),
    };
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepts.into_iter().any(|accept| accept.contains("application/openmetrics-text")) {
        ([(CONTENT_TYPE, metrics::OPENMETRICS_TYPE)], metrics::openmetrics(report, identity)).into_response()
    } else {
        ([(CONTENT_TYPE, metrics::PROMETHEUS_TYPE)], metrics::prometheus(report, identity)).into_response()
    }
}

/// Takes the whole body, which has a deadline.
async fn take_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let refused = |status, words: &str| (status, Json(json!({ "error": words }))).into_response();
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, bytes.into())).await,
        Ok(Err(_)) => refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 2 MiB, or did not come whole"),
        Err(_) => refused(StatusCode::REQUEST_TIMEOUT, "the body was not whole within 15 s"),
    }
}

/// Refuses requests without the token, on routes that change something.
async fn check_token(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let refused = |words: &str| (StatusCode::UNAUTHORIZED, Json(json!({ "error": words }))).into_response();
    let Some(token) = &admin.gateway.token else {
        let words = "the gateway could not leave its token, so that nobody can show it: its log says why";
        return (StatusCode::FORBIDDEN, Json(json!({ "error": words }))).into_response();
    };
    if shows(token, request.headers()) {
        return next.run(request).await;
    }
    let mut response = refused(
        "this needs Authorization: Bearer with the text of the file admin-token in the gateway's state directory, which is new with \
         each start",
    );
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Whether a request shows the token.
fn shows(token: &Token, headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    matches!((given.next(), given.next()), (Some(value), None) if token.is_in(value.as_bytes()))
}

/// Refuses requests by a name that is not this machine's loopback, and forbids caches and guesses of types.
async fn check_host(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(HOST).iter();
    // No Host at all (HTTP/1.0) is no browser, so there is nothing to rebind.
    let by_header = hosts.into_iter().all(|host| host.to_str().is_ok_and(is_loopback_host));
    let by_target = request.uri().authority().is_none_or(|authority| is_loopback_host(authority.as_str()));
    let mut response = if by_header && by_target {
        next.run(request).await
    } else {
        let body = Json(json!({ "error": "the Host of a request must be localhost or a loopback address" }));
        (StatusCode::FORBIDDEN, body).into_response()
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a Host value (RFC 9110 section 7.2: name or address, with an optional port) is loopback.
fn is_loopback_host(host: &str) -> bool {
    let (name, rest) = match host.strip_prefix('[') {
        Some(inner) => match inner.split_once(']') {
            Some((address, rest)) => return address.parse().is_ok_and(|a: Ipv6Addr| a.is_loopback()) && is_port(rest),
            None => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    is_port(rest)
        && (name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()))
}

/// Empty, or a colon and digits.
fn is_port(rest: &str) -> bool {
    rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass_as_host() {
        for host in ["localhost", "LOCALHOST:9600", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:9600"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9600",
            "localhost.evil.example",
            "127.0.0.1.evil",
            "10.0.0.1",
            "[::2]",
            "[::1]x",
            "[::1",
            "127.0.0.1:80:80",
            "localhost:80@evil",
            "0.0.0.0",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
