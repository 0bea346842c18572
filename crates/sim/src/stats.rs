//! Figures of runs.

use std::collections::BTreeMap;
use std::fmt;

/// What happened in one run, or in many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Schedules.
    pub runs: u64,
    /// Events handled.
    pub events: u64,
    /// Virtual time, microseconds.
    pub virtual_us: u64,
    /// Epochs begun.
    pub epochs: u64,
    /// Terms taken.
    pub terms: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Ops by outcome.
    pub ops: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// One more fault.
    pub fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// One more op.
    pub fn op(&mut self, outcome: &'static str) {
        *self.ops.entry(outcome).or_default() += 1;
    }

    /// Adds the figures of another run.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.events += other.events;
        self.virtual_us += other.virtual_us;
        self.epochs += other.epochs;
        self.terms += other.terms;
        for (kind, n) in &other.faults {
            *self.faults.entry(kind).or_default() += n;
        }
        for (kind, n) in &other.ops {
            *self.ops.entry(kind).or_default() += n;
        }
    }
}

fn list(all: &BTreeMap<&'static str, u64>) -> String {
    all.iter().map(|(kind, n)| format!("{kind} {n}")).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.virtual_us / 1_000_000;
        writeln!(f, "schedules     {}, {} events, {seconds} s of virtual time", self.runs, self.events)?;
        writeln!(f, "faults        {}", list(&self.faults))?;
        writeln!(f, "ops           {}", list(&self.ops))?;
        write!(f, "epochs        {} in {} terms", self.epochs, self.terms)
    }
}
