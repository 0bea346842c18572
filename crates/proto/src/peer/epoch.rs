//! What an epoch change does to ops and links.

use std::collections::BTreeMap;

use super::{EndReason, OpError, Peer, PeerEvent, Phase};
use crate::execute::{Kernels, OpMemory};
use crate::ids::{Epoch, SessionId, Tag, Time};
use crate::message::{ToMaster, View, VoteKind, VoteOutcome};
use crate::record::{Change, Verdict};
use crate::rules::Rule;

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// Applies every change since our epoch, one after the other, and enters the newest.
    pub(super) fn apply_epoch(&mut self, now: Time, changes: &[Change], view: View) {
        if view.epoch <= self.epoch() {
            self.tell_master(&ToMaster::Applied { epoch: self.epoch() });
            return;
        }
        let Some(rank) = view.members.iter().position(|m| m.session == self.session_id()) else {
            self.end(EndReason::Expelled { why: None, ago_ms: 0 });
            return;
        };
        let known: Vec<SessionId> =
            self.view.iter().flat_map(|v| v.members.iter().map(|m| m.session)).collect();
        let joined: Vec<SessionId> =
            view.members.iter().map(|m| m.session).filter(|s| !known.contains(s)).collect();
        let mut removed = Vec::new();
        let mut retried = 0;
        if self.view.is_some() {
            let mut at = self.epoch();
            for change in changes {
                if change.from < at {
                    continue;
                }
                retried = self.apply_change(change, at);
                removed.extend(change.removed.iter().cloned());
                at = change.from.next();
            }
        }
        self.heard.clear();
        self.told.clear();
        self.rank = rank as u32;
        if !matches!(self.phase, Phase::Leaving | Phase::Settling) {
            self.phase = Phase::Member;
        }
        let world = view.members.len() as u32;
        let (epoch, agreed) = (view.epoch, view.agreed);
        self.view = Some(view);
        self.links_enter_epoch(now);
        self.tell_master(&ToMaster::Applied { epoch });
        self.sync_enters_epoch(agreed, !joined.is_empty());
        self.events.push_back(PeerEvent::EpochChanged {
            epoch,
            world,
            removed,
            joined: joined.clone(),
            retried,
        });
        if !joined.is_empty() && self.vote.is_some_and(|v| v.kind == VoteKind::UpdateTopology) {
            // The vote has ended with this epoch, also if the master that said so is no more.
            self.vote = None;
            let sizes = self.view.as_ref().map(|v| v.sizes).unwrap_or_default();
            self.vote_ended = Some(VoteOutcome::Decided { pending: 0, sizes });
        }
        self.thaw(now);
    }

    /// Applies the verdicts on the attempts of `epoch`. Returns how many ops are to be retried.
    fn apply_change(&mut self, change: &Change, epoch: Epoch) -> u32 {
        let running: Vec<(Tag, u32)> = self
            .ops
            .iter()
            .filter_map(|(tag, op)| match op.running_name() {
                Some(name) => (name.epoch == epoch).then_some((*tag, name.n)),
                // Counted as started in the epoch before this one, without having been there.
                None => op.counted.then_some((*tag, 0)),
            })
            .collect();
        let mut counts = BTreeMap::new();
        for (tag, n) in &running {
            match change.verdict(*tag, *n) {
                Verdict::Committed => self.succeed(*tag),
                Verdict::Failed(why) => self.fail(*tag, OpError::Failed(why.clone())),
                Verdict::Retry => {
                    counts.insert(*tag, 1);
                    self.begin_again(*tag);
                }
            }
        }
        self.incur_debts(change, &running);
        self.counts = counts;
        self.ops.values().filter(|op| op.counted).count() as u32
    }

    /// Puts the input back, and counts the op as started in the next epoch.
    fn begin_again(&mut self, tag: Tag) {
        if !self.end_attempt(tag, true) {
            // The master does not retry what somebody cannot restore; a peer that reported so is not asked to.
            self.fail(tag, OpError::InputLost(Box::new(OpError::Ended(EndReason::MasterLost))));
            return;
        }
        if let Some(op) = self.ops.get_mut(&tag) {
            op.counted = true;
            op.recoveries += 1;
        }
    }

    /// Failures of attempts that we have not started bind our next starts of their tags.
    fn incur_debts(&mut self, change: &Change, running: &[(Tag, u32)]) {
        for (tag, n, verdict) in &change.verdicts {
            let Verdict::Failed(why) = verdict else { continue };
            let started = running.contains(&(*tag, *n)) || *n < self.counts.get(tag).copied().unwrap_or(0);
            if !started && self.rules.hold(Rule::FailureBinds) {
                self.debts.entry(*tag).or_default().push_back(why.clone());
            }
        }
    }
}
