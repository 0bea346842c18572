//! The plan: the file as a graph of tasks.
//!
//! A task is one entry of one phase. It depends on tasks of phases above its own, and on barriers: a barrier is done
//! when all tasks of its phase are. So `n` tasks after `n` tasks are `2n` edges, not `n²`.

mod build;
mod select;
#[cfg(test)]
mod tests;
mod waves;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::error::suggestion;
use crate::file::{Deployment, Phase, saturating};
use crate::template::{Catalog, Subject, TemplateError};

pub use select::Selection;

/// A task, by its place in [`Plan::tasks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u32);

impl TaskId {
    /// Its place in [`Plan::tasks`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A file as a graph of tasks.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the plan was made from.
    pub deployment: Deployment,
    /// Its targets and lists.
    pub catalog: Catalog,
    /// All tasks, by phase, then by entry. A task depends only on tasks before it.
    pub tasks: Vec<Task>,
    /// The tasks of each phase, as a range of indexes.
    pub phases: Vec<std::ops::Range<usize>>,
    /// Scopes that limits apply to.
    pub scopes: Vec<Scope>,
    /// The texts of `lock`.
    pub locks: Vec<String>,
    /// The targets of each wave; one wave with all of them if the file declares none.
    pub waves: Vec<Vec<usize>>,
    /// For each invariant, how many things it is about.
    pub invariant_sizes: Vec<usize>,
    /// Who waits for a task or, from `tasks.len()` on, for all tasks of a phase.
    pub(crate) dependents: Edges,
    /// How many tasks and barriers each task waits for.
    pub(crate) dependency_counts: Vec<u32>,
}

/// One entry of one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Index of its phase.
    pub phase: u32,
    /// Index of its target.
    pub target: Option<u32>,
    /// Index of its entry in the phase's list.
    pub item: Option<u32>,
    /// Index of the wave that it belongs to.
    pub wave: u32,
    /// How much of the width it takes.
    pub slots: u32,
    /// What it calls.
    pub calls: Box<[Call]>,
    /// Index of the text of its `lock`.
    pub lock: Option<u32>,
    /// What it takes down while it works: invariant, and index of the thing.
    pub disrupts: Box<[(u32, u32)]>,
    /// Whether it is left out by the selection: it is passed as soon as what it waits for is done.
    pub left_out: bool,
    /// Expected time from its start to the end of the longest chain behind it (upward rank).
    pub rank: Duration,
}

/// Calls of a task to one scope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Call {
    /// Index of the scope in [`Plan::scopes`].
    pub scope: u32,
    /// Index of the bucket in the scope.
    pub bucket: u32,
    /// How many.
    pub count: u32,
    /// Again and again with this pause, or once at the start.
    pub every: Option<Duration>,
}

/// What a limit applies to: one text of `key`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    /// Name of the limit, and the text of its key where it has one: `arm/main`.
    pub name: String,
    /// Index in [`Deployment::limits`].
    pub limit: usize,
    /// Kind, most at once, and calls that come back each second.
    pub buckets: Vec<(String, u32, f64)>,
}

/// Lists of task indexes, one behind the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edges {
    starts: Vec<u32>,
    ends: Vec<u32>,
}

impl Edges {
    pub(crate) fn of(&self, node: usize) -> &[u32] {
        &self.ends[self.edges(node)]
    }

    /// The places of a node's edges, for who changes something while walking along them.
    pub(crate) fn edges(&self, node: usize) -> std::ops::Range<usize> {
        self.starts[node] as usize..self.starts[node + 1] as usize
    }

    /// Where an edge leads.
    pub(crate) fn end(&self, edge: usize) -> u32 {
        self.ends[edge]
    }
}

/// Why a file gives no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// A template cannot be rendered.
    Template {
        /// Where.
        place: String,
        /// Why.
        error: TemplateError,
    },
    /// The selection names something that is not there.
    Selection {
        /// What: `phase`, `target`.
        what: &'static str,
        /// The name.
        name: String,
        /// What was probably meant, or what there is.
        hint: String,
    },
    /// The selection leaves nothing to do.
    Empty,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template { place, error } => write!(f, "failed to plan {place}: {error}"),
            Self::Selection { what, name, .. } => write!(f, "there is no {what} `{name}` in this deployment"),
            Self::Empty => f.write_str("the selection leaves no task"),
        }
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    /// The plan of a file.
    ///
    /// # Errors
    /// A template of `lock` or `key` that cannot be rendered, or a selection that names what is not there.
    pub fn new(deployment: Deployment, selection: &Selection) -> Result<Self, PlanError> {
        build::build(deployment, selection)
    }

    /// A task.
    pub fn task(&self, id: TaskId) -> &Task {
        &self.tasks[id.index()]
    }

    /// The phase of a task.
    pub fn phase_of(&self, id: TaskId) -> &Phase {
        &self.deployment.phases[self.task(id).phase as usize]
    }

    /// What a task is about.
    pub fn subject(&self, id: TaskId) -> Subject<'_> {
        let task = self.task(id);
        let list = self.phase_of(id).for_each.as_deref();
        Subject {
            target: task.target.map(|target| target as usize),
            item: task.item.and_then(|item| Some((list?, item as usize))),
        }
    }

    /// The name of a task, stable from plan to plan: `phase/entry`, or `phase` where it runs once.
    pub fn name(&self, id: TaskId) -> String {
        let (phase, entry) = (&self.phase_of(id).name, self.catalog.name(self.subject(id)));
        if entry.is_empty() { phase.clone() } else { format!("{phase}/{entry}") }
    }

    /// The name of a task's target; empty for one that has none.
    pub fn target_name(&self, id: TaskId) -> &str {
        self.task(id).target.map_or("", |at| &self.catalog.targets[at as usize].name)
    }

    /// All tasks that wait for one of these, directly or not, in order.
    pub fn behind(&self, tasks: &[TaskId]) -> BTreeSet<TaskId> {
        let mut found = BTreeSet::new();
        let mut todo: Vec<usize> = tasks.iter().map(|id| id.index()).collect();
        let mut barriers = BTreeSet::new();
        while let Some(node) = todo.pop() {
            for to in self.dependents.of(node) {
                if found.insert(TaskId(*to)) {
                    todo.push(*to as usize);
                }
            }
            if let Some(task) = self.tasks.get(node) {
                let barrier = self.tasks.len() + task.phase as usize;
                if barriers.insert(barrier) {
                    todo.push(barrier);
                }
            }
        }
        found
    }

    /// Whether all names are those of tasks, phases, targets or entries of lists.
    ///
    /// # Errors
    /// One of them is nothing of this, with what was probably meant.
    pub fn check_names(&self, names: &[String]) -> Result<(), PlanError> {
        if names.is_empty() {
            return Ok(());
        }
        let tasks: Vec<String> = self.ids().map(|id| self.name(id)).collect();
        let phases = self.deployment.phases.iter().map(|phase| phase.name.as_str());
        let targets = self.catalog.targets.iter().map(|target| target.name.as_str());
        let items = self.catalog.lists.values().flatten().map(|item| item.name.as_str());
        let known: Vec<&str> =
            phases.chain(targets).chain(items).chain(tasks.iter().map(String::as_str)).collect();
        match names.iter().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let hint = suggestion(name, known);
                Err(PlanError::Selection { what: "phase, target, entry or task", name: name.clone(), hint })
            }
        }
    }

    /// The name of a task's entry, or target; empty for one that runs once.
    pub fn entry_name(&self, id: TaskId) -> &str {
        self.catalog.name(self.subject(id))
    }

    /// All tasks, in order.
    pub fn ids(&self) -> impl Iterator<Item = TaskId> + use<> {
        (0..self.tasks.len() as u32).map(TaskId)
    }

    /// Tasks by name.
    pub fn by_name(&self) -> BTreeMap<String, TaskId> {
        self.ids().map(|id| (self.name(id), id)).collect()
    }

    /// Whether all tasks of the phase share one Terraform state, and so one process.
    pub fn is_batch(&self, id: TaskId) -> bool {
        matches!(&self.phase_of(id).run, crate::file::Action::Terraform(t) if t.address.is_some())
    }

    /// The longest chain by these durations, from first to last task, and its length.
    pub fn critical_path(&self, durations: &[Duration]) -> (Duration, Vec<TaskId>) {
        let nodes = self.tasks.len() + self.phases.len();
        let mut begins = vec![(Duration::ZERO, None::<u32>); nodes];
        let mut last: (Duration, Option<u32>) = (Duration::ZERO, None);
        for at in 0..self.tasks.len() {
            let length = if self.tasks[at].left_out { Duration::ZERO } else { durations[at] };
            let end = begins[at].0 + length;
            if last.1.is_none() || end > last.0 {
                last = (end, Some(at as u32));
            }
            let barrier = self.tasks.len() + self.tasks[at].phase as usize;
            if begins[barrier].1.is_none() || end > begins[barrier].0 {
                begins[barrier] = (end, Some(at as u32));
            }
            let later = self.dependents.of(at).iter().map(|to| (*to as usize, (end, Some(at as u32))));
            for (to, begin) in later {
                if begins[to].1.is_none() || begin.0 > begins[to].0 {
                    begins[to] = begin;
                }
            }
            if at + 1 == self.phases[self.tasks[at].phase as usize].end {
                for to in self.dependents.of(barrier) {
                    if begins[*to as usize].1.is_none() || begins[barrier].0 > begins[*to as usize].0 {
                        begins[*to as usize] = begins[barrier];
                    }
                }
            }
        }
        let mut path = Vec::new();
        let mut next = last.1;
        while let Some(at) = next {
            path.push(TaskId(at));
            next = begins[at as usize].1;
        }
        path.reverse();
        (last.0, path)
    }

    /// No schedule is faster than this with these durations: the longest chain, the calls that a scope lets through,
    /// and the work divided by the width. Waves come one after the other, with their baking time between.
    pub fn lower_bound(&self, durations: &[Duration], width: Option<u32>, with_waves: bool) -> Duration {
        let mut bound = if with_waves && self.waves.len() > 1 {
            self.waves_bound(durations)
        } else {
            self.critical_path(durations).0
        };
        for (at, scope) in self.scopes.iter().enumerate() {
            for (kind, (_, burst, rate)) in scope.buckets.iter().enumerate() {
                let calls: f64 = self.calls(at, kind, durations);
                bound = bound.max(saturating((calls - f64::from(*burst)) / rate));
            }
        }
        if let Some(width) = width {
            let work: f64 =
                self.running().map(|(at, t)| durations[at].as_secs_f64() * f64::from(t.slots)).sum();
            bound = bound.max(saturating(work / f64::from(width.max(1))));
        }
        bound
    }

    /// All calls of one kind to one scope, polls included.
    pub fn calls(&self, scope: usize, bucket: usize, durations: &[Duration]) -> f64 {
        let of_task = |(at, task): (usize, &Task)| -> f64 {
            let calls =
                task.calls.iter().filter(|c| c.scope as usize == scope && c.bucket as usize == bucket);
            calls
                .map(|call| match call.every {
                    None => f64::from(call.count),
                    Some(every) => {
                        f64::from(call.count) * (durations[at].as_secs_f64() / every.as_secs_f64()).floor()
                    }
                })
                .sum()
        };
        self.running().map(of_task).sum()
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Task)> {
        self.tasks.iter().enumerate().filter(|(_, task)| !task.left_out)
    }

    /// The longest chains of each wave, one behind the other, with the baking time between two waves.
    fn waves_bound(&self, durations: &[Duration]) -> Duration {
        let bake = self.deployment.waves.as_ref().and_then(|w| w.bake).map_or(Duration::ZERO, |b| b.0);
        let mut total = bake * (self.waves.len() as u32 - 1);
        for wave in 0..self.waves.len() as u32 {
            let only: Vec<Duration> = durations
                .iter()
                .zip(&self.tasks)
                .map(|(time, task)| if task.wave == wave { *time } else { Duration::ZERO })
                .collect();
            total += self.critical_path(&only).0;
        }
        total
    }
}
