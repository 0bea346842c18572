//! What one needs to find a slow or hung peer: links as they are, and what the calls of this peer have waited for.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Op, Peer, Phase};
use crate::execute::{Kernels, OpMemory};
use crate::ids::{ConnId, SessionId, Term, Time};

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitReason {
    /// Another member has not called the op.
    PeerNotStarted,
    /// The connection to another member is down.
    LinkDown,
    /// Data of members that have called the op.
    Data,
    /// The result is complete here, and the master has not said *committed*.
    Verdict,
    /// The epoch changes.
    EpochChange,
    /// No master answers.
    Master,
    /// The others in a vote or a synchronization.
    Vote,
    /// The members, to be let in.
    Admission,
}

impl WaitReason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::PeerNotStarted,
        Self::LinkDown,
        Self::Data,
        Self::Verdict,
        Self::EpochChange,
        Self::Master,
        Self::Vote,
        Self::Admission,
    ];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerNotStarted => "peer_not_started",
            Self::LinkDown => "link_down",
            Self::Data => "data",
            Self::Verdict => "verdict",
            Self::EpochChange => "epoch_change",
            Self::Master => "master",
            Self::Vote => "vote",
            Self::Admission => "admission",
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerNotStarted => "a member that has not called the op",
            Self::LinkDown => "a connection that is down",
            Self::Data => "data of other members",
            Self::Verdict => "the verdict: another member is not done",
            Self::EpochChange => "the epoch change",
            Self::Master => "a master",
            Self::Vote => "the others' calls",
            Self::Admission => "the members to let newcomers in",
        })
    }
}

/// Time that calls have waited, by reason. Looked at once a heartbeat interval: a share of the time, not a measurement
/// of each op.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Waits([Duration; WaitReason::ALL.len()]);

/// A link to another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInsight {
    /// The member's session.
    pub session: SessionId,
    /// Its address.
    pub addr: SocketAddr,
    /// Its site.
    pub site: String,
    /// Whether all its connections stand.
    pub up: bool,
    /// Those that do.
    pub conns: Vec<ConnId>,
    /// The smallest round trip that was measured, microseconds.
    pub rtt_us: Option<u32>,
    /// Frames that wait to be sent, also for want of credit.
    pub queued_frames: u64,
    /// The member has not called an op that this peer has frames for.
    pub no_credit: bool,
    /// Bytes held for ops that our caller has not started.
    pub held_bytes: u64,
    /// The oldest op waits for this member's data.
    pub awaited: bool,
}

/// Where a peer stands.
#[derive(Debug, Clone)]
pub struct Insight {
    /// What its caller waits for, if anything.
    pub waits_for: Option<WaitReason>,
    /// Time waited so far, by reason.
    pub waited: Vec<(WaitReason, Duration)>,
    /// Age of the oldest op in flight.
    pub oldest_op: Option<Duration>,
    /// Since a master was heard.
    pub master_heard: Duration,
    /// Attached to a master.
    pub attached: bool,
    /// The revision of the shared state that the group last agreed on.
    pub revision: u64,
    /// The links by session.
    pub links: Vec<LinkInsight>,
}

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// Where this peer stands, for metrics and for people.
    pub fn insight(&self, now: Time) -> Insight {
        let oldest = self.oldest_op();
        let waited = WaitReason::ALL.into_iter().zip(self.waits.0);
        Insight {
            waits_for: self.wait_reason(),
            waited: waited.collect(),
            oldest_op: oldest.map(|op| now.since(op.called)),
            master_heard: now.since(self.master_heard()),
            attached: self.control.is_attached(),
            revision: self.agreed.as_ref().map_or(0, |a| a.revision),
            links: self.link_insights(oldest),
        }
    }

    fn link_insights(&self, oldest: Option<&Op<M>>) -> Vec<LinkInsight> {
        let awaited = oldest.and_then(|op| op.attempt.as_ref()).map(|a| a.execution.awaited());
        let is_awaited = |session| {
            let rank = self.rank_of(session);
            awaited.as_ref().zip(rank).is_some_and(|(all, rank)| all.contains(&rank))
        };
        let insight = |(session, link): (&SessionId, &super::links::Link)| LinkInsight {
            session: *session,
            addr: link.member.addr,
            site: link.member.site.clone(),
            up: link.is_up(),
            conns: link.stripes.iter().filter_map(|s| s.conn).collect(),
            rtt_us: link.rtt_us,
            queued_frames: link.stripes.iter().map(|s| s.queue.len() as u64).sum::<u64>()
                + link.blocked.len() as u64,
            no_credit: !link.blocked.is_empty(),
            held_bytes: link.held_bytes as u64,
            awaited: is_awaited(*session),
        };
        self.links.table.iter().map(insight).collect()
    }

    fn oldest_op(&self) -> Option<&Op<M>> {
        self.ops.values().min_by_key(|op| op.called)
    }

    /// What the caller waits for. Of several ops, the oldest one speaks.
    fn wait_reason(&self) -> Option<WaitReason> {
        match self.phase {
            Phase::Connecting | Phase::Settling => return Some(WaitReason::Master),
            Phase::Registered => return Some(WaitReason::Admission),
            Phase::Leaving | Phase::Ended(_) => return None,
            Phase::Member => {}
        }
        let Some(op) = self.oldest_op() else {
            let called = self.vote.is_some() || self.sync.is_some();
            return called.then_some(if self.control.is_attached() {
                WaitReason::Vote
            } else {
                WaitReason::Master
            });
        };
        let needs_master = op.attempt.as_ref().is_none_or(|a| a.done);
        if needs_master && !self.control.is_attached() {
            return Some(WaitReason::Master);
        }
        let Some(attempt) = &op.attempt else { return Some(WaitReason::EpochChange) };
        if attempt.done {
            return Some(WaitReason::Verdict);
        }
        let blocks = |o: &super::links::Outgoing| o.name == attempt.name;
        if self.links.table.values().any(|l| l.blocked.iter().any(blocks)) {
            return Some(WaitReason::PeerNotStarted);
        }
        let members = self.view.as_ref().map_or(&[][..], |v| &v.members);
        let is_down = |rank: u32| {
            let link = members.get(rank as usize).and_then(|m| self.links.table.get(&m.session));
            link.is_some_and(|l| !l.is_up())
        };
        let down = attempt.execution.awaited().into_iter().any(is_down);
        Some(if down { WaitReason::LinkDown } else { WaitReason::Data })
    }

    /// Every heartbeat interval: `passed` goes to what the caller waits for now.
    pub(super) fn account_wait(&mut self, passed: Duration) {
        if let Some(reason) = self.wait_reason()
            && let Some(sum) = self.waits.0.get_mut(reason as usize)
        {
            *sum += passed;
        }
    }

    /// The highest term that it has heard of.
    pub fn term(&self) -> Term {
        self.term
    }
}
