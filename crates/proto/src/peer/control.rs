//! The connection to the master: dial, register or attach, hear, be heard.

use std::net::SocketAddr;
use std::time::Duration;

use super::{EndReason, Peer, PeerEvent, Phase};
use crate::execute::{Kernels, OpMemory};
use crate::ids::{ConnId, Term, Time};
use crate::machine::{Action, Closed};
use crate::message::{
    Ending, FromMaster, Heartbeat, MasterMessage, Refusal, Report, StartedAttempt, ToMaster, VoteKind,
    VoteOutcome,
};
use crate::rules::Rule;
use crate::wire::{ControlStream, MAX_CONTROL_BYTES};

/// First wait before a master is dialed again; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_millis(250);

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// No connection; dial at this time.
    Away {
        dial_at: Time,
    },
    Dialing,
    /// Connected, the first message sent.
    Greeting,
    /// The master has answered; promises count.
    Attached,
}

pub(super) struct Control {
    state: State,
    conn: Option<ConnId>,
    stream: ControlStream,
    /// Index of the master being tried.
    master: usize,
    /// The address that was dialed last.
    addr: Option<SocketAddr>,
    failures: u32,
    /// By any path.
    heard: Time,
    /// On the connection: datagrams say nothing of it.
    heard_here: Time,
    /// Since when no master has answered.
    lost_since: Option<Time>,
    /// The master that we are attached to decides nothing, since then.
    unleased: Option<Time>,
    /// Where the active master is, as another one has said.
    hint: Option<SocketAddr>,
    /// Why no master could be reached, as it was said last.
    trouble: String,
    sequence: u64,
}

impl Control {
    pub(super) fn new(now: Time) -> Self {
        Self {
            state: State::Away { dial_at: now },
            conn: None,
            stream: ControlStream::new(MAX_CONTROL_BYTES),
            master: 0,
            addr: None,
            failures: 0,
            heard: now,
            heard_here: now,
            lost_since: Some(now),
            unleased: None,
            hint: None,
            trouble: String::new(),
            sequence: 0,
        }
    }

    pub(super) fn is(&self, conn: ConnId) -> bool {
        self.conn == Some(conn)
    }

    pub(super) fn is_attached(&self) -> bool {
        self.state == State::Attached
    }

    pub(super) fn receive_buffer(&mut self) -> &mut [u8] {
        self.stream.receive_buffer()
    }

    pub(super) fn transmit_buffer(&self) -> &[u8] {
        self.stream.transmit_buffer()
    }

    pub(super) fn handle_transmitted(&mut self, n: usize) {
        self.stream.handle_transmitted(n);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Away { dial_at } => Some(dial_at),
            _ => None,
        }
    }
}

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    pub(super) fn dial_master(&mut self, now: Time) {
        let listed = self.config.masters.get(self.control.master).copied();
        let Some(addr) = self.control.hint.take().or(listed) else {
            return;
        };
        self.control.addr = Some(addr);
        let conn = self.new_conn();
        self.control.conn = Some(conn);
        self.control.state = State::Dialing;
        self.control.stream = ControlStream::new(MAX_CONTROL_BYTES);
        self.control.heard = now;
        self.control.heard_here = now;
        self.actions.push_back(Action::Dial { conn, addr });
    }

    /// Sends a message if there is a connection at all.
    pub(super) fn tell_master(&mut self, message: &ToMaster) {
        if let (Some(conn), State::Greeting | State::Attached) = (self.control.conn, &self.control.state) {
            self.control.stream.push(message);
            self.writable.insert(conn);
        }
    }

    /// Sends a message that a report would repeat otherwise.
    pub(super) fn tell_master_if_attached(&mut self, message: &ToMaster) {
        if self.control.is_attached() {
            self.tell_master(message);
        }
    }

    pub(super) fn close_control(&mut self) {
        if let Some(conn) = self.control.conn.take() {
            let last = self.control.transmit_buffer().to_vec();
            self.close_conn(conn, last);
        }
        self.control.state = State::Away { dial_at: Time(u64::MAX) };
    }

    pub(super) fn control_connected(&mut self, now: Time) {
        self.control.state = State::Greeting;
        self.sync_unconfirmed();
        self.control.heard = now;
        self.control.heard_here = now;
        let greeting = match (self.session, &self.phase) {
            (Some(session), _) => ToMaster::Attach {
                group: self.config.group,
                session,
                term: self.term,
                report: self.report(),
                // An offer and its vote follow once we are attached.
                vote: self.vote.filter(|v| v.kind != VoteKind::Synchronize),
                ended: self.last_vote.clone(),
            },
            (None, _) => ToMaster::Hello {
                group: self.config.group,
                addr: self.config.advertised,
                site: self.config.site.clone(),
                ended: self.config.ended,
                expects: self.config.expects.clone(),
            },
        };
        self.tell_master(&greeting);
    }

    /// A handshake takes several round trips, and each of them says that the other side lives.
    pub(super) fn control_progresses(&mut self, now: Time) {
        self.control.heard = now;
        self.control.heard_here = now;
    }

    /// Where this peer stands, for a master.
    pub(super) fn report(&self) -> Report {
        let epoch = self.epoch();
        let started = self.ops.values().filter_map(|op| {
            let name = op.running_name().filter(|n| n.epoch == epoch)?;
            Some(StartedAttempt {
                tag: name.tag,
                n: name.n,
                fingerprint: op.fingerprint,
                done: op.is_done(),
                restorable: op.is_restorable(&self.settings),
                impossible: op.impossible(),
            })
        });
        let repeats = self.rules.hold(Rule::RepeatPromises);
        let committed = self.heard.iter().filter(|_| repeats).map(|(tag, n, _)| (*tag, *n));
        let ours = self.view.as_ref().and_then(|v| v.members.get(self.rank as usize)).map(|m| m.addr.ip());
        Report {
            epoch,
            started: started.collect(),
            committed: committed.collect(),
            rtt_us: self.links.slowest_rtt_us(ours),
            mib_us: if self.links.any_abroad(ours) { self.mib_us } else { 0 },
        }
    }

    pub(super) fn control_closed(&mut self, now: Time, why: &Closed) {
        let spoke = matches!(self.control.state, State::Attached);
        self.control.conn = None;
        self.away(now, spoke, &why.to_string());
    }

    /// The master is not there: try the next one, soon or after a while.
    fn away(&mut self, now: Time, at_once: bool, why: &str) {
        if self.phase == Phase::Leaving {
            self.end(EndReason::Left);
            return;
        }
        if self.is_ended() {
            return;
        }
        if let Some(conn) = self.control.conn.take() {
            self.close_conn(conn, Vec::new());
        }
        // Whoever waits for the first contact wants to hear every reason; later the first one is enough.
        let news = self.phase == Phase::Connecting && self.control.trouble != why;
        if self.control.lost_since.is_none() || news {
            self.control.lost_since.get_or_insert(now);
            why.clone_into(&mut self.control.trouble);
            self.events.push_back(PeerEvent::MasterAway { why: why.into() });
        }
        self.control.unleased = None;
        self.control.failures += 1;
        if !at_once {
            self.control.master = (self.control.master + 1) % self.config.masters.len().max(1);
        }
        let backoff = (MIN_BACKOFF * 2u32.saturating_pow(self.control.failures.min(10))).min(MAX_BACKOFF);
        let jitter = self.random.below(backoff.as_micros() as u64 + 1);
        let wait = if at_once { Duration::ZERO } else { Duration::from_micros(jitter) };
        self.control.state = State::Away { dial_at: now + wait };
    }

    pub(super) fn control_timeout(&mut self, now: Time) {
        if let State::Away { dial_at } = self.control.state
            && now >= dial_at
        {
            self.dial_master(now);
        }
    }

    /// Every heartbeat interval.
    pub(super) fn tick(&mut self, now: Time) {
        let interval = self.settings.heartbeat_interval();
        if now.since(self.last_tick) > self.settings.heartbeat_timeout() {
            // We were stopped ourselves: what we have not heard meanwhile says nothing about the others.
            self.control.heard = now;
            self.control.heard_here = now;
            self.links.forgive(now);
        }
        self.account_wait(now.since(self.last_tick));
        self.last_tick = now;
        self.tick_at = now + interval;
        if !self.is_settling() || !self.rules.hold(Rule::SettlingEndsSession) {
            self.beat(now);
            self.judge_master(now);
        }
        self.links_tick(now);
        self.settle_on(now);
        self.ops_tick(now);
    }

    fn beat(&mut self, now: Time) {
        let Some(session) = self.session else { return };
        let Some(to) = self.control.addr else { return };
        self.control.sequence += 1;
        let beat = Heartbeat {
            magic: Heartbeat::MAGIC,
            run: self.run,
            session: session.id,
            term: self.term,
            sequence: self.control.sequence,
        };
        self.actions.push_back(Action::Datagram { to, bytes: beat.encode() });
        let quiet = now.since(self.control.heard_here) >= 2 * self.settings.heartbeat_interval();
        if quiet && self.control.is_attached() {
            self.tell_master(&ToMaster::Ping);
        }
    }

    fn judge_master(&mut self, now: Time) {
        let silent = now.since(self.control.heard);
        let connected = !matches!(self.control.state, State::Away { .. });
        // A greeting is answered by a thread that may be starved for a moment; a dial by the network alone.
        let patience = self.settings.heartbeat_timeout().max(Duration::from_millis(500));
        if connected && silent > patience {
            self.away(now, false, &format!("nothing was heard from it for {} ms", silent.as_millis()));
        }
        // Another one may decide by now. What we are told here we are told again whenever we come back.
        if let Some(since) = self.control.unleased
            && self.config.masters.len() > 1
            && now.since(since) > 2 * patience
        {
            return self.away(now, false, "it has no valid lease, and another one may have");
        }
        // Pings or a greeting go unanswered although datagrams come: the connection is dead at one end.
        let silent_here = now.since(self.control.heard_here);
        let attached = self.control.is_attached();
        let patience_here = 2 * if attached { self.settings.heartbeat_timeout() } else { patience };
        if connected && silent_here > patience_here {
            let why = format!("nothing came on the connection for {} ms", silent_here.as_millis());
            return self.away(now, attached, &why);
        }
        if let Some(since) = self.control.lost_since
            && self.view.is_some()
            && now.since(since) > self.settings.master_timeout()
        {
            self.settle(now);
        }
    }

    pub(super) fn heartbeat_answered(&mut self, now: Time, bytes: &[u8]) {
        let Some(beat) = Heartbeat::decode(bytes) else {
            return;
        };
        let fresh = beat.sequence <= self.control.sequence && beat.sequence + 8 > self.control.sequence;
        if beat.run == self.run && beat.session == self.session_id() && beat.term >= self.term && fresh {
            self.control.heard = now;
        }
    }

    pub(super) fn control_received(&mut self, now: Time, n: usize) {
        self.control.heard = now;
        self.control.heard_here = now;
        self.control.stream.handle_received(n);
        loop {
            match self.control.stream.next_message::<FromMaster>() {
                Ok(Some(message)) => self.handle_master(now, message),
                Ok(None) => return,
                Err(why) => {
                    self.away(now, false, &why.to_string());
                    return;
                }
            }
            if self.control.conn.is_none() {
                return;
            }
        }
    }

    fn handle_master(&mut self, now: Time, FromMaster { term, message }: FromMaster) {
        if term < self.term && self.rules.hold(Rule::HighestTerm) {
            let why = format!("a master of term {term} answered, but term {} has begun", self.term);
            self.away(now, false, &why);
            return;
        }
        if term > self.term && !matches!(message, MasterMessage::NotActive { .. }) {
            self.term = term;
        }
        match message {
            MasterMessage::Registered { session, run, settings, members } => {
                self.session = Some(session);
                self.run = run;
                self.settings = settings;
                self.phase = Phase::Registered;
                self.events.push_back(PeerEvent::Registered { session: session.id, members });
                self.attached(now, 0, true);
                self.mandate(now, term, true);
            }
            MasterMessage::Refused { why: Refusal::UnknownSession } if self.view.is_none() => {
                // Registered with a master that has forgotten us, never accepted: begin again.
                self.begin_again_as_newcomer();
                self.away(now, true, "the master was restarted");
            }
            MasterMessage::Refused { why } => self.end(EndReason::Refused(why)),
            MasterMessage::Attached { heard, leased, goes_on } => {
                self.attached(now, heard, goes_on);
                self.mandate(now, term, leased);
            }
            MasterMessage::Mandate { valid } => self.mandate(now, term, valid),
            MasterMessage::NotActive { active } => self.not_active(now, active),
            MasterMessage::Expelled { .. } if self.view.is_none() => {
                self.begin_again_as_newcomer();
                self.away(now, false, "the session ended before it was accepted");
            }
            MasterMessage::Expelled { why, ago_ms } => {
                self.end(EndReason::Expelled { why: Some(why), ago_ms });
            }
            MasterMessage::Prepare { change, epoch } => {
                if epoch == self.epoch() {
                    self.frozen = true;
                    let report = self.report();
                    self.tell_master(&ToMaster::Report { change, report });
                }
            }
            MasterMessage::EpochChange { changes, view } => self.apply_epoch(now, &changes, view),
            MasterMessage::Committed { name, heard, closed } => self.committed(now, name, heard, closed),
            MasterMessage::Introduce { join, peers, timeout_ms } => {
                self.introduce(now, join, peers, Duration::from_millis(u64::from(timeout_ms)));
            }
            MasterMessage::TurnedAway { why } => self.end(EndReason::TurnedAway(why)),
            MasterMessage::VoteEnded { number, outcome } => self.vote_has_ended(number, outcome),
            MasterMessage::Elected { number, sync, epoch, election } => {
                self.elected(now, number, sync, epoch, election);
            }
            MasterMessage::NobodyElected { number, why } => self.nobody_elected(number, why),
            MasterMessage::Agreed { agreed, since } => self.agreed(agreed, since),
            MasterMessage::Goodbye => self.end(EndReason::Left),
            MasterMessage::Ping => self.tell_master(&ToMaster::Pong),
            MasterMessage::Pong | MasterMessage::Status(_) | MasterMessage::Commanded { .. } => {}
        }
    }

    /// The session has ended before it was accepted: the next one has links of its own.
    fn begin_again_as_newcomer(&mut self) {
        self.config.ended = self.session.take().or(self.config.ended);
        self.phase = Phase::Connecting;
        self.drop_all_links();
    }

    fn attached(&mut self, now: Time, heard: u64, goes_on: bool) {
        self.control.state = State::Attached;
        self.control.failures = 0;
        if self.is_settling() {
            // Only with the rule broken: as if nothing had been said.
            self.settling = None;
            self.phase = Phase::Member;
        }
        self.heard_to = heard;
        for entry in &mut self.heard {
            entry.2 = heard;
        }
        self.rolled = crate::ids::Epoch::default();
        // What became done, or was voted, between the report and this answer.
        for op in self.ops.values_mut() {
            op.told = false;
        }
        for message in self.unsaid() {
            self.tell_master(&message);
        }
        self.sync_attached();
        if self.phase == Phase::Leaving {
            self.tell_master(&ToMaster::Leave);
        }
        // Whoever has reported to another master starts nothing in an epoch that may have ended with that report.
        if goes_on || !self.rules.hold(Rule::WaitForTheNext) {
            self.thaw(now);
        }
    }

    /// Whether the master decides anything. One that does not is none to wait for, but it may still say *committed*.
    fn mandate(&mut self, now: Time, term: Term, valid: bool) {
        if !self.control.is_attached() {
            return;
        }
        if valid {
            self.control.unleased = None;
            if self.control.lost_since.take().is_some() {
                self.events.push_back(PeerEvent::Attached { term });
            }
            return;
        }
        self.control.unleased = Some(now);
        if self.control.lost_since.is_none() {
            self.control.lost_since = Some(now);
            let why =
                "it has no valid lease (its store does not answer, or another master is to lead)".into();
            self.events.push_back(PeerEvent::MasterAway { why });
        }
    }

    /// The master knows that it is not the one, and perhaps which is.
    fn not_active(&mut self, now: Time, active: Option<SocketAddr>) {
        let listed = active.and_then(|addr| self.config.masters.iter().position(|m| *m == addr));
        // Two that name each other are not asked in a circle without pause.
        let at_once = active.is_some() && active != self.control.addr && self.control.failures == 0;
        self.away(now, at_once, "it is not the active one");
        match (listed, active) {
            (Some(index), _) => self.control.master = index,
            (None, Some(addr)) if Some(addr) != self.control.addr => self.control.hint = Some(addr),
            _ => {}
        }
    }

    fn unsaid(&self) -> Vec<ToMaster> {
        let promise = |op: &super::ops::Op<M>| {
            let name = op.running_name().filter(|_| op.is_done())?;
            Some(ToMaster::Done { name, digest: op.fingerprint.digest(), heard: self.heard_to })
        };
        let votes = self.vote.filter(|v| v.kind != VoteKind::Synchronize).map(ToMaster::Vote);
        self.ops.values().filter_map(promise).chain(votes).collect()
    }

    pub(super) fn vote_has_ended(&mut self, number: u32, outcome: VoteOutcome) {
        if self.sync_vote_ended(number, &outcome) {
            return;
        }
        if let Some(vote) = self.vote.filter(|v| v.number == number) {
            self.vote = None;
            match outcome {
                VoteOutcome::Decided { pending, sizes } => {
                    self.last_vote = Some((vote, Ending::Decided { pending, sizes }));
                    // Other groups have changed since the epoch began; a vote of before it says less than it does.
                    if let Some(view) = self.view.as_mut().filter(|v| v.epoch <= sizes.epoch) {
                        view.sizes = sizes;
                    }
                }
                VoteOutcome::Mismatch { .. } => self.uncount_vote(),
            }
            self.vote_ended = Some(outcome);
        }
    }

    /// Leaves. The phase becomes `Ended` once the master has answered, or cannot.
    pub fn leave(&mut self) {
        if self.is_ended() || self.phase == Phase::Leaving {
            return;
        }
        let attached = self.control.is_attached();
        self.tell_master(&ToMaster::Leave);
        if attached {
            self.phase = Phase::Leaving;
        } else {
            self.end(EndReason::Left);
        }
    }

    /// Whether no master that can decide is heard.
    pub fn misses_master(&self) -> bool {
        self.control.lost_since.is_some() && !self.is_ended()
    }

    /// The masters have moved: they are tried at these addresses from now on. An empty list changes nothing.
    pub fn set_masters(&mut self, masters: Vec<SocketAddr>) {
        if !masters.is_empty() {
            self.config.masters = masters;
            self.control.master = 0;
        }
    }

    /// When the last answer of a master was heard, for status and metrics.
    pub fn master_heard(&self) -> Time {
        self.control.heard
    }

    /// Why connecting takes so long, for people.
    pub fn waits_for(&self) -> String {
        let master = self.config.masters.get(self.control.master);
        let addr = master.map_or_else(|| "?".to_owned(), ToString::to_string);
        match self.phase {
            Phase::Connecting => format!("an answer of the master at {addr}"),
            Phase::Registered => "the members to let newcomers in (update_topology)".to_owned(),
            Phase::Leaving => "the master's goodbye".to_owned(),
            Phase::Settling => "the other members, to settle what is in flight without a master".to_owned(),
            Phase::Member | Phase::Ended(_) => "nothing".to_owned(),
        }
    }
}
