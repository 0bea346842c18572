//! Names and units: every number that crosses the wire has a type of its own.

use std::fmt;
use std::time::Duration;

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

/// A stream of numbers from a seed, for jitter and session keys: the pure core has no entropy of its own.
/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// A stream that starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound` (which must not be zero).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}
