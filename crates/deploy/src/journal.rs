//! The journal: what is written before and after each attempt, and what a later run learns from it.
//!
//! Intent before action, outcome after. A record is one line of JSON; how it is stored is the driver's business. From
//! any prefix of the records, [`History::replay`] says which tasks have succeeded, which have failed for good, and
//! which were in flight, so that a run that was killed at any instant can go on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::file::Mode;
use crate::schedule::{Cause, Outcome, Skip};

/// One line of the journal. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// A run begins, or goes on after the engine had ended.
    Begun {
        /// When.
        at_ms: u64,
        /// In which mode.
        mode: Mode,
        /// Who runs it: user and host.
        operator: String,
        /// Which session of this run: every later one has a higher number.
        fence: u64,
    },
    /// What the runners used.
    Tools {
        /// Tools and their versions.
        tools: BTreeMap<String, String>,
    },
    /// An attempt will start.
    Intent {
        /// When.
        at_ms: u64,
        /// Name of the task.
        task: String,
        /// Counts from 1 over all sessions.
        attempt: u32,
        /// What it waited for since it was ready, in milliseconds.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        waited: BTreeMap<String, u64>,
    },
    /// The process of an attempt.
    Process {
        /// Names of the tasks that it serves.
        tasks: Vec<String>,
        /// Process id, which is also its group.
        pid: u32,
        /// When it started, as the system counts: tells it from a later process with the same id.
        started: u64,
        /// File that holds its output.
        output: String,
    },
    /// An attempt ended.
    Ended {
        /// When.
        at_ms: u64,
        /// Name of the task.
        task: String,
        /// As in the intent.
        attempt: u32,
        /// How.
        outcome: Outcome,
        /// Whether there will be another attempt.
        again: bool,
    },
    /// A task will not run.
    Skipped {
        /// When.
        at_ms: u64,
        /// Name of the task.
        task: String,
        /// Why.
        why: Skip,
    },
    /// The API refused calls of a scope.
    Throttled {
        /// When.
        at_ms: u64,
        /// Name of the scope.
        scope: String,
        /// Its slots from now on.
        limit: u32,
    },
    /// A wave began.
    Wave {
        /// When.
        at_ms: u64,
        /// Counts from 1.
        wave: u32,
    },
    /// Tasks are run again: those that failed, if the operator wants it, and services that have ended.
    Retry {
        /// When.
        at_ms: u64,
        /// Names of the tasks.
        tasks: Vec<String>,
    },
    /// Nothing is left to do, or the operator stopped the run.
    Over {
        /// When.
        at_ms: u64,
        /// Whether it was stopped before its end.
        stopped: bool,
    },
}

/// What is known about one task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskHistory {
    /// Attempts, oldest first.
    pub attempts: Vec<AttemptHistory>,
    /// Why it was skipped, if that was its last word.
    pub skipped: Option<Skip>,
    /// Attempts before this one do not count any more: the operator said `retry`.
    pub counted_from: usize,
}

/// What is known about one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptHistory {
    /// Counts from 1.
    pub number: u32,
    /// When it was to start, in milliseconds since 1970.
    pub start_ms: u64,
    /// When it ended.
    pub end_ms: Option<u64>,
    /// How.
    pub outcome: Option<Outcome>,
    /// Whether there was to be another.
    pub again: bool,
    /// Its process: id, start, output.
    pub process: Option<(u32, u64, String)>,
    /// What it waited for, in milliseconds.
    pub waited: BTreeMap<String, u64>,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing<'a> {
    /// Never begun.
    New,
    /// Succeeded.
    Done,
    /// Failed for good.
    Failed(&'a Cause),
    /// Failed, and to be tried again.
    Tried,
    /// In flight when the journal ends.
    InFlight(&'a AttemptHistory),
    /// Not run.
    Skipped(&'a Skip),
}

impl TaskHistory {
    /// Where it stands.
    pub fn standing(&self) -> Standing<'_> {
        if let Some(why) = &self.skipped {
            return Standing::Skipped(why);
        }
        match self.attempts.last() {
            None => Standing::New,
            Some(last) => match &last.outcome {
                None => Standing::InFlight(last),
                // The operator's `retry` also names services that have ended since.
                Some(Outcome::Success) if self.counted_from >= self.attempts.len() => Standing::Tried,
                Some(Outcome::Success) => Standing::Done,
                Some(Outcome::Failed(Cause::Stopped)) => Standing::Tried,
                Some(Outcome::Failed(_)) if last.again || self.counted_from >= self.attempts.len() => {
                    Standing::Tried
                }
                Some(Outcome::Failed(cause)) => Standing::Failed(cause),
            },
        }
    }

    /// Attempts that count in `retry.attempts`.
    pub fn counted_attempts(&self) -> u32 {
        let counts = |attempt: &&AttemptHistory| match &attempt.outcome {
            Some(Outcome::Failed(Cause::Stopped | Cause::Unknown)) | None => false,
            Some(Outcome::Failed(cause)) => !cause.is_congestion(),
            Some(Outcome::Success) => true,
        };
        self.attempts.iter().skip(self.counted_from).filter(counts).count() as u32
    }
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Tasks by name.
    pub tasks: BTreeMap<String, TaskHistory>,
    /// Mode of the last session.
    pub mode: Option<Mode>,
    /// Beginnings of sessions, in milliseconds since 1970, with operator and fence.
    pub sessions: Vec<(u64, String, u64)>,
    /// Tools and their versions.
    pub tools: BTreeMap<String, String>,
    /// Waves and when they began.
    pub waves: Vec<(u64, u32)>,
    /// When which scope was throttled, and its slots afterwards.
    pub throttled: Vec<(u64, String, u32)>,
    /// When the last session ended, and whether it was stopped.
    pub over: Option<(u64, bool)>,
}

impl History {
    /// Reads records in order.
    pub fn replay<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut history = Self::default();
        for record in records {
            history.apply(record);
        }
        history
    }

    /// Takes in one more record.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Begun { at_ms, mode, operator, fence } => {
                self.mode = Some(*mode);
                self.sessions.push((*at_ms, operator.clone(), *fence));
                self.over = None;
                // What was skipped for want of others is open again; so is what the operator stopped.
                for task in self.tasks.values_mut() {
                    task.skipped = None;
                }
            }
            Record::Tools { tools } => self.tools.extend(tools.clone()),
            Record::Intent { at_ms, task, attempt, waited } => {
                let task = self.tasks.entry(task.clone()).or_default();
                task.skipped = None;
                task.attempts.push(AttemptHistory {
                    number: *attempt,
                    start_ms: *at_ms,
                    end_ms: None,
                    outcome: None,
                    again: false,
                    process: None,
                    waited: waited.clone(),
                });
            }
            Record::Process { tasks, pid, started, output } => {
                for task in tasks {
                    let attempt = self.tasks.get_mut(task).and_then(|task| task.attempts.last_mut());
                    if let Some(attempt) = attempt {
                        attempt.process = Some((*pid, *started, output.clone()));
                    }
                }
            }
            Record::Ended { at_ms, task, attempt, outcome, again } => {
                let attempts = self.tasks.get_mut(task).map(|task| &mut task.attempts);
                let found = attempts.and_then(|all| all.iter_mut().rev().find(|a| a.number == *attempt));
                if let Some(found) = found {
                    found.end_ms = Some(*at_ms);
                    found.outcome = Some(outcome.clone());
                    found.again = *again;
                }
            }
            Record::Skipped { task, why, .. } => {
                self.tasks.entry(task.clone()).or_default().skipped = Some(why.clone());
            }
            Record::Throttled { at_ms, scope, limit } => {
                self.throttled.push((*at_ms, scope.clone(), *limit));
            }
            Record::Wave { at_ms, wave } => self.waves.push((*at_ms, *wave)),
            Record::Retry { tasks, .. } => {
                for task in tasks {
                    let task = self.tasks.entry(task.clone()).or_default();
                    task.counted_from = task.attempts.len();
                    task.skipped = None;
                }
            }
            Record::Over { at_ms, stopped } => self.over = Some((*at_ms, *stopped)),
        }
    }

    /// The fence of the next session.
    pub fn next_fence(&self) -> u64 {
        self.sessions.last().map_or(1, |(_, _, fence)| fence + 1)
    }

    /// Mean and coefficient of variation of the successful attempts of each phase, for predictions.
    pub fn estimates(&self) -> BTreeMap<String, (Duration, f64)> {
        let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, task) in &self.tasks {
            let phase = name.split('/').next().unwrap_or(name);
            for attempt in task.attempts.iter().filter(|a| a.outcome == Some(Outcome::Success)) {
                if let Some(end) = attempt.end_ms {
                    times
                        .entry(phase)
                        .or_default()
                        .push(end.saturating_sub(attempt.start_ms) as f64 / 1000.0);
                }
            }
        }
        let figures = |times: Vec<f64>| {
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            let variance = times.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / times.len() as f64;
            (Duration::from_secs_f64(mean), if mean > 0.0 { variance.sqrt() / mean } else { 0.0 })
        };
        times.into_iter().map(|(phase, times)| (phase.to_owned(), figures(times))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(task: &str, attempt: u32) -> Record {
        Record::Intent { at_ms: 1000, task: task.into(), attempt, waited: BTreeMap::new() }
    }

    fn ended(task: &str, attempt: u32, outcome: Outcome, again: bool) -> Record {
        Record::Ended { at_ms: 3000, task: task.into(), attempt, outcome, again }
    }

    fn failed() -> Outcome {
        Outcome::Failed(Cause::TimedOut)
    }

    #[test]
    fn every_prefix_says_where_a_task_stands() {
        let records = [
            intent("a", 1),
            ended("a", 1, failed(), true),
            intent("a", 2),
            Record::Process { tasks: vec!["a".into()], pid: 7, started: 9, output: "a-2.log".into() },
            ended("a", 2, Outcome::Success, false),
        ];
        let standing = |count: usize| {
            let history = History::replay(&records[..count]);
            match history.tasks["a"].standing() {
                Standing::InFlight(attempt) => {
                    format!("in flight {} {:?}", attempt.number, attempt.process.is_some())
                }
                Standing::Tried => "tried".to_owned(),
                Standing::Done => "done".to_owned(),
                other => format!("{other:?}"),
            }
        };
        let all: Vec<String> = (1..=5).map(standing).collect();
        assert_eq!(all, ["in flight 1 false", "tried", "in flight 2 false", "in flight 2 true", "done"]);
    }

    #[test]
    fn retry_opens_what_failed_and_counts_anew() {
        let mut history = History::replay(&[intent("a", 1), ended("a", 1, failed(), false)]);
        assert_eq!(history.tasks["a"].standing(), Standing::Failed(&Cause::TimedOut));
        history.apply(&Record::Retry { at_ms: 4000, tasks: vec!["a".into()] });
        assert_eq!(history.tasks["a"].standing(), Standing::Tried);
        assert_eq!(history.tasks["a"].counted_attempts(), 0);
    }

    #[test]
    fn durations_of_earlier_runs_are_estimates() {
        let history =
            History::replay(&[intent("p/a", 1), ended("p/a", 1, Outcome::Success, false), intent("p/b", 1)]);
        assert_eq!(history.estimates()["p"], (Duration::from_secs(2), 0.0));
    }

    #[test]
    fn records_are_lines_of_json() {
        let outcome = Outcome::Failed(Cause::Throttled { retry_after: Some(Duration::from_secs(3)) });
        let record = ended("a", 1, outcome, true);
        let line = serde_json::to_string(&record).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
    }
}
