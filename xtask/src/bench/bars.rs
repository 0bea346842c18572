//! The bars: how fast we must be, as ratios to the anchors of the same run.

use serde::Serialize;

use super::systems::System;

/// `ours / against` must stay at or below `limit` for sizes from `least` to `most` bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bar {
    /// The anchor.
    pub(super) against: System,
    /// Smallest size the bar holds for.
    pub(super) least: u64,
    /// Largest size the bar holds for.
    pub(super) most: u64,
    /// The bar.
    pub(super) limit: f64,
    /// Where we want to be beyond it.
    pub(super) goal: Option<f64>,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// All bars.
pub(super) const BARS: [Bar; 4] = [
    Bar { against: System::MpiTcp, least: 0, most: 64 * KIB, limit: 2.0, goal: None },
    Bar { against: System::MpiTcp, least: MIB, most: MIB, limit: 1.0, goal: None },
    Bar { against: System::GlooRing, least: 16 * MIB, most: 256 * MIB, limit: 0.75, goal: Some(0.65) },
    Bar { against: System::Libpccl, least: 16 * MIB, most: 256 * MIB, limit: 0.5, goal: None },
];

/// How one cell did against one bar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Verdict {
    /// World size of the cell.
    pub(super) peers: u32,
    /// Buffer size of the cell.
    pub(super) bytes: u64,
    /// The anchor.
    pub(super) against: System,
    /// The bar.
    pub(super) limit: f64,
    /// The goal beyond the bar.
    pub(super) goal: Option<f64>,
    /// `ours / against`.
    pub(super) ratio: f64,
    /// At or below the bar.
    pub(super) pass: bool,
    /// At or below the goal; where there is no goal, the bar.
    pub(super) goal_met: bool,
}

/// The verdicts of one cell. `median_s` knows the times; an anchor that was not measured has no bar.
pub(super) fn judge(peers: u32, bytes: u64, median_s: impl Fn(System) -> Option<f64>) -> Vec<Verdict> {
    let Some(ours) = median_s(System::Ours) else {
        return Vec::new();
    };
    BARS.iter()
        .filter(|bar| (bar.least..=bar.most).contains(&bytes))
        .filter_map(|bar| {
            let ratio = ours / median_s(bar.against)?;
            Some(Verdict {
                peers,
                bytes,
                against: bar.against,
                limit: bar.limit,
                goal: bar.goal,
                ratio,
                pass: ratio <= bar.limit,
                goal_met: ratio <= bar.goal.unwrap_or(bar.limit),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(bytes: u64, ours: f64, theirs: f64) -> Vec<Verdict> {
        judge(4, bytes, |system| Some(if system == System::Ours { ours } else { theirs }))
    }

    #[test]
    fn small_sizes_may_take_twice_as_long_as_open_mpi() {
        for bytes in [4 * KIB, 64 * KIB] {
            let verdicts = judged(bytes, 2.0, 1.0);
            assert_eq!(verdicts.len(), 1);
            assert_eq!((verdicts[0].against, verdicts[0].pass), (System::MpiTcp, true));
            assert!(!judged(bytes, 2.01, 1.0)[0].pass);
        }
    }

    #[test]
    fn a_mebibyte_must_not_be_slower_than_open_mpi() {
        assert!(judged(MIB, 1.0, 1.0)[0].pass);
        assert!(!judged(MIB, 1.001, 1.0)[0].pass);
    }

    #[test]
    fn between_the_bars_there_is_none() {
        for bytes in [64 * KIB + 4, 4 * MIB, 512 * MIB] {
            assert_eq!(judged(bytes, 9.0, 1.0), []);
        }
    }

    #[test]
    fn large_sizes_have_a_bar_and_a_goal_against_gloo_and_a_bar_against_pccl() {
        for bytes in [16 * MIB, 64 * MIB, 256 * MIB] {
            let verdicts = judged(bytes, 0.7, 1.0);
            assert_eq!(verdicts.len(), 2);
            assert_eq!(
                (verdicts[0].against, verdicts[0].pass, verdicts[0].goal_met),
                (System::GlooRing, true, false)
            );
            assert_eq!((verdicts[1].against, verdicts[1].pass), (System::Libpccl, false));
            let verdicts = judged(bytes, 0.5, 1.0);
            assert!(verdicts.iter().all(|v| v.pass && v.goal_met));
        }
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge(2, 16 * MIB, |system| (system == System::GlooRing).then_some(1.0)), []);
        let verdicts = judge(2, 16 * MIB, |system| (system != System::Libpccl).then_some(1.0));
        assert_eq!(verdicts.len(), 1);
        assert!((verdicts[0].ratio - 1.0).abs() < 1e-12);
    }
}
