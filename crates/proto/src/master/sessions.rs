//! Newcomers register, members attach, both leave; what their messages mean.

use std::net::{IpAddr, SocketAddr};

use super::change::Activity;
use super::commit::Attempt;
use super::{Authority, Conn, Master, MasterEvent, SessionState, trust};
use crate::ids::{AttemptName, ConnId, Epoch, PeerGroup, SessionId, Term, Time};
use crate::message::{Command, MasterMessage, Refusal, Report, Session, ToMaster, Vote};
use crate::record::{Member, Removal};
use crate::rules::Rule;
use crate::settings::Expectations;
use crate::vocabulary::Fingerprint;

/// Ended sessions that are remembered, so that whoever comes back learns why.
const MAX_ENDED: usize = 10_000;

impl Master {
    pub(super) fn handle_message(&mut self, now: Time, conn: ConnId, message: ToMaster) {
        let session = self.conns.get(&conn).and_then(|c| c.session);
        match (message, session) {
            (ToMaster::Status | ToMaster::Ping, _) if !self.listens(conn) => {}
            (ToMaster::Status, _) => {
                let status = Box::new(self.status(now));
                self.send(conn, MasterMessage::Status(status));
            }
            (ToMaster::Ping, _) => self.send(conn, MasterMessage::Pong),
            (ToMaster::Command(command), _) => self.commanded(now, conn, command),
            _ if self.authority == Authority::Standby => self.not_active(conn),
            (ToMaster::Hello { .. }, _) if self.authority == Authority::Unleased => self.not_active(conn),
            (ToMaster::Hello { group, .. } | ToMaster::Attach { group, .. }, None)
                if !self.permits(conn, group) =>
            {
                self.not_permitted(conn, group);
            }
            (ToMaster::Hello { group, addr, site, ended, expects }, None) => {
                self.register(now, conn, (group, addr, site), ended, &expects);
            }
            (ToMaster::Attach { group, session, term, report, vote, ended }, None) => {
                self.vote_has_ended(group, session, ended);
                self.attach(now, conn, group, (session, term, &report, vote));
            }
            (message, Some(session)) => self.handle_member(now, conn, session, message),
            (_, None) => {
                let what = "a message before hello or attach".to_owned();
                self.send(conn, MasterMessage::Refused { why: Refusal::Protocol { what } });
                self.drop_conn(conn);
            }
        }
    }

    /// Whether the certificate of the other side allows a group, where certificates decide that.
    fn permits(&self, conn: ConnId, group: PeerGroup) -> bool {
        let permit = self.conns.get(&conn).and_then(|c| c.permit.as_ref());
        permit.is_none_or(|permit| permit.groups.contains(&group))
    }

    /// Turns away whoever may not be in the group. A member among them is out when it has been silent, or has not
    /// attached, for long enough.
    fn not_permitted(&mut self, conn: ConnId, group: PeerGroup) {
        let Some(Conn { from, permit: Some(permit), .. }) = self.conns.get(&conn) else { return };
        let (from, certificate) = (*from, permit.certificate.clone());
        let why = Refusal::Group { group, certificate, allowed: permit.groups.iter().copied().collect() };
        self.events.push_back(MasterEvent::GroupRefused { from, why: why.to_string() });
        self.send(conn, MasterMessage::Refused { why });
        self.drop_conn(conn);
    }

    /// Says where the active master is, as far as the store knows.
    fn not_active(&mut self, conn: ConnId) {
        let lease = &self.record.lease;
        let active = lease.addr.filter(|_| lease.holder != self.config.lease.id && !lease.released);
        self.send(conn, MasterMessage::NotActive { active });
    }

    fn commanded(&mut self, now: Time, conn: ConnId, command: Command) {
        // Who connects to an address of this host from this host does so from that address.
        let own = self.config.lease.addr.map(|addr| addr.ip());
        let local =
            self.conns.get(&conn).is_some_and(|c| c.from.ip().is_loopback() || Some(c.from.ip()) == own);
        let outcome = if local || self.config.remote_commands {
            self.command(now, command)
        } else {
            Err("commands are taken from the master's own host only".into())
        };
        self.send(conn, MasterMessage::Commanded { outcome });
    }

    fn handle_member(&mut self, now: Time, conn: ConnId, session: SessionId, message: ToMaster) {
        let Some(group) = self.sessions.get(&session).map(|s| s.group) else {
            return;
        };
        match message {
            ToMaster::Report { change, report } => self.report(now, session, change, report),
            ToMaster::Applied { epoch } => self.applied(session, epoch),
            ToMaster::Done { name, digest, heard } => {
                if let Some(state) = self.sessions.get_mut(&session) {
                    state.acked = state.acked.max(heard);
                }
                self.promise(now, session, name, digest);
            }
            ToMaster::Mismatch { name } => self.cannot_be(now, group, name),
            ToMaster::Waiting { name, fingerprint, for_ms } => {
                self.waiting(now, session, name, fingerprint, for_ms);
            }
            ToMaster::Vote(vote) => self.voted(now, session, vote),
            ToMaster::Offer { number, offer } => self.offered(session, number, offer),
            ToMaster::Synchronized { sync } => self.synchronized(session, sync),
            ToMaster::BadBlock { sync, holder, tensor } => {
                self.bad_block(now, session, sync, holder, &tensor);
            }
            ToMaster::Linked { join, up: _, down } => self.linked(now, session, join, down),
            ToMaster::Suspect { peer } => self.probe(peer),
            ToMaster::BrokenLink { peer } => self.link_is_broken(now, group, session, peer),
            ToMaster::Rollover { epoch } if epoch == self.epoch_of(group) => {
                self.groups.entry(group).or_default().rollover = true;
            }
            ToMaster::Leave => self.leave(now, session),
            ToMaster::Rollover { .. }
            | ToMaster::Pong
            | ToMaster::Ping
            | ToMaster::Status
            | ToMaster::Command(_) => {}
            ToMaster::Hello { .. } | ToMaster::Attach { .. } => self.drop_conn(conn),
        }
    }

    fn register(
        &mut self,
        now: Time,
        conn: ConnId,
        (group, addr, site): (PeerGroup, SocketAddr, String),
        ended: Option<Session>,
        expects: &Expectations,
    ) {
        let Some(from) = self.conns.get(&conn).map(|c| c.from) else {
            return;
        };
        let limit = self.config.max_peers;
        let refusal = if let Some(d) = expects.disagreement(&self.config.settings) {
            Some(Refusal::Settings(d))
        } else if self.sessions.len() >= limit as usize {
            Some(Refusal::Full { limit })
        } else if site.len() > 256 {
            Some(Refusal::Protocol { what: "a site label of more than 256 bytes".into() })
        } else {
            None
        };
        if let Some(why) = refusal {
            self.events.push_back(MasterEvent::ConnectionRefused { from, why: why.to_string() });
            self.send(conn, MasterMessage::Refused { why });
            return self.drop_conn(conn);
        }
        if let Some(old) = ended {
            self.came_back(now, old);
        }
        self.next_session += 1;
        let id = SessionId::new(self.record.term, self.next_session);
        let session = Session { id, key: self.random.next_u64() };
        let addr = reachable(addr, from.ip());
        let member = Member { session: id, addr, site };
        let state = SessionState::new(now, group, session.key, member);
        self.sessions.insert(id, SessionState { conn: Some(conn), detached: None, ..state });
        self.trust_conn(conn, id);
        self.groups.entry(group).or_default();
        self.events.push_back(MasterEvent::Registered { session: id, group, addr });
        let members = self.stored(group).members.len() as u32;
        let (run, settings) = (self.record.run, self.config.settings.clone());
        self.send(conn, MasterMessage::Registered { session, run, settings, members });
        self.go_on(now, group);
    }

    fn trust_conn(&mut self, conn: ConnId, session: SessionId) {
        self.strangers.retain(|c| *c != conn);
        if let Some(state) = self.conns.get_mut(&conn) {
            trust(state, session);
        }
    }

    /// A peer names the session that it had before: that one is over.
    fn came_back(&mut self, now: Time, old: Session) {
        let proven = self.sessions.get(&old.id).is_some_and(|s| s.key == old.key);
        if proven {
            self.remove(now, old.id, Removal::CameBack);
        }
    }

    fn attach(
        &mut self,
        now: Time,
        conn: ConnId,
        group: PeerGroup,
        (session, term, report, vote): (Session, Term, &Report, Option<Vote>),
    ) {
        if term > self.record.term && self.rules.hold(Rule::HighestTerm) {
            self.check_term();
            self.send(conn, MasterMessage::NotActive { active: None });
            return self.drop_conn(conn);
        }
        let known = self.sessions.get(&session.id).is_some_and(|s| s.key == session.key && s.group == group);
        let removed = self.groups.get(&group).is_some_and(|g| g.removals.contains_key(&session.id));
        if !known || removed {
            return self.turn_back(now, conn, session.id, report.epoch);
        }
        let old = self.sessions.get_mut(&session.id).and_then(|s| s.conn.replace(conn));
        if let Some(old) = old.filter(|c| *c != conn) {
            self.drop_conn(old);
        }
        self.trust_conn(conn, session.id);
        let Some(state) = self.sessions.get_mut(&session.id) else {
            return;
        };
        state.detached = None;
        state.applied = report.epoch;
        state.acked = 0;
        state.waits.clear();
        self.heard_from(now, session.id);
        self.events.push_back(MasterEvent::Attached { session: session.id });
        self.read_report(now, group, session.id, report);
        self.repeat_verdicts(group, session.id);
        self.repeat_sync(group, session.id);
        let heard = self.groups.get(&group).map_or(0, |g| g.heard);
        let leased = self.authority == Authority::Active || !self.rules.hold(Rule::SayWithoutLease);
        let goes_on = self.goes_on(group, report.epoch);
        self.send(conn, MasterMessage::Attached { heard, leased, goes_on });
        self.bring_up_to_date(session.id);
        if let Some(change) = self.collecting(group) {
            let epoch = self.epoch_of(group);
            self.send(conn, MasterMessage::Prepare { change, epoch });
        }
        // What it does not say now it does not wait for any more.
        if let Some(state) = self.sessions.get_mut(&session.id) {
            state.vote = None;
        }
        if let Some(vote) = vote {
            self.voted(now, session.id, vote);
        }
    }

    /// What a member reports counts as if it had been said one by one.
    pub(super) fn read_report(&mut self, now: Time, group: PeerGroup, session: SessionId, report: &Report) {
        let epoch = report.epoch;
        if epoch != self.epoch_of(group) {
            return;
        }
        for (tag, n) in &report.committed {
            self.committed_before(now, group, AttemptName { epoch, tag: *tag, n: *n });
        }
        for started in &report.started {
            let name = AttemptName { epoch, tag: started.tag, n: started.n };
            if started.done {
                self.promise(now, session, name, started.fingerprint.digest());
            } else {
                self.started(now, group, name, started);
            }
        }
    }

    fn turn_back(&mut self, now: Time, conn: ConnId, session: SessionId, epoch: Epoch) {
        let removed = self.groups.values().find_map(|g| g.removals.get(&session).cloned());
        let message = match (removed, self.ended.get(&session)) {
            (Some(why), _) => MasterMessage::Expelled { why, ago_ms: 0 },
            (None, Some((why, at))) => {
                MasterMessage::Expelled { why: why.clone(), ago_ms: now.since(*at).as_millis() as u64 }
            }
            (None, None) if epoch == Epoch::default() => {
                MasterMessage::Refused { why: Refusal::UnknownSession }
            }
            (None, None) => MasterMessage::Expelled { why: Removal::Forgotten, ago_ms: 0 },
        };
        self.send(conn, message);
        self.drop_conn(conn);
    }

    fn waiting(&mut self, now: Time, session: SessionId, name: AttemptName, f: Fingerprint, for_ms: u64) {
        let Some(group) = self.sessions.get(&session).map(|s| s.group) else {
            return;
        };
        let since = Time(now.0.saturating_sub(for_ms.saturating_mul(1000)));
        let key = (name.tag, name.n);
        let attempt = self.groups.get(&group).and_then(|g| g.attempts.get(&key));
        if name.epoch != self.epoch_of(group) || attempt.is_some_and(|a| a.committed.is_some()) {
            // The wait is over, and the verdict on its way.
            return;
        }
        if let Some(state) = self.sessions.get_mut(&session) {
            state.waits.insert(key, (since, f.to_string()));
        }
        let attempts = &mut self.groups.entry(group).or_default().attempts;
        let attempt = attempts.entry((name.tag, name.n)).or_insert_with(|| Attempt::new(since));
        attempt.fingerprint = Some(f);
        let differs = attempt.digest.replace(f.digest()).is_some_and(|d| d != f.digest());
        if differs {
            return self.cannot_be(now, group, name);
        }
        self.end_deadlock(now, group);
    }

    fn leave(&mut self, now: Time, session: SessionId) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return;
        };
        state.leaving = true;
        let conn = state.conn;
        if !state.is_member
            && let Some(conn) = conn
        {
            self.send(conn, MasterMessage::Goodbye);
        }
        self.remove(now, session, Removal::Left);
    }

    /// Ends a session: a newcomer's at once, a member's with the next epoch.
    pub(super) fn remove(&mut self, now: Time, session: SessionId, why: Removal) {
        let Some(state) = self.sessions.get(&session) else {
            return;
        };
        let group = state.group;
        let entry = self.groups.entry(group).or_default();
        if entry.removals.contains_key(&session) {
            return;
        }
        self.events.push_back(MasterEvent::Removed { session, why: why.clone() });
        if state.is_member {
            let text = format!("peer {session}: {why}");
            entry.removals.insert(session, why);
            self.begin_change(now, group, &text);
        } else {
            self.end_session(now, session, why);
            self.newcomer_gone(now, group, session);
        }
    }

    /// The session is over; whoever still holds it is told.
    pub(super) fn end_session(&mut self, now: Time, session: SessionId, why: Removal) {
        let Some(state) = self.sessions.remove(&session) else {
            return;
        };
        if let Some(conn) = state.conn {
            let message = if state.leaving {
                MasterMessage::Goodbye
            } else {
                MasterMessage::Expelled { why: why.clone(), ago_ms: 0 }
            };
            self.send(conn, message);
            self.drop_conn(conn);
        }
        self.ended.insert(session, (why, now));
        if self.ended.len() > MAX_ENDED {
            self.ended.pop_first();
        }
    }

    /// A connection is no more.
    pub(super) fn conn_lost(&mut self, now: Time, conn: ConnId) {
        let Some((session, state)) = self.sessions.iter_mut().find(|(_, s)| s.conn == Some(conn)) else {
            return;
        };
        let session = *session;
        state.conn = None;
        state.detached = Some(now);
        if state.is_member {
            self.events.push_back(MasterEvent::Detached { session });
            self.probe(session);
        } else {
            // A newcomer that comes back registers anew, or attaches with this session.
            let group = state.group;
            self.newcomer_gone(now, group, session);
        }
    }

    /// Whether the group may begin something new.
    pub(super) fn is_idle(&self, group: PeerGroup) -> bool {
        self.groups.get(&group).is_none_or(|g| matches!(g.activity, Activity::Idle))
    }
}

/// An unspecified address stands for the one that the connection comes from.
fn reachable(addr: SocketAddr, from: IpAddr) -> SocketAddr {
    if addr.ip().is_unspecified() { SocketAddr::new(from, addr.port()) } else { addr }
}
