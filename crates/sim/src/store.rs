//! The masters' store: slow, and not always sure.

use std::collections::BTreeMap;

use pccl_proto::ids::{Epoch, PeerGroup, SessionId};
use pccl_proto::record::{GroupRecord, RunRecord, StoreReply, StoreRequest};

/// The record, and every epoch that was ever written.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) record: RunRecord,
    /// Members of every epoch, by rank.
    pub(crate) epochs: BTreeMap<(PeerGroup, Epoch), Vec<SessionId>>,
    /// While set, requests are not answered in time.
    pub(crate) troubled: bool,
    /// While set, no request takes effect, and none is answered in time.
    pub(crate) silent: bool,
    /// While set, requests are answered as if nobody knew, and take effect this much later, microseconds.
    pub(crate) late_us: Option<u64>,
    /// It takes what masters of older terms write: the rule against that is not in force.
    pub(crate) unfenced: bool,
}

/// An epoch that a write has begun.
pub(crate) struct Begun {
    pub(crate) group: PeerGroup,
    pub(crate) epoch: Epoch,
    pub(crate) joined: bool,
    /// The members of the epoch before that stay.
    pub(crate) before: Vec<SessionId>,
}

impl Store {
    /// Carries out a request; says which epoch it began, or what rule it broke.
    pub(crate) fn apply(&mut self, request: &StoreRequest) -> (StoreReply, Result<Option<Begun>, String>) {
        let StoreRequest::Write { group, .. } = request else {
            return (self.record.apply(request), Ok(None));
        };
        let old = self.record.groups.get(group).cloned().unwrap_or_default();
        let mut request = request.clone();
        if let StoreRequest::Write { term, .. } = &mut request
            && self.unfenced
        {
            *term = self.record.term;
        }
        let reply = self.record.apply(&request);
        let StoreReply::Written { .. } = reply else { return (reply, Ok(None)) };
        let begun = self.revised(&old, *group).and_then(|()| self.begun(&old, *group));
        (reply, begun)
    }

    /// Revisions go up by one, once there is one, and are forgotten only with the last member.
    fn revised(&self, before: &GroupRecord, group: PeerGroup) -> Result<(), String> {
        let now = self.record.groups.get(&group);
        match (before.agreed(), now.and_then(GroupRecord::agreed)) {
            (old, new) if old == new => Ok(()),
            (Some(old), Some(new)) if new.revision == old.revision + 1 => Ok(()),
            (Some(old), Some(new)) if old.revision == 0 && new.revision > 0 => Ok(()),
            (None, Some(_)) => Ok(()),
            (Some(_), None) if now.is_none_or(|g| !g.members.iter().any(|m| m.joined < g.epoch)) => Ok(()),
            (old, new) => Err(format!("after {old:?} the group has agreed on {new:?}")),
        }
    }

    /// The epoch that a write has begun; none if it was about shared state.
    fn begun(&mut self, before: &GroupRecord, group: PeerGroup) -> Result<Option<Begun>, String> {
        let now = self.record.groups.get(&group).cloned().unwrap_or_default();
        if now.epoch == before.epoch {
            return Ok(None);
        }
        if now.epoch != before.epoch.next() {
            return Err(format!("epoch {} was followed by epoch {}", before.epoch, now.epoch));
        }
        let sessions: Vec<SessionId> = now.members.iter().map(|m| m.member.session).collect();
        if !sessions.is_sorted() {
            return Err(format!("the members of epoch {} are not in order of age", now.epoch));
        }
        let was = |s: &SessionId| before.members.iter().any(|m| m.member.session == *s);
        if let Some(m) = now.members.iter().find(|m| was(&m.member.session) == (m.joined == now.epoch)) {
            return Err(format!("member {} came into epoch {} unnoticed", m.member.session, now.epoch));
        }
        let joined = sessions.iter().any(|s| !was(s));
        let before = sessions.iter().copied().filter(was).collect();
        self.epochs.insert((group, now.epoch), sessions);
        Ok(Some(Begun { group, epoch: now.epoch, joined, before }))
    }
}
