//! What happens when an attempt ends.

use std::time::Duration;

use super::admit::Constraint;
use super::{Cause, Counts, Event, Outcome, Scheduler, Skip, TaskState, Timer};
use crate::plan::TaskId;

/// An API that asks to wait for longer is not believed: who waits for a day has time to look.
const LONGEST_ASKED: Duration = Duration::from_secs(86_400);
/// So many retries are always allowed.
const FREE_RETRIES: usize = 10;

impl Scheduler {
    /// An attempt ended. Reports about tasks that do not run are ignored.
    pub fn handle_outcome(&mut self, now: Duration, task: TaskId, outcome: Outcome) {
        self.now = self.now.max(now);
        let TaskState::Running { since } = self.states[task.index()] else { return };
        let succeeded = outcome == Outcome::Success;
        self.release(task, since, succeeded);
        match outcome {
            Outcome::Success => {
                self.ended(task, Outcome::Success, None);
                if self.attempts[task.index()].disrupting {
                    self.attempts[task.index()].disrupting = false;
                    self.take_down(task, false);
                }
                self.conclude(task, TaskState::Done);
            }
            Outcome::Failed(cause) => {
                self.learn(task, since, &cause);
                if let Some(until) = self.next_attempt(task, &cause) {
                    self.ended(task, Outcome::Failed(cause), Some(until));
                    if self.stopping {
                        // The attempts that are left are for whoever goes on.
                        let why = Skip::Stopped;
                        self.events.push_back(Event::Skipped { at: self.now, task, why: why.clone() });
                        self.conclude(task, TaskState::Skipped(why));
                        self.settle();
                        return;
                    }
                    self.set_state(task, TaskState::Backoff { until });
                    self.held_by[task.index()] = Some((Constraint::Free, self.now));
                    self.timers.insert((until, Timer::Retry(task)));
                } else {
                    self.ended(task, Outcome::Failed(cause.clone()), None);
                    self.fail(task, cause);
                }
            }
        }
        self.settle();
    }

    /// The API throttles a task that goes on running.
    pub fn handle_throttled(&mut self, now: Duration, task: TaskId, retry_after: Option<Duration>) {
        self.now = self.now.max(now);
        if let TaskState::Running { since } = self.states[task.index()] {
            self.throttle(task, since, retry_after);
        }
    }

    /// Gives back what a task holds that ran since `began`.
    fn release(&mut self, id: TaskId, began: Duration, succeeded: bool) {
        let task = &self.plan.tasks[id.index()];
        let mut may_move = Vec::with_capacity(8);
        for (at, scope) in self.scopes.iter_mut().enumerate() {
            let calls = task.calls.iter().filter(|call| call.scope as usize == at);
            if calls.clone().next().is_some() {
                if succeeded {
                    scope.grow(task.slots);
                }
                scope.end(self.now, began, task.slots, calls);
                may_move.push(Constraint::Scope(at as u32));
            }
        }
        if let Some(lock) = task.lock {
            self.locks.remove(&lock);
            may_move.push(Constraint::Lock(lock));
        }
        if let Some(target) = task.target {
            if let Some(running) = self.running_of_target.get_mut(&target) {
                *running -= 1;
                if *running == 0 {
                    self.running_of_target.remove(&target);
                }
            }
            may_move.push(Constraint::Conflict(target));
        }
        let phase = task.phase;
        self.slots_in_use -= task.slots;
        self.running_of_phase[phase as usize] -= 1;
        if let Some(batch) = self.batches.get_mut(&phase) {
            batch.running -= 1;
            if batch.running == 0 {
                self.batches.remove(&phase);
                may_move.push(Constraint::State(phase));
            }
        }
        may_move.extend([Constraint::Width, Constraint::PhaseWidth(phase), Constraint::Tolerance]);
        for constraint in may_move {
            self.reopen(constraint);
        }
    }

    fn ended(&mut self, task: TaskId, outcome: Outcome, again_at: Option<Duration>) {
        let attempt = self.attempts[task.index()].started;
        self.events.push_back(Event::Ended { at: self.now, task, attempt, outcome, again_at });
    }

    /// What a failure says about others.
    fn learn(&mut self, task: TaskId, since: Duration, cause: &Cause) {
        match cause {
            Cause::Throttled { retry_after } => self.throttle(task, since, *retry_after),
            Cause::Locked { .. } => self.conflicts.extend(self.plan.task(task).target),
            Cause::Quota { what } => self.exhaust(task, what),
            _ => {}
        }
    }

    fn throttle(&mut self, task: TaskId, since: Duration, retry_after: Option<Duration>) {
        let Some(call) = self.plan.tasks[task.index()].calls.first() else { return };
        let retry_after = retry_after.map(|after| after.min(LONGEST_ASKED));
        let at = call.scope;
        let scope = &mut self.scopes[at as usize];
        if scope.throttle(self.now, since, retry_after) {
            let (name, limit) = (scope.name.clone(), scope.limit());
            self.events.push_back(Event::Scope { at: self.now, scope: name, limit });
        }
        if let Some(after) = retry_after {
            self.timers.insert((self.now + after, Timer::Scope(at)));
        }
    }

    /// Nothing more of the scope starts in this target.
    fn exhaust(&mut self, task: TaskId, what: &str) {
        let Some(call) = self.plan.tasks[task.index()].calls.first() else { return };
        let scope = call.scope;
        // Quotas are counted by region: other targets may still have theirs.
        let target = self.plan.tasks[task.index()].target;
        let same = |id: &TaskId| {
            let other = &self.plan.tasks[id.index()];
            let uses_scope = other.calls.iter().any(|call| call.scope == scope);
            other.target == target && uses_scope && !self.is_begun(*id)
        };
        for id in self.plan.ids().filter(same).collect::<Vec<_>>() {
            self.skip(id, Skip::Quota(what.to_owned()));
        }
    }

    fn is_begun(&self, task: TaskId) -> bool {
        !matches!(self.states[task.index()], TaskState::Waiting) || self.attempts[task.index()].started > 0
    }

    /// When to try again, if at all.
    fn next_attempt(&mut self, task: TaskId, cause: &Cause) -> Option<Duration> {
        let rule = self.plan.phase_of(task).retry;
        let attempts = &mut self.attempts[task.index()];
        let tried = if cause.is_congestion() {
            attempts.congested += 1;
            (attempts.congested <= rule.throttled).then_some(attempts.congested)
        } else {
            attempts.real += 1;
            (attempts.real < rule.attempts).then_some(attempts.real)
        }?;
        let budget = self.plan.deployment.retry_budget.of(self.plan.tasks.len()).max(FREE_RETRIES);
        let is_lock = matches!(cause, Cause::Locked { .. });
        if !cause.may_be_retried() || (!is_lock && self.retries as usize >= budget) {
            return None;
        }
        if !is_lock {
            self.retries += 1;
        }
        let most = rule.base.0.saturating_mul(1 << tried.min(20)).min(rule.cap.0);
        let asked = match cause {
            Cause::Throttled { retry_after: Some(after) } => (*after).min(LONGEST_ASKED),
            _ => Duration::ZERO,
        };
        Some(self.now + asked + most.mul_f64(self.random.unit()))
    }

    /// A task failed for good.
    pub(super) fn fail(&mut self, task: TaskId, cause: Cause) {
        let unit = match self.plan.task(task).target {
            Some(target) => (true, target),
            None => (false, task.0),
        };
        self.failed_units.insert(unit);
        let wave = self.plan.task(task).wave;
        self.wave.failed(wave, unit);
        self.conclude(task, TaskState::Failed(cause));
        let rule = self.plan.deployment.failures;
        let units = self.plan.catalog.targets.len().max(1);
        if let Some(max) = rule.max.map(|max| max.of(units) as u32) {
            let failed = self.failed_units.len() as u32;
            if failed > max {
                let waiting: Vec<TaskId> = self.plan.ids().filter(|id| !self.is_begun(*id)).collect();
                for id in waiting {
                    self.skip(id, Skip::TooManyFailures { failed, max });
                }
            }
        }
    }

    /// A task will not run.
    pub(super) fn skip(&mut self, task: TaskId, why: Skip) {
        if self.states[task.index()].is_final()
            || matches!(self.states[task.index()], TaskState::Running { .. })
        {
            return;
        }
        if let TaskState::Backoff { until } = self.states[task.index()] {
            self.timers.remove(&(until, Timer::Retry(task)));
        }
        self.withdraw(task);
        if !self.plan.task(task).left_out {
            self.events.push_back(Event::Skipped { at: self.now, task, why: why.clone() });
        }
        self.conclude(task, TaskState::Skipped(why));
    }

    /// The end of a task, and what it means for those that wait for it.
    pub(super) fn conclude(&mut self, task: TaskId, state: TaskState) {
        let mut todo = vec![(task, state)];
        while let Some((task, state)) = todo.pop() {
            if self.states[task.index()].is_final() {
                continue;
            }
            let good = matches!(state, TaskState::Done | TaskState::Passed);
            self.withdraw(task);
            self.set_state(task, state);
            self.wave.ended(self.plan.task(task).wave);
            self.after(task, good, &mut todo);
        }
    }

    fn after(&mut self, task: TaskId, good: bool, todo: &mut Vec<(TaskId, TaskState)>) {
        let phase = self.plan.task(task).phase as usize;
        self.open_in_phase[phase] -= 1;
        if !good {
            self.bad_in_phase[phase].get_or_insert(task);
        }
        let of_task = (task.index(), (!good).then_some(task));
        let mut of_phase = None;
        if self.open_in_phase[phase] == 0 {
            of_phase = Some((self.plan.tasks.len() + phase, self.bad_in_phase[phase]));
            for later in phase as u32 + 1..self.plan.phases.len() as u32 {
                self.reopen(Constraint::Barrier(later));
            }
        }
        for (node, bad) in [Some(of_task), of_phase].into_iter().flatten() {
            for edge in self.plan.dependents.edges(node) {
                let to = TaskId(self.plan.dependents.end(edge));
                self.missing[to.index()] -= 1;
                if let Some(bad) = bad.filter(|_| !self.states[to.index()].is_final()) {
                    let culprit = self.culprits[bad.index()].unwrap_or(bad);
                    self.culprits[to.index()] = Some(culprit);
                    let why = Skip::Upstream(self.plan.name(culprit));
                    if !self.plan.task(to).left_out {
                        self.events.push_back(Event::Skipped { at: self.now, task: to, why: why.clone() });
                    }
                    todo.push((to, TaskState::Skipped(why)));
                } else if self.missing[to.index()] == 0 {
                    self.make_ready_later(to, todo);
                }
            }
        }
    }

    /// As `make_ready`, but a task that is left out goes to `todo` instead of deeper into the stack.
    fn make_ready_later(&mut self, task: TaskId, todo: &mut Vec<(TaskId, TaskState)>) {
        if self.plan.task(task).left_out && self.states[task.index()] == TaskState::Waiting {
            todo.push((task, TaskState::Passed));
        } else {
            self.make_ready(task);
        }
    }

    /// A task's new state, counted.
    pub(super) fn set_state(&mut self, task: TaskId, state: TaskState) {
        if let Some(count) = self.counts.of(&self.states[task.index()]) {
            *count -= 1;
        }
        // What was left out was not to run: that it cannot is no news.
        let is_told = !(self.plan.task(task).left_out && matches!(state, TaskState::Skipped(_)));
        if let Some(count) = self.counts.of(&state).filter(|_| is_told) {
            *count += 1;
        }
        self.states[task.index()] = state;
    }

    /// Ends waves and the run where nothing is left.
    pub(super) fn settle(&mut self) {
        self.advance_waves();
        let left = self.counts.waiting + self.counts.running;
        if left == 0 && !self.finished && self.gates.is_empty() && self.wave.is_over() {
            self.finished = true;
            self.events.push_back(Event::Finished { at: self.now });
        }
    }

    /// If nothing runs, nothing comes and tasks wait, they wait for ever: an invariant that failed tasks keep down.
    pub(super) fn settle_stuck(&mut self) {
        if self.counts.running > 0 || !self.timers.is_empty() || self.finished || !self.gates.is_empty() {
            return;
        }
        let invariants: Vec<u32> = self
            .queues
            .keys()
            .filter_map(|c| if let Constraint::Invariant(at) = c { Some(*at) } else { None })
            .collect();
        for at in invariants {
            let name = self.plan.deployment.invariants[at as usize].name.clone();
            let held: Vec<TaskId> = self
                .queues
                .get(&Constraint::Invariant(at))
                .into_iter()
                .flatten()
                .map(|(_, id)| *id)
                .collect();
            for task in held {
                self.skip(task, Skip::Invariant(name.clone()));
            }
        }
        self.settle();
    }
}

impl Counts {
    /// Where a state is counted.
    fn of(&mut self, state: &TaskState) -> Option<&mut u32> {
        match state {
            TaskState::Waiting | TaskState::Backoff { .. } => Some(&mut self.waiting),
            TaskState::Running { .. } => Some(&mut self.running),
            TaskState::Done => Some(&mut self.done),
            TaskState::Failed(_) => Some(&mut self.failed),
            TaskState::Skipped(_) => Some(&mut self.skipped),
            TaskState::Passed => None,
        }
    }
}
