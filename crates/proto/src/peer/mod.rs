//! A peer: member of a group, as a pure state machine.
//!
//! * `control`: the connection to the master, registration, attachment, heartbeats
//! * `links`, `stream`: connections to the other members, their handshake and resumption
//! * `broken`: links that do not come about, and links that do and carry nothing
//! * `credit`: what may be sent for attempts that the receiver has not started
//! * `ops`: life of an op from call to verdict
//! * `shared`: shared state
//! * `epoch`: what an epoch change does to ops and links
//! * `settle`: what happens when no master can be found

mod broken;
mod control;
mod credit;
mod epoch;
mod error;
mod insight;
mod links;
mod ops;
mod settle;
mod shared;
mod stream;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

pub use error::{EndReason, OpError, PeerEvent};
pub use insight::{Insight, LinkInsight, WaitReason};
pub use ops::{MAX_OPS_IN_FLIGHT, StartError};
pub use shared::{SyncEnd, SyncFailure, SyncStartError, Synchronized};
pub use watch::Progress;

use self::control::Control;
use self::links::Links;
use self::ops::Op;
use self::settle::Settling;
use self::shared::Sync;
use crate::execute::{Backup, Kernels, OpMemory};
use crate::ids::{AttemptName, ConnId, Epoch, PeerGroup, RunId, Seeded, SessionId, Tag, Term, Time};
use crate::machine::{Action, Closed, Machine};
use crate::message::{Ending, Session, View, Vote, VoteKind, VoteOutcome};
use crate::record::Failure;
use crate::rules::Rules;
use crate::schedule::Rank;
use crate::settings::{Expectations, RunSettings};
use crate::shared_state::Agreed;
use crate::vocabulary::Algorithm;

/// What a peer is told when it is made.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Its group.
    pub group: PeerGroup,
    /// Where the others reach its peer-to-peer port; an unspecified IP stands for the one that the master sees.
    pub advertised: SocketAddr,
    /// Its site.
    pub site: String,
    /// The masters, in the order of trial.
    pub masters: Vec<SocketAddr>,
    /// What its configuration says of the run's settings.
    pub expects: Expectations,
    /// The session that it had before, if it comes back.
    pub ended: Option<Session>,
    /// Seed of jitter.
    pub seed: u64,
}

/// Names a call for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// How an op went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpInfo {
    /// Peers that took part.
    pub world: u32,
    /// This peer's rank among them.
    pub rank: Rank,
    /// The epoch of the attempt that succeeded.
    pub epoch: Epoch,
    /// Attempts before it.
    pub recoveries: u32,
    /// Tensor bytes sent, over all attempts.
    pub sent_bytes: u64,
    /// Tensor bytes received, over all attempts.
    pub received_bytes: u64,
    /// How it was done.
    pub algorithm: Algorithm,
}

/// An op that has ended, with the caller's memory.
#[derive(Debug)]
pub struct Completion<M> {
    /// The call.
    pub id: OpId,
    /// The op's tag.
    pub tag: Tag,
    /// How it went. After an error the input is as it was, unless the error says that it is lost.
    pub result: Result<OpInfo, OpError>,
    /// The buffers.
    pub memory: M,
}

/// Where a peer is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Looking for a master.
    Connecting,
    /// Registered, waiting to be accepted.
    Registered,
    /// A member.
    Member,
    /// Asked to leave, waiting for the answer.
    Leaving,
    /// No master was found for `master_timeout`: ops in flight are settled among the members, and nothing else begins.
    Settling,
    /// At the end: a new peer must be made.
    Ended(EndReason),
}

/// A peer.
pub struct Peer<M, K> {
    config: PeerConfig,
    kernels: K,
    rules: Rules,
    random: Seeded,
    phase: Phase,
    run: RunId,
    settings: RunSettings,
    session: Option<Session>,
    term: Term,
    view: Option<View>,
    rank: Rank,
    /// Between `Prepare` and the epoch change no attempt is started.
    frozen: bool,
    control: Control,
    links: Links,
    ops: BTreeMap<Tag, Op<M>>,
    next_op: u64,
    /// Attempts started in this epoch, by tag.
    counts: BTreeMap<Tag, u32>,
    /// The epoch that we have asked to be the last one in which these are counted.
    rolled: Epoch,
    /// Failures that bind starts to come, by tag.
    debts: BTreeMap<Tag, VecDeque<Failure>>,
    /// Verdicts *committed* of this epoch that others may not have heard: tag, n, number.
    heard: VecDeque<(Tag, u32, u64)>,
    heard_to: u64,
    vote: Option<Vote>,
    next_vote: u32,
    /// Votes since the newest epoch that newcomers came into.
    votes: (Epoch, u32),
    last_vote: Option<(Vote, Ending)>,
    vote_ended: Option<VoteOutcome>,
    sync: Option<Sync>,
    synchronized: Option<SyncEnd>,
    settling: Option<Settling>,
    /// Attempts in flight of which a member that settles has said *committed*.
    told: BTreeSet<AttemptName>,
    /// What the group last agreed on.
    agreed: Option<Agreed>,
    /// We should have received shared state and could not: what we have does not count until we have.
    behind: bool,
    spare_backup: Option<Backup>,
    spare_slots: Vec<Vec<u8>>,
    completed: VecDeque<Completion<M>>,
    events: VecDeque<PeerEvent>,
    actions: VecDeque<Action>,
    writable: BTreeSet<ConnId>,
    next_conn: u64,
    /// Time for one MiB sent in the fastest large op so far, microseconds.
    mib_us: u32,
    last_tick: Time,
    tick_at: Time,
    waits: insight::Waits,
}

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// A peer that begins to look for a master.
    pub fn new(now: Time, config: PeerConfig, kernels: K) -> Self {
        let mut peer = Self {
            random: Seeded::new(config.seed),
            kernels,
            rules: Rules::default(),
            phase: Phase::Connecting,
            run: RunId::default(),
            settings: RunSettings::default(),
            session: None,
            term: Term::default(),
            view: None,
            rank: 0,
            frozen: false,
            control: Control::new(now),
            links: Links::default(),
            ops: BTreeMap::new(),
            next_op: 0,
            counts: BTreeMap::new(),
            rolled: Epoch::default(),
            debts: BTreeMap::new(),
            heard: VecDeque::new(),
            heard_to: 0,
            vote: None,
            next_vote: 0,
            votes: (Epoch::default(), 0),
            last_vote: None,
            vote_ended: None,
            sync: None,
            synchronized: None,
            settling: None,
            told: BTreeSet::new(),
            agreed: None,
            behind: false,
            spare_backup: None,
            spare_slots: Vec::new(),
            completed: VecDeque::new(),
            events: VecDeque::new(),
            actions: VecDeque::new(),
            writable: BTreeSet::new(),
            next_conn: 0,
            mib_us: 0,
            last_tick: now,
            tick_at: now,
            waits: insight::Waits::default(),
            config,
        };
        peer.dial_master(now);
        peer
    }

    /// Other limits and rules, before it begins.
    #[cfg(feature = "sim")]
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Where it is in its life.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The run's settings (the defaults until it is registered).
    pub fn settings(&self) -> &RunSettings {
        &self.settings
    }

    /// The run that it belongs to, once registered.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Its session, once registered.
    pub fn session(&self) -> Option<Session> {
        self.session
    }

    /// The epoch it is in, once accepted.
    pub fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// Its rank in that epoch.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Ops that have not ended.
    pub fn ops_in_flight(&self) -> usize {
        self.ops.len()
    }

    /// Bytes kept to restore inputs.
    pub fn backup_bytes(&self) -> usize {
        self.ops.values().map(Op::backup_bytes).sum()
    }

    /// Joins a vote. Its outcome comes from [`Peer::poll_vote`].
    pub fn vote(&mut self, kind: VoteKind) {
        self.count_vote();
        let vote = self.new_vote(kind);
        self.vote = Some(vote);
        self.vote_ended = None;
        self.tell_master_if_attached(&crate::message::ToMaster::Vote(vote));
    }

    /// One more vote since newcomers came last.
    fn count_vote(&mut self) {
        self.count_from(self.view.as_ref().map_or(Epoch::default(), |v| v.joined));
        self.votes.1 += 1;
    }

    /// Newcomers came into this epoch: votes are counted anew.
    fn count_from(&mut self, since: Epoch) {
        if self.votes.0 < since {
            self.votes = (since, 0);
        }
    }

    /// The voice in the vote that was counted last.
    fn new_vote(&mut self, kind: VoteKind) -> Vote {
        self.next_vote += 1;
        let (since, ordinal) = self.votes;
        Vote { kind, number: self.next_vote, since, ordinal }
    }

    /// Some have voted, and others not: as if nobody had.
    fn uncount_vote(&mut self) {
        self.votes.1 = self.votes.1.saturating_sub(1);
    }

    /// The outcome of the vote, once it has ended.
    pub fn poll_vote(&mut self) -> Option<VoteOutcome> {
        self.vote_ended.take()
    }

    /// The next op that has ended.
    pub fn poll_completed(&mut self) -> Option<Completion<M>> {
        self.completed.pop_front()
    }

    /// The next thing worth a line in a log.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    fn epoch(&self) -> Epoch {
        self.view.as_ref().map_or(Epoch::default(), |v| v.epoch)
    }

    fn session_id(&self) -> SessionId {
        self.session.map_or(SessionId::default(), |s| s.id)
    }

    fn new_conn(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }

    fn close_conn(&mut self, conn: ConnId, last: Vec<u8>) {
        self.writable.remove(&conn);
        self.actions.push_back(Action::Close { conn, last });
    }

    fn rank_of(&self, session: SessionId) -> Option<Rank> {
        let members = &self.view.as_ref()?.members;
        members.binary_search_by_key(&session, |m| m.session).ok().map(|i| i as Rank)
    }

    /// The end: every input restored, every connection closed.
    fn end(&mut self, why: EndReason) {
        if matches!(self.phase, Phase::Ended(_)) {
            return;
        }
        self.events.push_back(PeerEvent::Ended(why.clone()));
        self.fail_all_ops(&why);
        self.end_sync(Err(SyncFailure::Ended(why.clone())));
        self.vote = None;
        self.phase = Phase::Ended(why);
        self.settling = None;
        let links: Vec<ConnId> = self.links.all_conns().collect();
        for conn in links {
            // Members that settle may still wait for our last answer.
            let last = self.links.last_words(conn);
            self.close_conn(conn, last);
        }
        self.links = Links::default();
        self.close_control();
    }

    fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }
}

impl<M: OpMemory, K: Kernels> Machine for Peer<M, K> {
    fn handle_accepted(&mut self, now: Time, _from: SocketAddr) -> Option<ConnId> {
        if self.is_ended() {
            return None;
        }
        Some(self.accept_stranger(now))
    }

    fn handle_connected(&mut self, now: Time, conn: ConnId) {
        if self.control.is(conn) {
            self.control_connected(now);
        } else {
            self.link_connected(now, conn);
        }
    }

    fn handle_progress(&mut self, now: Time, conn: ConnId) {
        if self.control.is(conn) {
            self.control_progresses(now);
        }
    }

    fn handle_closed(&mut self, now: Time, conn: ConnId, why: Closed) {
        self.writable.remove(&conn);
        if self.control.is(conn) {
            self.control_closed(now, &why);
        } else {
            if why == Closed::Refused {
                self.links.was_refused(conn);
            }
            self.link_closed(now, conn, &why.to_string());
        }
    }

    fn receive_buffers(&mut self, conn: ConnId) -> [&mut [u8]; 2] {
        if self.control.is(conn) {
            return [self.control.receive_buffer(), &mut []];
        }
        self.link_receive_buffers(conn)
    }

    fn handle_received(&mut self, now: Time, conn: ConnId, n: usize) {
        if self.control.is(conn) {
            self.control_received(now, n);
        } else {
            self.link_received(now, conn, n);
        }
    }

    fn transmit_buffers<'a>(&'a mut self, conn: ConnId, out: &mut Vec<&'a [u8]>) {
        if self.control.is(conn) {
            out.push(self.control.transmit_buffer());
        } else {
            self.link_transmit_buffers(conn, out);
        }
    }

    fn handle_transmitted(&mut self, now: Time, conn: ConnId, n: usize) {
        if self.control.is(conn) {
            self.control.handle_transmitted(n);
        } else {
            self.link_transmitted(now, conn, n);
        }
    }

    fn handle_datagram(&mut self, now: Time, _from: SocketAddr, bytes: &[u8]) {
        self.heartbeat_answered(now, bytes);
    }

    fn handle_timeout(&mut self, now: Time) {
        if self.is_ended() {
            return;
        }
        self.control_timeout(now);
        self.links_timeout(now);
        if now >= self.tick_at {
            self.tick(now);
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        if self.is_ended() {
            return None;
        }
        [Some(self.tick_at), self.control.deadline(), self.links.deadline()].into_iter().flatten().min()
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_writable(&mut self) -> Option<ConnId> {
        self.writable.pop_first()
    }
}
