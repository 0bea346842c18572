//! The schedule: which task starts when, as a state machine without clock or thread.
//!
//! Input by `handle_*(now, …)`, output by [`poll_command`](Scheduler::poll_command),
//! [`poll_event`](Scheduler::poll_event) and [`poll_timeout`](Scheduler::poll_timeout). The same code runs a real
//! deployment, predicts one, and is tested in virtual time. `now` is any clock that does not go back.
//!
//! Ready tasks start by upward rank. One that may not start waits in the queue of what holds it, so that nothing is
//! looked at again before that has changed.

mod admit;
mod finish;
mod reason;
mod scope;
#[cfg(test)]
mod tests;
mod waves;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::Serialize;

use crate::file::Mode;
use crate::plan::{Plan, TaskId};
use crate::random::Random;

pub use reason::{Cause, Outcome, Skip, Wait};

use admit::Constraint;
use scope::ScopeState;

/// How a plan is run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// How much at once, and in which order.
    pub mode: Mode,
    /// Most slots at once; `None` for the mode's own.
    pub width: Option<u32>,
    /// Whether waves and their gates are used. Only in mode `auto`.
    pub waves: bool,
    /// For the pauses between attempts.
    pub seed: u64,
}

impl Options {
    /// As the file says.
    pub fn new(plan: &Plan) -> Self {
        Self { mode: plan.deployment.mode, width: plan.deployment.width, waves: true, seed: 1 }
    }

    /// Most slots at once.
    pub fn width(&self) -> Option<u32> {
        match self.mode {
            Mode::Sequential => None,
            Mode::Standard => Some(self.width.unwrap_or(50)),
            Mode::Max => Some(self.width.unwrap_or(128)),
            Mode::Ultra | Mode::Auto => self.width,
        }
    }
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Start an attempt. Tasks of a batch phase that come before `poll_command` gives `None` share one process.
    Start {
        /// The task.
        task: TaskId,
        /// Counts from 1.
        attempt: u32,
    },
    /// Ask a gate.
    Gate {
        /// The wave that has ended, from 0.
        wave: u32,
        /// Which gate.
        gate: usize,
    },
}

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// An attempt started, after waiting for these since the task was ready.
    Started {
        /// When.
        at: Duration,
        /// Which.
        task: TaskId,
        /// Counts from 1.
        attempt: u32,
        /// Label of what was waited for, and how long.
        waited: Vec<(&'static str, Duration)>,
    },
    /// An attempt ended.
    Ended {
        /// When.
        at: Duration,
        /// Which.
        task: TaskId,
        /// Counts from 1.
        attempt: u32,
        /// How.
        outcome: Outcome,
        /// When the next attempt begins at the earliest, if there is one.
        again_at: Option<Duration>,
    },
    /// A task will not run.
    Skipped {
        /// When.
        at: Duration,
        /// Which.
        task: TaskId,
        /// Why.
        why: Skip,
    },
    /// The concurrency of a scope changed.
    Scope {
        /// When.
        at: Duration,
        /// Its name.
        scope: String,
        /// Slots from now on.
        limit: u32,
    },
    /// A wave began, from 0.
    Wave {
        /// When.
        at: Duration,
        /// Which.
        wave: u32,
    },
    /// All is over.
    Finished {
        /// When.
        at: Duration,
    },
}

/// Where a task is.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    /// It waits for others, or for permission.
    Waiting,
    /// An attempt runs.
    Running {
        /// Since when.
        since: Duration,
    },
    /// It will be tried again.
    Backoff {
        /// When.
        until: Duration,
    },
    /// It succeeded.
    Done,
    /// It was left out, and what it waits for is done.
    Passed,
    /// It failed for good.
    Failed(Cause),
    /// It will not run.
    Skipped(Skip),
}

impl TaskState {
    /// Whether nothing more happens to it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Done | Self::Passed | Self::Failed(_) | Self::Skipped(_))
    }
}

/// How many tasks are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Waiting or between attempts.
    pub waiting: u32,
    /// Running.
    pub running: u32,
    /// Succeeded.
    pub done: u32,
    /// Failed for good.
    pub failed: u32,
    /// Not run.
    pub skipped: u32,
}

/// What an earlier run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prior {
    /// It succeeded: it is not run again.
    Done,
    /// It failed for good, and stays so.
    Failed(Cause),
    /// So many attempts were made, none of them good.
    Tried {
        /// How many count in `retry.attempts`.
        attempts: u32,
    },
}

/// Order of ready tasks: longest chain first, then the order of the file.
type Key = (std::cmp::Reverse<Duration>, TaskId);

/// The state machine.
#[derive(Debug)]
pub struct Scheduler {
    plan: Plan,
    options: Options,
    now: Duration,
    states: Vec<TaskState>,
    attempts: Vec<Attempts>,
    /// Tasks and barriers that each task still waits for.
    missing: Vec<u32>,
    /// Tasks of each phase that are not final.
    open_in_phase: Vec<u32>,
    /// Tasks of each phase that failed or were skipped.
    bad_in_phase: Vec<Option<TaskId>>,
    queues: BTreeMap<Constraint, BTreeSet<Key>>,
    /// Constraints whose queue may move.
    open: BTreeSet<Constraint>,
    held_by: Vec<Option<(Constraint, Duration)>>,
    waited: Vec<Vec<(&'static str, Duration)>>,
    /// For a task skipped because of others: the one that failed.
    culprits: Vec<Option<TaskId>>,
    timers: BTreeSet<(Duration, Timer)>,
    scopes: Vec<ScopeState>,
    locks: BTreeSet<u32>,
    /// Targets where a conflict was seen.
    conflicts: BTreeSet<u32>,
    running_of_target: BTreeMap<u32, u32>,
    running_of_phase: Vec<u32>,
    batches: BTreeMap<u32, Batch>,
    down: Vec<BTreeMap<u32, u32>>,
    slots_in_use: u32,
    failed_units: BTreeSet<(bool, u32)>,
    wave: waves::WaveState,
    counts: Counts,
    retries: u32,
    random: Random,
    stopping: bool,
    finished: bool,
    events: VecDeque<Event>,
    gates: VecDeque<Command>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    started: u32,
    /// Attempts that count in `retry.attempts`.
    real: u32,
    /// Attempts that ended by throttling or locks.
    congested: u32,
    /// Whether what it takes down is down.
    disrupting: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Retry(TaskId),
    Scope(u32),
    Bake,
}

#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    running: u32,
    sealed: bool,
}

impl Scheduler {
    /// A schedule of a plan. `prior` is what an earlier run left.
    pub fn new(plan: Plan, options: Options, prior: &BTreeMap<TaskId, Prior>, now: Duration) -> Self {
        let count = plan.tasks.len();
        let scope = |scope: &crate::plan::Scope| {
            let limit = &plan.deployment.limits[scope.limit];
            let mut state = ScopeState::new(&scope.name, &scope.buckets, limit.share, limit.concurrency);
            state.begin(now);
            state
        };
        let scopes = plan.scopes.iter().map(scope).collect();
        let use_waves = options.waves && options.mode == Mode::Auto && plan.waves.len() > 1;
        let mut this = Self {
            now,
            states: vec![TaskState::Waiting; count],
            attempts: vec![Attempts::default(); count],
            missing: plan.dependency_counts.clone(),
            open_in_phase: plan.phases.iter().map(|range| range.len() as u32).collect(),
            bad_in_phase: vec![None; plan.phases.len()],
            queues: BTreeMap::new(),
            open: BTreeSet::new(),
            held_by: vec![None; count],
            waited: vec![Vec::new(); count],
            culprits: vec![None; count],
            timers: BTreeSet::new(),
            scopes,
            locks: BTreeSet::new(),
            conflicts: BTreeSet::new(),
            running_of_target: BTreeMap::new(),
            running_of_phase: vec![0; plan.phases.len()],
            batches: BTreeMap::new(),
            down: vec![BTreeMap::new(); plan.invariant_sizes.len()],
            slots_in_use: 0,
            failed_units: BTreeSet::new(),
            wave: waves::WaveState::new(&plan, use_waves),
            counts: Counts { waiting: count as u32, ..Counts::default() },
            retries: 0,
            random: Random::new(options.seed),
            stopping: false,
            finished: false,
            events: VecDeque::new(),
            gates: VecDeque::new(),
            plan,
            options,
        };
        this.begin(prior);
        this
    }

    /// What is being scheduled.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where a task is.
    pub fn state(&self, task: TaskId) -> &TaskState {
        &self.states[task.index()]
    }

    /// How many tasks are where.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether all is over.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Name, slots allowed and slots in use of each scope.
    pub fn scopes(&self) -> impl Iterator<Item = (&str, u32, u32)> {
        self.scopes.iter().map(|scope| (scope.name.as_str(), scope.limit(), scope.in_use()))
    }

    /// The smallest current limit of the scopes that a task uses: Terraform's `-parallelism`.
    pub fn parallelism(&self, task: TaskId) -> Option<u32> {
        let scopes = self.plan.task(task).calls.iter().map(|call| self.scopes[call.scope as usize].limit());
        let width = self.options.width();
        scopes.chain(width).min()
    }

    /// What a waiting task waits for; none for one that does not wait.
    pub fn waits_for(&self, task: TaskId) -> Option<Wait> {
        match self.states[task.index()] {
            TaskState::Backoff { .. } => Some(Wait::Backoff),
            TaskState::Waiting if self.missing[task.index()] > 0 => {
                Some(Wait::Dependencies(self.missing[task.index()]))
            }
            TaskState::Waiting => {
                let (constraint, _) = self.held_by[task.index()].as_ref()?;
                Some(self.describe(*constraint))
            }
            _ => None,
        }
    }

    /// The wave that may run, from 1, and how many there are; none without waves.
    pub fn wave(&self) -> Option<(u32, u32)> {
        let count = self.plan.waves.len() as u32;
        self.wave.in_use.then(|| ((self.wave.current + 1).min(count), count))
    }

    /// When to call [`handle_time`](Self::handle_time) next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// What has happened, in order.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Time has come to `now`.
    pub fn handle_time(&mut self, now: Duration) {
        self.now = self.now.max(now);
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= self.now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Retry(task) => {
                    if matches!(self.states[task.index()], TaskState::Backoff { .. }) {
                        self.set_state(task, TaskState::Waiting);
                        self.add_waited(task, "backoff");
                        self.make_ready(task);
                    }
                }
                Timer::Scope(scope) => self.reopen(Constraint::Scope(scope)),
                Timer::Bake => self.ask_gates(),
            }
        }
        self.settle();
    }

    /// Start nothing more; what runs may end.
    pub fn handle_stop(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.stopping = true;
        let waiting: Vec<TaskId> = self
            .plan
            .ids()
            .filter(|task| {
                matches!(self.states[task.index()], TaskState::Waiting | TaskState::Backoff { .. })
            })
            .collect();
        for task in waiting {
            self.skip(task, Skip::Stopped);
        }
        self.settle();
    }

    fn begin(&mut self, prior: &BTreeMap<TaskId, Prior>) {
        for (task, prior) in prior {
            match prior {
                Prior::Done => {}
                Prior::Failed(cause) => {
                    self.attempts[task.index()].disrupting = true;
                    self.take_down(*task, true);
                    self.fail(*task, cause.clone());
                }
                Prior::Tried { attempts } => {
                    self.attempts[task.index()].real = *attempts;
                    self.attempts[task.index()].started = *attempts;
                    if *attempts > 0 {
                        self.attempts[task.index()].disrupting = true;
                        self.take_down(*task, true);
                    }
                }
            }
        }
        for task in self.plan.ids().filter(|task| prior.get(task) == Some(&Prior::Done)) {
            self.conclude(task, TaskState::Done);
        }
        for task in self.plan.ids() {
            if self.missing[task.index()] == 0 {
                self.make_ready(task);
            }
        }
        let at = self.now;
        if self.wave.in_use {
            self.events.push_back(Event::Wave { at, wave: 0 });
        }
        self.settle();
    }

    /// A task whose dependencies are done.
    fn make_ready(&mut self, task: TaskId) {
        if self.states[task.index()] != TaskState::Waiting {
            return;
        }
        if self.plan.task(task).left_out {
            self.conclude(task, TaskState::Passed);
            return;
        }
        let key = self.key(task);
        self.held_by[task.index()] = Some((Constraint::Free, self.now));
        self.queues.entry(Constraint::Free).or_default().insert(key);
        self.open.insert(Constraint::Free);
    }

    fn key(&self, task: TaskId) -> Key {
        match self.options.mode {
            // The order of the file.
            Mode::Sequential => (std::cmp::Reverse(Duration::ZERO), task),
            _ => (std::cmp::Reverse(self.plan.task(task).rank), task),
        }
    }

    fn add_waited(&mut self, task: TaskId, label: &'static str) {
        let Some((_, since)) = self.held_by[task.index()].take() else { return };
        let time = self.now.saturating_sub(since);
        if time.is_zero() {
            return;
        }
        let waited = &mut self.waited[task.index()];
        match waited.iter_mut().find(|(known, _)| *known == label) {
            Some((_, sum)) => *sum += time,
            None => waited.push((label, time)),
        }
    }
}
