//! A small Kubernetes API: several clusters on one port, good enough that the real kubectl applies manifests
//! (`--server-side`) and waits for rollouts, and the real Helm installs charts, waits, upgrades and uninstalls.
//!
//! It keeps objects, versions and field owners as Kubernetes does, rolls workloads out pod by pod in a time that is set,
//! and fails on demand: throttles, answers with errors, lets pods hang. It runs nothing and asks nobody for a name: it
//! listens on loopback. The decisions are pure functions of the objects and of `now`; [`http`] and [`Clusters`] add
//! sockets, locks and the clock.

mod answer;
mod apply;
mod check;
mod controllers;
mod fault;
mod http;
mod kubeconfig;
mod openapi;
mod protobuf;
mod resources;
mod select;
mod store;
mod strategic;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::routing::any;
use serde_json::{Value, json};
use tokio::sync::watch;

use answer::Refusal;
pub use fault::Fault;
use fault::Faults;
pub use kubeconfig::kubeconfig;
use store::{Cluster, Now};

/// The version that clients are told.
const VERSION: &str = "v1.32.4";

/// The media type of a server-side apply.
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// How often rollouts are moved on.
const TICK: Duration = Duration::from_millis(10);

/// How the clusters are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Their names.
    pub clusters: Vec<String>,
    /// Nodes in each.
    pub nodes: usize,
    /// Time from one ready pod to the next in a rollout.
    pub pod_time: Duration,
}

/// All clusters of a server.
#[derive(Debug)]
pub(crate) struct Clusters {
    by_name: BTreeMap<String, Mutex<(Cluster, Faults)>>,
    start: Instant,
    changed: watch::Sender<()>,
}

impl Clusters {
    fn new(options: &Options) -> Self {
        let now = Now { elapsed: Duration::ZERO, stamp: stamp() };
        let make = |name: &String| {
            let cluster = Cluster::new(name, options.nodes, options.pod_time, &now);
            (name.clone(), Mutex::new((cluster, Faults::default())))
        };
        let by_name = options.clusters.iter().map(make).collect();
        Self { by_name, start: Instant::now(), changed: watch::Sender::new(()) }
    }

    fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Hears of every change of any cluster.
    fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Does something with a cluster, and wakes the watchers if it has changed.
    fn with<T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut Cluster, &Now) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let now = Now { elapsed: self.start.elapsed(), stamp: stamp() };
        let Some(cluster) = self.by_name.get(name) else { return Err(Refusal::not_found("cluster", name)) };
        let mut guard = cluster.lock().unwrap_or_else(PoisonError::into_inner);
        let before = guard.0.version();
        let result = act(&mut guard.0, &now);
        if guard.0.version() != before {
            let _ = self.changed.send(());
        }
        result
    }

    /// Counts a request, and tells how long to wait or how to refuse it.
    fn fault(&self, name: &str) -> Result<Duration, Refusal> {
        let Some(cluster) = self.by_name.get(name) else { return Ok(Duration::ZERO) };
        cluster.lock().unwrap_or_else(PoisonError::into_inner).1.strike()
    }

    /// Orders a fault; `false` if there is no such cluster.
    fn order(&self, name: &str, fault: Fault) -> bool {
        let Some(cluster) = self.by_name.get(name) else { return false };
        let mut guard = cluster.lock().unwrap_or_else(PoisonError::into_inner);
        let (cluster, faults) = &mut *guard;
        match fault {
            Fault::Stuck { name } => drop(cluster.stuck.insert(name)),
            Fault::Heal => {
                cluster.stuck.clear();
                *faults = faults.healed();
            }
            other => faults.order(&other),
        }
        true
    }

    /// Requests and refusals by cluster.
    fn counts(&self) -> Value {
        let one = |(name, cluster): (&String, &Mutex<(Cluster, Faults)>)| {
            (name.clone(), cluster.lock().unwrap_or_else(PoisonError::into_inner).1.counts())
        };
        Value::Object(self.by_name.iter().map(one).collect())
    }

    fn advance(&self) {
        for name in self.by_name.keys() {
            let advanced = self.with(name, |cluster, now| {
                cluster.advance(now);
                Ok(())
            });
            debug_assert!(advanced.is_ok(), "the name is one of ours");
        }
    }
}

/// The clusters as routes: `/clusters/<name>/…` for clients, `/faults/<name>` and `/counts` for tests.
///
/// Moves rollouts on as long as the runtime lives.
pub fn routes(options: &Options) -> Router {
    let clusters = Arc::new(Clusters::new(options));
    let moved = Arc::downgrade(&clusters);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let Some(clusters) = moved.upgrade() else { return };
            clusters.advance();
        }
    });
    Router::new()
        .route("/clusters/{*path}", any(http::answer))
        .route("/faults/{cluster}", axum::routing::post(fault::order))
        .route("/counts", axum::routing::get(fault::count))
        .with_state(clusters)
}

/// Answer to `/version`.
fn version() -> Value {
    json!({
        "major": "1",
        "minor": "32",
        "gitVersion": VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2025-04-22T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    })
}

fn stamp() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
