//! What happens when no master can be found for `master_timeout` (DESIGN, "No master").
//!
//! The session ends as settling begins: this peer never attaches or reports with it again. An attempt that is not complete
//! here is restored, and the others hear *not done*, which is never taken back. For a complete one the others are asked
//! until each has answered. It succeeds if one of them says *committed*, or if all of them say *done*; it is restored if
//! one says *not done*, is in a later epoch, cannot be reached, or has not answered when the time is up.
//!
//! A member that still waits for a master answers nothing, except by a verdict that it has heard: it is asked again.
//! Whoever asks about an attempt settles, and holds its result: the question is an answer, too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{EndReason, OpError, Peer, PeerEvent, Phase, SyncFailure};
use crate::execute::{Kernels, OpMemory};
use crate::ids::{AttemptName, SessionId, Tag, Time};
use crate::message::{LinkMessage, Settlement};
use crate::rules::Rule;

/// Least time for which a member must be out of reach before it counts as such.
const LEAST_REACH: Duration = Duration::from_secs(1);

/// A peer that settles.
pub(super) struct Settling {
    since: Time,
    /// Whoever has not answered by then is out of reach.
    deadline: Time,
    /// Members that have said *done*, by attempts that have no outcome yet.
    agreed: BTreeMap<Tag, BTreeSet<SessionId>>,
}

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    pub(super) fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// The masters are lost: from here on what is in flight is settled among the members, and nothing else begins.
    pub(super) fn settle(&mut self, now: Time) {
        if self.settling.is_some() || self.is_ended() {
            return;
        }
        if self.rules.hold(Rule::SettlingEndsSession) {
            self.close_control();
        }
        self.phase = Phase::Settling;
        self.vote = None;
        self.end_sync(Err(SyncFailure::Ended(EndReason::MasterLost)));
        // Others wait for a master as long as we did, and may have begun later.
        let patience = self.settings.master_timeout() + 4 * self.settings.heartbeat_timeout();
        let deadline = now + patience.max(LEAST_REACH);
        let is_open = |op: &super::Op<M>| op.is_done() && op.running_name().is_some();
        let (open, over): (Vec<Tag>, Vec<Tag>) =
            self.ops.keys().copied().partition(|tag| self.ops.get(tag).is_some_and(is_open));
        let agreed = open.iter().map(|tag| (*tag, BTreeSet::new())).collect();
        self.settling = Some(Settling { since: now, deadline, agreed });
        self.events.push_back(PeerEvent::Settles { complete: open.len(), incomplete: over.len() });
        for tag in over {
            self.not_done(tag);
        }
        let epoch = self.epoch();
        for (tag, n) in self.heard.iter().map(|(tag, n, _)| (*tag, *n)).collect::<Vec<_>>() {
            // Members that have not heard it may ask when we are gone.
            self.tell_all(AttemptName { epoch, tag, n }, Settlement::Committed);
        }
        let told: Vec<AttemptName> = self.told.iter().copied().collect();
        for name in told {
            self.settled(name);
        }
        for tag in open {
            self.settle_if_agreed(tag);
        }
        self.settle_on(now);
    }

    /// The other members of the epoch.
    fn others(&self) -> Vec<SessionId> {
        let me = self.session_id();
        self.view.iter().flat_map(|v| &v.members).map(|m| m.session).filter(|s| *s != me).collect()
    }

    /// Every heartbeat interval: asks who has not answered, and gives up on whoever cannot.
    pub(super) fn settle_on(&mut self, now: Time) {
        let reach = (2 * self.settings.heartbeat_timeout()).max(LEAST_REACH);
        let Some(settling) = &self.settling else { return };
        let late = now >= settling.deadline;
        let is_lost = |s: &SessionId| late || self.links.is_out_of_reach(*s, now, settling.since, reach);
        let (mut ask, mut lost) = (Vec::new(), Vec::new());
        for (tag, agreed) in &settling.agreed {
            let Some(name) = self.ops.get(tag).and_then(super::Op::running_name) else { continue };
            let missing: Vec<SessionId> = self.others().into_iter().filter(|s| !agreed.contains(s)).collect();
            if missing.iter().any(is_lost) {
                lost.push((*tag, missing.clone()));
            }
            ask.extend(missing.into_iter().map(|s| (s, name)));
        }
        for (tag, missing) in lost {
            if self.rules.hold(Rule::SilenceIsNoConsent) {
                self.not_done(tag);
            } else if let Some(settling) = &mut self.settling {
                settling.agreed.entry(tag).or_default().extend(missing);
                self.settle_if_agreed(tag);
            }
        }
        for (session, name) in ask {
            self.say_to(session, &LinkMessage::Ask { name });
        }
        self.settled_all();
    }

    /// The input is restored: from now on the answer is *not done*.
    fn not_done(&mut self, tag: Tag) {
        let name = self.ops.get(&tag).and_then(super::Op::running_name);
        self.fail(tag, OpError::Ended(EndReason::MasterLost));
        if let Some(settling) = &mut self.settling {
            settling.agreed.remove(&tag);
        }
        if let Some(name) = name {
            self.tell_all(name, Settlement::NotDone);
        }
    }

    /// The result stands.
    fn settled(&mut self, name: AttemptName) {
        let Some(settling) = &mut self.settling else { return };
        let is_ours = self.ops.get(&name.tag).is_some_and(|op| op.running_name() == Some(name));
        if !is_ours || settling.agreed.remove(&name.tag).is_none() {
            return;
        }
        self.succeed(name.tag);
        self.tell_all(name, Settlement::Committed);
    }

    /// Says an outcome to whoever may still wait for it.
    fn tell_all(&mut self, name: AttemptName, answer: Settlement) {
        for session in self.others() {
            self.say_to(session, &LinkMessage::Tell { name, answer });
        }
    }

    fn settle_if_agreed(&mut self, tag: Tag) {
        let Some(agreed) = self.settling.as_ref().and_then(|s| s.agreed.get(&tag)) else { return };
        let name = self.ops.get(&tag).and_then(super::Op::running_name);
        if let Some(name) = name
            && self.others().iter().all(|s| agreed.contains(s))
        {
            self.settled(name);
        }
    }

    /// Once every op has an outcome, this peer's life is over.
    fn settled_all(&mut self) {
        if self.settling.as_ref().is_some_and(|s| s.agreed.is_empty()) {
            self.end(EndReason::MasterLost);
        }
    }

    /// A member settles, and asks what became of an attempt that is complete there.
    pub(super) fn settlement_asked(&mut self, from: SessionId, name: AttemptName) {
        if self.rank_of(from).is_none() {
            return;
        }
        if let Some(settling) = &mut self.settling
            && let Some(agreed) = settling.agreed.get_mut(&name.tag)
            && self.ops.get(&name.tag).is_some_and(|op| op.running_name() == Some(name))
        {
            agreed.insert(from);
        }
        let Some(answer) = self.answer(name) else { return };
        self.say_to(from, &LinkMessage::Tell { name, answer });
        self.settle_if_agreed(name.tag);
        self.settled_all();
    }

    /// What this peer can say of an attempt now. None: it waits for a master, and is asked again.
    fn answer(&self, name: AttemptName) -> Option<Settlement> {
        let epoch = self.epoch();
        if name.epoch < epoch {
            return Some(Settlement::Left { epoch });
        }
        let heard = self.heard.iter().any(|(tag, n, _)| (*tag, *n) == (name.tag, name.n));
        if (name.epoch == epoch && heard) || self.told.contains(&name) {
            return Some(Settlement::Committed);
        }
        let holds = self.ops.get(&name.tag).is_some_and(|op| op.running_name() == Some(name) && op.is_done());
        match &self.settling {
            Some(_) if holds => Some(Settlement::Done),
            Some(_) => Some(Settlement::NotDone),
            None => None,
        }
    }

    /// A member has answered.
    pub(super) fn settlement_told(&mut self, from: SessionId, name: AttemptName, answer: Settlement) {
        let op = self.ops.get(&name.tag).filter(|op| op.running_name() == Some(name) && op.is_done());
        if op.is_none() || self.rank_of(from).is_none() {
            return;
        }
        let Some(settling) = &mut self.settling else {
            // We still wait for a master; if none comes we need not ask.
            if answer == Settlement::Committed {
                self.told.insert(name);
            }
            return;
        };
        match answer {
            Settlement::Committed => self.settled(name),
            Settlement::Done => {
                if let Some(agreed) = settling.agreed.get_mut(&name.tag) {
                    agreed.insert(from);
                }
                self.settle_if_agreed(name.tag);
            }
            Settlement::NotDone | Settlement::Left { .. } => self.not_done(name.tag),
        }
        self.settled_all();
    }
}
