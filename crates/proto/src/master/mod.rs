//! The master: registration, epochs, verdicts, liveness, as a pure state machine. It never touches tensor data.
//!
//! * `sessions`: newcomers register, members attach, both leave
//! * `commit`: promises and verdicts within an epoch
//! * `change`: from one epoch to the next: collect reports, decide, write, and only then tell
//! * `leadership`: which of several masters is the active one
//! * `join`: votes, and how newcomers come in
//! * `shared`: shared state
//! * `liveness`: who is dead, which links are broken
//! * `status`: what to tell people

mod change;
mod commit;
mod event;
mod join;
mod leadership;
mod liveness;
mod sessions;
mod shared;
mod status;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

pub use event::MasterEvent;

use self::change::Activity;
use self::commit::Attempt;
use self::leadership::Leadership;
use self::liveness::Liveness;
use self::shared::Syncing;
use crate::ids::{ConnId, Epoch, PeerGroup, RunId, Seeded, SessionId, Tag, Term, Time};
use crate::lease::Candidate;
use crate::machine::{Action, Closed, Machine, Permit};
use crate::message::{Ending, FromMaster, Heartbeat, MasterMessage, Sizes, ToMaster, Vote, VoteOutcome};
use crate::record::{GroupRecord, Member, Removal, RunRecord, StoreReply, StoreRequest};
use crate::rules::Rules;
use crate::settings::RunSettings;
use crate::shared_state::{NoCandidate, Offer};
use crate::wire::{ControlStream, MAX_CONTROL_BYTES, MAX_STRANGER_BYTES};

/// What a master is told when it is made.
#[derive(Debug, Clone)]
pub struct MasterConfig {
    /// Settings of the run.
    pub settings: RunSettings,
    /// Names a new run, if the store has none.
    pub new_run: RunId,
    /// Seed of session keys; must differ from master to master and from start to start.
    pub seed: u64,
    /// Most members and newcomers at once.
    pub max_peers: u32,
    /// How long newcomers and members try to connect to each other, milliseconds.
    pub link_timeout_ms: u32,
    /// What it says of itself to other masters of the same store: its name, its address, and how long its lease lasts.
    /// A lease of zero stands for a store that is nobody else's: then it takes a term at once and never renews it.
    pub lease: Candidate,
    /// Whether operators may command it from other hosts ([`crate::message::ToMaster::Command`]).
    pub remote_commands: bool,
}

impl Default for MasterConfig {
    fn default() -> Self {
        Self {
            settings: RunSettings::default(),
            new_run: RunId(1),
            seed: 1,
            max_peers: 4096,
            link_timeout_ms: 5000,
            lease: Candidate::default(),
            remote_commands: false,
        }
    }
}

/// Whether a master may decide anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// It follows the store, and waits for its turn.
    Standby,
    /// It has the newest term and a valid lease, as far as it knows.
    Active,
    /// It has the newest term, as far as it knows, and no valid lease: it says *committed* and decides nothing else.
    Unleased,
}

struct Conn {
    from: SocketAddr,
    stream: ControlStream,
    session: Option<SessionId>,
    opened: Time,
    /// What its certificate allows; none: everything.
    permit: Option<Permit>,
}

/// A registered newcomer or a member.
struct SessionState {
    group: PeerGroup,
    key: u64,
    member: Member,
    conn: Option<ConnId>,
    is_member: bool,
    /// The newest epoch that it is known to have applied.
    applied: Epoch,
    /// Verdicts that it has heard.
    acked: u64,
    heard: Time,
    detached: Option<Time>,
    vote: Option<Vote>,
    vote_result: Option<(u32, VoteOutcome)>,
    /// What it has to synchronize, by the number of its vote.
    offer: Option<(u32, Offer)>,
    /// What came of its last vote to synchronize that was counted: an agreement, or why there was none.
    sync_answer: Option<(u32, Option<NoCandidate>)>,
    waits: BTreeMap<(Tag, u32), (Time, String)>,
    leaving: bool,
}

#[derive(Default)]
struct Group {
    attempts: BTreeMap<(Tag, u32), Attempt>,
    /// Number of the last verdict *committed*.
    heard: u64,
    /// Everybody has heard the verdicts up to this one.
    closed: u64,
    activity: Activity,
    /// How large the groups were when our last epoch began: all its members hear the same, whenever they do.
    sizes: Sizes,
    /// How the last vote ended that any member has heard of.
    decided: Option<(Vote, Ending)>,
    /// Members that shall not be in the next epoch.
    removals: BTreeMap<SessionId, Removal>,
    /// Attempts whose callers called different ops.
    mismatched: BTreeSet<(Tag, u32)>,
    /// Attempts for which somebody has waited too long.
    timed_out: BTreeSet<(Tag, u32)>,
    /// Attempts that wait for members that wait for something else.
    deadlocked: BTreeSet<(Tag, u32)>,
    /// Pairs of members that cannot reach each other, and since when we know of any.
    broken: BTreeSet<(SessionId, SessionId)>,
    broken_since: Option<Time>,
    /// A synchronization that has been elected and not committed.
    sync: Option<Syncing>,
    /// A member asks for another epoch, to count attempts anew.
    rollover: bool,
}

/// A master.
pub struct Master {
    config: MasterConfig,
    rules: Rules,
    random: Seeded,
    authority: Authority,
    record: RunRecord,
    groups: BTreeMap<PeerGroup, Group>,
    sessions: BTreeMap<SessionId, SessionState>,
    conns: BTreeMap<ConnId, Conn>,
    strangers: VecDeque<ConnId>,
    ended: BTreeMap<SessionId, (Removal, Time)>,
    liveness: Liveness,
    next_session: u32,
    next_conn: u64,
    next_store: u64,
    next_change: u64,
    leadership: Leadership,
    /// The read that shall tell whether another master has a newer term.
    checking_term: Option<u64>,
    actions: VecDeque<Action>,
    writable: BTreeSet<ConnId>,
    events: VecDeque<MasterEvent>,
}

/// Connections that may be open without having said who they are; the oldest makes room.
const MAX_STRANGERS: usize = 256;

impl Master {
    /// A master that begins by asking its store who leads.
    pub fn new(now: Time, config: MasterConfig) -> Self {
        let mut master = Self {
            rules: Rules::default(),
            random: Seeded::new(config.seed),
            authority: Authority::Standby,
            record: RunRecord::default(),
            groups: BTreeMap::new(),
            sessions: BTreeMap::new(),
            conns: BTreeMap::new(),
            strangers: VecDeque::new(),
            ended: BTreeMap::new(),
            liveness: Liveness::new(now),
            next_session: 0,
            next_conn: 0,
            next_store: 0,
            next_change: 0,
            leadership: Leadership::new(now),
            checking_term: None,
            actions: VecDeque::new(),
            writable: BTreeSet::new(),
            events: VecDeque::new(),
            config,
        };
        master.begin_leadership(now);
        master
    }

    /// Other limits and rules, before it begins.
    #[cfg(feature = "sim")]
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Whether it may decide anything.
    pub fn authority(&self) -> Authority {
        self.authority
    }

    /// Its term; zero before it has one.
    pub fn term(&self) -> Term {
        self.record.term
    }

    /// What it would not want to forget: all that another master needs to go on.
    pub fn record(&self) -> &RunRecord {
        &self.record
    }

    /// Members of all groups.
    pub fn members(&self) -> usize {
        self.record.groups.values().map(|g| g.members.len()).sum()
    }

    /// The next thing worth a line in a log.
    pub fn poll_event(&mut self) -> Option<MasterEvent> {
        self.events.pop_front()
    }

    /// The store has answered.
    pub fn handle_store(&mut self, now: Time, reply: StoreReply) {
        self.watch_lease(now);
        let Some(reply) = self.leadership_answered(now, reply) else { return };
        match reply {
            StoreReply::Unknown { id, why } if self.checking_term == Some(id) => {
                self.checking_term = None;
                self.events.push_back(MasterEvent::StoreTrouble { why });
            }
            StoreReply::Written { id } => self.written(now, id),
            StoreReply::Rejected { id } => self.write_in_doubt(id, "the store has refused the write"),
            StoreReply::Unknown { id, why } => self.write_in_doubt(id, &why),
            StoreReply::Record { id, record, .. } => {
                self.checking_term = self.checking_term.filter(|asked| *asked != id);
                self.resolve_doubt(now, id, &record);
            }
            StoreReply::Taken { .. } | StoreReply::Renewed { .. } => {}
        }
        self.lead_on(now);
    }

    fn become_active(&mut self, now: Time, record: RunRecord) {
        self.authority = Authority::Active;
        self.record = record;
        self.liveness.forgive(now, &self.config.settings);
        for (group, stored) in &self.record.groups {
            self.groups.entry(*group).or_default();
            for m in &stored.members {
                let state = SessionState::new(now, *group, m.key, m.member.clone());
                self.sessions.insert(m.member.session, SessionState { is_member: true, ..state });
            }
        }
        self.liveness.begin_seeking(now, &self.config.settings, self.sessions.keys().copied().collect());
        self.events.push_back(MasterEvent::Active { term: self.record.term, members: self.members() as u32 });
    }

    /// Somebody says that another master has a newer term. Anybody can say so: the store knows.
    fn check_term(&mut self) {
        if self.checking_term.is_none() {
            self.next_store += 1;
            self.checking_term = Some(self.next_store);
            self.actions.push_back(Action::Store(StoreRequest::Read { id: self.next_store }));
        }
    }

    /// What came up while nothing could be decided.
    fn take_up(&mut self, now: Time, group: PeerGroup) {
        let Some(state) = self.groups.get(&group) else { return };
        let failed = [&state.mismatched, &state.timed_out, &state.deadlocked].iter().any(|r| !r.is_empty());
        if failed || !matches!(state.activity, Activity::Idle) {
            return self.begin_change(now, group, "an op failed");
        }
        self.try_commit_sync(group);
        self.go_on(now, group);
        self.end_deadlock(now, group);
    }

    fn stored(&self, group: PeerGroup) -> GroupRecord {
        self.record.groups.get(&group).cloned().unwrap_or_default()
    }

    fn epoch_of(&self, group: PeerGroup) -> Epoch {
        self.record.groups.get(&group).map_or(Epoch::default(), |g| g.epoch)
    }

    /// The members of a group that shall stay.
    fn stayers(&self, group: PeerGroup) -> Vec<SessionId> {
        let removals = self.groups.get(&group).map(|g| &g.removals);
        let stays = |s: &SessionId| !removals.is_some_and(|r| r.contains_key(s));
        let members = self.record.groups.get(&group).map(|g| &g.members[..]).unwrap_or_default();
        members.iter().map(|m| m.member.session).filter(stays).collect()
    }

    /// Registered peers of a group that are not members, by age.
    fn newcomers(&self, group: PeerGroup) -> Vec<SessionId> {
        let waits = |s: &SessionState| s.group == group && !s.is_member && s.conn.is_some();
        self.sessions.iter().filter(|(_, s)| waits(s)).map(|(id, _)| *id).collect()
    }

    fn send(&mut self, conn: ConnId, message: MasterMessage) {
        if let Some(state) = self.conns.get_mut(&conn) {
            state.stream.push(&FromMaster { term: self.record.term, message });
            self.writable.insert(conn);
        }
    }

    /// Sends to a session, if it is attached.
    fn tell(&mut self, session: SessionId, message: MasterMessage) {
        if let Some(conn) = self.sessions.get(&session).and_then(|s| s.conn) {
            self.send(conn, message);
        }
    }

    /// Whether the other side takes what it is sent. Who only asks shall not fill our memory with answers.
    fn listens(&self, conn: ConnId) -> bool {
        self.conns.get(&conn).is_some_and(|c| c.stream.queued_bytes() <= MAX_STRANGER_BYTES)
    }

    fn drop_conn(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.remove(&conn) {
            self.writable.remove(&conn);
            let last = state.stream.transmit_buffer().to_vec();
            self.actions.push_back(Action::Close { conn, last });
        }
        self.strangers.retain(|c| *c != conn);
    }

    fn new_conn(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }

    fn next_message(&mut self, now: Time, conn: ConnId) -> Option<ToMaster> {
        let state = self.conns.get_mut(&conn)?;
        match state.stream.next_message::<ToMaster>() {
            Ok(message) => message,
            Err(why) => {
                let from = state.from;
                self.events.push_back(MasterEvent::ConnectionRefused { from, why: why.to_string() });
                self.drop_conn(conn);
                self.conn_lost(now, conn);
                None
            }
        }
    }
}

impl SessionState {
    fn new(now: Time, group: PeerGroup, key: u64, member: Member) -> Self {
        Self {
            group,
            key,
            member,
            conn: None,
            is_member: false,
            applied: Epoch::default(),
            acked: 0,
            heard: now,
            detached: Some(now),
            vote: None,
            vote_result: None,
            offer: None,
            sync_answer: None,
            waits: BTreeMap::new(),
            leaving: false,
        }
    }
}

impl Machine for Master {
    fn handle_accepted(&mut self, now: Time, from: SocketAddr) -> Option<ConnId> {
        let conn = self.new_conn();
        let stream = ControlStream::new(MAX_STRANGER_BYTES);
        self.conns.insert(conn, Conn { from, stream, session: None, opened: now, permit: None });
        self.strangers.push_back(conn);
        if self.strangers.len() > MAX_STRANGERS
            && let Some(oldest) = self.strangers.pop_front()
        {
            self.drop_conn(oldest);
        }
        Some(conn)
    }

    fn handle_permit(&mut self, conn: ConnId, permit: Permit) {
        if let Some(state) = self.conns.get_mut(&conn) {
            state.permit = Some(permit);
        }
    }

    fn handle_connected(&mut self, now: Time, conn: ConnId) {
        // Only probes are dialed.
        self.probe_answered(now, conn);
    }

    fn handle_closed(&mut self, now: Time, conn: ConnId, why: Closed) {
        self.watch_lease(now);
        self.writable.remove(&conn);
        if self.probe_failed(now, conn, &why) {
            return;
        }
        self.conns.remove(&conn);
        self.strangers.retain(|c| *c != conn);
        self.conn_lost(now, conn);
    }

    fn receive_buffers(&mut self, conn: ConnId) -> [&mut [u8]; 2] {
        match self.conns.get_mut(&conn) {
            Some(state) => [state.stream.receive_buffer(), &mut []],
            None => [self.liveness.probe_buffer(conn), &mut []],
        }
    }

    fn handle_received(&mut self, now: Time, conn: ConnId, n: usize) {
        self.watch_lease(now);
        let Some(state) = self.conns.get_mut(&conn) else {
            return;
        };
        state.stream.handle_received(n);
        if let Some(session) = state.session {
            self.heard_from(now, session);
        }
        while let Some(message) = self.next_message(now, conn) {
            self.handle_message(now, conn, message);
        }
    }

    fn transmit_buffers<'a>(&'a mut self, conn: ConnId, out: &mut Vec<&'a [u8]>) {
        if let Some(state) = self.conns.get(&conn) {
            out.push(state.stream.transmit_buffer());
        }
    }

    fn handle_transmitted(&mut self, _now: Time, conn: ConnId, n: usize) {
        if let Some(state) = self.conns.get_mut(&conn) {
            state.stream.handle_transmitted(n);
        }
    }

    fn handle_datagram(&mut self, now: Time, from: SocketAddr, bytes: &[u8]) {
        let Some(beat) = Heartbeat::decode(bytes) else {
            return;
        };
        self.watch_lease(now);
        if self.authority == Authority::Standby || beat.run != self.record.run {
            return;
        }
        if beat.term > self.record.term {
            return self.check_term();
        }
        if self.sessions.contains_key(&beat.session) {
            self.heard_from(now, beat.session);
            let answer = Heartbeat { term: self.record.term, ..beat };
            self.actions.push_back(Action::Datagram { to: from, bytes: answer.encode() });
        }
    }

    fn handle_timeout(&mut self, now: Time) {
        self.watch_lease(now);
        self.lead_on(now);
        if now >= self.liveness.tick_at() {
            self.tick(now);
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        Some(self.leadership_deadline().map_or(self.liveness.tick_at(), |at| at.min(self.liveness.tick_at())))
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_writable(&mut self) -> Option<ConnId> {
        self.writable.pop_first()
    }
}

/// Frames of peers that have shown a session may be longer.
fn trust(conn: &mut Conn, session: SessionId) {
    conn.session = Some(session);
    conn.stream.set_limit(MAX_CONTROL_BYTES);
}
