//! Shared state: newcomers are let in, the members' offers elect, and what won stands once the store has it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Authority, Master, MasterEvent};
use crate::ids::{PeerGroup, SessionId, Time};
use crate::message::{Ending, MasterMessage};
use crate::record::{GroupRecord, Removal};
use crate::shared_state::{Agreed, Election, Fault, NoCandidate, Offer, Outcome, elect};

/// A synchronization that has been elected and not committed.
pub(super) struct Syncing {
    id: u64,
    /// The numbers of the votes that it answers.
    numbers: BTreeMap<SessionId, u32>,
    election: Election,
    /// Receivers that have not all of it yet.
    missing: BTreeSet<SessionId>,
}

impl Master {
    /// What a member has; its vote follows.
    pub(super) fn offered(&mut self, session: SessionId, number: u32, offer: Offer) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.offer = Some((number, offer));
        }
    }

    /// A member repeats a vote that has been counted: it hears again what came of it. False if it is a new one.
    pub(super) fn repeat_answer(&mut self, group: PeerGroup, session: SessionId, number: u32) -> bool {
        let answer = self.sessions.get(&session).and_then(|s| s.sync_answer.clone());
        if let Some((_, why)) = answer.filter(|(n, _)| *n == number) {
            // What was agreed on it has heard when it attached.
            if let Some(why) = why {
                self.tell(session, MasterMessage::NobodyElected { number, why });
            }
            return true;
        }
        let Some(sync) = self.groups.get_mut(&group).and_then(|g| g.sync.take()) else { return false };
        let counted = sync.numbers.get(&session) == Some(&number);
        if counted {
            self.tell_elected(group, session, &sync);
        }
        if let Some(state) = self.groups.get_mut(&group) {
            state.sync = Some(sync);
        }
        counted
    }

    /// Nobody's vote is counted twice.
    pub(super) fn answered(&mut self, numbers: &BTreeMap<SessionId, u32>, why: Option<&NoCandidate>) {
        for (session, number) in numbers {
            if let Some(state) = self.sessions.get_mut(session) {
                state.sync_answer = Some((*number, why.cloned()));
            }
        }
    }

    /// All members have voted to synchronize: newcomers come first, then the offers elect.
    pub(super) fn count_offers(&mut self, now: Time, group: PeerGroup) {
        let members = self.stayers(group);
        let offer_of = |s: &SessionId| {
            let state = self.sessions.get(s)?;
            let (number, offer) = state.offer.as_ref()?;
            (state.vote?.number == *number).then_some((*s, *number, offer))
        };
        let offers: Vec<(SessionId, u32, &Offer)> = members.iter().filter_map(offer_of).collect();
        if offers.len() < members.len() {
            return;
        }
        if offers.iter().all(|(_, _, o)| o.admits) && !self.newcomers(group).is_empty() {
            return self.begin_linking(now, group);
        }
        let numbers = offers.iter().map(|(s, number, _)| (*s, *number)).collect();
        let offers: Vec<(SessionId, &Offer)> = offers.into_iter().map(|(s, _, offer)| (s, offer)).collect();
        match elect(&offers, self.stored(group).agreed()) {
            Outcome::Elected(election) => self.elected(group, numbers, election),
            Outcome::Expel(faults) => self.expel(now, faults),
            Outcome::Nobody(why) => self.nobody_elected(group, &numbers, &why),
        }
    }

    fn end_offers(&mut self, numbers: &BTreeMap<SessionId, u32>) {
        for session in numbers.keys() {
            if let Some(state) = self.sessions.get_mut(session) {
                state.vote = None;
                state.offer = None;
            }
        }
    }

    /// The epoch changes without them, and then the votes of the others are counted again.
    fn expel(&mut self, now: Time, faults: Vec<(SessionId, Fault)>) {
        for (session, fault) in faults {
            self.remove(now, session, Removal::SharedState(fault));
        }
    }

    fn nobody_elected(&mut self, group: PeerGroup, numbers: &BTreeMap<SessionId, u32>, why: &NoCandidate) {
        // Members that have not heard yet that newcomers came count from before; the newcomers do not.
        let votes = numbers.keys().filter_map(|s| self.sessions.get(s)?.vote);
        let vote = votes.max_by_key(|v| (v.since, v.ordinal));
        if let Some(vote) = vote {
            self.decided(group, vote, Ending::NobodyElected(why.clone()));
        }
        self.end_offers(numbers);
        self.answered(numbers, Some(why));
        self.events.push_back(MasterEvent::NobodyElected { group, why: why.clone() });
        for (session, number) in numbers {
            self.tell(*session, MasterMessage::NobodyElected { number: *number, why: why.clone() });
        }
    }

    fn elected(&mut self, group: PeerGroup, numbers: BTreeMap<SessionId, u32>, election: Election) {
        self.end_offers(&numbers);
        self.next_change += 1;
        let id = (self.record.term.0 << 32) | self.next_change;
        let missing: BTreeSet<SessionId> = election.receivers.iter().copied().collect();
        let sync = Syncing { id, numbers, election, missing };
        // If all agree, their votes were their promises.
        if !sync.missing.is_empty() {
            for session in sync.numbers.keys() {
                self.tell_elected(group, *session, &sync);
            }
        }
        if let Some(state) = self.groups.get_mut(&group) {
            state.sync = Some(sync);
        }
        self.try_commit_sync(group);
    }

    fn tell_elected(&mut self, group: PeerGroup, session: SessionId, sync: &Syncing) {
        let Some(number) = sync.numbers.get(&session).copied() else { return };
        let epoch = self.epoch_of(group);
        let election = sync.election.clone();
        self.tell(session, MasterMessage::Elected { number, sync: sync.id, epoch, election });
    }

    /// A receiver has all of it, and keeps what it had before until it hears that it stands.
    pub(super) fn synchronized(&mut self, session: SessionId, id: u64) {
        let Some(group) = self.sessions.get(&session).map(|s| s.group) else { return };
        let sync = self.groups.get_mut(&group).and_then(|g| g.sync.as_mut());
        if let Some(sync) = sync.filter(|s| s.id == id) {
            sync.missing.remove(&session);
            self.try_commit_sync(group);
        }
    }

    /// Once all have it, the store is told. An epoch change that is under way sees to it itself.
    pub(super) fn try_commit_sync(&mut self, group: PeerGroup) {
        let Some(sync) = self.groups.get(&group).and_then(|g| g.sync.as_ref()) else { return };
        if sync.missing.is_empty() && self.is_idle(group) && self.authority == Authority::Active {
            let record = self.stored(group).having_agreed(Some(sync.election.agreed));
            self.write(group, record);
        }
    }

    /// The store has it: it stands.
    pub(super) fn sync_written(&mut self, now: Time, group: PeerGroup, record: GroupRecord) {
        let (agreed, since) = (record.agreed(), record.joined);
        self.record.groups.insert(group, record);
        let Some(state) = self.groups.get_mut(&group) else { return };
        let sync = state.sync.take();
        let reasons = [&state.mismatched, &state.timed_out, &state.deadlocked];
        let change_is_due = reasons.iter().any(|r| !r.is_empty());
        if let (Some(agreed), Some(sync)) = (agreed, sync) {
            let receivers = sync.election.receivers.len() as u32;
            self.events.push_back(MasterEvent::Synchronized { group, revision: agreed.revision, receivers });
            self.answered(&sync.numbers, None);
            for session in sync.numbers.into_keys() {
                self.tell(session, MasterMessage::Agreed { agreed, since });
            }
        }
        if change_is_due {
            // It came up while the store was written to.
            return self.begin_change(now, group, "an op failed");
        }
        self.go_on(now, group);
    }

    /// What the group has agreed on in the epoch that is decided on: a synchronization that all who stay have promised
    /// stands with it; without anybody who stays nobody has the content any more.
    pub(super) fn agreed_after(
        &self,
        group: PeerGroup,
        stayers: &[SessionId],
        old: &GroupRecord,
    ) -> Option<Agreed> {
        if stayers.is_empty() {
            return None;
        }
        let sync = self.groups.get(&group).and_then(|g| g.sync.as_ref());
        let promised = sync.filter(|s| stayers.iter().all(|m| !s.missing.contains(m)));
        promised.map(|s| s.election.agreed).or(old.agreed())
    }

    /// What a member that attaches again may have missed, before it is told that it is attached.
    pub(super) fn repeat_sync(&mut self, group: PeerGroup, session: SessionId) {
        let stored = self.stored(group);
        if let Some(agreed) = stored.agreed() {
            self.tell(session, MasterMessage::Agreed { agreed, since: stored.joined });
        }
        let sync = self.groups.get_mut(&group).and_then(|g| g.sync.take());
        if let Some(sync) = sync {
            self.tell_elected(group, session, &sync);
            if let Some(state) = self.groups.get_mut(&group) {
                state.sync = Some(sync);
            }
        }
    }

    /// A holder's blocks are not what it says: it is expelled, and the others elect again.
    pub(super) fn bad_block(&mut self, now: Time, from: SessionId, id: u64, holder: SessionId, tensor: &str) {
        let Some(group) = self.sessions.get(&from).map(|s| s.group) else { return };
        let sync = self.groups.get(&group).and_then(|g| g.sync.as_ref()).filter(|s| s.id == id);
        if sync.is_some_and(|s| s.missing.contains(&from) && s.election.holders.contains(&holder)) {
            let tensor: String = tensor.chars().take(128).collect();
            let what =
                format!("peer {from} received a block of tensor \"{tensor}\" from it with a wrong hash");
            self.remove(now, holder, Removal::Misbehaved { what });
        }
    }

    /// The synchronization that an epoch change has ended: void, or agreed on with it.
    pub(super) fn sync_ends(&mut self, group: PeerGroup, agreed: Option<Agreed>) {
        let sync = self.groups.get_mut(&group).and_then(|g| g.sync.take());
        if let Some(sync) = sync.filter(|s| Some(s.election.agreed) == agreed) {
            self.answered(&sync.numbers, None);
        }
    }

    /// What a synchronization waits for, in words.
    pub(super) fn sync_activity(&self, group: PeerGroup) -> Option<String> {
        let sync = self.groups.get(&group)?.sync.as_ref()?;
        let names: Vec<String> = sync.missing.iter().map(ToString::to_string).collect();
        let revision = sync.election.agreed.revision;
        Some(format!(
            "shared state of revision {revision} is on its way; waiting for peers {}",
            names.join(", ")
        ))
    }
}
