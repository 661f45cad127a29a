//! The film API's requests, and its page.

use super::store::{Durability, Film, Outcome, Store, StoreError, Totals};
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use serde::Deserialize;
use serde_json::json;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most ids given at a time.
const LEASE_MAX: i64 = 1_000_000;
/// Longest request body in bytes: a record of 64 KiB in any escaping fits.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest Idempotency-Key in bytes.
const KEY_BYTES_MAX: usize = 255;
/// Films in one answer.
const PAGE_MAX: u32 = 1_000;
const PAGE_DEFAULT: u32 = 100;
/// Machines and films on the live page.
const LIVE_MACHINES: usize = 600;
const LIVE_FILMS: u32 = 40;
/// A request still open so long after the shutdown began is cut.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The film API on an open database.
pub struct Receiver {
    store: Store,
}

impl Receiver {
    /// Opens or makes the database.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(database: &std::path::Path, durability: Durability) -> Result<Self, StoreError> {
        Ok(Self { store: Store::open(database, durability)? })
    }

    /// Counts that go on while it serves.
    pub fn totals(&self) -> Arc<Mutex<Totals>> {
        self.store.totals()
    }
}

/// Serves the film API on `listener` until `shutdown`; returns when all that was accepted is committed and the database is
/// closed.
///
/// # Errors
/// Those of the listener.
pub async fn serve(
    receiver: Receiver,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let receiver = Arc::new(receiver);
    let (begun, mut begin) = tokio::sync::watch::channel(false);
    let graceful = async move {
        shutdown.await;
        begun.send_replace(true);
    };
    // Answers are small: Nagle's algorithm would hold them back behind a delayed acknowledgement. A socket that refuses the
    // option still works.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let server = axum::serve(listener, router(receiver.clone())).with_graceful_shutdown(graceful);
    let deadline = async move {
        if begin.wait_for(|begun| *begun).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(CLOSE_TIMEOUT).await;
    };
    let result = tokio::select! {
        result = server => result,
        () = deadline => Ok(()),
    };
    receiver.store.close().await;
    result
}

fn router(receiver: Arc<Receiver>) -> Router {
    Router::new()
        .route("/seq/", post(next_id))
        .route("/films/", post(create).get(list))
        .route("/films/{id}/", get(read))
        .route("/api/live", get(live))
        .route("/", get(page))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "no such path; there are /, /seq/, /films/ and /films/ID/") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(receiver)
}

fn error(status: StatusCode, reason: impl std::fmt::Display) -> Response {
    (status, Json(json!({ "error": reason.to_string() }))).into_response()
}

fn unavailable(reason: impl std::fmt::Display) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, reason);
    response.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
    response
}

fn created(id: i64) -> Response {
    let json = HeaderValue::from_static("application/json");
    (StatusCode::CREATED, [(CONTENT_TYPE, json)], format!("{{\"id\": {id}}}")).into_response()
}

/// The request's Idempotency-Key, or why it cannot be used.
fn key(headers: &HeaderMap) -> Result<Option<&str>, &'static str> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err("there is more than one Idempotency-Key");
    }
    match value.to_str() {
        Ok("") => Err("the Idempotency-Key is empty"),
        Ok(key) if key.len() > KEY_BYTES_MAX => Err("the Idempotency-Key is longer than 255 bytes"),
        Ok(key) => Ok(Some(key)),
        Err(_) => Err("the Idempotency-Key is not visible ASCII"),
    }
}

/// The body of `POST /seq/`; other fields, and bodies that are no JSON, are ignored.
#[derive(Debug, Deserialize)]
struct Lease {
    /// Ids wanted, one after the other.
    count: i64,
}

/// `{"count": n}` asks for many ids at once: the answer has the first, and how many there are.
async fn next_id(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> Response {
    let lease: Option<Lease> = serde_json::from_slice(&body).ok();
    let count = lease.as_ref().map_or(1, |lease| lease.count);
    if !(1..=LEASE_MAX).contains(&count) {
        return error(StatusCode::BAD_REQUEST, format_args!("count is not 1 to {LEASE_MAX}"));
    }
    let key = match key(&headers) {
        Ok(key) => key,
        Err(reason) => return error(StatusCode::BAD_REQUEST, reason),
    };
    match receiver.store.take_ids(key, count).await {
        Ok(ids) if lease.is_some() => {
            let body = json!({ "id": ids.start, "count": ids.end - ids.start });
            (StatusCode::CREATED, Json(body)).into_response()
        }
        Ok(ids) => created(ids.start),
        Err(reason) => unavailable(reason),
    }
}

/// The body of `POST /films/`; other fields are ignored.
#[derive(Debug, Deserialize)]
struct Input {
    id: Option<i64>,
    machine: String,
    data: String,
}

async fn create(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> Response {
    let input: Input = match serde_json::from_slice(&body) {
        Ok(input) => input,
        Err(reason) => return error(StatusCode::BAD_REQUEST, format_args!("the body is no film: {reason}")),
    };
    if input.id.is_some_and(|id| id < 0) {
        return error(StatusCode::BAD_REQUEST, "the id is negative");
    }
    let key = match key(&headers) {
        Ok(key) => key,
        Err(reason) => return error(StatusCode::BAD_REQUEST, reason),
    };
    let id = match input.id {
        Some(id) => id,
        None => match receiver.store.take_ids(None, 1).await {
            Ok(ids) => ids.start,
            Err(reason) => return unavailable(reason),
        },
    };
    let film = Film {
        id,
        id_given: input.id.is_some(),
        machine: input.machine,
        data: input.data,
        key: key.map(str::to_owned),
    };
    match receiver.store.write(film).await {
        Outcome::Created(id) | Outcome::Repeated(id) => created(id),
        Outcome::Conflict(reason) => error(StatusCode::CONFLICT, reason),
        Outcome::Failed(reason) => unavailable(reason),
    }
}

async fn read(State(receiver): State<Arc<Receiver>>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else { return error(StatusCode::NOT_FOUND, "a film's id is an integer") };
    match receiver.store.film(id).await {
        Ok(Some(film)) => Json(film).into_response(),
        Ok(None) => error(StatusCode::NOT_FOUND, format_args!("there is no film with id {id}")),
        Err(reason) => unavailable(reason),
    }
}

#[derive(Debug, Deserialize)]
struct Window {
    after: Option<i64>,
    limit: Option<u32>,
}

async fn list(
    State(receiver): State<Arc<Receiver>>,
    window: Result<Query<Window>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let window = match window {
        Ok(Query(window)) => window,
        Err(reason) => return error(StatusCode::BAD_REQUEST, reason.body_text()),
    };
    let (after, limit) = (window.after.unwrap_or(0), window.limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX));
    match receiver.store.films_after(after, limit).await {
        Ok(films) => {
            let next = films.last().map_or(after, |film| film.position);
            Json(json!({ "films": films, "next": next })).into_response()
        }
        Err(reason) => unavailable(reason),
    }
}

/// What the page polls: counts, machines by name, the newest films.
async fn live(State(receiver): State<Arc<Receiver>>) -> Response {
    let films = match receiver.store.newest(LIVE_FILMS).await {
        Ok(films) => films,
        Err(reason) => return unavailable(reason),
    };
    let (total, mut machines) = {
        let totals = receiver.totals();
        let totals = totals.lock().expect("never poisoned: counting does not panic");
        let machines: Vec<_> = totals.machines.iter().map(|(name, count)| (name.clone(), *count)).collect();
        (totals.films, machines)
    };
    let machine_count = machines.len();
    machines.sort_unstable_by(|a, b| natural(&a.0).cmp(natural(&b.0)));
    machines.truncate(LIVE_MACHINES);
    let machines: Vec<_> = machines
        .into_iter()
        .map(|(name, count)| json!({ "name": name, "films": count.films, "last_at_us": count.last_at_us }))
        .collect();
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let body = json!({
        "now_us": now_us, "films": total, "machine_count": machine_count, "machines": machines, "newest": films,
    });
    ([(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// Sorts `m-2` before `m-10`: runs of digits count by length first, everything else by its bytes.
fn natural(name: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let first = rest.as_bytes().first()?;
        let is_digit = first.is_ascii_digit();
        let end = rest.bytes().position(|byte| byte.is_ascii_digit() != is_digit).unwrap_or(rest.len());
        let (part, behind) = rest.split_at(end);
        rest = behind;
        Some(if is_digit {
            let digits = part.trim_start_matches('0');
            (digits.len(), digits)
        } else {
            (0, part)
        })
    })
}

async fn page() -> Response {
    let mut response = Html(include_str!("page.html")).into_response();
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_sort_by_their_numbers() {
        let mut names = vec!["m-10", "m-2", "m-2a", "a", "m-002", "m", "ä9"];
        names.sort_by(|a, b| natural(a).cmp(natural(b)));
        assert_eq!(names, ["a", "m", "m-2", "m-002", "m-2a", "m-10", "ä9"]);
    }
}
