//! What is known of machines: all of them by pages, or one.

use super::{Admin, shows};
use crate::engine::clock;
use crate::observe::machines::{Sort, Wanted};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// Machines of a page, and at most.
const SHOWN: usize = 100;
const SHOWN_MAX: usize = 1_000;

/// What `/api/machines` is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    #[serde(default)]
    sort: Sort,
    #[serde(default)]
    filter: String,
    after: Option<String>,
    limit: Option<usize>,
}

fn refused(status: StatusCode, words: &str) -> Response {
    (status, Json(json!({ "error": words }))).into_response()
}

const NO_CORES: &str = "no core can be asked";

/// A page of machines.
pub(super) async fn list(State(admin): State<Arc<Admin>>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let Query(Asked { sort, filter, after, limit }) = match asked {
        Ok(asked) => asked,
        Err(wrong) => {
            let words = format!(
                "{}: the query may have sort (state, name, received, pending, parked, rejected, rate or last_record), filter, after and limit",
                wrong.body_text()
            );
            return refused(StatusCode::BAD_REQUEST, &words);
        }
    };
    let Some(machines) = &admin.gateway.machines else { return refused(StatusCode::SERVICE_UNAVAILABLE, NO_CORES) };
    let report = admin.report().await;
    let roll = machines.look().await;
    let wanted = Wanted { sort, filter, after, limit: limit.unwrap_or(SHOWN).min(SHOWN_MAX) };
    Json(roll.page(&wanted, &report, clock::now().wall_ns)).into_response()
}

/// All that is known of the machines with a name. What their last records were is for those who show the token.
pub(super) async fn show(State(admin): State<Arc<Admin>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(machines) = &admin.gateway.machines else { return refused(StatusCode::SERVICE_UNAVAILABLE, NO_CORES) };
    let with_contents = admin.gateway.token.as_ref().is_some_and(|token| shows(token, &headers));
    let report = admin.report().await;
    let found = machines.look().await.show(&name, with_contents, &report, clock::now().wall_ns);
    match found.is_empty() {
        false => Json(json!({ "machines": found })).into_response(),
        true => {
            let words = format!("no machine is called {name:?}: /api/machines?filter= looks for a part of a name");
            refused(StatusCode::NOT_FOUND, &words)
        }
    }
}
