//! Votes, and how newcomers come in: only at a point that every member reaches by a call.

use std::collections::BTreeSet;
use std::time::Duration;

use super::change::Activity;
use super::{Authority, Master};
use crate::ids::{PeerGroup, SessionId, Tag, Time};
use crate::message::{Ending, MasterMessage, Session, Vote, VoteKind, VoteOutcome};
use crate::record::Member;

impl Master {
    pub(super) fn voted(&mut self, now: Time, session: SessionId, vote: Vote) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        let group = state.group;
        if let Some((number, outcome)) = state.vote_result.clone().filter(|(n, _)| *n == vote.number) {
            return self.tell(session, MasterMessage::VoteEnded { number, outcome });
        }
        if vote.kind == VoteKind::Synchronize && self.repeat_answer(group, session, vote.number) {
            return;
        }
        if vote.kind != VoteKind::Synchronize && vote.since != self.stored(group).joined {
            // Newcomers have come since: it ended with that.
            return;
        }
        if let Some(state) = self.sessions.get_mut(&session) {
            state.vote = Some(vote);
        }
        let decided = self.groups.get(&group).and_then(|g| g.decided.clone());
        if let Some((_, ending)) = decided.filter(|(v, _)| v.is_same(&vote)) {
            return self.end_like_the_others(session, vote.number, ending);
        }
        self.go_on(now, group);
        self.end_deadlock(now, group);
    }

    /// A member has heard how a vote ended, from whatever master: the others hear the same.
    pub(super) fn vote_has_ended(
        &mut self,
        group: PeerGroup,
        session: Session,
        ended: Option<(Vote, Ending)>,
    ) {
        let proven = self.sessions.get(&session.id).is_some_and(|s| s.key == session.key && s.group == group);
        let joined = self.stored(group).joined;
        let Some((vote, ending)) = ended.filter(|(v, _)| proven && v.since == joined) else { return };
        let Some(state) = self.groups.get_mut(&group) else { return };
        let newer = state.decided.as_ref().is_none_or(|(v, _)| v.since != joined || v.ordinal < vote.ordinal);
        if !newer {
            return;
        }
        state.decided = Some((vote, ending.clone()));
        for member in self.stayers(group) {
            let mine = self.sessions.get(&member).and_then(|s| s.vote).filter(|v| v.is_same(&vote));
            if let Some(mine) = mine {
                self.end_like_the_others(member, mine.number, ending.clone());
            }
        }
    }

    /// Ends a member's vote as it ended for others.
    fn end_like_the_others(&mut self, session: SessionId, number: u32, ending: Ending) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.vote = None;
        match ending {
            Ending::Decided { pending, sizes } => {
                let outcome = VoteOutcome::Decided { pending, sizes };
                state.vote_result = Some((number, outcome.clone()));
                self.tell(session, MasterMessage::VoteEnded { number, outcome });
            }
            Ending::NobodyElected(why) => {
                state.offer = None;
                state.sync_answer = Some((number, Some(why.clone())));
                self.tell(session, MasterMessage::NobodyElected { number, why });
            }
        }
    }

    /// Acts on the members' votes once all have voted.
    pub(super) fn count_votes(&mut self, now: Time, group: PeerGroup) {
        let members = self.stayers(group);
        // Of a member that seemed lost when newcomers came, and is waited for again, a vote of before may be left over.
        let joined = self.stored(group).joined;
        let is_of_now = |v: &Vote| v.kind == VoteKind::Synchronize || v.since == joined;
        let vote_of = |s: &SessionId| self.sessions.get(s).and_then(|s| s.vote).filter(is_of_now);
        let votes: Vec<Vote> = members.iter().filter_map(vote_of).collect();
        if votes.is_empty() || votes.len() < members.len() {
            return;
        }
        let pending = self.newcomers(group).len() as u32;
        let kind = votes[0].kind;
        if votes.iter().any(|v| v.kind != kind) {
            let waits = self.waits(group);
            return self.end_votes(group, |_| true, &VoteOutcome::Mismatch { waits });
        }
        match kind {
            VoteKind::Synchronize => self.count_offers(now, group),
            VoteKind::UpdateTopology if pending > 0 => self.begin_linking(now, group),
            VoteKind::UpdateTopology | VoteKind::PeersPending => {
                let outcome = self.outcome(group, pending);
                self.end_votes(group, |_| true, &outcome);
            }
            // What was measured comes with the members' reports; the votes end with the new epoch.
            VoteKind::OptimizeTopology => self.begin_change(now, group, "the members ask for a new topology"),
        }
    }

    fn end_votes(&mut self, group: PeerGroup, which: impl Fn(VoteKind) -> bool, outcome: &VoteOutcome) {
        let mut ended = None;
        for session in self.stayers(group) {
            let Some(state) = self.sessions.get_mut(&session) else {
                continue;
            };
            let Some(vote) = state.vote.filter(|v| which(v.kind)) else {
                continue;
            };
            state.vote = None;
            state.vote_result = Some((vote.number, outcome.clone()));
            ended = Some(vote);
            self.tell(session, MasterMessage::VoteEnded { number: vote.number, outcome: outcome.clone() });
        }
        if let (Some(vote), VoteOutcome::Decided { pending, sizes }) = (ended, outcome) {
            self.decided(group, vote, Ending::Decided { pending: *pending, sizes: *sizes });
        }
    }

    /// A vote has come to this.
    fn outcome(&self, group: PeerGroup, pending: u32) -> VoteOutcome {
        VoteOutcome::Decided { pending, sizes: self.sizes(self.epoch_of(group)) }
    }

    /// Others may hear it late.
    pub(super) fn decided(&mut self, group: PeerGroup, vote: Vote, ending: Ending) {
        if let Some(state) = self.groups.get_mut(&group) {
            state.decided = Some((vote, ending));
        }
    }

    /// After a join: the members' wait is over. A change for another reason leaves the votes standing.
    pub(super) fn end_topology_votes(&mut self, group: PeerGroup) {
        let stored = self.stored(group);
        let joined = stored.members.iter().any(|m| m.joined == stored.epoch);
        if joined {
            let pending = self.newcomers(group).len() as u32;
            let outcome = self.outcome(group, pending);
            self.end_votes(group, |k| k == VoteKind::UpdateTopology, &outcome);
        }
        let optimizes = |s: &SessionId| {
            let vote = self.sessions.get(s).and_then(|s| s.vote);
            vote.is_some_and(|v| v.kind == VoteKind::OptimizeTopology)
        };
        if self.stayers(group).iter().all(optimizes) {
            let pending = self.newcomers(group).len() as u32;
            let outcome = self.outcome(group, pending);
            self.end_votes(group, |_| true, &outcome);
        }
    }

    /// Who waits for what, in words.
    pub(super) fn waits(&self, group: PeerGroup) -> Vec<(SessionId, String)> {
        let wait = |s: &SessionId| {
            let state = self.sessions.get(s)?;
            let op = state.waits.iter().next().map(|((tag, _), (_, call))| format!("tag {tag}: {call}"));
            Some((*s, state.vote.map(|v| v.kind.to_string()).or(op).unwrap_or_else(|| "nothing".into())))
        };
        self.stayers(group).iter().filter_map(wait).collect()
    }

    /// If every member waits, some in a vote and some in an op that the voters have not started, no wait can end.
    pub(super) fn end_deadlock(&mut self, now: Time, group: PeerGroup) {
        if !self.is_idle(group) || self.authority != Authority::Active {
            return;
        }
        let members = self.stayers(group);
        let (mut voters, mut stuck) = (BTreeSet::new(), BTreeSet::<(Tag, u32)>::new());
        for session in &members {
            let Some(state) = self.sessions.get(session) else {
                return;
            };
            if state.vote.is_some() {
                voters.insert(*session);
            } else if state.waits.is_empty() {
                return;
            } else {
                stuck.extend(state.waits.keys());
            }
        }
        let Some(attempts) = self.groups.get(&group).map(|g| &g.attempts) else {
            return;
        };
        let started = |s: &SessionId, k: &(Tag, u32)| {
            self.sessions.get(s).is_some_and(|s| s.waits.contains_key(k))
                || attempts.get(k).is_some_and(|a| a.promised.contains(s))
        };
        if voters.is_empty() || stuck.is_empty() || stuck.iter().any(|k| voters.iter().any(|v| started(v, k)))
        {
            return;
        }
        let waits = self.waits(group);
        if let Some(state) = self.groups.get_mut(&group) {
            state.deadlocked.extend(stuck);
        }
        self.begin_change(now, group, "every member waits and no wait can end");
        self.end_votes(group, |_| true, &VoteOutcome::Mismatch { waits });
    }

    /// Newcomers and members connect to each other.
    pub(super) fn begin_linking(&mut self, now: Time, group: PeerGroup) {
        let newcomers = self.newcomers(group);
        let members = self.stayers(group);
        if newcomers.is_empty() {
            return;
        }
        if members.is_empty() && newcomers.len() == 1 {
            return self.collect(now, group, newcomers, "the first peer of the group");
        }
        self.next_change += 1;
        let join = self.next_change;
        let timeout_ms = self.config.link_timeout_ms;
        let infos = |of: &[SessionId]| -> Vec<Member> {
            of.iter().filter_map(|s| self.sessions.get(s).map(|s| s.member.clone())).collect()
        };
        let (new, old) = (infos(&newcomers), infos(&members));
        let everybody: Vec<Member> = old.iter().chain(&new).cloned().collect();
        for session in &members {
            let peers = new.clone();
            self.tell(*session, MasterMessage::Introduce { join, peers, timeout_ms });
        }
        for session in &newcomers {
            let peers = everybody.clone();
            self.tell(*session, MasterMessage::Introduce { join, peers, timeout_ms });
        }
        let waiting = members.into_iter().chain(newcomers.iter().copied()).collect();
        let patience =
            Duration::from_millis(u64::from(timeout_ms)) + self.config.settings.heartbeat_timeout();
        let deadline = now + patience;
        if let Some(state) = self.groups.get_mut(&group) {
            state.activity = Activity::Linking { join, newcomers, waiting, down: Vec::new(), deadline };
        }
    }

    pub(super) fn linked(
        &mut self,
        now: Time,
        session: SessionId,
        join: u64,
        failed: Vec<(SessionId, String)>,
    ) {
        let Some(group) = self.sessions.get(&session).map(|s| s.group) else {
            return;
        };
        let Some(state) = self.groups.get_mut(&group) else {
            return;
        };
        if let Activity::Linking { join: j, waiting, down, .. } = &mut state.activity
            && *j == join
            && waiting.remove(&session)
        {
            down.extend(failed.into_iter().map(|(other, why)| (session, other, why)));
        }
        self.try_end_linking(now, group);
    }

    /// A newcomer has died or left while links were made.
    pub(super) fn newcomer_gone(&mut self, now: Time, group: PeerGroup, session: SessionId) {
        if let Some(Activity::Linking { newcomers, waiting, .. }) =
            self.groups.get_mut(&group).map(|g| &mut g.activity)
        {
            newcomers.retain(|s| *s != session);
            waiting.remove(&session);
        }
        self.try_end_linking(now, group);
    }

    /// Once everybody has said which links are there: newcomers without all of them are turned away, the others join.
    pub(super) fn try_end_linking(&mut self, now: Time, group: PeerGroup) {
        if self.authority != Authority::Active {
            return;
        }
        let stayers = self.stayers(group);
        let Some(state) = self.groups.get_mut(&group) else {
            return;
        };
        let Activity::Linking { newcomers, waiting, down, deadline, .. } = &mut state.activity else {
            return;
        };
        let answers_owed = waiting.iter().any(|s| stayers.contains(s) || newcomers.contains(s));
        if answers_owed && now < *deadline {
            return;
        }
        let failed = unreachable(newcomers, &stayers, waiting, down);
        let joining: Vec<SessionId> =
            newcomers.iter().filter(|s| !failed.iter().any(|(f, _)| f == *s)).copied().collect();
        state.activity = Activity::Idle;
        for (session, why) in failed {
            self.tell(session, MasterMessage::TurnedAway { why: why.clone() });
            self.remove(now, session, crate::record::Removal::Misbehaved { what: why });
        }
        let removals = self.groups.get(&group).is_some_and(|g| !g.removals.is_empty());
        if joining.is_empty() && !removals {
            let pending = self.newcomers(group).len() as u32;
            let outcome = self.outcome(group, pending);
            self.end_votes(group, |k| k == VoteKind::UpdateTopology, &outcome);
            return;
        }
        let why = format!("{} newcomers join", joining.len());
        self.collect(now, group, joining, &why);
    }
}

/// Newcomers that lack a link, with the reason: a broken link to a member is the newcomer's, one between two newcomers
/// the younger one's.
fn unreachable(
    newcomers: &[SessionId],
    stayers: &[SessionId],
    silent: &BTreeSet<SessionId>,
    down: &[(SessionId, SessionId, String)],
) -> Vec<(SessionId, String)> {
    let mut failed: Vec<(SessionId, String)> = Vec::new();
    let mut add = |session: SessionId, why: String| {
        if !failed.iter().any(|(s, _)| *s == session) {
            failed.push((session, why));
        }
    };
    for session in newcomers.iter().filter(|s| silent.contains(s)) {
        add(*session, "it did not say in time which members it can reach".into());
    }
    for (from, to, why) in down {
        let blamed = match (newcomers.contains(from), newcomers.contains(to)) {
            (true, true) => *from.max(to),
            (true, false) if stayers.contains(to) => *from,
            (false, true) => *to,
            _ => continue,
        };
        add(blamed, format!("peers {from} and {to} cannot connect to each other: {why}"));
    }
    failed
}
