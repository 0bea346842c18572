//! What is said: findings, what could not be measured, and the verdict.

use std::fmt;

use serde::Serialize;

use crate::cause::Cause;
use crate::symptom::Symptom;

/// How bad something is. The worst is the largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is wrong, as far as it was measured.
    #[default]
    Good,
    /// It works, and could be better.
    Low,
    /// It does not work, or will soon not.
    Bad,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Low => "warning",
            Self::Bad => "FAULT",
        })
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// Why.
    pub cause: Cause,
    /// Where: an address, a peer, this host.
    pub place: String,
    /// What was measured: figure and unit.
    pub measured: String,
    /// What that means, against which limit.
    pub means: String,
    /// What to do: a command, or a key to set.
    pub fix: String,
}

/// Something that could not be measured: it may be healthy or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unmeasured {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
    /// What it could have explained; empty: everything.
    #[serde(skip)]
    pub symptoms: &'static [Symptom],
}

impl Unmeasured {
    /// One of them.
    pub fn new(what: impl Into<String>, why: impl Into<String>, symptoms: &'static [Symptom]) -> Self {
        Self { what: what.into(), why: why.into(), symptoms }
    }
}

/// All that is said.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diagnosis {
    /// The symptom that was asked about; none: all of them.
    pub symptom: Option<Symptom>,
    /// The worst of the findings.
    pub verdict: Level,
    /// What is wrong, the most likely cause first.
    pub findings: Vec<Finding>,
    /// What was measured and is as it should be.
    pub healthy: Vec<String>,
    /// What could not be measured.
    pub unmeasured: Vec<Unmeasured>,
}

impl Diagnosis {
    /// Sorts what was found, keeps what has to do with the symptom, and judges.
    pub(crate) fn new(
        symptom: Option<Symptom>,
        mut findings: Vec<Finding>,
        healthy: Vec<String>,
        mut unmeasured: Vec<Unmeasured>,
    ) -> Self {
        if let Some(symptom) = symptom {
            findings.retain(|finding| finding.cause.symptoms().contains(&symptom));
            unmeasured.retain(|one| one.symptoms.is_empty() || one.symptoms.contains(&symptom));
        }
        findings.sort_by(|a, b| {
            b.level.cmp(&a.level).then(a.cause.cmp(&b.cause)).then_with(|| a.place.cmp(&b.place))
        });
        findings.dedup();
        unmeasured.sort();
        unmeasured.dedup();
        let verdict = findings.iter().map(|finding| finding.level).max().unwrap_or_default();
        Self { symptom, verdict, findings, healthy, unmeasured }
    }

    /// For a person.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (number, finding) in self.findings.iter().enumerate() {
            lines.push(format!("{}. {}: {}", number + 1, finding.level, finding.cause));
            let parts = [
                ("where", &finding.place),
                ("measured", &finding.measured),
                ("means", &finding.means),
                ("fix", &finding.fix),
            ];
            lines.extend(parts.iter().map(|(name, text)| format!("   {:<10}{text}", format!("{name}:"))));
            lines.push(String::new());
        }
        if !self.healthy.is_empty() {
            lines.push("measured, and as it should be:".to_owned());
            lines.extend(self.healthy.iter().map(|line| format!("  {line}")));
            lines.push(String::new());
        }
        if !self.unmeasured.is_empty() {
            lines.push("not measured, so nothing is known of it:".to_owned());
            lines.extend(self.unmeasured.iter().map(|one| format!("  {}: {}", one.what, one.why)));
            lines.push(String::new());
        }
        lines.push(self.conclusion());
        lines
    }

    fn conclusion(&self) -> String {
        let about = self.symptom.map_or_else(String::new, |symptom| format!(" that explains {symptom}"));
        let count = |level: Level| self.findings.iter().filter(|finding| finding.level == level).count();
        let unknown = match self.unmeasured.len() {
            0 => String::new(),
            n => format!("; {n} things could not be measured"),
        };
        match self.verdict {
            Level::Good => format!("nothing was found{about}{unknown}"),
            _ => format!("{} faults, {} warnings{about}{unknown}", count(Level::Bad), count(Level::Low)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(level: Level, cause: Cause) -> Finding {
        let text = || String::from("x");
        Finding { level, cause, place: text(), measured: text(), means: text(), fix: text() }
    }

    #[test]
    fn the_worst_comes_first_and_other_symptoms_are_left_out() {
        let all = vec![
            finding(Level::Low, Cause::SlowLink),
            finding(Level::Bad, Cause::LittleBandwidth),
            finding(Level::Bad, Cause::MemoryLimit),
        ];
        let memory = Unmeasured::new("memory", "no", &[Symptom::OutOfMemory]);
        let diagnosis =
            Diagnosis::new(Some(Symptom::LowThroughput), all.clone(), Vec::new(), vec![memory.clone()]);
        let causes: Vec<Cause> = diagnosis.findings.iter().map(|finding| finding.cause).collect();
        assert_eq!(causes, [Cause::LittleBandwidth, Cause::SlowLink]);
        assert_eq!((diagnosis.verdict, diagnosis.unmeasured.len()), (Level::Bad, 0));
        let all = Diagnosis::new(None, all, Vec::new(), vec![memory]);
        assert_eq!((all.findings.len(), all.unmeasured.len()), (3, 1));
        assert_eq!(all.lines().last().unwrap(), "2 faults, 1 warnings; 1 things could not be measured");
    }

    #[test]
    fn what_is_not_measured_is_not_healthy() {
        let one = Unmeasured::new("everything", "nobody answers", &[]);
        let diagnosis = Diagnosis::new(Some(Symptom::HighLatency), Vec::new(), Vec::new(), vec![one]);
        let said = diagnosis.lines().join("\n");
        assert!(
            said.contains("not measured, so nothing is known of it:\n  everything: nobody answers"),
            "{said}"
        );
        assert!(
            said.ends_with("nothing was found that explains high-latency; 1 things could not be measured")
        );
    }
}
