//! What may start now, and what holds the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use super::scope::Refusal;
use super::{Command, Event, Key, Scheduler, TaskState, Timer, Wait};
use crate::file::Mode;
use crate::plan::TaskId;

/// What holds tasks in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Constraint {
    /// Nothing that is known.
    Free,
    /// Phases before this one, in a mode with barriers.
    Barrier(u32),
    Wave(u32),
    Tolerance,
    Lock(u32),
    Conflict(u32),
    State(u32),
    Invariant(u32),
    PhaseWidth(u32),
    Width,
    Scope(u32),
}

impl Constraint {
    /// The word of its [`Wait`] for sums.
    fn label(self) -> &'static str {
        match self {
            Self::Free => "dependency",
            Self::Barrier(_) => "barrier",
            Self::Wave(_) => "wave",
            Self::Tolerance => "tolerance",
            Self::Lock(_) | Self::Conflict(_) | Self::State(_) => "locked",
            Self::Invariant(_) => "invariant",
            Self::PhaseWidth(_) | Self::Width => "width",
            Self::Scope(_) => "throttled",
        }
    }
}

impl Scheduler {
    /// The next thing to do. Call it again until it gives nothing.
    pub fn poll_command(&mut self, now: Duration) -> Option<Command> {
        self.now = self.now.max(now);
        if let Some(gate) = self.gates.pop_front() {
            return Some(gate);
        }
        while !self.stopping {
            let Some((constraint, (rank, task))) = self.best() else { break };
            let key: Key = (rank, task);
            match self.may_start(task) {
                Ok(()) => {
                    self.unqueue(constraint, key);
                    return Some(self.start(task, constraint));
                }
                Err(same) if same == constraint => {
                    self.open.remove(&constraint);
                }
                Err(other) => {
                    self.unqueue(constraint, key);
                    if constraint != Constraint::Free {
                        self.add_waited(task, constraint.label());
                    }
                    let since = self.held_by[task.index()].map_or(self.now, |(_, since)| since);
                    self.held_by[task.index()] = Some((other, since));
                    self.queues.entry(other).or_default().insert(key);
                }
            }
        }
        self.seal_batches();
        self.settle_stuck();
        None
    }

    /// The longest chain among the queues that may move.
    fn best(&mut self) -> Option<(Constraint, Key)> {
        let first = |c: &Constraint| self.queues.get(c).and_then(BTreeSet::first).map(|key| (*key, *c));
        self.open.iter().filter_map(first).min().map(|(key, constraint)| (constraint, key))
    }

    /// What this holds may move, if it holds anything.
    pub(super) fn reopen(&mut self, constraint: Constraint) {
        if self.queues.contains_key(&constraint) {
            self.open.insert(constraint);
        }
    }

    fn unqueue(&mut self, constraint: Constraint, key: Key) {
        if let Some(queue) = self.queues.get_mut(&constraint) {
            queue.remove(&key);
            if queue.is_empty() {
                self.queues.remove(&constraint);
                self.open.remove(&constraint);
            }
        }
    }

    /// Takes a task out of whatever queue it is in.
    pub(super) fn withdraw(&mut self, task: TaskId) {
        if let Some((constraint, _)) = self.held_by[task.index()].take() {
            let key = self.key(task);
            self.unqueue(constraint, key);
        }
    }

    /// Whether a ready task may start now; else the first thing that holds it.
    fn may_start(&mut self, id: TaskId) -> Result<(), Constraint> {
        let task = &self.plan.tasks[id.index()];
        let phase = task.phase;
        if matches!(self.options.mode, Mode::Sequential | Mode::Standard | Mode::Max)
            && self.open_in_phase[..phase as usize].iter().any(|open| *open > 0)
        {
            return Err(Constraint::Barrier(phase));
        }
        if self.wave.in_use && task.wave > self.wave.current {
            return Err(Constraint::Wave(task.wave));
        }
        if let Some(max) = self.most_units_at_risk() {
            let active = self.running_of_target.len() as u32;
            let known = task.target.is_some_and(|target| self.running_of_target.contains_key(&target));
            if !known && active >= max {
                return Err(Constraint::Tolerance);
            }
        }
        if let Some(lock) = task.lock.filter(|lock| self.locks.contains(lock)) {
            return Err(Constraint::Lock(lock));
        }
        if let Some(target) = task.target
            && self.conflicts.contains(&target)
            && self.running_of_target.contains_key(&target)
        {
            return Err(Constraint::Conflict(target));
        }
        let is_batch = self.plan.is_batch(id);
        if is_batch && self.batches.get(&phase).is_some_and(|batch| batch.sealed) {
            return Err(Constraint::State(phase));
        }
        if let Some(invariant) = self.broken_by(id) {
            return Err(Constraint::Invariant(invariant));
        }
        let widest = self.plan.deployment.phases[phase as usize].width;
        if widest.is_some_and(|width| self.running_of_phase[phase as usize] >= width) {
            return Err(Constraint::PhaseWidth(phase));
        }
        if self.options.mode == Mode::Sequential && self.counts.running > 0 {
            return Err(Constraint::Width);
        }
        let slots = self.plan.tasks[id.index()].slots;
        if let Some(width) = self.options.width()
            && self.slots_in_use > 0
            && self.slots_in_use + slots > width
        {
            return Err(Constraint::Width);
        }
        self.scopes_let_through(id, is_batch)
    }

    fn scopes_let_through(&mut self, id: TaskId, is_batch: bool) -> Result<(), Constraint> {
        let task = &self.plan.tasks[id.index()];
        for (at, scope) in self.scopes.iter_mut().enumerate() {
            let calls = task.calls.iter().filter(|call| call.scope as usize == at);
            if calls.clone().next().is_none() {
                continue;
            }
            // Outside `auto` nobody counts calls, but what an API asks for is done in every mode.
            let counted = self.options.mode == Mode::Auto;
            let refusal = match scope.check(self.now, task.slots, calls, is_batch) {
                Err(Refusal::Hold(until)) => Some(until),
                Err(Refusal::Tokens(until)) if counted => {
                    until.or(Some(Duration::MAX)).filter(|until| *until > self.now)
                }
                Err(Refusal::Busy) if counted => Some(Duration::MAX),
                _ => continue,
            };
            if let Some(until) = refusal.filter(|until| *until < Duration::MAX) {
                self.timers.insert((until, Timer::Scope(at as u32)));
            }
            return Err(Constraint::Scope(at as u32));
        }
        Ok(())
    }

    /// How many targets may be worked on at once, if failures are limited strictly.
    pub(super) fn most_units_at_risk(&self) -> Option<u32> {
        let rule = self.plan.deployment.failures;
        let max = rule.max.filter(|_| rule.strict && self.options.mode == Mode::Auto)?;
        let max = max.of(self.plan.catalog.targets.len().max(1)) as u32;
        Some((max + 1).saturating_sub(self.failed_units.len() as u32).max(1))
    }

    /// The invariant that would be broken if the task started.
    fn broken_by(&self, id: TaskId) -> Option<u32> {
        if self.attempts[id.index()].disrupting {
            return None;
        }
        let task = &self.plan.tasks[id.index()];
        (0..self.down.len() as u32).find(|invariant| {
            let at = *invariant as usize;
            let newly = task
                .disrupts
                .iter()
                .filter(|(i, thing)| i == invariant && !self.down[at].contains_key(thing));
            let newly = newly.count();
            let min_up = self.plan.deployment.invariants[at].min_up as usize;
            newly > 0 && self.plan.invariant_sizes[at] < min_up + self.down[at].len() + newly
        })
    }

    pub(super) fn take_down(&mut self, id: TaskId, down: bool) {
        for (invariant, thing) in &self.plan.tasks[id.index()].disrupts {
            let things = &mut self.down[*invariant as usize];
            let count = things.entry(*thing).or_insert(0);
            *count = if down { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                things.remove(thing);
            }
        }
        if !down {
            let invariants: Vec<u32> = self.plan.tasks[id.index()].disrupts.iter().map(|(i, _)| *i).collect();
            for invariant in invariants {
                self.reopen(Constraint::Invariant(invariant));
            }
        }
    }

    fn start(&mut self, id: TaskId, held_by: Constraint) -> Command {
        if held_by == Constraint::Free {
            self.held_by[id.index()] = None;
        } else {
            self.add_waited(id, held_by.label());
        }
        let task = &self.plan.tasks[id.index()];
        for (at, scope) in self.scopes.iter_mut().enumerate() {
            let calls = task.calls.iter().filter(|call| call.scope as usize == at);
            if calls.clone().next().is_some() {
                scope.start(self.now, task.slots, calls);
            }
        }
        self.locks.extend(task.lock);
        if let Some(target) = task.target {
            *self.running_of_target.entry(target).or_insert(0) += 1;
        }
        let phase = task.phase;
        self.slots_in_use += task.slots;
        self.running_of_phase[phase as usize] += 1;
        if self.plan.is_batch(id) {
            self.batches.entry(phase).or_default().running += 1;
        }
        if !self.attempts[id.index()].disrupting && !self.plan.tasks[id.index()].disrupts.is_empty() {
            self.attempts[id.index()].disrupting = true;
            self.take_down(id, true);
        }
        self.attempts[id.index()].started += 1;
        let attempt = self.attempts[id.index()].started;
        self.set_state(id, TaskState::Running { since: self.now });
        let waited = std::mem::take(&mut self.waited[id.index()]);
        self.events.push_back(Event::Started { at: self.now, task: id, attempt, waited });
        Command::Start { task: id, attempt }
    }

    fn seal_batches(&mut self) {
        for batch in self.batches.values_mut() {
            batch.sealed = true;
        }
    }

    pub(super) fn describe(&self, constraint: Constraint) -> Wait {
        let target = |at: u32| self.plan.catalog.targets[at as usize].name.clone();
        let phase = |at: u32| self.plan.deployment.phases[at as usize].name.clone();
        match constraint {
            Constraint::Free => Wait::Dependencies(0),
            Constraint::Barrier(at) => {
                let before = (0..at).rev().find(|before| self.open_in_phase[*before as usize] > 0);
                Wait::Barrier(phase(before.unwrap_or(at.saturating_sub(1))))
            }
            Constraint::Wave(wave) => Wait::Wave(wave + 1),
            Constraint::Tolerance => Wait::FailureTolerance(self.most_units_at_risk().unwrap_or(1)),
            Constraint::Lock(lock) => Wait::Lock(self.plan.locks[lock as usize].clone()),
            Constraint::Conflict(at) => Wait::Conflict(target(at)),
            Constraint::State(at) => Wait::State(phase(at)),
            Constraint::Invariant(at) => {
                Wait::Invariant(self.plan.deployment.invariants[at as usize].name.clone())
            }
            Constraint::PhaseWidth(at) => {
                Wait::PhaseWidth(self.plan.deployment.phases[at as usize].width.unwrap_or(1))
            }
            Constraint::Width => Wait::Width(self.options.width().unwrap_or(1)),
            Constraint::Scope(at) => {
                let scope = &self.scopes[at as usize];
                if scope.is_held(self.now) {
                    Wait::RetryAfter(scope.name.clone())
                } else {
                    Wait::Limit(scope.name.clone())
                }
            }
        }
    }
}
