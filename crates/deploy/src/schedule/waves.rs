//! Waves: a group of targets after the other, with time and gates between.

use std::collections::BTreeSet;
use std::time::Duration;

use super::admit::Constraint;
use super::{Command, Event, Scheduler, Skip, Timer};
use crate::plan::{Plan, TaskId};

/// Where the rollout is.
#[derive(Clone, Debug)]
pub(super) struct WaveState {
    /// Whether waves are used at all.
    pub(super) in_use: bool,
    /// The wave that may run, from 0.
    pub(super) current: u32,
    /// Tasks of each wave that are not final.
    open: Vec<u32>,
    /// What failed in each wave.
    failed: Vec<BTreeSet<(bool, u32)>>,
    /// Sizes, in targets.
    sizes: Vec<usize>,
    /// Waves with anything to do. Behind the others nothing is baked and no gate is asked: nothing has changed.
    at_work: Vec<bool>,
    /// Gates that have not answered, once the wave is over.
    gates_left: usize,
    between: bool,
}

impl WaveState {
    pub(super) fn new(plan: &Plan, in_use: bool) -> Self {
        let mut open = vec![0; plan.waves.len().max(1)];
        let mut at_work = vec![false; open.len()];
        for task in &plan.tasks {
            open[task.wave as usize] += 1;
            at_work[task.wave as usize] |= !task.left_out;
        }
        Self {
            in_use,
            current: 0,
            failed: vec![BTreeSet::new(); open.len()],
            open,
            at_work,
            sizes: plan.waves.iter().map(Vec::len).collect(),
            gates_left: 0,
            between: false,
        }
    }

    pub(super) fn failed(&mut self, wave: u32, unit: (bool, u32)) {
        self.failed[wave as usize].insert(unit);
    }

    pub(super) fn ended(&mut self, wave: u32) {
        self.open[wave as usize] -= 1;
    }

    pub(super) fn is_over(&self) -> bool {
        !self.in_use || self.open.iter().all(|open| *open == 0)
    }
}

impl Scheduler {
    /// A gate answered: `Err` says why it does not open.
    pub fn handle_gate(&mut self, now: Duration, gate: usize, answer: Result<(), String>) {
        self.now = self.now.max(now);
        if !self.wave.between || self.wave.gates_left == 0 {
            return;
        }
        match answer {
            Ok(()) => {
                self.wave.gates_left -= 1;
                if self.wave.gates_left == 0 {
                    self.next_wave();
                }
            }
            Err(why) => {
                let gates = self.plan.deployment.waves.as_ref().map(|waves| &waves.gates);
                let name = gates.and_then(|gates| gates.get(gate)).map_or("", |gate| gate.name.as_str());
                self.stop_rollout(&format!("gate `{name}` did not open: {why}"));
            }
        }
        self.settle();
    }

    /// Goes on to the next wave where the current one is over.
    pub(super) fn advance_waves(&mut self) {
        while self.wave.in_use && !self.wave.between && self.wave.open[self.wave.current as usize] == 0 {
            let wave = self.wave.current as usize;
            if wave + 1 >= self.wave.open.len() || self.wave.open[wave + 1..].iter().all(|open| *open == 0) {
                return;
            }
            let Some(rule) = &self.plan.deployment.waves else { return };
            let (failed, size) = (self.wave.failed[wave].len(), self.wave.sizes[wave]);
            if failed > rule.max_failures.of(size) {
                let max = rule.max_failures.of(size);
                self.stop_rollout(&format!("{failed} of {size} targets failed, and at most {max} may"));
                return;
            }
            if !self.wave.at_work[wave] {
                self.next_wave();
                continue;
            }
            self.wave.between = true;
            match rule.bake.map(|bake| bake.0).filter(|bake| !bake.is_zero()) {
                Some(bake) => {
                    self.timers.insert((self.now + bake, Timer::Bake));
                }
                None => self.ask_gates(),
            }
        }
    }

    pub(super) fn ask_gates(&mut self) {
        if !self.wave.between {
            return;
        }
        let count = self.plan.deployment.waves.as_ref().map_or(0, |waves| waves.gates.len());
        if count == 0 {
            self.next_wave();
            return;
        }
        self.wave.gates_left = count;
        let wave = self.wave.current;
        self.gates.extend((0..count).map(|gate| Command::Gate { wave, gate }));
    }

    fn next_wave(&mut self) {
        self.wave.between = false;
        self.wave.current += 1;
        let wave = self.wave.current;
        self.reopen(Constraint::Wave(wave));
        self.events.push_back(Event::Wave { at: self.now, wave });
    }

    fn stop_rollout(&mut self, what: &str) {
        self.wave.between = false;
        self.wave.gates_left = 0;
        self.gates.clear();
        let wave = self.wave.current;
        let later = |id: &TaskId| self.plan.task(*id).wave > wave;
        for task in self.plan.ids().filter(later).collect::<Vec<_>>() {
            self.skip(task, Skip::Wave { wave: wave + 1, what: what.to_owned() });
        }
    }
}
