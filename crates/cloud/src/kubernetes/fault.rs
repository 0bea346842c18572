//! Faults on demand: a test orders them by HTTP, and the next requests meet them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Clusters;
use super::answer::Refusal;

/// What shall go wrong in a cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The next requests are answered 429.
    Throttle {
        /// How many.
        requests: u64,
        /// What `Retry-After` says, in seconds.
        retry_after_s: u64,
    },
    /// The next requests are answered with an error of the server.
    Error {
        /// How many.
        requests: u64,
        /// The HTTP status: 500, 503, …
        code: u16,
    },
    /// Every answer comes later.
    Slow {
        /// By so much.
        delay_ms: u64,
    },
    /// The pods of this workload never become ready.
    Stuck {
        /// The workload's name.
        name: String,
    },
    /// No more faults.
    Heal,
}

/// The faults that are ordered, and what has been asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    throttle: u64,
    retry_after_s: u64,
    errors: u64,
    code: u16,
    delay: Duration,
    requests: u64,
    throttled: u64,
    failed: u64,
}

impl Faults {
    /// Notes an order. Faults of the objects are not for here.
    pub(crate) fn order(&mut self, fault: &Fault) {
        match *fault {
            Fault::Throttle { requests, retry_after_s } => {
                (self.throttle, self.retry_after_s) = (requests, retry_after_s);
            }
            Fault::Error { requests, code } => (self.errors, self.code) = (requests, code),
            Fault::Slow { delay_ms } => self.delay = Duration::from_millis(delay_ms),
            Fault::Stuck { .. } | Fault::Heal => {}
        }
    }

    /// Counts a request and says how it fares: how long it waits, or that it is refused.
    pub(crate) fn strike(&mut self) -> Result<Duration, Refusal> {
        self.requests += 1;
        if self.throttle > 0 {
            self.throttle -= 1;
            self.throttled += 1;
            return Err(Refusal::throttled(self.retry_after_s));
        }
        if self.errors > 0 {
            self.errors -= 1;
            self.failed += 1;
            return Err(Refusal::fault(self.code));
        }
        Ok(self.delay)
    }

    /// The same counts without any fault.
    pub(crate) fn healed(&self) -> Self {
        let Self { requests, throttled, failed, .. } = *self;
        Self { requests, throttled, failed, ..Self::default() }
    }

    /// What has been asked.
    pub(crate) fn counts(&self) -> Value {
        json!({ "requests": self.requests, "throttled": self.throttled, "failed": self.failed })
    }
}

/// `POST /faults/<cluster>`.
pub(crate) async fn order(
    State(clusters): State<Arc<Clusters>>,
    Path(cluster): Path<String>,
    Json(fault): Json<Fault>,
) -> StatusCode {
    if clusters.order(&cluster, fault) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

/// `GET /counts`.
pub(crate) async fn count(State(clusters): State<Arc<Clusters>>) -> Json<Value> {
    Json(clusters.counts())
}
