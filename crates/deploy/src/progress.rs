//! How far a run is: one value for the terminal, the page, metrics, and whoever watches from another process.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::journal::{History, Standing};
use crate::plan::{Plan, TaskId};
use crate::schedule::{Scheduler, TaskState};

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The phases that have tasks, in order.
    pub phases: Vec<PhaseProgress>,
    /// The targets, in order.
    pub targets: Vec<TargetProgress>,
    /// What is waited for, most frequent first.
    pub waits: Vec<Waiting>,
    /// What the limits allow now.
    pub scopes: Vec<ScopeProgress>,
    /// The wave that may run, from 1, and how many there are; none without waves.
    pub wave: Option<(u32, u32)>,
}

/// How far a phase is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseProgress {
    /// Its name.
    pub name: String,
    /// Its tasks, without those that were left out.
    pub total: u32,
    /// Not begun, or between two attempts.
    pub waiting: u32,
    /// Running.
    pub running: u32,
    /// Succeeded.
    pub done: u32,
    /// Failed for good.
    pub failed: u32,
    /// Not to be run.
    pub skipped: u32,
}

/// How far a target is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetProgress {
    /// Its name.
    pub name: String,
    /// One cell for each phase in [`Progress::phases`].
    pub cells: Vec<Cell>,
}

impl TargetProgress {
    /// The cell that says most about all of it.
    pub fn worst(&self) -> Cell {
        self.cells.iter().copied().max().unwrap_or_default()
    }
}

/// Where the tasks of one target and phase are: of several, what an operator has to know first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// There is no task.
    #[default]
    None,
    /// All succeeded.
    Done,
    /// One waits.
    Waiting,
    /// One will not run.
    Skipped,
    /// One runs.
    Running,
    /// One failed for good.
    Failed,
}

/// Tasks that wait for the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Their phase.
    pub phase: String,
    /// A word for what they wait for: `dependency`, `barrier`, `wave`, `width`, `throttled`, `locked`, `invariant`,
    /// `tolerance`, `backoff`, `stopping`.
    pub kind: String,
    /// What they wait for, in words.
    pub what: String,
    /// How many.
    pub count: u32,
}

/// A limit, as far as it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeProgress {
    /// The name of the limit, and what it applies to.
    pub name: String,
    /// Slots that may be used at once.
    pub limit: u32,
    /// Slots in use.
    pub in_use: u32,
}

impl Progress {
    /// Of a run that this process drives.
    pub fn of_schedule(scheduler: &Scheduler) -> Self {
        let plan = scheduler.plan();
        let mut progress = Self::of(plan, |id| match scheduler.state(id) {
            TaskState::Waiting | TaskState::Backoff { .. } => Cell::Waiting,
            TaskState::Running { .. } => Cell::Running,
            TaskState::Done => Cell::Done,
            TaskState::Passed => Cell::None,
            TaskState::Failed(_) => Cell::Failed,
            TaskState::Skipped(_) => Cell::Skipped,
        });
        let mut sums: BTreeMap<(u32, String), (&'static str, u32)> = BTreeMap::new();
        for id in plan.ids().filter(|id| !plan.task(*id).left_out) {
            if let Some(wait) = scheduler.waits_for(id) {
                let what = match wait {
                    // How many is different for each of them.
                    crate::schedule::Wait::Dependencies(_) => "tasks before it".to_owned(),
                    ref wait => wait.to_string(),
                };
                sums.entry((plan.task(id).phase, what)).or_insert((wait.label(), 0)).1 += 1;
            }
        }
        let waiting = |((phase, what), (kind, count)): ((u32, String), (&str, u32))| Waiting {
            phase: plan.deployment.phases[phase as usize].name.clone(),
            kind: kind.to_owned(),
            what,
            count,
        };
        progress.waits = sums.into_iter().map(waiting).collect();
        progress.waits.sort_by_key(|wait| (wait.kind == "dependency", std::cmp::Reverse(wait.count)));
        let scope =
            |(name, limit, in_use): (&str, u32, u32)| ScopeProgress { name: name.to_owned(), limit, in_use };
        progress.scopes = scheduler.scopes().map(scope).collect();
        progress.wave = scheduler.wave();
        progress
    }

    /// Of a run that the journal tells about. What a task waits for, and what the limits allow, is not in the journal.
    pub fn of_history(plan: &Plan, history: &History) -> Self {
        Self::of(plan, |id| {
            match history.tasks.get(&plan.name(id)).map_or(Standing::New, |task| task.standing()) {
                Standing::New | Standing::Tried => Cell::Waiting,
                Standing::Done => Cell::Done,
                Standing::Failed(_) => Cell::Failed,
                Standing::InFlight(_) => Cell::Running,
                Standing::Skipped(_) => Cell::Skipped,
            }
        })
    }

    fn of(plan: &Plan, cell: impl Fn(TaskId) -> Cell) -> Self {
        let target =
            |target: &crate::file::Target| TargetProgress { name: target.name.clone(), cells: Vec::new() };
        let mut progress =
            Self { targets: plan.deployment.targets.iter().map(target).collect(), ..Self::default() };
        for (range, phase) in plan.phases.iter().zip(&plan.deployment.phases) {
            let ids = range.clone().map(|task| TaskId(task as u32)).filter(|id| !plan.task(*id).left_out);
            let mut sums = PhaseProgress { name: phase.name.clone(), ..PhaseProgress::default() };
            let mut cells = vec![Cell::None; progress.targets.len()];
            for id in ids {
                let state = cell(id);
                sums.count(state);
                if let Some(target) = plan.task(id).target {
                    let known = &mut cells[target as usize];
                    *known = state.max(*known);
                }
            }
            if sums.total > 0 {
                progress.phases.push(sums);
                for (target, cell) in progress.targets.iter_mut().zip(cells) {
                    target.cells.push(cell);
                }
            }
        }
        progress.targets.retain(|target| target.worst() != Cell::None);
        progress
    }

    /// All phases together.
    pub fn total(&self) -> PhaseProgress {
        self.phases.iter().fold(PhaseProgress::default(), |mut sum, phase| {
            sum.total += phase.total;
            sum.waiting += phase.waiting;
            sum.running += phase.running;
            sum.done += phase.done;
            sum.failed += phase.failed;
            sum.skipped += phase.skipped;
            sum
        })
    }
}

impl PhaseProgress {
    fn count(&mut self, state: Cell) {
        self.total += 1;
        match state {
            Cell::None => {}
            Cell::Done => self.done += 1,
            Cell::Waiting => self.waiting += 1,
            Cell::Skipped => self.skipped += 1,
            Cell::Running => self.running += 1,
            Cell::Failed => self.failed += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use Cell::{Done, Failed, Running, Skipped, Waiting};

    use super::*;
    use crate::file::Deployment;
    use crate::journal::Record;
    use crate::plan::Selection;
    use crate::schedule::{Cause, Options, Outcome};

    const FILE: &str = "name: p\ntargets: [a, b, c]\nwidth: 2\nphases:\n  \
        - { name: one, for_each: targets, retry: { attempts: 1 }, run: { command: { run: [x] } } }\n  \
        - { name: two, for_each: targets, after: [one], run: { command: { run: [x] } } }\n";

    fn plan() -> Plan {
        Plan::new(Deployment::from_yaml(FILE, "p.yaml").unwrap(), &Selection::default()).unwrap()
    }

    #[test]
    fn a_schedule_and_its_journal_tell_the_same() {
        let plan = plan();
        let options = Options::new(&plan);
        let mut scheduler = Scheduler::new(plan.clone(), options, &BTreeMap::new(), Duration::ZERO);
        while scheduler.poll_command(Duration::ZERO).is_some() {}
        let by_name = plan.by_name();
        let failed = Outcome::Failed(Cause::TimedOut);
        scheduler.handle_outcome(Duration::ZERO, by_name["one/a"], Outcome::Success);
        scheduler.handle_outcome(Duration::ZERO, by_name["one/b"], failed.clone());
        while scheduler.poll_command(Duration::ZERO).is_some() {}
        let live = Progress::of_schedule(&scheduler);
        let sums = PhaseProgress {
            name: "one".into(),
            total: 3,
            done: 1,
            failed: 1,
            running: 1,
            ..Default::default()
        };
        assert_eq!(live.phases[0], sums);
        let cells: Vec<_> = live.targets.iter().map(|target| target.cells.clone()).collect();
        assert_eq!(cells, [[Done, Running], [Failed, Skipped], [Running, Waiting]]);
        assert_eq!(live.targets[1].worst(), Failed);
        assert_eq!((live.waits[0].kind.as_str(), live.waits[0].count), ("dependency", 1));
        assert_eq!((live.total().total, live.total().running), (6, 2));

        let intent =
            |task: &str| Record::Intent { at_ms: 1, task: task.into(), attempt: 1, waited: BTreeMap::new() };
        let ended = |task: &str, outcome| Record::Ended {
            at_ms: 2,
            task: task.into(),
            attempt: 1,
            outcome,
            again: false,
        };
        let skip = Record::Skipped { at_ms: 2, task: "two/b".into(), why: crate::schedule::Skip::Stopped };
        let records = [
            intent("one/a"),
            intent("one/b"),
            ended("one/a", Outcome::Success),
            ended("one/b", failed),
            skip,
            intent("one/c"),
            intent("two/a"),
        ];
        let told = Progress::of_history(&plan, &History::replay(&records));
        assert_eq!((&told.phases, &told.targets), (&live.phases, &live.targets));
    }

    #[test]
    fn it_is_read_back_from_json() {
        let plan = plan();
        let options = Options::new(&plan);
        let scheduler = Scheduler::new(plan, options, &BTreeMap::new(), Duration::ZERO);
        let live = Progress::of_schedule(&scheduler);
        let text = serde_json::to_string(&live).unwrap();
        assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), live);
    }
}
