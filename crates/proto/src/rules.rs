//! What the simulator may change: limits, so that small tensors meet them, and rules, so that it proves to miss them.
//!
//! Everybody else has the default, and cannot have anything else: the feature `sim` is for the simulator alone.

use crate::execute::Cut;

/// A rule of the protocol whose absence the simulator must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A master judges only members that attached to it in its own term.
    JudgeTheAttached,
    /// A peer goes back to no lower term, and a master that hears of a higher one is over.
    HighestTerm,
    /// *Failed* binds members that have not started the attempt.
    FailureBinds,
    /// Promises and heard verdicts are repeated on every attach.
    RepeatPromises,
    /// A write compares the epoch that it replaces, and one of unknown outcome is resolved by reading.
    ResolveDoubt,
    /// Nobody hears of a decision before the store has it.
    WriteBeforeTelling,
    /// An attempt's name has a number.
    NumberAttempts,
    /// Who settles never attaches or reports with its session again.
    SettlingEndsSession,
    /// A member that cannot be asked has not agreed.
    SilenceIsNoConsent,
    /// A master without a lease says so, and counts as none.
    SayWithoutLease,
    /// Newcomers may form the next epoch once no member has been heard for `master_timeout`.
    FollowTheGone,
    /// Who has reported at the end of an epoch starts nothing before it knows whether that epoch has ended, whichever
    /// master says so.
    WaitForTheNext,
    /// A master whose lease is over decides nothing until the store has renewed it.
    LeaseEnds,
    /// The store refuses what a master of an older term writes.
    TermFences,
}

impl Rule {
    /// Every one that random schedules miss soon.
    pub const ALL: &[Self] = &[
        Self::JudgeTheAttached,
        Self::HighestTerm,
        Self::FailureBinds,
        Self::RepeatPromises,
        Self::ResolveDoubt,
        Self::WriteBeforeTelling,
        Self::NumberAttempts,
        Self::SettlingEndsSession,
        Self::SilenceIsNoConsent,
        Self::SayWithoutLease,
        Self::FollowTheGone,
        Self::LeaseEnds,
        Self::TermFences,
    ];

    /// Those that show in so few schedules that only a story tells of them.
    pub const TOLD: &[Self] = &[Self::WaitForTheNext];
}

/// Limits and rules of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    eager_bytes: u64,
    piece_bytes: u64,
    most_tags: usize,
    #[cfg(feature = "sim")]
    broken: Option<Rule>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            eager_bytes: 64 << 10,
            piece_bytes: crate::wire::MAX_DATA_BYTES as u64,
            most_tags: 1 << 18,
            #[cfg(feature = "sim")]
            broken: None,
        }
    }
}

impl Rules {
    /// Tensor bytes that may be sent on a link for attempts that the receiver has not started.
    pub(crate) fn eager_bytes(&self) -> u64 {
        self.eager_bytes
    }

    /// Tags that a peer counts attempts of in one epoch, before it asks for another.
    pub(crate) fn most_tags(&self) -> usize {
        self.most_tags
    }

    /// Smaller pieces, if they shall be.
    pub(crate) fn limit(&self, cut: Cut, unit_bytes: u64) -> Cut {
        let units = (self.piece_bytes / unit_bytes).max(1);
        Cut { piece_units: cut.piece_units.min(units), ..cut }
    }

    /// Whether a rule is in force.
    #[cfg(not(feature = "sim"))]
    #[expect(clippy::unused_self, reason = "the simulator's twin has something to say")]
    pub(crate) fn hold(&self, _rule: Rule) -> bool {
        true
    }

    /// Whether a rule is in force.
    #[cfg(feature = "sim")]
    pub(crate) fn hold(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    /// Other limits, and a rule that shall not be in force.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn simulated(eager_bytes: u64, piece_bytes: u64, most_tags: usize, broken: Option<Rule>) -> Self {
        Self { eager_bytes, piece_bytes, most_tags, broken }
    }
}
