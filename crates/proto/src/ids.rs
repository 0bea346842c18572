//! Names and units: every number that crosses the wire has a type of its own.

use std::fmt;
use std::time::Duration;

pub use pccl_collective::seeded::Seeded;
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Leadership version of the master, the fencing token. Zero: no master has been heard yet.
    Term(u64)
);
number!(
    /// Membership version of a peer group. Zero: the group has never had members.
    Epoch(u64)
);
number!(
    /// The peers that reduce together.
    PeerGroup(u32)
);
number!(
    /// Names a collective op among those running at the same time; used again and again.
    Tag(u64)
);
number!(
    /// One life of a group of peers under one store.
    RunId(u128)
);
number!(
    /// A connection, named by the state machine (dialed) or on its behalf (accepted).
    ConnId(u64)
);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One life of a peer under a master: given at registration, ended by death, leave or expulsion, never used again.
///
/// The upper half is the term of the master that gave it, so that two masters never give the same one.
/// Sessions are ordered by age, and a peer's rank is its session's position in its epoch's member list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

impl SessionId {
    /// The session numbered `counter` of those that the master of `term` gives.
    pub fn new(term: Term, counter: u32) -> Self {
        Self((term.0 << 32) | u64::from(counter))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// One try of an op in one epoch. The group is that of the two ends of the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptName {
    /// The epoch in which the attempt runs.
    pub epoch: Epoch,
    /// The op's tag.
    pub tag: Tag,
    /// Attempts of this tag that the peer had started in this epoch before.
    pub n: u32,
}

impl fmt::Display for AttemptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tag {} (epoch {}, attempt {})", self.tag, self.epoch, self.n)
    }
}

/// A point on the caller's monotonic clock, in microseconds since an origin of the caller's choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Time since `earlier`; zero if that lies in the future.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}
