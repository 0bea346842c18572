//! From what was observed to what is wrong. Pure: no socket, no clock, no file.

mod host;
mod links;
mod master;
mod memory;
mod peers;
mod recoveries;
#[cfg(test)]
mod tests;

use crate::cause::Cause;
use crate::finding::{Diagnosis, Finding, Level, Unmeasured};
use crate::observed::Observations;
use crate::symptom::Symptom;

/// What is wrong, and with `symptom` only what explains it.
pub fn diagnose(seen: &Observations, symptom: Option<Symptom>) -> Diagnosis {
    let mut said = Said { unmeasured: seen.unmeasured.clone(), ..Said::default() };
    master::masters(seen, &mut said);
    peers::peers(seen, &mut said);
    recoveries::recoveries(seen, &mut said);
    links::links(seen, &mut said);
    host::host(seen, &mut said);
    memory::memory(seen, &mut said);
    Diagnosis::new(symptom, said.findings, said.healthy, said.unmeasured)
}

/// What has been said so far.
#[derive(Default)]
struct Said {
    findings: Vec<Finding>,
    healthy: Vec<String>,
    unmeasured: Vec<Unmeasured>,
}

/// Figure, meaning and fix of a finding.
struct Words {
    measured: String,
    means: String,
    fix: String,
}

impl Said {
    fn find(&mut self, level: Level, cause: Cause, place: impl Into<String>, words: Words) {
        let Words { measured, means, fix } = words;
        self.findings.push(Finding { level, cause, place: place.into(), measured, means, fix });
    }

    fn healthy(&mut self, what: impl Into<String>) {
        self.healthy.push(what.into());
    }

    fn unmeasured(&mut self, what: impl Into<String>, why: impl Into<String>, symptoms: &'static [Symptom]) {
        self.unmeasured.push(Unmeasured::new(what, why, symptoms));
    }
}

/// The one in the middle; of an even number the lower of the two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut all: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len().checked_sub(1)? / 2).copied()
}

/// Bytes for people.
fn bytes(value: f64) -> String {
    let units = [(1_f64, "bytes"), (1024.0, "KiB"), (1_048_576.0, "MiB"), (1_073_741_824.0, "GiB")];
    let (size, unit) = units.into_iter().rev().find(|(size, _)| value >= *size).unwrap_or(units[0]);
    let digits = usize::from(size > 1.0);
    format!("{:.digits$} {unit}", value / size)
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds.abs() {
        s if s < 1.0 => format!("{:.1} ms", seconds * 1e3),
        s if s < 120.0 => format!("{seconds:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", seconds / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
