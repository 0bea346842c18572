//! `pccl deploy serve`: a page and JSON about the runs of a journal. It reads; it changes nothing.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use pccl_deploy::report;

use crate::failure::DeployError;
use crate::metrics::{self, OPEN_METRICS, Watched};
use crate::store::Place;
use crate::view::{Follower, RunState, RunView};
use crate::web::{Listener, TcpAddress};

const PAGE: &str = include_str!("serve.html");
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
/// Nothing from elsewhere, and nothing that a name in a deployment could bring in.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

type Shared = Arc<Mutex<Follower>>;

/// Serves until the process ends. `ready` is told where, once the port is ours.
///
/// # Errors
/// There is no journal, or the port is not free.
pub fn serve(
    place: &Place,
    address: &TcpAddress,
    ready: impl FnOnce(std::net::SocketAddr, bool),
) -> Result<(), DeployError> {
    let follower = Follower::new(place)?;
    let listener = Listener::bind(address)?;
    let is_open = listener.is_open();
    ready(listener.addr, is_open);
    let mut routes = routes(Arc::new(Mutex::new(follower)));
    if !is_open {
        routes = routes.layer(axum::middleware::from_fn(for_this_machine));
    }
    listener.run(routes)
}

/// A page of a stranger whose name leads to this machine may not read what is served here: its browser says that name.
async fn for_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if host.is_none_or(is_here) {
        return next.run(request).await;
    }
    let what = "this page is for this machine alone: ask for it as 127.0.0.1 or localhost";
    (StatusCode::FORBIDDEN, answer(JSON, serde_json::json!({ "error": what }).to_string())).into_response()
}

/// Whether a `Host` names this machine by what nobody else can give away.
fn is_here(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/", get(async || answer(HTML, PAGE.to_owned())))
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .route("/api/runs", get(runs))
        .route("/api/runs/{run}", get(one))
        .route("/api/runs/{run}/report", get(report_of))
        .route("/api/runs/{run}/trace", get(trace_of))
        .fallback(async || missing("there is nothing here"))
        .with_state(shared)
}

fn answer(kind: &'static str, body: String) -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

fn missing(what: &str) -> Response {
    (StatusCode::NOT_FOUND, answer(JSON, serde_json::json!({ "error": what }).to_string())).into_response()
}

/// Answers from the journal as it is now. It is read on a thread that may wait.
async fn ask(shared: Shared, work: impl FnOnce(&Follower) -> Response + Send + 'static) -> Response {
    let asked = tokio::task::spawn_blocking(move || {
        let mut follower = shared.lock().unwrap_or_else(PoisonError::into_inner);
        follower.refresh().map(|()| work(&follower))
    });
    let why = match asked.await {
        Ok(Ok(response)) => return response,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let body = serde_json::json!({ "error": why }).to_string();
    (StatusCode::SERVICE_UNAVAILABLE, answer(JSON, body)).into_response()
}

async fn of_run(
    shared: Shared,
    run: String,
    work: impl FnOnce(&RunView) -> Response + Send + 'static,
) -> Response {
    let number = if run == "newest" { Ok(None) } else { run.parse().map(Some) };
    let Ok(number) = number else { return missing("a run is a number, or `newest`") };
    ask(shared, move |follower| follower.run(number).map_or_else(|| missing("there is no such run"), work))
        .await
}

async fn runs(State(shared): State<Shared>) -> Response {
    ask(shared, |follower| {
        let runs: Vec<_> = follower.runs().map(RunView::summary).collect();
        answer(JSON, serde_json::json!({ "runs": runs }).to_string())
    })
    .await
}

async fn one(State(shared): State<Shared>, Path(run): Path<String>) -> Response {
    of_run(shared, run, |view| answer(JSON, view.details().to_string())).await
}

async fn report_of(State(shared): State<Shared>, Path(run): Path<String>) -> Response {
    of_run(shared, run, |view| match &view.plan {
        Ok(plan) => answer(HTML, report::html(&report::of_history(plan, &view.history))),
        Err(why) => missing(why),
    })
    .await
}

async fn trace_of(State(shared): State<Shared>, Path(run): Path<String>) -> Response {
    of_run(shared, run, |view| match &view.plan {
        Ok(plan) => answer(JSON, report::trace(&report::of_history(plan, &view.history))),
        Err(why) => missing(why),
    })
    .await
}

/// Of the newest run, and of any other that somebody drives.
async fn metrics(State(shared): State<Shared>) -> Response {
    ask(shared, |follower| {
        let newest = follower.run(None).map(|view| view.id);
        let told =
            follower.runs().filter(|view| Some(view.id) == newest || view.state() == RunState::Running);
        let watched: Vec<Watched> = told.map(Watched::of).collect();
        let page = metrics::page(&watched.iter().collect::<Vec<_>>()).unwrap_or_default();
        answer(OPEN_METRICS, page)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_names_are_not_this_machine() {
        for host in ["localhost", "LocalHost:9091", "127.0.0.1:9091", "[::1]:9091", "[::1]"] {
            assert!(is_here(host), "{host}");
        }
        for host in ["evil.example", "evil.example:9091", "127.0.0.1.evil.example", "", "localhost.evil:1"] {
            assert!(!is_here(host), "{host}");
        }
    }
}
