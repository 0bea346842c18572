//! Which of several masters is the active one: a lease with a term, kept in their store.
//!
//! A master begins as a *standby*: it reads the store now and then, and follows what stands there. It takes the next term
//! ([`StoreRequest::TakeTerm`](crate::record::StoreRequest::TakeTerm)) when the lease of the newest one is over: when it
//! was given back, when the store knows that its holder is gone, or when it has seen the same [`Mark`] for as long as the
//! lease lasts *by its own clock*. No clock of another machine plays a part.
//!
//! The active master renews its lease every third of it. It counts the lease from the moment at which it *asked* for the
//! last renewal that the store has confirmed, and stops deciding a little before that time is over. Whoever waits for its
//! end has seen that renewal later, so the two never decide at the same time, as long as both clocks run at the same
//! speed. If they do not (a machine that was suspended), the term still fences: every write names the writer's term, and
//! the store refuses those of older ones.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::Term;

/// Names a life of a master process: random, a new one at every start. Zero: nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MasterId(pub u64);

impl fmt::Display for MasterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who leads in the newest term, as the store keeps it beside that term.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The term that it belongs to; the same as the record's, zero before the first.
    pub term: Term,
    /// Who holds it.
    pub holder: MasterId,
    /// Where peers and operators reach the holder, if it says so.
    pub addr: Option<SocketAddr>,
    /// How long it lasts after its last renewal, milliseconds, as its holder has said.
    pub lease_ms: u32,
    /// Renewals so far.
    pub beat: u64,
    /// Its holder has given it back, or will not renew it: whoever may, takes the next term at once.
    pub released: bool,
    /// Who shall have the next term: asked for by its holder or by whoever wants to lead. While the lease lasts the
    /// holder gives it back as soon as it sees this; for one lease's time after that nobody else takes the term.
    pub heir: Option<MasterId>,
}

/// What changes with every renewal and with every term.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// The term.
    pub term: Term,
    /// Renewals in it.
    pub beat: u64,
    /// Whether it has been given back.
    pub released: bool,
}

impl Lease {
    /// What changes with every renewal, every term, and when the lease is given back.
    pub fn mark(&self) -> Mark {
        Mark { term: self.term, beat: self.beat, released: self.released }
    }

    /// How long it lasts after its last renewal.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(u64::from(self.lease_ms))
    }
}

/// What a master says of itself when it takes a term.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Who.
    pub id: MasterId,
    /// Where peers and operators reach it, if it knows.
    pub addr: Option<SocketAddr>,
    /// How long its lease lasts, milliseconds.
    pub lease_ms: u32,
}
