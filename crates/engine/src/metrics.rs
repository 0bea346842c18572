//! The metrics of runs, for Prometheus: made at each scrape from what the journal says and how far it is.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use pccl_deploy::journal::History;
use pccl_deploy::progress::Progress;
use pccl_deploy::schedule::Outcome;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::failure::DeployError;
use crate::view::RunView;
use crate::web::Listener;

/// The form of a page.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// A run, as its metrics see it.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) run: i64,
    pub(crate) deployment: String,
    pub(crate) history: History,
    pub(crate) progress: Progress,
}

impl Watched {
    /// Of a run that somebody else drives.
    pub(crate) fn of(view: &RunView) -> Self {
        let (run, deployment, history) = (view.id, view.deployment.clone(), view.history.clone());
        Self { run, deployment, history, progress: view.progress() }
    }
}

/// Serves the metrics of a run that this process drives, from a thread, until the process ends.
pub(crate) fn serve(
    listener: Listener,
    run: i64,
    deployment: String,
    history: History,
) -> Result<Arc<Mutex<Watched>>, DeployError> {
    let watched = Watched { run, deployment, history, progress: Progress::default() };
    let shared = Arc::new(Mutex::new(watched));
    let asked = Arc::clone(&shared);
    let page = move || {
        let watched = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let text = page(&[&*watched]).unwrap_or_default();
        async move { ([(CONTENT_TYPE, OPEN_METRICS)], text) }
    };
    let routes = Router::new().route("/metrics", get(page)).route("/healthz", get(async || "ok\n"));
    thread::Builder::new()
        .name("pccl-metrics".to_owned())
        .spawn(move || listener.run(routes))
        .map_err(|e| DeployError::System(format!("failed to start a thread: {e}")))?;
    Ok(shared)
}

/// All metrics of these runs.
pub(crate) fn page(runs: &[&Watched]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("pccl_deploy");
    let tasks: Family<Labels, Gauge> = Family::default();
    let waiting: Family<Labels, Gauge> = Family::default();
    let slots: Family<Labels, Gauge> = Family::default();
    let in_use: Family<Labels, Gauge> = Family::default();
    let wave: Family<Labels, Gauge> = Family::default();
    let attempts: Family<Labels, Counter> = Family::default();
    let throttled: Family<Labels, Counter> = Family::default();
    let seconds = || Histogram::new(exponential_buckets(0.25, 2.0, 16));
    let seconds: Family<Labels, Histogram> = Family::new_with_constructor(seconds);
    registry.register("tasks", "Tasks by phase and state", tasks.clone());
    registry.register(
        "waiting_tasks",
        "Tasks that wait, by phase and kind of what they wait for",
        waiting.clone(),
    );
    registry.register("scope_slots", "Slots of a limit that may be used at once", slots.clone());
    registry.register("scope_slots_in_use", "Slots of a limit that are used", in_use.clone());
    registry.register("wave", "The wave that may run, from 1", wave.clone());
    registry.register("attempts", "Attempts that ended, by phase and result", attempts.clone());
    registry.register("throttled", "Times that an API refused calls of a limit", throttled.clone());
    registry.register("attempt_seconds", "Times of attempts that succeeded", seconds.clone());
    for watched in runs {
        let labels = |more: &[(&'static str, &str)]| -> Labels {
            let run = [("deployment", watched.deployment.clone()), ("run", watched.run.to_string())];
            run.into_iter().chain(more.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect()
        };
        let Progress { phases, waits, scopes, wave: current, .. } = &watched.progress;
        for phase in phases {
            let states = [
                ("waiting", phase.waiting),
                ("running", phase.running),
                ("done", phase.done),
                ("failed", phase.failed),
                ("skipped", phase.skipped),
            ];
            for (state, count) in states {
                tasks.get_or_create(&labels(&[("phase", &phase.name), ("state", state)])).set(count.into());
            }
        }
        for wait in waits {
            waiting
                .get_or_create(&labels(&[("phase", &wait.phase), ("for", &wait.kind)]))
                .inc_by(wait.count.into());
        }
        for scope in scopes {
            slots.get_or_create(&labels(&[("scope", &scope.name)])).set(scope.limit.into());
            in_use.get_or_create(&labels(&[("scope", &scope.name)])).set(scope.in_use.into());
        }
        if let Some((current, _)) = current {
            wave.get_or_create(&labels(&[])).set((*current).into());
        }
        for (_, scope, _) in &watched.history.throttled {
            throttled.get_or_create(&labels(&[("scope", scope)])).inc();
        }
        for (name, task) in &watched.history.tasks {
            let phase = name.split('/').next().unwrap_or(name);
            for attempt in &task.attempts {
                let result = match &attempt.outcome {
                    None => continue,
                    Some(Outcome::Success) => "done",
                    Some(Outcome::Failed(cause)) => cause.label(),
                };
                attempts.get_or_create(&labels(&[("phase", phase), ("result", result)])).inc();
                if let Some(end) = attempt.end_ms.filter(|_| result == "done") {
                    let took = end.saturating_sub(attempt.start_ms) as f64 / 1000.0;
                    seconds.get_or_create(&labels(&[("phase", phase)])).observe(took);
                }
            }
        }
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
