//! Who is dead, and which links are broken (DESIGN, "Death" and "Broken links").

use std::collections::BTreeMap;

use super::change::Activity;
use super::{Authority, Master, MasterEvent};
use crate::ids::{ConnId, PeerGroup, SessionId, Time};
use crate::machine::{Action, Closed};
use crate::message::MasterMessage;
use crate::record::Removal;
use crate::rules::Rule;
use crate::settings::RunSettings;

pub(super) struct Liveness {
    tick_at: Time,
    last_tick: Time,
    /// Nobody is judged before.
    grace_until: Time,
    hears_nobody: bool,
    /// Members that the store knew when this master became active, and that have not been looked for yet.
    unsought: Vec<SessionId>,
    /// Members that the store knew and that have not been heard by this master, and whether their ports have answered it.
    unheard: BTreeMap<SessionId, bool>,
    /// Connections that ask whether a process is still there.
    probes: BTreeMap<ConnId, Probe>,
}

/// A connection to a member's port. That it comes about proves little: the kernel may be about to close the port of a
/// process that has ended. So it is kept for a moment, and asked again if it breaks.
struct Probe {
    session: SessionId,
    connected: Option<Time>,
    again: u32,
    /// What is said to us goes nowhere, but it must be read to hear of the end.
    waste: [u8; 64],
}

/// Probes that came about and broke at once, in a row, before they are believed all the same.
const MAX_PROBES: u32 = 5;

/// Members that a new master looks for at once.
const SOUGHT_AT_ONCE: usize = 128;

/// A stranger that has not said anything sensible for this long is shown the door.
const STRANGER_TIMEOUT_MS: u128 = 5000;

impl Liveness {
    pub(super) fn new(now: Time) -> Self {
        Self {
            tick_at: now,
            last_tick: now,
            grace_until: now,
            hears_nobody: false,
            unsought: Vec::new(),
            unheard: BTreeMap::new(),
            probes: BTreeMap::new(),
        }
    }

    pub(super) fn tick_at(&self) -> Time {
        self.tick_at
    }

    pub(super) fn probe_buffer(&mut self, conn: ConnId) -> &mut [u8] {
        self.probes.get_mut(&conn).map_or(&mut [], |p| &mut p.waste)
    }

    /// The members that a new master has found in its store: they have until the next tick, an interval away.
    pub(super) fn begin_seeking(&mut self, now: Time, settings: &RunSettings, members: Vec<SessionId>) {
        self.unheard = members.iter().map(|session| (*session, false)).collect();
        self.unsought = members;
        self.tick_at = now + settings.heartbeat_interval();
        self.last_tick = now;
    }

    /// Everybody gets one full new timeout.
    pub(super) fn forgive(&mut self, now: Time, settings: &RunSettings) {
        self.grace_until = now + settings.heartbeat_timeout();
    }

    /// Whether a member that this master has not heard yet is still on its way. Over long links finding the master,
    /// connecting and shaking hands take longer than a heartbeat timeout; a port that answers says that a process is there.
    fn is_on_its_way(&self, session: SessionId) -> bool {
        self.unheard.get(&session).copied().unwrap_or_default()
    }
}

impl Master {
    pub(super) fn heard_from(&mut self, now: Time, session: SessionId) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.heard = now;
        }
        self.liveness.unheard.remove(&session);
    }

    /// Asks the peer-to-peer port of a member whether its process is still there.
    pub(super) fn probe(&mut self, session: SessionId) {
        self.dial_probe(session, 0);
    }

    fn dial_probe(&mut self, session: SessionId, again: u32) {
        let Some(state) = self.sessions.get(&session) else {
            return;
        };
        let waits = |p: &Probe| p.session == session && p.connected.is_none();
        if !state.is_member || again > MAX_PROBES || self.liveness.probes.values().any(waits) {
            return;
        }
        let addr = state.member.addr;
        let conn = self.new_conn();
        self.liveness.probes.insert(conn, Probe { session, connected: None, again, waste: [0; 64] });
        self.actions.push_back(Action::Dial { conn, addr });
    }

    /// A new master knows its members only from the store. Those that do not attach within an interval are asked whether
    /// their processes are there, so that one that died with the master before it is not waited for in vain.
    fn seek_members(&mut self) {
        let rest = self.liveness.unsought.len().saturating_sub(SOUGHT_AT_ONCE);
        for session in self.liveness.unsought.split_off(rest) {
            if self.sessions.get(&session).is_some_and(|s| s.conn.is_none()) {
                self.probe(session);
            }
        }
    }

    pub(super) fn probe_answered(&mut self, now: Time, conn: ConnId) {
        if let Some(probe) = self.liveness.probes.get_mut(&conn) {
            probe.connected = Some(now);
            if let Some(answered) = self.liveness.unheard.get_mut(&probe.session) {
                *answered = true;
            }
        }
    }

    /// A probe failed: refused means that the process is gone, silence means nothing yet, and one that broke is sent
    /// again. False if it was no probe.
    pub(super) fn probe_failed(&mut self, now: Time, conn: ConnId, why: &Closed) -> bool {
        let Some(probe) = self.liveness.probes.remove(&conn) else {
            return false;
        };
        if self.authority != Authority::Active {
            return true;
        }
        if *why == Closed::Refused {
            self.remove(now, probe.session, Removal::ProcessGone);
        } else if probe.connected.is_some() || *why == Closed::Eof {
            self.dial_probe(probe.session, probe.again + 1);
        }
        true
    }

    /// Probes that have stood for a while: somebody lives there.
    fn end_probes(&mut self, now: Time, settings: &RunSettings) {
        let stood = |p: &Probe| p.connected.is_some_and(|at| now.since(at) >= settings.heartbeat_interval());
        let done: Vec<ConnId> =
            self.liveness.probes.iter().filter(|(_, p)| stood(p)).map(|(conn, _)| *conn).collect();
        for conn in done {
            self.liveness.probes.remove(&conn);
            self.actions.push_back(Action::Close { conn, last: Vec::new() });
        }
    }

    pub(super) fn tick(&mut self, now: Time) {
        let settings = self.config.settings.clone();
        let interval = settings.heartbeat_interval();
        let late = now.since(self.liveness.last_tick);
        if late > 2 * interval {
            self.events.push_back(MasterEvent::WasStopped {
                late_ms: late.saturating_sub(interval).as_millis() as u64,
            });
            self.liveness.forgive(now, &settings);
        }
        self.liveness.last_tick = now;
        self.liveness.tick_at = now + interval;
        self.drop_slow_strangers(now);
        self.end_probes(now, &settings);
        if self.authority != Authority::Active {
            return;
        }
        self.seek_members();
        self.ping_silent(now, &settings);
        self.judge(now, &settings);
        let groups: Vec<PeerGroup> = self.groups.keys().copied().collect();
        for group in groups {
            self.judge_reporters(now, group, &settings);
            self.judge_broken_links(now, group, &settings);
            self.end_abandoned(now, group, &settings);
            self.end_timed_out(now, group, &settings);
            self.roll_over(now, group);
            self.try_end_linking(now, group);
            self.go_on(now, group);
        }
    }

    fn drop_slow_strangers(&mut self, now: Time) {
        while let Some(conn) = self.strangers.front().copied() {
            let slow =
                self.conns.get(&conn).is_none_or(|c| now.since(c.opened).as_millis() > STRANGER_TIMEOUT_MS);
            if !slow {
                return;
            }
            self.strangers.pop_front();
            self.drop_conn(conn);
        }
    }

    fn ping_silent(&mut self, now: Time, settings: &RunSettings) {
        let quiet = 2 * settings.heartbeat_interval();
        let silent: Vec<SessionId> =
            self.sessions.iter().filter(|(_, s)| now.since(s.heard) >= quiet).map(|(id, _)| *id).collect();
        for session in silent {
            self.tell(session, MasterMessage::Ping);
        }
    }

    fn judge(&mut self, now: Time, settings: &RunSettings) {
        let timeout = settings.heartbeat_timeout();
        let silent = |heard: Time| now.since(heard) > timeout;
        let members = self.sessions.values().filter(|s| s.is_member);
        let nobody = members.clone().count() > 0 && members.clone().all(|s| silent(s.heard));
        if nobody {
            if !self.liveness.hears_nobody {
                self.events.push_back(MasterEvent::HearsNobody);
            }
            self.liveness.hears_nobody = true;
            return;
        }
        if std::mem::take(&mut self.liveness.hears_nobody) {
            self.liveness.forgive(now, settings);
        }
        if now < self.liveness.grace_until {
            return;
        }
        let mut dead = Vec::new();
        for (session, state) in &self.sessions {
            let for_ms = now.since(state.heard).as_millis() as u64;
            let away = state.detached.map(|at| now.since(at));
            let late = away.is_some_and(|d| d > 3 * timeout);
            if silent(state.heard) && (late || !self.liveness.is_on_its_way(*session)) {
                dead.push((*session, Removal::Silent { for_ms }));
            } else if late {
                let for_ms = away.unwrap_or_default().as_millis() as u64;
                dead.push((*session, Removal::NotAttached { for_ms }));
            }
        }
        for (session, why) in dead {
            self.remove(now, session, why);
        }
    }

    /// Members that are heard, but do not report when asked, are left behind.
    fn judge_reporters(&mut self, now: Time, group: PeerGroup, settings: &RunSettings) {
        let Some(Activity::Collecting { reports, since, .. }) = self.groups.get(&group).map(|g| &g.activity)
        else {
            return;
        };
        let waited = now.since(*since);
        if waited <= 3 * settings.heartbeat_timeout()
            || now < self.liveness.grace_until
            || self.liveness.hears_nobody
        {
            return;
        }
        let missing: Vec<SessionId> =
            self.stayers(group).into_iter().filter(|s| !reports.contains_key(s)).collect();
        for session in missing {
            self.remove(now, session, Removal::NotAttached { for_ms: waited.as_millis() as u64 });
        }
    }

    pub(super) fn link_is_broken(&mut self, now: Time, group: PeerGroup, from: SessionId, to: SessionId) {
        let members = self.stayers(group);
        if !members.contains(&from) || !members.contains(&to) {
            return;
        }
        if let Some(state) = self.groups.get_mut(&group) {
            state.broken.insert((from.min(to), from.max(to)));
            state.broken_since.get_or_insert(now);
        }
    }

    /// Of members that are heard and cannot reach each other, the one with most broken links goes, on a tie the youngest.
    fn judge_broken_links(&mut self, now: Time, group: PeerGroup, settings: &RunSettings) {
        let Some(state) = self.groups.get(&group) else {
            return;
        };
        // The others have an interval or two to report theirs.
        let ripe = state.broken_since.is_some_and(|at| now.since(at) >= 2 * settings.heartbeat_interval());
        if !ripe || !self.is_idle(group) {
            return;
        }
        let alive = |s: &SessionId| {
            let quiet = 3 * settings.heartbeat_interval();
            self.sessions.get(s).is_some_and(|s| now.since(s.heard) <= quiet)
        };
        let pairs: Vec<_> = state.broken.iter().filter(|(a, b)| alive(a) && alive(b)).copied().collect();
        let mut counts: BTreeMap<SessionId, usize> = BTreeMap::new();
        for (a, b) in &pairs {
            *counts.entry(*a).or_default() += 1;
            *counts.entry(*b).or_default() += 1;
        }
        if let Some(state) = self.groups.get_mut(&group) {
            state.broken.clear();
            state.broken_since = None;
        }
        let Some((worst, _)) = counts.into_iter().max_by_key(|(s, n)| (*n, *s)) else {
            return;
        };
        let other = pairs.iter().find_map(|(a, b)| match worst {
            w if w == *a => Some(*b),
            w if w == *b => Some(*a),
            _ => None,
        });
        if let Some(with) = other {
            self.remove(now, worst, Removal::BrokenLink { with });
        }
    }

    /// If no member has been heard for `master_timeout` and newcomers wait, the old epoch ends and they form the next.
    fn end_abandoned(&mut self, now: Time, group: PeerGroup, settings: &RunSettings) {
        let members = self.stayers(group);
        if !self.rules.hold(Rule::FollowTheGone) {
            return;
        }
        if members.is_empty() || self.newcomers(group).is_empty() || now < self.liveness.grace_until {
            return;
        }
        let heard = |s: &SessionId| self.sessions.get(s).map_or(Time::default(), |s| s.heard);
        if members.iter().any(|s| now.since(heard(s)) <= settings.master_timeout()) {
            return;
        }
        let joining = self.newcomers(group);
        for session in members {
            let for_ms = now.since(heard(&session)).as_millis() as u64;
            let why = Removal::Silent { for_ms };
            self.events.push_back(MasterEvent::Removed { session, why: why.clone() });
            if let Some(state) = self.groups.get_mut(&group) {
                state.removals.insert(session, why);
            }
        }
        if let Some(state) = self.groups.get_mut(&group)
            && matches!(state.activity, Activity::Collecting { .. })
        {
            // Nobody is left to report.
            state.activity = Activity::Idle;
        }
        if self.is_idle(group) && joining.len() == 1 {
            self.collect(now, group, joining, "no member has been heard for master_timeout");
        } else if self.is_idle(group) {
            self.begin_linking(now, group);
        }
    }

    /// Counters of attempts are forgotten with an epoch. An op in flight would have to begin again, so it is done when none
    /// is known.
    fn roll_over(&mut self, now: Time, group: PeerGroup) {
        let Some(state) = self.groups.get(&group).filter(|g| g.rollover) else { return };
        let open = state.attempts.values().any(|a| a.committed.is_none());
        if !open && state.sync.is_none() && self.is_idle(group) {
            self.begin_change(now, group, "attempts of very many tags have been counted");
        }
    }

    /// `op_timeout`, if it is set, ends ops that somebody waits for, for all alike.
    fn end_timed_out(&mut self, now: Time, group: PeerGroup, settings: &RunSettings) {
        let limit_ms = u128::from(settings.op_timeout_ms);
        if limit_ms == 0 || !self.is_idle(group) {
            return;
        }
        let Some(state) = self.groups.get_mut(&group) else {
            return;
        };
        let late =
            |a: &super::commit::Attempt| a.committed.is_none() && now.since(a.since).as_millis() > limit_ms;
        let overdue: Vec<_> = state.attempts.iter().filter(|(_, a)| late(a)).map(|(k, _)| *k).collect();
        if !overdue.is_empty() {
            state.timed_out.extend(overdue);
            self.begin_change(now, group, "op_timeout passed");
        }
    }
}
