//! From one epoch to the next: collect reports, decide, write, and only then tell.

use std::collections::{BTreeMap, BTreeSet};

use super::{Authority, Master, MasterEvent};
use crate::ids::{Epoch, PeerGroup, SessionId, Tag, Time};
use crate::machine::Action;
use crate::message::{MasterMessage, Report, Sizes, View};
use crate::record::{Change, Failure, GroupRecord, MemberRecord, Removal, RunRecord, StoreRequest, Verdict};
use crate::rules::Rule;
use crate::schedule::LinkModel;
use crate::settings::Recovery;
use crate::vocabulary::{Collective, Fingerprint};

/// What a group is doing.
#[derive(Default)]
pub(super) enum Activity {
    /// Ops run; nothing else.
    #[default]
    Idle,
    /// Newcomers and members connect to each other.
    Linking {
        join: u64,
        newcomers: Vec<SessionId>,
        waiting: BTreeSet<SessionId>,
        down: Vec<(SessionId, SessionId, String)>,
        deadline: Time,
    },
    /// Those that stay report.
    Collecting { change: u64, joining: Vec<SessionId>, reports: BTreeMap<SessionId, Report>, since: Time },
    /// The decision is on its way to the store.
    Writing { id: u64, record: Box<GroupRecord>, replaces: Epoch },
}

/// The verdicts of a change, and the retries so far of the attempts that are retried.
type Verdicts = (Vec<(Tag, u32, Verdict)>, BTreeMap<Tag, u32>);

impl Master {
    /// Begins an epoch change, unless one is under way that will see to it.
    pub(super) fn begin_change(&mut self, now: Time, group: PeerGroup, why: &str) {
        if self.authority != Authority::Active {
            return;
        }
        match self.groups.get(&group).map(|g| &g.activity) {
            Some(Activity::Collecting { .. }) => self.try_decide(now, group),
            Some(Activity::Linking { .. }) => self.try_end_linking(now, group),
            // After the write, what has come up meanwhile begins the next change.
            Some(Activity::Writing { .. }) => {}
            Some(Activity::Idle) | None => self.collect(now, group, Vec::new(), why),
        }
    }

    /// Asks those that stay for their reports.
    pub(super) fn collect(&mut self, now: Time, group: PeerGroup, joining: Vec<SessionId>, why: &str) {
        self.next_change += 1;
        let change = self.next_change;
        let epoch = self.epoch_of(group);
        self.events.push_back(MasterEvent::ChangeBegins { group, epoch, why: why.into() });
        let state = self.groups.entry(group).or_default();
        state.activity = Activity::Collecting { change, joining, reports: BTreeMap::new(), since: now };
        for session in self.stayers(group) {
            self.tell(session, MasterMessage::Prepare { change, epoch });
        }
        self.try_decide(now, group);
    }

    /// Whether attempts may begin in an epoch: it is the newest, and has not begun to end.
    pub(super) fn goes_on(&self, group: PeerGroup, epoch: Epoch) -> bool {
        let ends = match self.groups.get(&group).map(|g| &g.activity) {
            Some(Activity::Collecting { .. }) => true,
            Some(Activity::Writing { record, replaces, .. }) => record.epoch != *replaces,
            Some(Activity::Idle | Activity::Linking { .. }) | None => false,
        };
        !ends && epoch >= self.epoch_of(group)
    }

    /// The change for which the group's members are asked for reports.
    pub(super) fn collecting(&self, group: PeerGroup) -> Option<u64> {
        match self.groups.get(&group).map(|g| &g.activity) {
            Some(Activity::Collecting { change, .. }) => Some(*change),
            _ => None,
        }
    }

    pub(super) fn report(&mut self, now: Time, session: SessionId, change: u64, report: Report) {
        let Some(group) = self.sessions.get(&session).map(|s| s.group) else {
            return;
        };
        if self.collecting(group) != Some(change) || report.epoch != self.epoch_of(group) {
            return;
        }
        self.read_report(now, group, session, &report);
        if let Some(Activity::Collecting { reports, .. }) =
            self.groups.get_mut(&group).map(|g| &mut g.activity)
        {
            reports.insert(session, report);
        }
        self.try_decide(now, group);
    }

    /// Decides, once all who stay have reported.
    fn try_decide(&mut self, now: Time, group: PeerGroup) {
        let stayers = self.stayers(group);
        let Some(state) = self.groups.get(&group) else {
            return;
        };
        let Activity::Collecting { joining, reports, .. } = &state.activity else {
            return;
        };
        if self.authority != Authority::Active {
            return;
        }
        let attached = |s: &SessionId| self.sessions.get(s).is_some_and(|s| s.conn.is_some());
        let owes = |s: &SessionId| self.rules.hold(Rule::JudgeTheAttached) || attached(s);
        if stayers.iter().any(|s| !reports.contains_key(s) && owes(s)) {
            return;
        }
        let joining: Vec<SessionId> =
            joining.iter().filter(|s| self.sessions.contains_key(s)).copied().collect();
        let is_silent = |why: &Removal| matches!(why, Removal::Silent { .. } | Removal::NotAttached { .. });
        let heard = state.heard;
        let silent: Vec<SessionId> = state
            .removals
            .iter()
            .filter(|(s, why)| is_silent(why) && self.sessions.contains_key(s))
            .map(|(s, _)| *s)
            .collect();
        if stayers.is_empty() && joining.is_empty() && !silent.is_empty() {
            // Never to an epoch without members because of silence: keep the sessions and wait.
            if let Some(state) = self.groups.get_mut(&group) {
                state.removals.retain(|s, _| !silent.contains(s));
            }
            // Those that seemed lost already when the epoch began have not been told of it.
            for session in silent {
                self.bring_in(session, heard);
            }
            // Whoever was told to prepare starts nothing until the epoch has changed: it still must, once they are back.
            return self.collect(now, group, Vec::new(), "no member is heard: they are waited for");
        }
        let record = self.decide(group, &stayers, &joining);
        self.write(group, record);
        if !self.rules.hold(Rule::WriteBeforeTelling) {
            self.written(now, self.next_store);
        }
    }

    /// The next epoch's record: who is in it, and a verdict on every open attempt of this one.
    fn decide(&self, group: PeerGroup, stayers: &[SessionId], joining: &[SessionId]) -> GroupRecord {
        let old = self.stored(group);
        let epoch = old.epoch.next();
        let mut members: Vec<MemberRecord> =
            old.members.iter().filter(|m| stayers.contains(&m.member.session)).cloned().collect();
        for session in joining {
            if let Some(s) = self.sessions.get(session) {
                members.push(MemberRecord { member: s.member.clone(), key: s.key, joined: epoch });
            }
        }
        let joined = if members.iter().any(|m| m.joined == epoch) { epoch } else { old.joined };
        members.sort_by_key(|m| m.member.session);
        let removed: Vec<_> =
            self.groups.get(&group).map(|g| g.removals.clone().into_iter().collect()).unwrap_or_default();
        let (verdicts, retries) = self.verdicts(group, stayers, &removed, &old);
        let mut changes = old.changes.clone();
        changes.push(Change { from: old.epoch, removed, verdicts });
        self.drop_acknowledged(&mut changes, stayers);
        let links = LinkModel { peers_per_host: fullest_host(&members), ..self.link_model(group, old.links) };
        let agreed = self.agreed_after(group, stayers, &old);
        GroupRecord { epoch, joined, members, changes, retries, links, ..old }.having_agreed(agreed)
    }

    /// What the members have measured: the slowest link counts.
    fn link_model(&self, group: PeerGroup, old: LinkModel) -> LinkModel {
        let Some(Activity::Collecting { reports, .. }) = self.groups.get(&group).map(|g| &g.activity) else {
            return old;
        };
        let rtt_us = reports.values().map(|r| r.rtt_us).max().unwrap_or(0);
        let mib_us = reports.values().map(|r| r.mib_us).max().unwrap_or(0);
        LinkModel {
            alpha_us: if rtt_us > 0 { (rtt_us / 2).max(1) } else { old.alpha_us },
            mib_us: if mib_us > 0 { mib_us } else { old.mib_us },
            ..old
        }
    }

    /// Changes that every member that stays has applied need not be kept; the newest always is.
    fn drop_acknowledged(&self, changes: &mut Vec<Change>, stayers: &[SessionId]) {
        let applied = |s: &SessionId| self.sessions.get(s).map_or(Epoch::default(), |s| s.applied);
        let oldest = stayers.iter().map(applied).min();
        let newest = changes.last().map(|c| c.from);
        changes.retain(|c| Some(c.from) == newest || oldest.is_some_and(|e| c.from >= e));
    }

    fn verdicts(
        &self,
        group: PeerGroup,
        stayers: &[SessionId],
        lost: &[(SessionId, Removal)],
        old: &GroupRecord,
    ) -> Verdicts {
        let Some(state) = self.groups.get(&group) else {
            return (Vec::new(), BTreeMap::new());
        };
        let none = BTreeMap::new();
        let reports = match &state.activity {
            Activity::Collecting { reports, .. } => reports,
            _ => &none,
        };
        let started = reports.values().flat_map(|r| r.started.iter().map(|s| (s.tag, s.n)));
        let known = state.attempts.iter().filter(|(_, a)| a.committed.is_some()).map(|(k, _)| *k);
        let open: BTreeSet<(Tag, u32)> = started.chain(known).collect();
        let mut verdicts = Vec::new();
        let mut retries = BTreeMap::new();
        for (tag, n) in open {
            let attempt = state.attempts.get(&(tag, n));
            let said = attempt.is_some_and(|a| a.committed.is_some());
            let calls: Vec<(SessionId, Fingerprint)> = calls(reports, tag, n);
            let differ = calls.iter().any(|(_, f)| *f != calls[0].1);
            let promised = |s: &SessionId| attempt.is_some_and(|a| a.promised.contains(s));
            let doubted = differ || state.mismatched.contains(&(tag, n));
            let all_promised = !doubted && stayers.iter().all(promised);
            let verdict = if said || all_promised {
                Verdict::Committed
            } else if differ {
                Verdict::Failed(Failure::Mismatch { calls })
            } else {
                let before = if n == 0 { old.retries.get(&tag).copied().unwrap_or(0) } else { 0 };
                let verdict = self.retry_or_fail((tag, n), group, reports, lost, before);
                if verdict == Verdict::Retry {
                    retries.insert(tag, before + u32::from(!lost.is_empty()));
                }
                verdict
            };
            verdicts.push((tag, n, verdict));
        }
        (verdicts, retries)
    }

    fn retry_or_fail(
        &self,
        (tag, n): (Tag, u32),
        group: PeerGroup,
        reports: &BTreeMap<SessionId, Report>,
        lost: &[(SessionId, Removal)],
        retries: u32,
    ) -> Verdict {
        let state = self.groups.get(&group);
        let mut started = reports.values().flat_map(|r| &r.started).filter(|s| (s.tag, s.n) == (tag, n));
        let restorable = started.all(|s| s.restorable);
        let has_started = |s: &SessionId| {
            reports.get(s).is_some_and(|r| r.started.iter().any(|a| (a.tag, a.n) == (tag, n)))
        };
        let lost = lost.to_vec();
        let by: Vec<(SessionId, String)> = impossible(reports, tag, n);
        if !by.is_empty() {
            return Verdict::Failed(Failure::Impossible { by });
        }
        if self.root_is_lost(group, reports, (tag, n)) {
            return Verdict::Failed(Failure::Cut { lost });
        }
        if state.is_some_and(|g| g.timed_out.contains(&(tag, n))) {
            let missing = reports.keys().filter(|s| !has_started(s)).copied().collect();
            return Verdict::Failed(Failure::TimedOut { missing });
        }
        if state.is_some_and(|g| g.deadlocked.contains(&(tag, n))) {
            return Verdict::Failed(Failure::Deadlock { waits: self.waits(group) });
        }
        let by_caller = self.config.settings.recovery == Recovery::ByCaller && !lost.is_empty();
        if by_caller || !restorable {
            return Verdict::Failed(Failure::Cut { lost });
        }
        if retries >= self.config.settings.max_recovery_attempts && !lost.is_empty() {
            return Verdict::Failed(Failure::TooManyRecoveries { retries, lost });
        }
        Verdict::Retry
    }

    /// Whether the root of a broadcast does not stay: nobody else has what it was to send.
    fn root_is_lost(
        &self,
        group: PeerGroup,
        reports: &BTreeMap<SessionId, Report>,
        (tag, n): (Tag, u32),
    ) -> bool {
        let call = calls(reports, tag, n).first().map(|(_, f)| *f);
        let Some(f) = call.filter(|f| f.collective == Collective::Broadcast) else {
            return false;
        };
        let members = self.record.groups.get(&group).map(|g| &g.members[..]).unwrap_or_default();
        let root = members.get(f.root as usize).map(|m| m.member.session);
        root.is_none_or(|root| !self.stayers(group).contains(&root))
    }

    pub(super) fn write(&mut self, group: PeerGroup, record: GroupRecord) {
        let replaces = self.epoch_of(group);
        self.next_store += 1;
        let id = self.next_store;
        let record = Box::new(record);
        let term = self.record.term;
        self.actions.push_back(Action::Store(StoreRequest::Write {
            id,
            term,
            group,
            replaces,
            record: record.clone(),
        }));
        if let Some(state) = self.groups.get_mut(&group) {
            state.activity = Activity::Writing { id, record, replaces };
        }
    }

    fn writing(&self, id: u64) -> Option<PeerGroup> {
        let writes = |a: &Activity| matches!(a, Activity::Writing { id: i, .. } if *i == id);
        self.groups.iter().find(|(_, g)| writes(&g.activity)).map(|(group, _)| *group)
    }

    /// The decision stands: now it may be told.
    pub(super) fn written(&mut self, now: Time, id: u64) {
        let Some(group) = self.writing(id) else { return };
        let activity = self.groups.get_mut(&group).map(|g| std::mem::take(&mut g.activity));
        let Some(Activity::Writing { record, replaces, .. }) = activity else {
            return;
        };
        if record.epoch == replaces {
            return self.sync_written(now, group, *record);
        }
        self.sync_ends(group, record.agreed());
        let Some(state) = self.groups.get_mut(&group) else {
            return;
        };
        let change = record.changes.last().cloned();
        state.attempts.clear();
        state.mismatched.clear();
        state.timed_out.clear();
        state.deadlocked.clear();
        state.broken.clear();
        state.broken_since = None;
        state.rollover = false;
        let heard = state.heard;
        let removed: Vec<(SessionId, Removal)> = change.iter().flat_map(|c| c.removed.clone()).collect();
        for (session, _) in &removed {
            state.removals.remove(session);
        }
        // Newcomers that have gone while the record that lets them in was on its way: they are out with the next epoch.
        for m in &record.members {
            let session = m.member.session;
            if !self.sessions.contains_key(&session) {
                let why = self.ended.get(&session).map_or(Removal::Forgotten, |(why, _)| why.clone());
                state.removals.insert(session, why);
            }
        }
        let epoch = record.epoch;
        self.record.groups.insert(group, *record);
        let sizes = self.sizes(epoch);
        self.groups.entry(group).or_default().sizes = sizes;
        self.announce(group, epoch, change.as_ref());
        for (session, why) in removed {
            self.end_session(now, session, why);
        }
        for session in self.stayers(group) {
            self.bring_in(session, heard);
        }
        self.end_topology_votes(group);
        self.go_on(now, group);
    }

    fn announce(&mut self, group: PeerGroup, epoch: Epoch, change: Option<&Change>) {
        let mut counts = (0, 0, 0);
        for (_, _, verdict) in change.iter().flat_map(|c| &c.verdicts) {
            match verdict {
                Verdict::Committed => counts.0 += 1,
                Verdict::Retry => counts.1 += 1,
                Verdict::Failed(_) => counts.2 += 1,
            }
        }
        let world = self.stored(group).members.len() as u32;
        self.events.push_back(MasterEvent::EpochChanged { group, epoch, world, verdicts: counts });
    }

    /// After an epoch change, or when a newcomer came: what is there to do?
    pub(super) fn go_on(&mut self, now: Time, group: PeerGroup) {
        if !self.is_idle(group) || self.authority != Authority::Active {
            return;
        }
        let pending = self.groups.get(&group).is_some_and(|g| !g.removals.is_empty());
        if pending {
            return self.collect(now, group, Vec::new(), "more members are lost");
        }
        if self.stored(group).members.is_empty() {
            return self.begin_linking(now, group);
        }
        self.count_votes(now, group);
    }

    /// Somebody is a member of the newest epoch, and is told of it.
    fn bring_in(&mut self, session: SessionId, heard: u64) {
        let Some(epoch) = self.sessions.get(&session).map(|s| self.epoch_of(s.group)) else { return };
        if let Some(s) = self.sessions.get_mut(&session) {
            if !s.is_member {
                s.is_member = true;
                s.acked = heard;
            }
            if s.applied < epoch {
                s.waits.clear();
            }
        }
        self.bring_up_to_date(session);
    }

    /// Tells a member about the epochs that it has not applied.
    pub(super) fn bring_up_to_date(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get(&session) else {
            return;
        };
        let (group, applied) = (state.group, state.applied);
        let stored = self.stored(group);
        if !state.is_member || applied >= stored.epoch {
            return;
        }
        let joined = stored.members.iter().find(|m| m.member.session == session).map(|m| m.joined);
        let from = joined.unwrap_or_default().max(applied);
        let changes = stored.changes.iter().filter(|c| c.from >= from).cloned().collect();
        let sizes = self.groups.get(&group).map(|g| g.sizes).filter(|s| s.epoch == stored.epoch);
        let view = view(&stored, sizes.unwrap_or_else(|| self.sizes(stored.epoch)));
        self.tell(session, MasterMessage::EpochChange { changes, view });
    }

    /// How large the groups are in `epoch` of the one that asks.
    pub(super) fn sizes(&self, epoch: Epoch) -> Sizes {
        let sizes = self.record.groups.values().map(|g| g.members.len() as u32);
        Sizes {
            epoch,
            global_world: sizes.clone().sum(),
            groups: sizes.clone().filter(|n| *n > 0).count() as u32,
            largest_group: sizes.max().unwrap_or(0),
        }
    }

    pub(super) fn applied(&mut self, session: SessionId, epoch: Epoch) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.applied = state.applied.max(epoch);
        }
    }

    /// Nobody knows whether the write took effect: only the store can tell.
    pub(super) fn write_in_doubt(&mut self, id: u64, why: &str) {
        if self.writing(id).is_none() {
            return;
        }
        self.events.push_back(MasterEvent::StoreTrouble { why: why.into() });
        if !self.rules.hold(Rule::ResolveDoubt) {
            let undecided = self.writing(id).and_then(|group| self.groups.get_mut(&group));
            return undecided.map_or((), |g| g.activity = Activity::Idle);
        }
        self.actions.push_back(Action::Store(StoreRequest::Read { id }));
    }

    pub(super) fn resolve_doubt(&mut self, now: Time, id: u64, found: &RunRecord) {
        if found.term > self.record.term {
            return self.depose(now, found);
        }
        let Some(group) = self.writing(id) else { return };
        let Some(Activity::Writing { record, replaces, .. }) = self.groups.get(&group).map(|g| &g.activity)
        else {
            return;
        };
        let stored = found.groups.get(&group).cloned().unwrap_or_default();
        if stored == **record {
            return self.written(now, id);
        }
        if stored.epoch == *replaces {
            // It did not take effect: the same write again.
            let (term, replaces, record) = (self.record.term, *replaces, record.clone());
            self.actions.push_back(Action::Store(StoreRequest::Write { id, term, group, replaces, record }));
            return;
        }
        // Another epoch in our term, not written by us: the store is not the one we know.
        self.depose(now, found);
    }
}

/// An epoch as its members know it.
fn view(stored: &GroupRecord, sizes: Sizes) -> View {
    View {
        epoch: stored.epoch,
        joined: stored.joined,
        members: stored.members.iter().map(|m| m.member.clone()).collect(),
        links: stored.links,
        sizes,
        agreed: stored.agreed(),
    }
}

fn fullest_host(members: &[MemberRecord]) -> u32 {
    let mut hosts = BTreeMap::new();
    for m in members {
        *hosts.entry(m.member.addr.ip()).or_insert(0) += 1;
    }
    hosts.into_values().max().unwrap_or(1)
}

fn calls(reports: &BTreeMap<SessionId, Report>, tag: Tag, n: u32) -> Vec<(SessionId, Fingerprint)> {
    let started = |r: &Report| r.started.iter().find(|s| (s.tag, s.n) == (tag, n)).map(|s| s.fingerprint);
    reports.iter().filter_map(|(session, r)| Some((*session, started(r)?))).collect()
}

/// Who cannot take part in an attempt, and why.
fn impossible(reports: &BTreeMap<SessionId, Report>, tag: Tag, n: u32) -> Vec<(SessionId, String)> {
    let why = |r: &Report| r.started.iter().find(|s| (s.tag, s.n) == (tag, n))?.impossible.clone();
    reports.iter().filter_map(|(session, r)| Some((*session, why(r)?))).collect()
}
