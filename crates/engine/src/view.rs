//! A journal as others see it while somebody else writes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pccl_deploy::journal::{History, Record, Standing};
use pccl_deploy::plan::Plan;
use pccl_deploy::progress::Progress;
use pccl_deploy::schedule::Outcome;
use serde::Serialize;

use crate::attempt::log_name;
use crate::clock::now_ms;
use crate::failure::DeployError;
use crate::setup::Source;
use crate::store::{Live, Place, Store};

/// Runs that are kept in view.
const MOST_RUNS: u32 = 100;
/// A session that says nothing for so long may be gone.
const SILENCE: Duration = Duration::from_secs(5);
/// Failures that are told one by one.
const MOST_FAILURES: usize = 500;

/// Whether somebody drives a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Its session gives signs of life.
    Running,
    /// Its session gives none: it is killed, or cut off from the journal.
    Silent,
    /// The operator stopped it.
    Stopped,
    /// It came to its end.
    Ended,
}

impl RunState {
    /// A word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Silent => "silent",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
        }
    }
}

/// A run and what its journal has said so far.
#[derive(Clone, Debug)]
pub struct RunView {
    /// Its number.
    pub id: i64,
    /// Name of the deployment.
    pub deployment: String,
    /// When it began, in milliseconds since 1970.
    pub created_ms: u64,
    /// What it does; why it cannot be said, if this version does not understand its file.
    pub plan: Result<Arc<Plan>, String>,
    /// What has happened.
    pub history: History,
    /// What its session says about itself, as long as there is one.
    live: Option<Live>,
    /// Whether that is recent.
    is_alive: bool,
    next: i64,
    outputs: std::path::PathBuf,
}

/// A task that failed for good.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Its name.
    pub task: String,
    /// Why.
    pub cause: String,
    /// How often it was tried.
    pub attempts: usize,
    /// The file with the output of the last attempt, on the host that ran it.
    pub output: String,
}

impl RunView {
    /// Whether somebody drives it.
    pub fn state(&self) -> RunState {
        match self.history.over {
            Some((_, true)) => RunState::Stopped,
            Some((_, false)) => RunState::Ended,
            None if self.is_alive => RunState::Running,
            None => RunState::Silent,
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let Ok(plan) = &self.plan else {
            return self.live.as_ref().map_or_else(Progress::default, |live| live.progress.clone());
        };
        let mut progress = Progress::of_history(plan, &self.history);
        // What is waited for, and what the limits allow, only the session itself knows.
        if let Some(live) = self.live.as_ref().filter(|_| self.state() == RunState::Running) {
            let Progress { waits, scopes, wave, .. } = live.progress.clone();
            (progress.waits, progress.scopes, progress.wave) = (waits, scopes, wave);
        }
        progress
    }

    /// What failed for good.
    pub fn failures(&self) -> Vec<Failure> {
        let failure = |(name, task): (&String, &pccl_deploy::journal::TaskHistory)| {
            let Standing::Failed(cause) = task.standing() else { return None };
            let last = task.attempts.last()?;
            let output = match &last.process {
                Some((_, _, output)) => output.clone(),
                None => self.outputs.join(log_name(name, last.number)).display().to_string(),
            };
            Some(Failure {
                task: name.clone(),
                cause: cause.to_string(),
                attempts: task.attempts.len(),
                output,
            })
        };
        self.history.tasks.iter().filter_map(failure).take(MOST_FAILURES).collect()
    }

    /// In one line of a list.
    pub fn summary(&self) -> serde_json::Value {
        let total = self.progress().total();
        let last = self.history.sessions.last();
        serde_json::json!({
            "run": self.id,
            "deployment": self.deployment,
            "state": self.state(),
            "mode": self.history.mode,
            "begun_ms": self.created_ms,
            "ended_ms": self.history.over.map(|(at, _)| at),
            "operator": last.map(|(_, operator, _)| operator),
            "session_since_ms": last.map(|(at, _, _)| at),
            "tasks": total.total,
            "waiting": total.waiting,
            "running": total.running,
            "done": total.done,
            "failed": total.failed,
            "skipped": total.skipped,
        })
    }

    /// All that is known, but for the records themselves.
    pub fn details(&self) -> serde_json::Value {
        let mut object = self.summary();
        let retries: usize =
            self.history.tasks.values().map(|task| task.attempts.len().saturating_sub(1)).sum();
        let flying = |(name, task): (&String, &pccl_deploy::journal::TaskHistory)| {
            let Standing::InFlight(attempt) = task.standing() else { return None };
            Some(serde_json::json!({ "task": name, "attempt": attempt.number, "since_ms": attempt.start_ms }))
        };
        let again = |(name, task): (&String, &pccl_deploy::journal::TaskHistory)| {
            let last = task.attempts.last()?;
            let Some(Outcome::Failed(cause)) = last.outcome.as_ref().filter(|_| last.again) else {
                return None;
            };
            Some(serde_json::json!({ "task": name, "attempt": last.number, "cause": cause.to_string() }))
        };
        let tasks = &self.history.tasks;
        object["progress"] = serde_json::json!(self.progress());
        object["failures"] = serde_json::json!(self.failures());
        object["in_flight"] = tasks.iter().filter_map(flying).take(MOST_FAILURES).collect();
        object["to_be_tried_again"] = tasks.iter().filter_map(again).take(MOST_FAILURES).collect();
        object["retries"] = retries.into();
        object["sessions"] = self.history.sessions.len().into();
        object["trouble"] = serde_json::json!(self.plan.as_ref().err());
        object
    }
}

/// Reads a journal again and again.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    place: Place,
    runs: BTreeMap<i64, RunView>,
    beat: Option<(u64, u64, Instant)>,
}

impl Follower {
    /// Of a journal that must be there.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn new(place: &Place) -> Result<Self, DeployError> {
        let store = Store::look(place)?;
        Ok(Self { store, place: place.clone(), runs: BTreeMap::new(), beat: None })
    }

    /// All runs that are in view, newest first.
    pub fn runs(&self) -> impl Iterator<Item = &RunView> {
        self.runs.values().rev()
    }

    /// A run by its number, or the newest one.
    pub fn run(&self, id: Option<i64>) -> Option<&RunView> {
        match id {
            Some(id) => self.runs.get(&id),
            None => self.runs.values().next_back(),
        }
    }

    /// Reads what is new.
    ///
    /// # Errors
    /// The journal cannot be used.
    pub fn refresh(&mut self) -> Result<(), DeployError> {
        let known = self.store.runs(MOST_RUNS)?;
        let live = self.store.live()?;
        self.runs.retain(|id, _| known.contains(id));
        for id in &known {
            // A run that is over goes on only by a session that says so.
            let is_open = self.runs.get(id).is_none_or(|view| view.history.over.is_none());
            if is_open || live.as_ref().is_some_and(|live| live.run == *id) {
                self.refresh_run(*id, |_| {})?;
            }
        }
        self.listen(live);
        Ok(())
    }

    /// Reads what is new of one run, or of the newest one, and tells every new record.
    ///
    /// # Errors
    /// The journal cannot be used, or has no such run.
    pub fn follow(&mut self, id: Option<i64>, tell: impl FnMut(&Record)) -> Result<&RunView, DeployError> {
        let none = || DeployError::NoRun { folder: self.place.to_string() };
        let id = match id {
            Some(id) => id,
            None => *self.store.runs(1)?.first().ok_or_else(none)?,
        };
        self.refresh_run(id, tell)?;
        let live = self.store.live()?;
        self.listen(live);
        self.runs.get(&id).ok_or_else(|| DeployError::NoRun { folder: self.place.to_string() })
    }

    fn refresh_run(&mut self, id: i64, mut tell: impl FnMut(&Record)) -> Result<(), DeployError> {
        if !self.runs.contains_key(&id) {
            let Some(view) = self.begin(id)? else { return Ok(()) };
            self.runs.insert(id, view);
        }
        let Some(view) = self.runs.get_mut(&id) else { return Ok(()) };
        let history = &mut view.history;
        view.next = self.store.follow(id, view.next, |record| {
            history.apply(&record);
            tell(&record);
        })?;
        Ok(())
    }

    fn begin(&mut self, id: i64) -> Result<Option<RunView>, DeployError> {
        let Some((source, choices, created_ms)) = self.store.begun(id)? else { return Ok(None) };
        let plan = choices.plan(&source);
        Ok(Some(RunView {
            id,
            deployment: self.place.deployment.clone(),
            created_ms,
            plan: plan.map(Arc::new).map_err(|error| error.to_string()),
            history: History::default(),
            live: None,
            is_alive: false,
            next: 0,
            outputs: self.store.logs(id),
        }))
    }

    /// Takes in what the last session says about itself.
    fn listen(&mut self, live: Option<Live>) {
        let Some(live) = live else { return };
        let now = Instant::now();
        let is_new = self.beat.is_none_or(|(fence, beat, _)| (fence, beat) != (live.fence, live.beat));
        if is_new {
            // The first one may be old; how old is known if its clock and ours agree.
            let is_first = self.beat.is_none();
            let age = Duration::from_millis(now_ms().saturating_sub(live.at_ms));
            let heard = if is_first { now.checked_sub(age).unwrap_or(now) } else { now };
            self.beat = Some((live.fence, live.beat, heard));
        }
        let is_alive = self.beat.is_some_and(|(_, _, heard)| now.duration_since(heard) < SILENCE);
        for view in self.runs.values_mut() {
            let is_its = live.run == view.id
                && view.history.sessions.last().is_some_and(|(_, _, fence)| *fence == live.fence);
            view.is_alive = is_its && is_alive;
            view.live = is_its.then(|| live.clone());
        }
    }
}

impl Store {
    /// File, choices and beginning of a run.
    fn begun(&mut self, id: i64) -> Result<Option<(Source, crate::setup::Choices, u64)>, DeployError> {
        let Some(row) = self.row(id)? else { return Ok(None) };
        let choices = serde_json::from_str(&row.choices)
            .map_err(|e| DeployError::Journal(format!("the choices of run {id} cannot be read: {e}")))?;
        Ok(Some((Source { path: row.file.into(), text: row.text }, choices, row.created_ms)))
    }
}
