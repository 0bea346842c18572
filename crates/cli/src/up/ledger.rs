//! What every worker said of every round, and what follows from it. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::worker::RoundReport;
use pccl_launch::Id;

/// All rounds so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    rounds: BTreeMap<u64, BTreeMap<Id, RoundReport>>,
}

/// A round as the fleet saw it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RoundSummary {
    /// The round, from 1.
    pub(super) round: u64,
    /// Peers that took part.
    pub(super) world_size: u32,
    /// Epoch in which it was committed.
    pub(super) epoch: u64,
    /// Time of the slowest worker.
    pub(super) seconds: f64,
    /// 10⁹ bytes averaged per second of that time.
    pub(super) gbs: f64,
    /// Attempts that were cut before it.
    pub(super) recoveries: u32,
    /// Time of the slowest worker for the synchronization after it.
    pub(super) sync_seconds: f64,
    /// Tensors that a synchronization had to change; none, unless workers diverged.
    pub(super) repaired: usize,
    /// Workers that have reported it.
    pub(super) reports: usize,
    /// Whether all that have reported have the same model, and saw the same world.
    pub(super) identical: bool,
    /// 128 bits of the model.
    pub(super) hash: String,
}

impl Ledger {
    /// Notes a report. Returns an older one of the same worker for the same round, which should not be.
    pub(super) fn note(&mut self, worker: Id, report: RoundReport) -> Option<RoundReport> {
        self.rounds.entry(report.round).or_default().insert(worker, report)
    }

    /// Whether `worker` has reported `round`.
    pub(super) fn has(&self, round: u64, worker: Id) -> bool {
        self.rounds.get(&round).is_some_and(|reports| reports.contains_key(&worker))
    }

    /// The newest round that anybody has reported; zero before the first.
    pub(super) fn newest(&self) -> u64 {
        self.rounds.keys().next_back().copied().unwrap_or(0)
    }

    /// A round, if anybody has reported it.
    pub(super) fn summary(&self, round: u64) -> Option<RoundSummary> {
        let reports = self.rounds.get(&round)?;
        let first = reports.values().next()?;
        let slowest = reports.values().max_by(|a, b| a.seconds.total_cmp(&b.seconds))?;
        let same = |report: &RoundReport| {
            (&report.hash, report.world_size, report.epoch) == (&first.hash, first.world_size, first.epoch)
        };
        Some(RoundSummary {
            round,
            world_size: first.world_size,
            epoch: first.epoch,
            seconds: slowest.seconds,
            gbs: slowest.gbs,
            recoveries: reports.values().map(|report| report.recoveries).max().unwrap_or(0),
            sync_seconds: reports.values().map(|report| report.sync_seconds).fold(0.0, f64::max),
            repaired: reports.values().map(|report| report.repaired).sum(),
            reports: reports.len(),
            identical: reports.values().all(|report| same(report) && report.repaired == 0),
            hash: first.hash.clone(),
        })
    }

    /// All rounds, in order.
    pub(super) fn summaries(&self) -> Vec<RoundSummary> {
        self.rounds.keys().filter_map(|round| self.summary(*round)).collect()
    }

    /// The usual time of a round that nothing disturbed.
    pub(super) fn typical_seconds(&self) -> Option<f64> {
        let calm = self.summaries().into_iter().filter(|round| round.recoveries == 0);
        let mut times: Vec<f64> = calm.map(|round| round.seconds).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(round: u64, hash: &str, seconds: f64) -> RoundReport {
        RoundReport {
            round,
            epoch: 3,
            world_size: 2,
            seconds,
            gbs: 1.0 / seconds,
            recoveries: 0,
            sync_seconds: 0.1,
            repaired: 0,
            hash: hash.to_owned(),
        }
    }

    #[test]
    fn a_round_is_as_slow_as_its_slowest_worker() {
        let mut ledger = Ledger::default();
        ledger.note(0, report(1, "aa", 0.5));
        ledger.note(1, report(1, "aa", 2.0));
        let summary = ledger.summary(1).unwrap();
        assert_eq!((summary.seconds, summary.gbs, summary.reports), (2.0, 0.5, 2));
        assert!(summary.identical);
        assert_eq!(ledger.summary(2), None);
    }

    #[test]
    fn one_bit_less_in_common_is_seen() {
        let mut ledger = Ledger::default();
        ledger.note(0, report(1, "aa", 0.5));
        ledger.note(1, report(1, "ab", 0.5));
        ledger.note(0, report(2, "cc", 0.5));
        ledger.note(0, RoundReport { repaired: 1, ..report(3, "dd", 0.5) });
        assert!(!ledger.summary(1).unwrap().identical);
        assert!(ledger.summary(2).unwrap().identical);
        assert!(!ledger.summary(3).unwrap().identical);
        assert_eq!(ledger.newest(), 3);
    }

    #[test]
    fn the_typical_round_is_one_without_recoveries() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.typical_seconds(), None);
        ledger.note(0, report(1, "a", 0.1));
        ledger.note(0, report(2, "b", 0.3));
        ledger.note(0, report(3, "c", 0.2));
        ledger.note(0, RoundReport { recoveries: 1, ..report(4, "d", 9.0) });
        assert_eq!(ledger.typical_seconds(), Some(0.2));
    }
}
