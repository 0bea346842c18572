//! One run in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use serde::Serialize;

use crate::clouds::{Meter, shape};
use crate::plan::{Plan, TaskId};
use crate::random::Random;
use crate::schedule::{Cause, Command, Counts, Event, Options, Outcome, Scheduler};

/// What the world is like in one rehearsal.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// How long each task takes once its first calls have been served.
    pub durations: Vec<Duration>,
    /// For failures.
    pub seed: u64,
    /// Part of all attempts that fail at their end, from 0 to 1.
    pub failing: f64,
    /// Tasks that always fail.
    pub broken: Vec<TaskId>,
}

impl Rehearsal {
    /// Nothing fails.
    pub fn new(durations: Vec<Duration>, seed: u64) -> Self {
        Self { durations, seed, failing: 0.0, broken: Vec::new() }
    }
}

/// An attempt in a timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Which task.
    pub task: TaskId,
    /// Counts from 1.
    pub attempt: u32,
    /// When it started.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
    /// Whether it succeeded.
    pub good: bool,
}

/// Calls of one kind to one scope.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScopeUse {
    /// Scope.
    pub scope: String,
    /// Kind.
    pub kind: String,
    /// Calls that were served.
    pub served: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Most at once, and calls that come back each second.
    pub limit: (u32, f64),
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// From start to end.
    pub makespan: Duration,
    /// All attempts.
    pub spans: Vec<Span>,
    /// All events of the scheduler.
    pub events: Vec<Event>,
    /// Use of each scope.
    pub calls: Vec<ScopeUse>,
    /// How tasks ended.
    pub counts: Counts,
}

impl Timeline {
    /// Share of calls that were refused, from 0 to 1.
    pub fn refused(&self) -> f64 {
        refused(&self.calls)
    }
}

/// Share of calls that were refused, from 0 to 1.
pub(super) fn refused(calls: &[ScopeUse]) -> f64 {
    let (served, refused) = calls.iter().fold((0, 0), |(s, r), u| (s + u.served, r + u.refused));
    if served + refused == 0 { 0.0 } else { refused as f64 / (served + refused) as f64 }
}

/// Runs a plan in virtual time.
pub fn simulate(plan: &Plan, options: &Options, rehearsal: &Rehearsal) -> Timeline {
    let mut events = Vec::new();
    let (makespan, world, counts) = play(plan, options, rehearsal, |event| events.push(event));
    Timeline { makespan, calls: world.uses(), spans: world.spans, events, counts }
}

/// The same, of which only time and calls are wanted: the events of a large deployment would fill the memory.
pub(super) fn time(plan: &Plan, options: &Options, rehearsal: &Rehearsal) -> (Duration, Vec<ScopeUse>) {
    let (makespan, world, _) = play(plan, options, rehearsal, drop);
    (makespan, world.uses())
}

fn play<'a>(
    plan: &'a Plan,
    options: &Options,
    rehearsal: &'a Rehearsal,
    mut tell: impl FnMut(Event),
) -> (Duration, World<'a>, Counts) {
    let mut world = World::new(plan, rehearsal);
    let mut scheduler = Scheduler::new(plan.clone(), options.clone(), &BTreeMap::new(), Duration::ZERO);
    let mut now = Duration::ZERO;
    loop {
        while let Some(command) = scheduler.poll_command(now) {
            match command {
                Command::Start { task, attempt } => world.start(now, task, attempt),
                Command::Gate { gate, .. } => scheduler.handle_gate(now, gate, Ok(())),
            }
        }
        while let Some(event) = scheduler.poll_event() {
            tell(event);
        }
        if scheduler.is_finished() {
            break;
        }
        let Some(next) = [world.next_time(), scheduler.poll_timeout()].into_iter().flatten().min() else {
            break;
        };
        now = now.max(next);
        scheduler.handle_time(now);
        world.advance(now, &mut scheduler);
    }
    (now, world, scheduler.counts())
}

/// A task that still has to call is looked at again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// What happens next in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    /// One call of a task's beginning.
    Call { task: TaskId, call: u32 },
    /// A task's poll.
    Poll { task: TaskId, call: u32 },
    /// A task's end.
    End { task: TaskId },
}

#[derive(Clone, Copy, Debug, Default)]
struct Working {
    attempt: u32,
    start: Duration,
    /// First calls that have not been served.
    pending: u32,
    running: bool,
}

struct World<'a> {
    plan: &'a Plan,
    rehearsal: &'a Rehearsal,
    random: Random,
    meters: Vec<Vec<Meter>>,
    heap: BinaryHeap<Reverse<(Duration, u64, Happening)>>,
    count: u64,
    working: Vec<Working>,
    spans: Vec<Span>,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, rehearsal: &'a Rehearsal) -> Self {
        let meters = plan.scopes.iter().map(|scope| {
            let limit = &plan.deployment.limits[scope.limit];
            let buckets = limit.all_buckets();
            buckets.values().map(|bucket| Meter::new(shape(limit.preset, *bucket))).collect()
        });
        Self {
            plan,
            rehearsal,
            random: Random::new(rehearsal.seed ^ 0x5eed),
            meters: meters.collect(),
            heap: BinaryHeap::new(),
            count: 0,
            working: vec![Working::default(); plan.tasks.len()],
            spans: Vec::new(),
        }
    }

    fn next_time(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    fn push(&mut self, at: Duration, happening: Happening) {
        self.count += 1;
        self.heap.push(Reverse((at, self.count, happening)));
    }

    fn start(&mut self, now: Duration, task: TaskId, attempt: u32) {
        let calls = &self.plan.task(task).calls;
        let first = calls.iter().enumerate().filter(|(_, call)| call.every.is_none());
        let first: Vec<(u32, u32)> = first.map(|(at, call)| (at as u32, call.count)).collect();
        let pending = first.iter().map(|(_, count)| count).sum();
        self.working[task.index()] = Working { attempt, start: now, pending, running: true };
        // Terraform makes what it calls for one after the other, as the resources come up, and works meanwhile.
        let is_spread = self.plan.is_batch(task);
        let between =
            if is_spread { self.rehearsal.durations[task.index()] / pending.max(1) } else { Duration::ZERO };
        let mut at = now;
        for (call, count) in first {
            for _ in 0..count {
                self.push(at, Happening::Call { task, call });
                at += between;
            }
        }
        if pending == 0 || is_spread {
            self.work(now, task);
        }
    }

    /// The first calls have been served: the work begins, and with it polling.
    fn work(&mut self, now: Duration, task: TaskId) {
        self.push(now + self.rehearsal.durations[task.index()], Happening::End { task });
        for (call, rule) in self.plan.task(task).calls.iter().enumerate() {
            if let Some(every) = rule.every {
                self.push(now + every, Happening::Poll { task, call: call as u32 });
            }
        }
    }

    fn advance(&mut self, now: Duration, scheduler: &mut Scheduler) {
        while let Some(Reverse((at, ..))) = self.heap.peek() {
            if *at > now {
                return;
            }
            let Some(Reverse((_, _, happening))) = self.heap.pop() else { return };
            match happening {
                Happening::Call { task, call } => self.call(now, task, call, scheduler),
                Happening::Poll { task, call } => self.poll(now, task, call, scheduler),
                Happening::End { task } => self.end(now, task, scheduler),
            }
        }
    }

    fn meter(&mut self, task: TaskId, call: u32) -> &mut Meter {
        let call = self.plan.task(task).calls[call as usize];
        &mut self.meters[call.scope as usize][call.bucket as usize]
    }

    fn call(&mut self, now: Duration, task: TaskId, call: u32, scheduler: &mut Scheduler) {
        match self.meter(task, call).call(now) {
            Ok(()) => {
                self.working[task.index()].pending -= 1;
                if self.working[task.index()].pending == 0 && !self.plan.is_batch(task) {
                    self.work(now, task);
                }
            }
            Err(after) => {
                scheduler.handle_throttled(now, task, Some(after));
                self.push(now + after, Happening::Call { task, call });
            }
        }
    }

    fn poll(&mut self, now: Duration, task: TaskId, call: u32, scheduler: &mut Scheduler) {
        if !self.working[task.index()].running {
            return;
        }
        let rule = self.plan.task(task).calls[call as usize];
        let mut next = now + rule.every.unwrap_or(Duration::from_secs(1));
        for _ in 0..rule.count {
            if let Err(after) = self.meter(task, call).call(now) {
                scheduler.handle_throttled(now, task, Some(after));
                next = next.min(now + after);
            }
        }
        self.push(next, Happening::Poll { task, call });
    }

    fn end(&mut self, now: Duration, task: TaskId, scheduler: &mut Scheduler) {
        let Working { attempt, start, pending, .. } = self.working[task.index()];
        if pending > 0 {
            // Its last calls were refused, and come again.
            self.push(now + AGAIN, Happening::End { task });
            return;
        }
        self.working[task.index()].running = false;
        let bad = self.rehearsal.broken.contains(&task) || self.random.unit() < self.rehearsal.failing;
        self.spans.push(Span { task, attempt, start, end: now, good: !bad });
        let outcome = if bad {
            Outcome::Failed(Cause::Server { what: "rehearsed failure".to_owned() })
        } else {
            Outcome::Success
        };
        scheduler.handle_outcome(now, task, outcome);
    }

    fn uses(&self) -> Vec<ScopeUse> {
        let scopes = self.plan.scopes.iter().zip(&self.meters);
        scopes
            .flat_map(|(scope, meters)| {
                scope.buckets.iter().zip(meters).map(|((kind, burst, rate), meter)| {
                    let (served, refused) = meter.counts();
                    let (scope, kind) = (scope.name.clone(), kind.clone());
                    ScopeUse { scope, kind, served, refused, limit: (*burst, *rate) }
                })
            })
            .collect()
    }
}
