//! What the master must not forget, and how it asks a store to keep it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, PeerGroup, RunId, SessionId, Tag, Term};
use crate::lease::{Candidate, Lease, Mark, MasterId};
use crate::schedule::LinkModel;
use crate::shared_state::{Agreed, Fault};
use crate::vocabulary::Fingerprint;

/// A member of an epoch, as the others need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its session.
    pub session: SessionId,
    /// Where its peer-to-peer port can be reached.
    pub addr: SocketAddr,
    /// Its site (peers near each other share one); may be empty.
    pub site: String,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    /// Its port refuses connections.
    ProcessGone,
    /// Nothing was heard from it.
    Silent {
        /// For this long, milliseconds.
        for_ms: u64,
    },
    /// It was heard, but did not attach to the master or answer it in time.
    NotAttached {
        /// For this long, milliseconds.
        for_ms: u64,
    },
    /// It left by itself.
    Left,
    /// It connected again as a new session.
    CameBack,
    /// It and another living member could not reach each other.
    BrokenLink {
        /// The other member.
        with: SessionId,
    },
    /// The master does not know the session: its store was lost or replaced.
    Forgotten,
    /// Its shared state, or what it wanted with it, does not fit that of the others.
    SharedState(Fault),
    /// It broke the protocol.
    Misbehaved {
        /// How.
        what: String,
    },
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProcessGone => f.write_str("its process is gone (connection refused)"),
            Self::Silent { for_ms } => write!(f, "nothing was heard from it for {for_ms} ms"),
            Self::NotAttached { for_ms } => write!(f, "it did not answer the master for {for_ms} ms"),
            Self::Left => f.write_str("it left"),
            Self::CameBack => f.write_str("it connected again as a new session"),
            Self::BrokenLink { with } => write!(f, "it and peer {with} cannot reach each other"),
            Self::Forgotten => f.write_str("the master does not know its session (another store?)"),
            Self::SharedState(why) => why.fmt(f),
            Self::Misbehaved { what } => write!(f, "it broke the protocol: {what}"),
        }
    }
}

/// Why an attempt failed for all alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Peers called different ops by the same tag.
    Mismatch {
        /// What each peer called.
        calls: Vec<(SessionId, Fingerprint)>,
    },
    /// A member was lost, and the run's callers retry themselves.
    Cut {
        /// Who was lost, and why.
        lost: Vec<(SessionId, Removal)>,
    },
    /// Members were lost too often.
    TooManyRecoveries {
        /// Retries so far.
        retries: u32,
        /// Who was lost last, and why.
        lost: Vec<(SessionId, Removal)>,
    },
    /// `op_timeout` passed.
    TimedOut {
        /// Members that had not called.
        missing: Vec<SessionId>,
    },
    /// Members cannot take part in it: the world is not the one that it was called in.
    Impossible {
        /// Who, and why.
        by: Vec<(SessionId, String)>,
    },
    /// Every member waited, and no wait could end.
    Deadlock {
        /// Who waited for what, in words.
        waits: Vec<(SessionId, String)>,
    },
}

fn list<T>(f: &mut fmt::Formatter<'_>, items: &[T], one: impl Fn(&T) -> String) -> fmt::Result {
    f.write_str(&items.iter().map(one).collect::<Vec<_>>().join("; "))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch { calls } => {
                f.write_str("peers called different ops by the same tag: ")?;
                list(f, calls, |(s, c)| format!("peer {s} called {c}"))
            }
            Self::Cut { lost } if lost.is_empty() => f.write_str(
                "the epoch changed, and a peer cannot begin again because it keeps no backup of its input",
            ),
            Self::Cut { lost } => {
                f.write_str("a peer was lost: ")?;
                list(f, lost, |(s, why)| format!("peer {s}: {why}"))
            }
            Self::TooManyRecoveries { retries, lost } => {
                write!(f, "peers were lost again after {retries} retries: ")?;
                list(f, lost, |(s, why)| format!("peer {s}: {why}"))
            }
            Self::TimedOut { missing } => {
                f.write_str("op_timeout passed; not called by ")?;
                list(f, missing, |s| format!("peer {s}"))
            }
            Self::Impossible { by } => {
                f.write_str("the world has changed since the call, and the call does not fit it: ")?;
                list(f, by, |(s, why)| format!("peer {s}: {why}"))
            }
            Self::Deadlock { waits } => {
                f.write_str("every peer waits and no wait can end: ")?;
                list(f, waits, |(s, what)| format!("peer {s} waits for {what}"))
            }
        }
    }
}

/// What the master decided on an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The result stands.
    Committed,
    /// Inputs are restored, and the op runs again in the new epoch.
    Retry,
    /// Inputs are restored, and the op returns an error.
    Failed(Failure),
}

/// The verdicts of one epoch change. An attempt that is not listed is to be retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The epoch that ended.
    pub from: Epoch,
    /// Who did not stay, and why.
    pub removed: Vec<(SessionId, Removal)>,
    /// What was decided on its attempts.
    pub verdicts: Vec<(Tag, u32, Verdict)>,
}

impl Change {
    /// The verdict on attempt `n` of `tag`.
    pub fn verdict(&self, tag: Tag, n: u32) -> &Verdict {
        self.verdicts.iter().find(|(t, m, _)| (*t, *m) == (tag, n)).map_or(&Verdict::Retry, |(_, _, v)| v)
    }
}

/// A peer group in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// The newest epoch.
    pub epoch: Epoch,
    /// The newest epoch that newcomers came into.
    pub joined: Epoch,
    /// Its members by age; a member's position is its rank.
    pub members: Vec<MemberRecord>,
    /// Changes that some member has not acknowledged, oldest first, without gaps, the last one leading to `epoch`.
    pub changes: Vec<Change>,
    /// Retries so far of the attempt (epoch, tag, 0).
    pub retries: BTreeMap<Tag, u32>,
    /// What peers compute costs with.
    pub links: LinkModel,
    /// Shared-state revision that the group last agreed on.
    pub revision: u64,
    /// Hash of the shared state of that revision; absent if the group has not agreed on any.
    #[serde(default)]
    pub state_hash: Option<u128>,
}

impl GroupRecord {
    /// What the group last agreed on.
    pub fn agreed(&self) -> Option<Agreed> {
        self.state_hash.map(|content| Agreed { revision: self.revision, content })
    }

    /// The same group, that has agreed on this.
    #[must_use]
    pub fn having_agreed(self, agreed: Option<Agreed>) -> Self {
        let revision = agreed.map_or(0, |a| a.revision);
        Self { revision, state_hash: agreed.map(|a| a.content), ..self }
    }
}

/// A member with what only the master needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// As the others know it.
    pub member: Member,
    /// What it must show to attach.
    pub key: u64,
    /// The epoch it came in.
    pub joined: Epoch,
}

/// Everything the master must not forget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The run; zero until the first master took a term.
    pub run: RunId,
    /// The newest term.
    pub term: Term,
    /// Who leads in it.
    #[serde(default)]
    pub lease: Lease,
    /// The groups that have or had members.
    pub groups: BTreeMap<PeerGroup, GroupRecord>,
}

/// What a master asks of its store. Every answer repeats `id`; what each means is said by [`RunRecord::apply`].
///
/// Any of them may take effect long after its answer was [`StoreReply::Unknown`], or never: all of them are made so that
/// a late one does no harm. A store must carry out each in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// Raise the term by one, give its lease to `candidate` (naming the run `new_run` if it has no name yet) and read the
    /// record.
    TakeTerm {
        /// Names the request.
        id: u64,
        /// The name of a new run.
        new_run: RunId,
        /// The lease that the store must hold, as it was when the candidate judged that it is over; any, if absent.
        replaces: Option<Mark>,
        /// Who takes it.
        candidate: Candidate,
    },
    /// Renew the lease, if `term` is the newest and has not been given back.
    Renew {
        /// Names the request.
        id: u64,
        /// The holder's term.
        term: Term,
    },
    /// Give the lease back, if `term` is the newest.
    Release {
        /// Names the request.
        id: u64,
        /// The holder's term.
        term: Term,
        /// Who shall take it; absent: whoever has been named before, or anybody.
        heir: Option<MasterId>,
    },
    /// Name who shall have the next term, if `term` is the newest: the holder gives way when it renews.
    Claim {
        /// Names the request.
        id: u64,
        /// The term that shall end.
        term: Term,
        /// Who wants to lead.
        heir: MasterId,
    },
    /// Replace one group's record, if `term` is the newest and the stored epoch is `replaces`.
    Write {
        /// Names the request.
        id: u64,
        /// The writer's term.
        term: Term,
        /// Which group.
        group: PeerGroup,
        /// The epoch that the stored record must have.
        replaces: Epoch,
        /// The new record.
        record: Box<GroupRecord>,
    },
    /// Read everything.
    Read {
        /// Names the request.
        id: u64,
    },
}

impl StoreRequest {
    /// Its name.
    pub fn id(&self) -> u64 {
        match self {
            Self::TakeTerm { id, .. }
            | Self::Renew { id, .. }
            | Self::Release { id, .. }
            | Self::Claim { id, .. }
            | Self::Write { id, .. }
            | Self::Read { id } => *id,
        }
    }
}

/// A store's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreReply {
    /// The term was taken; the record contains it.
    Taken {
        /// The request.
        id: u64,
        /// What the store holds.
        record: Box<RunRecord>,
    },
    /// The lease was renewed; as it stands now, with the heir that somebody may have named.
    Renewed {
        /// The request.
        id: u64,
        /// The lease.
        lease: Box<Lease>,
    },
    /// The write, the release or the claim stands.
    Written {
        /// The request.
        id: u64,
    },
    /// The request was refused because of what the store holds, and changed nothing.
    Rejected {
        /// The request.
        id: u64,
    },
    /// The answer to a read.
    Record {
        /// The request.
        id: u64,
        /// What the store holds.
        record: Box<RunRecord>,
        /// The store knows that the process that holds the lease has ended (a lock of the operating system that a
        /// process holds as long as it lives). A connection that is lost or a lease of the store's own that ran out is
        /// not that; if in doubt: false.
        holder_is_gone: bool,
    },
    /// Nobody knows whether the request took effect.
    Unknown {
        /// The request.
        id: u64,
        /// What went wrong.
        why: String,
    },
}

impl RunRecord {
    /// Carries out a request on a record held in memory: the meaning that every store must implement.
    pub fn apply(&mut self, request: &StoreRequest) -> StoreReply {
        match request {
            StoreRequest::TakeTerm { id, new_run, replaces, candidate } => {
                if replaces.is_some_and(|mark| mark != self.lease.mark()) {
                    return StoreReply::Rejected { id: *id };
                }
                if self.run.0 == 0 {
                    self.run = *new_run;
                }
                self.term.0 += 1;
                let Candidate { id: holder, addr, lease_ms } = *candidate;
                self.lease = Lease { term: self.term, holder, addr, lease_ms, ..Lease::default() };
                StoreReply::Taken { id: *id, record: Box::new(self.clone()) }
            }
            StoreRequest::Renew { id, term } => {
                if *term != self.term || self.lease.released {
                    return StoreReply::Rejected { id: *id };
                }
                self.lease.beat += 1;
                StoreReply::Renewed { id: *id, lease: Box::new(self.lease.clone()) }
            }
            StoreRequest::Release { id, term, heir } => {
                if *term != self.term {
                    return StoreReply::Rejected { id: *id };
                }
                self.lease.released = true;
                self.lease.heir = heir.or(self.lease.heir);
                StoreReply::Written { id: *id }
            }
            StoreRequest::Claim { id, term, heir } => {
                if *term != self.term {
                    return StoreReply::Rejected { id: *id };
                }
                self.lease.heir = Some(*heir);
                StoreReply::Written { id: *id }
            }
            StoreRequest::Write { id, term, group, replaces, record } => {
                let stored = self.groups.get(group);
                let epoch = stored.map_or(Epoch::default(), |g| g.epoch);
                // Within an epoch revisions only grow: a write that timed out may still come, after the next ones.
                let agreed = stored.filter(|g| g.epoch == record.epoch).and_then(GroupRecord::agreed);
                let is_late = agreed.is_some_and(|a| record.revision <= a.revision);
                if *term != self.term || epoch != *replaces || is_late {
                    return StoreReply::Rejected { id: *id };
                }
                self.groups.insert(*group, (**record).clone());
                StoreReply::Written { id: *id }
            }
            StoreRequest::Read { id } => {
                StoreReply::Record { id: *id, record: Box::new(self.clone()), holder_is_gone: false }
            }
        }
    }
}
