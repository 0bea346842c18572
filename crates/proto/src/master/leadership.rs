//! Who leads: a standby waits for the lease to end and takes the next term; the active master renews its own, and decides
//! nothing when it is over (see [`crate::lease`]).

use std::time::Duration;

use super::change::Activity;
use super::{Authority, Master, MasterEvent};
use crate::ids::{ConnId, PeerGroup, SessionId, Time};
use crate::lease::{Lease, Mark, MasterId};
use crate::machine::Action;
use crate::message::{Command, MasterMessage};
use crate::record::{RunRecord, StoreReply, StoreRequest};
use crate::rules::Rule;

/// Pause between two looks at the store while a handover is under way.
const HANDOVER_LOOK: Duration = Duration::from_millis(20);
/// Longest pause between two looks at the store, and first pause after it has failed.
const LONGEST_LOOK: Duration = Duration::from_millis(500);
const SHORTEST_LOOK: Duration = Duration::from_millis(10);
/// Stands in the heir's place while the active master waits for somebody to come forward.
const ANYBODY: MasterId = MasterId(0);

/// What was asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Look,
    Take,
    Renew,
    Release,
    Claim,
    Invite,
}

/// A master's place among the others.
pub(super) struct Leadership {
    /// The request under way, and when it was made.
    asked: Option<(u64, Asked, Time)>,
    /// When to ask next.
    next_at: Time,
    /// The lease as it was seen last, and since when it has stood so; none while the store does not answer.
    seen: Option<(Mark, Time)>,
    /// Our own lease: nothing is decided from then on.
    valid_until: Time,
    /// It was given back, or will be: this term decides nothing any more.
    yields: Option<Yield>,
    /// Whether it may lead at all: not after it was demoted.
    eligible: bool,
    /// It was promoted, and has not led since.
    claims: bool,
    /// It shall give way, and until then it waits for another one to come forward, so that there is no time without a
    /// master; whether it has asked for one.
    invites: Option<(Time, bool)>,
    /// What is wrong with the store, and since when.
    trouble: Option<(String, Time)>,
}

/// How a term is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Yield {
    heir: Option<MasterId>,
    /// The store has been asked to take it back.
    released: bool,
    /// The store has taken it back.
    confirmed: bool,
}

impl Leadership {
    pub(super) fn new(now: Time) -> Self {
        Self {
            asked: None,
            next_at: now,
            seen: None,
            valid_until: Time(u64::MAX),
            yields: None,
            eligible: true,
            claims: false,
            invites: None,
            trouble: None,
        }
    }

    /// What is wrong with the store, and for how long it has been, milliseconds.
    pub(super) fn trouble(&self, now: Time) -> Option<(String, u64)> {
        self.trouble.as_ref().map(|(why, since)| (why.clone(), now.since(*since).as_millis() as u64))
    }
}

/// How often a standby looks, at least.
fn usual_look(lease: Duration) -> Duration {
    (lease / 5).clamp(SHORTEST_LOOK, LONGEST_LOOK)
}

/// Part of a lease that its holder does not use, so that clocks need not run at exactly the same speed.
fn margin(lease: Duration) -> Duration {
    lease / 10
}

impl Master {
    fn lease_time(&self) -> Duration {
        Duration::from_millis(u64::from(self.config.lease.lease_ms))
    }

    /// Whether it has a lease at all: a store that is nobody else's needs none.
    fn is_alone(&self) -> bool {
        self.config.lease.lease_ms == 0
    }

    /// Whether it may decide now.
    pub fn may_decide(&self, now: Time) -> bool {
        self.authority == Authority::Active && !self.lease_is_over(now)
    }

    fn lease_is_over(&self, now: Time) -> bool {
        now >= self.leadership.valid_until && self.rules.hold(Rule::LeaseEnds)
    }

    fn ask(&mut self, now: Time, what: Asked, request: impl FnOnce(u64) -> StoreRequest) {
        self.next_store += 1;
        let id = self.next_store;
        self.leadership.asked = Some((id, what, now));
        self.actions.push_back(Action::Store(request(id)));
    }

    pub(super) fn begin_leadership(&mut self, now: Time) {
        if self.is_alone() {
            self.take_term(now, None);
        } else {
            self.look(now);
        }
    }

    fn look(&mut self, now: Time) {
        self.ask(now, Asked::Look, |id| StoreRequest::Read { id });
    }

    fn take_term(&mut self, now: Time, replaces: Option<Mark>) {
        let (new_run, candidate) = (self.config.new_run, self.config.lease.clone());
        self.ask(now, Asked::Take, |id| StoreRequest::TakeTerm { id, new_run, replaces, candidate });
    }

    pub(super) fn leadership_deadline(&self) -> Option<Time> {
        let l = &self.leadership;
        if self.is_alone() && l.asked.is_some() {
            return None;
        }
        let ends = self.authority == Authority::Active && self.rules.hold(Rule::LeaseEnds);
        let own = ends.then_some(l.valid_until);
        let next = (l.asked.is_none() && !self.is_alone()).then_some(l.next_at);
        let slow = self.is_slow_at().filter(|_| l.trouble.is_none());
        own.into_iter().chain(next).chain(slow).min().filter(|at| at.0 < u64::MAX)
    }

    /// When a request that is under way has taken too long for a store that works. Whoever looks shall know soon, not only
    /// when the lease is over.
    fn is_slow_at(&self) -> Option<Time> {
        let (_, _, asked_at) = self.leadership.asked.filter(|_| !self.is_alone())?;
        Some(asked_at + (self.lease_time() / 5).max(SHORTEST_LOOK))
    }

    fn watch_store(&mut self, now: Time) {
        let Some((_, _, since)) = self.leadership.asked.filter(|_| self.leadership.trouble.is_none()) else {
            return;
        };
        if self.is_slow_at().is_some_and(|at| now >= at) {
            let why = "it does not answer".to_owned();
            self.leadership.trouble = Some((why.clone(), since));
            self.events.push_back(MasterEvent::StoreTrouble { why });
        }
    }

    /// Before anything else: a lease that is over is over, whatever there is to be handled.
    pub(super) fn watch_lease(&mut self, now: Time) {
        if self.authority == Authority::Active && self.lease_is_over(now) {
            self.lose_lease();
        }
    }

    /// Without a lease nothing is decided; *committed* is still said.
    fn lose_lease(&mut self) {
        self.authority = Authority::Unleased;
        self.events.push_back(MasterEvent::LeaseLost { term: self.record.term });
        self.tell_mandate(false);
    }

    fn tell_mandate(&mut self, valid: bool) {
        if !self.rules.hold(Rule::SayWithoutLease) {
            return;
        }
        let conns: Vec<ConnId> = self.sessions.values().filter_map(|s| s.conn).collect();
        for conn in conns {
            self.send(conn, MasterMessage::Mandate { valid });
        }
    }

    /// When it is time to ask the store again.
    pub(super) fn lead_on(&mut self, now: Time) {
        self.watch_store(now);
        if self.is_alone() || self.leadership.asked.is_some() {
            return;
        }
        match self.leadership.invites {
            Some((until, _)) if now >= until => return self.give_way(now, None),
            Some((until, false)) => {
                self.leadership.invites = Some((until, true));
                let term = self.record.term;
                return self.ask(now, Asked::Invite, |id| StoreRequest::Claim { id, term, heir: ANYBODY });
            }
            _ => {}
        }
        let yields = self.leadership.yields;
        if let Some(Yield { heir, released: false, .. }) = yields
            && !self.groups.values().any(|g| matches!(g.activity, Activity::Writing { .. }))
        {
            let term = self.record.term;
            self.leadership.yields = Some(Yield { heir, released: true, confirmed: false });
            return self.ask(now, Asked::Release, |id| StoreRequest::Release { id, term, heir });
        }
        if now < self.leadership.next_at {
            return;
        }
        if self.authority != Authority::Standby && yields.is_none() {
            let term = self.record.term;
            return self.ask(now, Asked::Renew, |id| StoreRequest::Renew { id, term });
        }
        self.look(now);
    }

    /// An answer to what was asked for leadership's sake. Others are given back.
    pub(super) fn leadership_answered(&mut self, now: Time, reply: StoreReply) -> Option<StoreReply> {
        let id = id_of(&reply);
        let Some((_, what, at)) = self.leadership.asked.filter(|(asked, _, _)| *asked == id) else {
            return Some(reply);
        };
        self.leadership.asked = None;
        if let StoreReply::Unknown { why, .. } = reply {
            self.store_troubled(now, what, why);
            return None;
        }
        if self.leadership.trouble.take().is_some() {
            self.events.push_back(MasterEvent::StoreIsBack);
        }
        match (what, reply) {
            (Asked::Take, StoreReply::Taken { record, .. }) => self.has_taken(now, at, *record),
            (Asked::Renew, StoreReply::Renewed { lease, .. }) => self.has_renewed(now, at, *lease),
            (Asked::Look, StoreReply::Record { record, holder_is_gone, .. }) => {
                self.has_looked(now, *record, holder_is_gone);
            }
            // The term is over, or a release of it has come late.
            (Asked::Renew, _) => return self.look_and_forget(now),
            (Asked::Release, StoreReply::Written { .. }) => {
                self.leadership.yields = self.leadership.yields.map(|y| Yield { confirmed: true, ..y });
                self.leadership.next_at = now;
            }
            // Claimed, or refused because the lease is not what it was: see what it is now.
            _ => self.leadership.next_at = now,
        }
        self.lead_on(now);
        None
    }

    fn look_and_forget(&mut self, now: Time) -> Option<StoreReply> {
        self.look(now);
        None
    }

    fn store_troubled(&mut self, now: Time, what: Asked, why: String) {
        let since = self.leadership.trouble.as_ref().map_or(now, |(_, since)| *since);
        self.leadership.trouble = Some((why.clone(), since));
        self.events.push_back(MasterEvent::StoreTrouble { why });
        // Whoever holds the lease may renew it before we judge it by what we saw before the trouble.
        self.leadership.seen = None;
        self.leadership.next_at = now + (self.lease_time() / 10).max(SHORTEST_LOOK);
        if self.is_alone() && what == Asked::Take {
            self.take_term(now, None);
        }
    }

    fn has_taken(&mut self, now: Time, asked_at: Time, record: RunRecord) {
        self.clear();
        self.leadership.claims = false;
        self.leadership.invites = None;
        self.leadership.yields = None;
        self.leadership.seen = None;
        self.lease_runs_from(asked_at);
        self.become_active(now, record);
        self.watch_lease(now);
    }

    /// The lease is valid again, counted from when it was asked for.
    fn lease_runs_from(&mut self, asked_at: Time) {
        if self.is_alone() {
            return;
        }
        let lease = self.lease_time();
        self.leadership.valid_until = asked_at + lease.saturating_sub(margin(lease));
        let pause = if self.leadership.invites.is_some() { HANDOVER_LOOK } else { lease / 3 };
        self.leadership.next_at = asked_at + pause;
    }

    fn has_renewed(&mut self, now: Time, asked_at: Time, lease: Lease) {
        let heir = lease.heir.filter(|heir| ![self.config.lease.id, ANYBODY].contains(heir));
        self.record.lease = lease;
        if self.leadership.yields.is_some() {
            return;
        }
        self.lease_runs_from(asked_at);
        if let Some(heir) = heir {
            return self.give_way(now, Some(heir));
        }
        if self.authority == Authority::Unleased && now < self.leadership.valid_until {
            self.regain(now);
        }
    }

    /// The store has answered in time again.
    fn regain(&mut self, now: Time) {
        self.authority = Authority::Active;
        self.events.push_back(MasterEvent::LeaseRegained { term: self.record.term });
        self.tell_mandate(true);
        let members: Vec<SessionId> = self.sessions.keys().copied().collect();
        self.liveness.forgive(now, &self.config.settings);
        self.liveness.begin_seeking(now, &self.config.settings, members);
        let groups: Vec<PeerGroup> = self.groups.keys().copied().collect();
        for group in groups {
            self.take_up(now, group);
        }
    }

    fn has_looked(&mut self, now: Time, record: RunRecord, holder_is_gone: bool) {
        if self.authority != Authority::Standby {
            if record.term > self.record.term {
                return self.depose(now, &record);
            }
            if self.leadership.yields.is_none() {
                // A release of this term has come late.
                return self.give_way(now, record.lease.heir);
            }
        }
        let lease = record.lease.clone();
        let ours = self.authority != Authority::Standby && lease.term == self.record.term;
        if let Some(Yield { heir, .. }) = self.leadership.yields.filter(|_| ours && !lease.released) {
            self.leadership.yields = Some(Yield { heir, released: false, confirmed: false });
        }
        self.record = record;
        let mark = lease.mark();
        let since = match self.leadership.seen {
            Some((seen, since)) if seen == mark => since,
            _ => now,
        };
        self.leadership.seen = Some((mark, since));
        let free_at = self.free_at(now, since, &lease, holder_is_gone);
        if self.leadership.eligible && now >= free_at {
            return self.take_term(now, Some(mark));
        }
        let me = self.config.lease.id;
        let invited = lease.heir == Some(ANYBODY) && self.authority == Authority::Standby;
        let wants = self.leadership.claims || (invited && self.leadership.eligible);
        if wants && lease.heir != Some(me) && !lease.released {
            let term = lease.term;
            return self.ask(now, Asked::Claim, |id| StoreRequest::Claim { id, term, heir: me });
        }
        self.leadership.next_at = now + self.pause(now, free_at, &lease);
    }

    /// Until the next look.
    fn pause(&self, now: Time, free_at: Time, lease: &Lease) -> Duration {
        let is_heir = lease.heir == Some(self.config.lease.id) || self.leadership.claims;
        if is_heir || lease.released || self.leadership.yields.is_some() {
            return HANDOVER_LOOK;
        }
        free_at.since(now).clamp(SHORTEST_LOOK, usual_look(lease.duration()))
    }

    /// When the next term may be taken, as far as is known now.
    fn free_at(&self, now: Time, since: Time, lease: &Lease, holder_is_gone: bool) -> Time {
        let me = self.config.lease.id;
        let over = since + lease.duration() + margin(lease.duration());
        if lease.term.0 == 0 || lease.lease_ms == 0 || holder_is_gone {
            return now;
        }
        match (lease.released, lease.heir.filter(|heir| *heir != ANYBODY)) {
            (true, Some(heir)) if heir == me => now,
            (true, None) if lease.holder != me => now,
            // Of an earlier request of ours that nobody knew the outcome of.
            (false, _) if lease.holder == me && self.authority == Authority::Standby => now,
            // It is another one's for a while; what we have given back ourselves is first of all the others'.
            _ => over,
        }
    }

    /// Ends the term in good order: what is being written is finished, and then the lease is given back. Members stay
    /// attached, and hear *committed*, until another master leads.
    fn give_way(&mut self, now: Time, heir: Option<MasterId>) {
        if self.authority == Authority::Standby || self.leadership.yields.is_some() {
            return;
        }
        self.leadership.invites = None;
        self.events.push_back(MasterEvent::GivesWay { term: self.record.term, heir });
        if self.authority == Authority::Active {
            self.authority = Authority::Unleased;
            self.tell_mandate(false);
        }
        self.leadership.yields = Some(Yield { heir, released: false, confirmed: false });
        self.leadership.next_at = now;
        self.lead_on(now);
    }

    /// Gives way as soon as another master has come forward, or has had the time to.
    fn invite(&mut self, now: Time) {
        let l = &self.leadership;
        if self.authority == Authority::Standby || l.yields.is_some() || l.invites.is_some() {
            return;
        }
        let until = now + usual_look(self.lease_time()) + 5 * HANDOVER_LOOK;
        self.leadership.invites = Some((until, false));
        self.leadership.next_at = now;
        self.lead_on(now);
    }

    /// Whether it has ended its term in good order, for nobody in particular: then nobody misses it.
    pub fn has_given_back(&self) -> bool {
        self.leadership.yields.is_some_and(|y| y.confirmed && y.heir.is_none())
    }

    /// Time left of its lease, milliseconds.
    pub(super) fn lease_left_ms(&self, now: Time) -> Option<u64> {
        let leads = self.authority != Authority::Standby && !self.is_alone();
        leads.then(|| self.leadership.valid_until.since(now).as_millis() as u64)
    }

    /// What an operator asks for.
    pub fn command(&mut self, now: Time, command: Command) -> Result<(), String> {
        if self.is_alone() {
            return Err("this master's store is nobody else's, so no other master can take over".into());
        }
        match command {
            Command::Promote => {
                self.leadership.eligible = true;
                if self.authority == Authority::Standby {
                    self.leadership.claims = true;
                    self.leadership.next_at = now;
                    self.lead_on(now);
                }
            }
            Command::Demote => {
                self.leadership.eligible = false;
                self.leadership.claims = false;
                self.invite(now);
            }
            Command::StepDown if self.authority == Authority::Standby => {
                return Err("this master is not the active one".into());
            }
            Command::StepDown => self.invite(now),
        }
        Ok(())
    }

    /// Another master has a newer term: from now on this one decides nothing, and stands by.
    pub(super) fn depose(&mut self, now: Time, found: &RunRecord) {
        if self.authority == Authority::Standby {
            return;
        }
        self.events.push_back(MasterEvent::Deposed { term: self.record.term, newer: found.term });
        let active = found.lease.addr;
        for conn in self.attached_conns() {
            self.send(conn, MasterMessage::NotActive { active });
        }
        self.clear();
        self.authority = Authority::Standby;
        self.record = found.clone();
        // Of two masters without leases the younger one stays.
        self.leadership =
            Leadership { eligible: !self.is_alone() && self.leadership.eligible, ..Leadership::new(now) };
    }

    /// Nothing of an earlier term is taken into the next one. Who has no session has no term either, and is answered on:
    /// who asks for the status while masters change shall get it.
    fn clear(&mut self) {
        for conn in self.attached_conns() {
            self.drop_conn(conn);
        }
        self.sessions.clear();
        self.groups.clear();
        self.checking_term = None;
        self.next_session = 0;
    }

    /// The connections over which sessions are attached.
    fn attached_conns(&self) -> Vec<ConnId> {
        self.conns.iter().filter(|(_, c)| c.session.is_some()).map(|(conn, _)| *conn).collect()
    }
}

fn id_of(reply: &StoreReply) -> u64 {
    match reply {
        StoreReply::Taken { id, .. }
        | StoreReply::Renewed { id, .. }
        | StoreReply::Written { id }
        | StoreReply::Rejected { id }
        | StoreReply::Record { id, .. }
        | StoreReply::Unknown { id, .. } => *id,
    }
}
