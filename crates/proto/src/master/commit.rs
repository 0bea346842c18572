//! Promises and verdicts within an epoch: committed as soon as every member has promised.

use std::collections::BTreeSet;

use super::change::Activity;
use super::{Authority, Master};
use crate::ids::{AttemptName, PeerGroup, SessionId, Time};
use crate::message::{MasterMessage, StartedAttempt};
use crate::vocabulary::Fingerprint;

/// An attempt that somebody has promised, committed or waited for.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) promised: BTreeSet<SessionId>,
    pub(super) digest: Option<u32>,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) since: Time,
    /// The number of its verdict.
    pub(super) committed: Option<u64>,
}

impl Attempt {
    pub(super) fn new(now: Time) -> Self {
        Self { promised: BTreeSet::new(), digest: None, fingerprint: None, since: now, committed: None }
    }
}

impl Master {
    /// A member promises that an attempt is complete there.
    pub(super) fn promise(&mut self, now: Time, session: SessionId, name: AttemptName, digest: u32) {
        let Some(group) = self.sessions.get(&session).map(|s| s.group) else {
            return;
        };
        if self.epoch_of(group) != name.epoch {
            return;
        }
        let key = (name.tag, name.n);
        let state = self.groups.entry(group).or_default();
        let attempt = state.attempts.entry(key).or_insert_with(|| Attempt::new(now));
        attempt.promised.insert(session);
        let differs = attempt.digest.is_some_and(|d| d != digest);
        attempt.digest = Some(digest);
        if differs {
            state.mismatched.insert(key);
            return self.begin_change(now, group, "peers called different ops by the same tag");
        }
        self.try_commit(group, name);
    }

    /// A member has started an attempt: if it cannot be, that need not be said again.
    pub(super) fn started(
        &mut self,
        now: Time,
        group: PeerGroup,
        name: AttemptName,
        started: &StartedAttempt,
    ) {
        let digest = started.fingerprint.digest();
        let state = self.groups.entry(group).or_default();
        let attempt = state.attempts.entry((name.tag, name.n)).or_insert_with(|| Attempt::new(now));
        let differs = attempt.digest.is_some_and(|d| d != digest);
        attempt.digest = Some(digest);
        if differs || started.impossible.is_some() {
            self.cannot_be(now, group, name);
        }
    }

    /// An attempt's calls differ, or do not fit the world: it fails with the next epoch.
    pub(super) fn cannot_be(&mut self, now: Time, group: PeerGroup, name: AttemptName) {
        if name.epoch == self.epoch_of(group) {
            self.groups.entry(group).or_default().mismatched.insert((name.tag, name.n));
            self.begin_change(
                now,
                group,
                "peers called different ops by the same tag, or one that does not fit",
            );
        }
    }

    /// A member has heard *committed* from an earlier master.
    pub(super) fn committed_before(&mut self, now: Time, group: PeerGroup, name: AttemptName) {
        let state = self.groups.entry(group).or_default();
        let attempt = state.attempts.entry((name.tag, name.n)).or_insert_with(|| Attempt::new(now));
        if attempt.committed.is_none() {
            self.commit(group, name);
        }
    }

    fn try_commit(&mut self, group: PeerGroup, name: AttemptName) {
        let Some(state) = self.groups.get(&group) else {
            return;
        };
        // From the decision until the store has answered, nothing is said about the old epoch.
        let is_over = |a: &Activity| matches!(a, Activity::Writing { record, replaces, .. } if record.epoch != *replaces);
        if self.authority == Authority::Standby || is_over(&state.activity) {
            return;
        }
        if state.mismatched.contains(&(name.tag, name.n)) {
            return;
        }
        let Some(stored) = self.record.groups.get(&group) else {
            return;
        };
        let Some(attempt) = state.attempts.get(&(name.tag, name.n)) else {
            return;
        };
        let promised = |s: &SessionId| attempt.promised.contains(s);
        if attempt.committed.is_none() && stored.members.iter().all(|m| promised(&m.member.session)) {
            self.commit(group, name);
        }
    }

    fn commit(&mut self, group: PeerGroup, name: AttemptName) {
        self.close_heard(group);
        let Some(state) = self.groups.get_mut(&group) else {
            return;
        };
        state.heard += 1;
        let (heard, closed) = (state.heard, state.closed);
        if let Some(attempt) = state.attempts.get_mut(&(name.tag, name.n)) {
            attempt.committed = Some(heard);
        }
        let Some(stored) = self.record.groups.get(&group) else {
            return;
        };
        let members: Vec<SessionId> = stored.members.iter().map(|m| m.member.session).collect();
        for session in members {
            if let Some(state) = self.sessions.get_mut(&session) {
                state.waits.remove(&(name.tag, name.n));
            }
            self.tell(session, MasterMessage::Committed { name, heard, closed });
        }
    }

    /// Forgets the attempts whose verdict every member has heard.
    fn close_heard(&mut self, group: PeerGroup) {
        let Some(stored) = self.record.groups.get(&group) else {
            return;
        };
        let acked =
            |m: &crate::record::MemberRecord| self.sessions.get(&m.member.session).map_or(0, |s| s.acked);
        let closed = stored.members.iter().map(acked).min().unwrap_or(0);
        if let Some(state) = self.groups.get_mut(&group)
            && closed > state.closed
        {
            state.closed = closed;
            state.attempts.retain(|_, a| a.committed.is_none_or(|number| number > closed));
        }
    }

    /// Repeats the verdicts that a member may not have heard, before it is told that it is attached.
    pub(super) fn repeat_verdicts(&mut self, group: PeerGroup, session: SessionId) {
        let epoch = self.epoch_of(group);
        let Some(state) = self.groups.get(&group) else {
            return;
        };
        let closed = state.closed;
        let mut open: Vec<_> = state
            .attempts
            .iter()
            .filter_map(|((tag, n), a)| a.committed.map(|heard| (heard, *tag, *n)))
            .collect();
        open.sort_unstable();
        for (heard, tag, n) in open {
            let name = AttemptName { epoch, tag, n };
            self.tell(session, MasterMessage::Committed { name, heard, closed });
        }
    }
}
