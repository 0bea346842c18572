//! What somebody notices.

use std::fmt;

use serde::Serialize;

/// What somebody notices of a fleet that is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Symptom {
    /// A peer does not come into the run.
    CantConnect,
    /// Peers are lost again and again.
    FrequentRecoveries,
    /// Ops move fewer bytes in a second than they should.
    LowThroughput,
    /// Ops take longer than they should.
    HighLatency,
    /// Processes are ended for want of memory, or nearly.
    OutOfMemory,
    /// No master answers.
    MasterUnreachable,
}

impl Symptom {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::CantConnect,
        Self::FrequentRecoveries,
        Self::LowThroughput,
        Self::HighLatency,
        Self::OutOfMemory,
        Self::MasterUnreachable,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::CantConnect => "cant-connect",
            Self::FrequentRecoveries => "frequent-recoveries",
            Self::LowThroughput => "low-throughput",
            Self::HighLatency => "high-latency",
            Self::OutOfMemory => "out-of-memory",
            Self::MasterUnreachable => "master-unreachable",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|symptom| symptom.name() == name)
    }
}

impl fmt::Display for Symptom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_json_has_the_same() {
        for symptom in Symptom::ALL {
            assert_eq!(Symptom::from_name(symptom.name()), Some(symptom));
            assert_eq!(serde_json::to_value(symptom).unwrap(), symptom.name());
        }
        assert_eq!(Symptom::from_name("tired"), None);
    }
}
