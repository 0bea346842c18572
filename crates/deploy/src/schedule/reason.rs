//! Why: outcomes of attempts, causes of failures, what a task waits for, why one is skipped.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it should.
    Success,
    /// It did not.
    Failed(Cause),
}

/// Why an attempt failed, which decides what happens next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The API answered "too many requests": the scope slows down, and nothing of it starts before `retry_after`.
    Throttled {
        /// What the API asked to wait.
        retry_after: Option<Duration>,
    },
    /// Another operation holds the resource: tasks of this target run one at a time from now on.
    Locked {
        /// What the tool said.
        what: String,
    },
    /// A quota is used up: nothing of the scope starts any more.
    Quota {
        /// Which one, as the API said.
        what: String,
    },
    /// The server failed.
    Server {
        /// What it said.
        what: String,
    },
    /// It ran longer than its timeout.
    TimedOut,
    /// It ran and failed.
    Failed {
        /// Exit status or answer, in one line.
        what: String,
    },
    /// It cannot work, however often it is tried: a tool that is not there, a template, a file.
    Impossible {
        /// Why.
        what: String,
    },
    /// It ran, and what must be true afterwards is not.
    NotVerified {
        /// What the check said.
        what: String,
    },
    /// The engine was stopped, and with it the task.
    Stopped,
    /// Nobody knows how it ended, and the file says that this counts as failed.
    Unknown,
}

impl Cause {
    /// Whether it counts in `retry.throttled` instead of `retry.attempts`.
    pub fn is_congestion(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Locked { .. })
    }

    /// Whether another attempt may help.
    pub fn may_be_retried(&self) -> bool {
        !matches!(self, Self::Quota { .. } | Self::Impossible { .. } | Self::Stopped | Self::Unknown)
    }

    /// A word for tables and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Throttled { .. } => "throttled",
            Self::Locked { .. } => "locked",
            Self::Quota { .. } => "quota",
            Self::Server { .. } => "server",
            Self::TimedOut => "timeout",
            Self::Failed { .. } => "failed",
            Self::Impossible { .. } => "impossible",
            Self::NotVerified { .. } => "not verified",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Throttled { retry_after: Some(after) } => {
                write!(f, "the API throttles and asks to wait {} s", after.as_secs())
            }
            Self::Throttled { retry_after: None } => f.write_str("the API throttles"),
            Self::Locked { what } => write!(f, "another operation holds the resource: {what}"),
            Self::Quota { what } => write!(f, "a quota is used up: {what}"),
            Self::Server { what } => write!(f, "the server failed: {what}"),
            Self::TimedOut => f.write_str("it ran longer than its timeout"),
            Self::Failed { what } | Self::Impossible { what } => f.write_str(what),
            Self::NotVerified { what } => write!(f, "it ran, and its check says: {what}"),
            Self::Stopped => f.write_str("the engine was stopped"),
            Self::Unknown => {
                f.write_str("it was in flight when the engine ended, and nobody knows how it ended")
            }
        }
    }
}

/// Why a task was never run. A skipped task is no failed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Skip {
    /// Something that it depends on failed: the name of that task.
    Upstream(String),
    /// More targets failed than `failures.max` allows.
    TooManyFailures {
        /// So many.
        failed: u32,
        /// So many may.
        max: u32,
    },
    /// The wave before failed too often, or its gate did not open.
    Wave {
        /// The wave, from 1.
        wave: u32,
        /// What happened.
        what: String,
    },
    /// A quota of its scope is used up.
    Quota(String),
    /// It can never run without breaking this invariant, because what failed stays down.
    Invariant(String),
    /// The operator stopped the run.
    Stopped,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(task) => write!(f, "{task} did not succeed"),
            Self::TooManyFailures { failed, max } => {
                write!(f, "{failed} targets failed, and at most {max} may")
            }
            Self::Wave { wave, what } => write!(f, "wave {wave} stopped the rollout: {what}"),
            Self::Quota(what) => write!(f, "a quota is used up: {what}"),
            Self::Invariant(name) => write!(f, "it would break the invariant `{name}`"),
            Self::Stopped => f.write_str("the run was stopped"),
        }
    }
}

/// What a task waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Wait {
    /// Tasks that it depends on: how many are not done.
    Dependencies(u32),
    /// The phase before, in a mode with barriers.
    Barrier(String),
    /// A wave that has not begun (from 1).
    Wave(u32),
    /// The width of the deployment.
    Width(u32),
    /// The width of its phase.
    PhaseWidth(u32),
    /// The API's limit on this scope.
    Limit(String),
    /// `Retry-After` of this scope.
    RetryAfter(String),
    /// A lock, by its text.
    Lock(String),
    /// Another task of its target, after a conflict there.
    Conflict(String),
    /// The Terraform state that another process uses.
    State(String),
    /// An invariant that would be broken.
    Invariant(String),
    /// The number of targets that may be worked on at once.
    FailureTolerance(u32),
    /// The pause before its next attempt.
    Backoff,
    /// The operator: the run is being stopped.
    Stopping,
}

impl Wait {
    /// A word for sums.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Dependencies(_) => "dependency",
            Self::Barrier(_) => "barrier",
            Self::Wave(_) => "wave",
            Self::Width(_) | Self::PhaseWidth(_) => "width",
            Self::Limit(_) | Self::RetryAfter(_) => "throttled",
            Self::Lock(_) | Self::Conflict(_) | Self::State(_) => "locked",
            Self::Invariant(_) => "invariant",
            Self::FailureTolerance(_) => "tolerance",
            Self::Backoff => "backoff",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dependencies(1) => f.write_str("1 task before it"),
            Self::Dependencies(count) => write!(f, "{count} tasks before it"),
            Self::Barrier(phase) => write!(f, "the end of phase {phase}"),
            Self::Wave(wave) => write!(f, "wave {wave} to begin"),
            Self::Width(width) => write!(f, "one of {width} slots"),
            Self::PhaseWidth(width) => write!(f, "one of the phase's {width} places"),
            Self::Limit(scope) => write!(f, "the limit of {scope}"),
            Self::RetryAfter(scope) => write!(f, "{scope}, which asked to wait"),
            Self::Lock(lock) => write!(f, "the lock {lock}"),
            Self::Conflict(target) => write!(f, "another task of {target}"),
            Self::State(phase) => write!(f, "the Terraform state of {phase}"),
            Self::Invariant(name) => write!(f, "the invariant {name}"),
            Self::FailureTolerance(max) => write!(f, "one of {max} targets that may be at risk"),
            Self::Backoff => f.write_str("its next attempt"),
            Self::Stopping => f.write_str("nothing: the run is being stopped"),
        }
    }
}
