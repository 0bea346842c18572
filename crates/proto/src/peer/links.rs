//! Connections to the other members: who dials, handshake, and resumption after a break.
//!
//! A link is a number of *stripes*, each a TCP connection at a time. Data frames of a stripe are numbered; when its
//! connection breaks, the next one begins with both sides saying how many they have accepted, and the rest is sent again.
//! The younger session dials the older one; if the older one notices a break first, it may dial too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::broken::Fruitless;
use super::stream::Rx;
use super::{EndReason, Peer, PeerEvent};
use crate::execute::{Kernels, OpMemory, OutFrame};
use crate::ids::{AttemptName, ConnId, SessionId, Time};
use crate::machine::Action;
use crate::message::{LinkMessage, LinkRefusal, ToMaster};
use crate::record::Member;
use crate::wire::{DataHeader, encode_control};

/// Strangers that may be in their handshake at once; the oldest makes room.
const MAX_STRANGERS: usize = 256;
/// How long a stranger may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const REDIAL_WAIT: Duration = Duration::from_millis(20);
/// How long the older side leaves dialing to the younger one.
const OLDER_REDIAL_WAIT: Duration = Duration::from_millis(250);
/// A further connection that has never come about is tried this often: the way there may not allow so many.
const FURTHER_REDIAL_WAIT: Duration = Duration::from_secs(1);
/// Connections of a link.
const MAX_STRIPES: u16 = 64;
/// Round trips of a new link that are measured; the smallest counts.
const RTT_SAMPLES: u32 = 3;

/// A frame on its way to another member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing {
    pub(super) name: AttemptName,
    pub(super) digest: u32,
    pub(super) frame: OutFrame,
}

/// A frame of an attempt that our caller has not started.
pub(super) struct Held {
    pub(super) header: DataHeader,
    pub(super) data: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Stripe {
    /// The connection in use.
    pub(super) conn: Option<ConnId>,
    dialing: Option<ConnId>,
    dial_at: Option<Time>,
    generation: u32,
    pub(super) was_up: bool,
    /// Not sent yet.
    pub(super) queue: VecDeque<Outgoing>,
    /// Sent, or being sent, and not known to be accepted; the first one has number `first_seq`.
    pub(super) sent: VecDeque<Outgoing>,
    pub(super) first_seq: u64,
    /// Data frames that we have accepted, and that we have told.
    pub(super) accepted: u64,
    pub(super) told: u64,
}

pub(super) struct Link {
    pub(super) member: Member,
    pub(super) stripes: Vec<Stripe>,
    was_up: bool,
    /// The smallest round trip so far, and how many were measured.
    pub(super) rtt_us: Option<u32>,
    rtt_samples: u32,
    pub(super) down_since: Option<Time>,
    /// Connections that broke with something on its way since data came through for the last time.
    pub(super) fruitless: Option<Fruitless>,
    /// The last attempt to dial was refused: the process is gone.
    refused: bool,
    /// When the master was told that it is broken, since it was up.
    pub(super) reported: Option<Time>,
    why_down: String,
    /// Bytes sent for attempts without credit, by attempt.
    pub(super) eager: BTreeMap<AttemptName, u64>,
    /// Frames that wait for credit.
    pub(super) blocked: VecDeque<Outgoing>,
    /// Attempts that the other side has started.
    pub(super) granted: BTreeSet<AttemptName>,
    /// Attempts for which the other side waits for credit.
    pub(super) wanted: BTreeSet<AttemptName>,
    pub(super) held: VecDeque<Held>,
    pub(super) held_bytes: usize,
}

impl Link {
    fn new(member: Member, stripes: u16, now: Time) -> Self {
        let mut all = Vec::new();
        all.resize_with(stripes.max(1) as usize, Stripe::default);
        Self {
            member,
            stripes: all,
            was_up: false,
            rtt_us: None,
            rtt_samples: 0,
            down_since: Some(now),
            fruitless: None,
            refused: false,
            reported: None,
            why_down: "not connected yet".into(),
            eager: BTreeMap::new(),
            blocked: VecDeque::new(),
            granted: BTreeSet::new(),
            wanted: BTreeSet::new(),
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// Whether the first connection is there, and every other one that has been.
    pub(super) fn is_up(&self) -> bool {
        self.stripes.iter().enumerate().all(|(i, s)| s.conn.is_some() || (i > 0 && !s.was_up))
    }

    /// The stripes that may be dialed. The first one goes ahead: where the way between two hosts carries fewer
    /// connections than we would like, a further one must not take its place.
    fn dialable(&self) -> impl Iterator<Item = (usize, &Stripe)> {
        let first = self.stripes.first().is_some_and(|s| s.conn.is_some());
        let free = |s: &Stripe| s.conn.is_none() && s.dialing.is_none();
        self.stripes.iter().enumerate().filter(move |(i, s)| free(s) && (*i == 0 || first))
    }

    /// Whether the link is there and its round trip is known.
    fn is_ready(&self) -> bool {
        self.is_up() && self.rtt_us.is_some()
    }
}

/// What a connection between peers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Accepted, and nothing said yet.
    Stranger,
    /// Accepted, said who it is, and waits until we hear of it.
    Parked { from: SessionId },
    /// Dialed, waiting for an answer.
    Dialed { to: SessionId, stripe: u16 },
    /// In use.
    Up { peer: SessionId, stripe: u16 },
}

pub(super) struct LinkConn {
    pub(super) role: Role,
    pub(super) rx: Rx,
    pub(super) tx: super::stream::Tx,
    opened: Time,
    pub(super) heard: Time,
    /// A question has not been answered since then.
    pinged: Option<Time>,
    /// When the question was asked that the next answer belongs to.
    asked: Option<Time>,
    /// Tensor data has come since the last tick.
    pub(super) receiving: bool,
    parked: Option<LinkMessage>,
}

#[derive(Default)]
pub(super) struct Links {
    pub(super) table: BTreeMap<SessionId, Link>,
    pub(super) conns: BTreeMap<ConnId, LinkConn>,
    /// Strangers by age.
    strangers: VecDeque<ConnId>,
    introduction: Option<Introduction>,
}

/// A join that we have been told of and not answered.
struct Introduction {
    join: u64,
    peers: Vec<SessionId>,
    deadline: Time,
}

impl Links {
    pub(super) fn all_conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.conns.keys().copied()
    }

    /// Links to other hosts than `ours`. Within a host a round trip tells how busy the scheduler is, not how long the wire.
    fn abroad(&self, ours: Option<IpAddr>) -> impl Iterator<Item = &Link> {
        self.table.values().filter(move |l| Some(l.member.addr.ip()) != ours)
    }

    /// The largest of the smallest round trips of links to other hosts; zero if none is known.
    pub(super) fn slowest_rtt_us(&self, ours: Option<IpAddr>) -> u32 {
        self.abroad(ours).filter_map(|l| l.rtt_us).max().unwrap_or(0)
    }

    /// Whether there is a link to another host.
    pub(super) fn any_abroad(&self, ours: Option<IpAddr>) -> bool {
        self.abroad(ours).next().is_some()
    }

    /// What is left to say on a connection.
    pub(super) fn last_words(&self, conn: ConnId) -> Vec<u8> {
        self.conns.get(&conn).map(|c| c.tx.last_words()).unwrap_or_default()
    }

    /// Whether a member's process is gone, or could not be reached for `reach`, from `since` on.
    pub(super) fn is_out_of_reach(
        &self,
        session: SessionId,
        now: Time,
        since: Time,
        reach: Duration,
    ) -> bool {
        let Some(link) = self.table.get(&session) else {
            return now.since(since) > reach;
        };
        link.down_since.is_some_and(|at| link.refused || now.since(at.max(since)) > reach)
    }

    /// Nobody listens where a connection was dialed to.
    pub(super) fn was_refused(&mut self, conn: ConnId) {
        if let Some(Role::Dialed { to, .. }) = self.conns.get(&conn).map(|c| c.role)
            && let Some(link) = self.table.get_mut(&to)
        {
            // Somebody is there as long as another connection is: there may not be more of them.
            link.refused = link.stripes.iter().all(|s| s.conn.is_none());
        }
    }

    /// What was not heard while we were stopped says nothing.
    pub(super) fn forgive(&mut self, now: Time) {
        for conn in self.conns.values_mut() {
            conn.heard = now;
            conn.pinged = None;
        }
        for link in self.table.values_mut() {
            link.down_since = link.down_since.map(|_| now);
            link.fruitless = None;
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let dials = self.table.values().flat_map(Link::dialable).filter_map(|(_, s)| s.dial_at);
        let introduction = self.introduction.as_ref().map(|i| i.deadline);
        dials.chain(introduction).min()
    }
}

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    fn new_link_conn(&mut self, now: Time, conn: ConnId, role: Role) {
        let state = LinkConn {
            role,
            rx: Rx::default(),
            tx: super::stream::Tx::default(),
            opened: now,
            heard: now,
            pinged: None,
            asked: None,
            receiving: false,
            parked: None,
        };
        self.links.conns.insert(conn, state);
    }

    pub(super) fn accept_stranger(&mut self, now: Time) -> ConnId {
        let conn = self.new_conn();
        self.new_link_conn(now, conn, Role::Stranger);
        self.links.strangers.push_back(conn);
        if self.links.strangers.len() > MAX_STRANGERS
            && let Some(oldest) = self.links.strangers.pop_front()
        {
            self.drop_conn(oldest);
        }
        conn
    }

    fn drop_conn(&mut self, conn: ConnId) {
        if let Some(state) = self.links.conns.remove(&conn) {
            self.close_conn(conn, state.tx.last_words());
        }
        self.links.strangers.retain(|c| *c != conn);
    }

    /// A newcomer's or a new member's link: expected from now on, dialed if it is ours to dial.
    fn expect_link(&mut self, now: Time, member: &Member) {
        let me = self.session_id();
        if member.session == me {
            return;
        }
        let stripes = self.stripes();
        let link =
            self.links.table.entry(member.session).or_insert_with(|| Link::new(member.clone(), stripes, now));
        link.member = member.clone();
        if link.stripes.len() < stripes as usize {
            link.stripes.resize_with(stripes as usize, Stripe::default);
        }
        if member.session < me {
            for stripe in link.stripes.iter_mut().filter(|s| s.conn.is_none() && s.dialing.is_none()) {
                stripe.dial_at = Some(now);
            }
        }
        self.unpark(now, member.session);
    }

    /// Connections of a link: the run's setting, or what the epoch's figures ask for; the same on both sides.
    fn stripes(&self) -> u16 {
        match (self.settings.connections_per_link, &self.view) {
            (0, Some(view)) => view.links.connections(view.members.len() as u32),
            (0, None) => 1,
            (n, _) => n.min(MAX_STRIPES),
        }
    }

    pub(super) fn introduce(&mut self, now: Time, join: u64, peers: Vec<Member>, timeout: Duration) {
        for member in &peers {
            self.expect_link(now, member);
        }
        let peers = peers.into_iter().map(|m| m.session).filter(|s| *s != self.session_id()).collect();
        self.links.introduction = Some(Introduction { join, peers, deadline: now + timeout });
        self.links_timeout(now);
        self.answer_introduction(now);
    }

    /// Tells the master which links are there, once all are, or time is up.
    fn answer_introduction(&mut self, now: Time) {
        let Some(intro) = &self.links.introduction else {
            return;
        };
        let is_up = |s: &SessionId| self.links.table.get(s).is_some_and(Link::is_ready);
        let (up, missing): (Vec<SessionId>, Vec<SessionId>) = intro.peers.iter().partition(|s| is_up(s));
        if !missing.is_empty() && now < intro.deadline {
            return;
        }
        let why =
            |s: &SessionId| self.links.table.get(s).map_or("unknown".to_owned(), |l| l.why_down.clone());
        let down = missing.iter().map(|s| (*s, why(s))).collect();
        let message = ToMaster::Linked { join: intro.join, up, down };
        self.links.introduction = None;
        self.tell_master(&message);
    }

    /// Links to those that are no members any more end; those to new members begin.
    pub(super) fn links_enter_epoch(&mut self, now: Time) {
        let Some(view) = self.view.clone() else { return };
        let gone: Vec<SessionId> = self
            .links
            .table
            .keys()
            .filter(|s| view.members.binary_search_by_key(s, |m| &m.session).is_err())
            .copied()
            .collect();
        for session in gone {
            self.drop_link(session);
        }
        let epoch = view.epoch;
        for member in &view.members {
            self.expect_link(now, member);
        }
        for link in self.links.table.values_mut() {
            link.granted.retain(|n| n.epoch >= epoch);
            link.wanted.retain(|n| n.epoch >= epoch);
            link.held.retain(|h| h.header.name.epoch >= epoch);
            link.held_bytes = link.held.iter().map(|h| h.data.len()).sum();
        }
        self.links.introduction = None;
        self.resume_reading();
    }

    pub(super) fn drop_all_links(&mut self) {
        let all: Vec<SessionId> = self.links.table.keys().copied().collect();
        for session in all {
            self.drop_link(session);
        }
        self.links.introduction = None;
    }

    fn drop_link(&mut self, session: SessionId) {
        let conns: Vec<ConnId> = self
            .links
            .conns
            .iter()
            .filter(|(_, c)| match c.role {
                Role::Stranger => false,
                Role::Parked { from } => from == session,
                Role::Dialed { to, .. } => to == session,
                Role::Up { peer, .. } => peer == session,
            })
            .map(|(id, _)| *id)
            .collect();
        for conn in conns {
            self.give_up_rx(conn);
            self.drop_conn(conn);
        }
        self.links.table.remove(&session);
    }

    /// Connections on which too much was held may be read again.
    fn resume_reading(&mut self) {
        let conns: Vec<ConnId> = self.links.conns.keys().copied().collect();
        for conn in conns {
            self.actions.push_back(Action::ResumeReading { conn });
        }
    }

    pub(super) fn links_timeout(&mut self, now: Time) {
        let due: Vec<(SessionId, u16)> = self
            .links
            .table
            .iter()
            .flat_map(|(session, l)| l.dialable().map(|(i, stripe)| (*session, i as u16, stripe.dial_at)))
            .filter(|(_, _, at)| at.is_some_and(|at| at <= now))
            .map(|(session, i, _)| (session, i))
            .collect();
        for (session, stripe) in due {
            self.dial_stripe(now, session, stripe);
        }
        self.answer_introduction(now);
    }

    fn dial_stripe(&mut self, now: Time, session: SessionId, index: u16) {
        let conn = self.new_conn();
        let Some(link) = self.links.table.get_mut(&session) else {
            return;
        };
        let addr = link.member.addr;
        let stripe = &mut link.stripes[index as usize];
        stripe.dial_at = None;
        stripe.dialing = Some(conn);
        self.new_link_conn(now, conn, Role::Dialed { to: session, stripe: index });
        self.actions.push_back(Action::Dial { conn, addr });
    }

    pub(super) fn link_connected(&mut self, now: Time, conn: ConnId) {
        let Some(state) = self.links.conns.get_mut(&conn) else {
            return;
        };
        state.opened = now;
        let Role::Dialed { to, stripe } = state.role else {
            return;
        };
        let (run, from, epoch) = (self.run, self.session_id(), self.epoch());
        let Some(s) = self.links.table.get(&to).and_then(|l| l.stripes.get(stripe as usize)) else {
            return;
        };
        let hello = LinkMessage::Hello {
            run,
            from,
            to,
            epoch,
            stripe,
            generation: s.generation + 1,
            accepted: s.accepted,
        };
        self.say(conn, &hello);
    }

    /// Queues a message on a connection between peers.
    pub(super) fn say(&mut self, conn: ConnId, message: &LinkMessage) {
        if let Some(state) = self.links.conns.get_mut(&conn) {
            encode_control(message, &mut state.tx.control);
            self.writable.insert(conn);
        }
    }

    /// Queues a message to a member, if it is connected.
    pub(super) fn say_to(&mut self, peer: SessionId, message: &LinkMessage) {
        let conn = self.links.table.get(&peer).and_then(|l| l.stripes.iter().find_map(|s| s.conn));
        if let Some(conn) = conn {
            self.say(conn, message);
        }
    }

    pub(super) fn link_closed(&mut self, now: Time, conn: ConnId, why: &str) {
        self.give_up_rx(conn);
        let Some(state) = self.links.conns.remove(&conn) else {
            return;
        };
        self.links.strangers.retain(|c| *c != conn);
        let (peer, stripe, was_up) = match state.role {
            Role::Stranger | Role::Parked { .. } => return,
            Role::Dialed { to, stripe } => (to, stripe, false),
            Role::Up { peer, stripe } => (peer, stripe, true),
        };
        let me = self.session_id();
        let fetches = self.fetches_from(peer);
        let Some(link) = self.links.table.get_mut(&peer) else {
            return;
        };
        if was_up {
            link.broke(now, fetches);
        }
        let s = &mut link.stripes[stripe as usize];
        if s.conn == Some(conn) {
            s.conn = None;
        }
        if s.dialing == Some(conn) {
            s.dialing = None;
        }
        let wait = match stripe {
            1.. if !s.was_up => FURTHER_REDIAL_WAIT,
            _ if peer < me => REDIAL_WAIT,
            _ => OLDER_REDIAL_WAIT,
        };
        // A member that we have never reached is not ours to dial if it is younger.
        s.dial_at = (peer < me || link.was_up).then(|| now + wait);
        link.why_down = why.into();
        if !link.is_up() {
            link.down_since.get_or_insert(now);
        }
        if was_up {
            self.events.push_back(PeerEvent::LinkDown { peer, why: why.into() });
            if self.rank_of(peer).is_some() {
                self.tell_master_if_attached(&ToMaster::Suspect { peer });
            }
            self.sync_link_changed(peer);
        }
    }

    /// The other side broke the protocol, or a connection is of no use any more.
    pub(super) fn close_link_conn(&mut self, now: Time, conn: ConnId, why: &str) {
        let known = self.links.conns.get(&conn).map(|c| c.role);
        if matches!(known, Some(Role::Stranger | Role::Parked { .. })) {
            self.events.push_back(PeerEvent::StrangerRefused { why: why.into() });
        }
        if known.is_some() {
            let last = self.links.conns.get(&conn).map(|c| c.tx.last_words()).unwrap_or_default();
            self.close_conn(conn, last);
            self.link_closed(now, conn, why);
        }
    }

    pub(super) fn handle_link_message(&mut self, now: Time, conn: ConnId, message: LinkMessage) {
        let Some(role) = self.links.conns.get(&conn).map(|c| c.role) else {
            return;
        };
        match (role, message) {
            (Role::Stranger, hello @ LinkMessage::Hello { .. }) => self.greeted(now, conn, hello),
            (Role::Dialed { to, stripe }, LinkMessage::Welcome { accepted }) => {
                let generation =
                    self.links.table.get(&to).map_or(0, |l| l.stripes[stripe as usize].generation + 1);
                self.link_is_up(now, conn, (to, stripe, generation), accepted);
            }
            (Role::Dialed { to, .. }, LinkMessage::Refused { why }) => self.link_refused(now, conn, to, &why),
            (Role::Up { peer, .. }, LinkMessage::Grant { name }) => self.granted(now, conn, peer, name),
            (Role::Up { peer, .. }, LinkMessage::Want { name }) => self.wanted(now, conn, peer, name),
            (Role::Up { peer, stripe }, LinkMessage::Accepted { frames }) => {
                self.frames_accepted(now, conn, peer, stripe, frames);
            }
            (Role::Up { .. }, LinkMessage::Ping) => self.say(conn, &LinkMessage::Pong),
            (Role::Up { peer, .. }, LinkMessage::StateAsk { sync, blocks }) => {
                self.state_asked(now, conn, peer, sync, &blocks);
            }
            (Role::Up { peer, .. }, LinkMessage::Pong) => self.answered(now, conn, peer),
            (Role::Up { peer, .. }, LinkMessage::Ask { name }) => self.settlement_asked(peer, name),
            (Role::Up { peer, .. }, LinkMessage::Tell { name, answer }) => {
                self.settlement_told(peer, name, answer);
            }
            _ => self.close_link_conn(now, conn, "a message that does not belong here"),
        }
    }

    /// Somebody who connected to us says who it is.
    fn greeted(&mut self, now: Time, conn: ConnId, hello: LinkMessage) {
        let LinkMessage::Hello { run, from, to, epoch, stripe, generation, accepted } = hello else {
            return;
        };
        if run != self.run || self.session.is_none() {
            return self.refuse(now, conn, LinkRefusal::WrongRun);
        }
        if to != self.session_id() {
            return self.refuse(now, conn, LinkRefusal::WrongPeer { here: self.session_id() });
        }
        let Some(link) = self.links.table.get(&from) else {
            if epoch < self.epoch() && epoch.0 > 0 {
                return self.refuse(
                    now,
                    conn,
                    LinkRefusal::NotInEpoch { session: from, epoch: self.epoch() },
                );
            }
            // We may not have heard of it yet.
            if let Some(state) = self.links.conns.get_mut(&conn) {
                state.role = Role::Parked { from };
                state.parked = Some(hello);
            }
            return;
        };
        let Some(s) = link.stripes.get(stripe as usize) else {
            return self.close_link_conn(now, conn, "a connection with a number that it cannot have");
        };
        let we_dial_too = s.dialing.is_some() && generation == s.generation + 1;
        // The same generation again: the other side has not heard our welcome, and what we take for its connection is
        // none any more. Only one side can have begun a generation that is up here, so it is not one of our own.
        let older = generation == 0 || generation < s.generation;
        if older || (we_dial_too && from < to) {
            return self.close_link_conn(now, conn, "another connection has taken its place");
        }
        let ours = s.accepted;
        self.say(conn, &LinkMessage::Welcome { accepted: ours });
        self.link_is_up(now, conn, (from, stripe, generation), accepted);
    }

    fn refuse(&mut self, now: Time, conn: ConnId, why: LinkRefusal) {
        let text = why.to_string();
        self.say(conn, &LinkMessage::Refused { why });
        self.close_link_conn(now, conn, &text);
    }

    /// Those who waited for `session` to be introduced.
    fn unpark(&mut self, now: Time, session: SessionId) {
        let parked: Vec<ConnId> = self
            .links
            .conns
            .iter()
            .filter(|(_, c)| c.role == Role::Parked { from: session })
            .map(|(id, _)| *id)
            .collect();
        for conn in parked {
            let Some(state) = self.links.conns.get_mut(&conn) else {
                continue;
            };
            state.role = Role::Stranger;
            if let Some(hello) = state.parked.take() {
                self.greeted(now, conn, hello);
            }
        }
    }

    fn link_refused(&mut self, now: Time, conn: ConnId, to: SessionId, why: &LinkRefusal) {
        if let LinkRefusal::NotInEpoch { session, epoch } = why
            && *session == self.session_id()
            && *epoch > self.epoch()
            && self.view.is_some()
        {
            return self.end(EndReason::Expelled { why: None, ago_ms: 0 });
        }
        self.close_link_conn(now, conn, &format!("peer {to} refused the connection: {why}"));
    }

    /// A stripe has a connection: what the other side has not accepted is sent (again).
    fn link_is_up(
        &mut self,
        now: Time,
        conn: ConnId,
        (peer, stripe, generation): (SessionId, u16, u32),
        theirs: u64,
    ) {
        let fetches = self.fetches_from(peer);
        let Some(link) = self.links.table.get_mut(&peer) else {
            return self.close_link_conn(now, conn, "the peer is no member any more");
        };
        let s = &mut link.stripes[stripe as usize];
        let (old, dialing) = (s.conn.take(), s.dialing.take());
        if theirs < s.first_seq || theirs > s.first_seq + s.sent.len() as u64 {
            return self.close_link_conn(now, conn, "a count of accepted frames that cannot be");
        }
        let came_through = theirs > s.first_seq;
        s.sent.drain(..(theirs - s.first_seq) as usize);
        s.first_seq = theirs;
        while let Some(frame) = s.sent.pop_back() {
            s.queue.push_front(frame);
        }
        s.conn = Some(conn);
        s.was_up = true;
        s.generation = generation;
        s.dial_at = None;
        s.told = s.accepted;
        if came_through {
            link.fruitless = None;
        } else if old.is_some() {
            // The other side has given up a connection of whose end we have not heard.
            link.broke(now, fetches);
        }
        for other in [old, dialing].into_iter().flatten().filter(|c| *c != conn) {
            self.give_up_rx(other);
            self.drop_conn(other);
        }
        self.links.strangers.retain(|c| *c != conn);
        if let Some(state) = self.links.conns.get_mut(&conn) {
            state.role = Role::Up { peer, stripe };
            state.heard = now;
        }
        self.writable.insert(conn);
        self.ask_rtt(now, conn);
        self.sync_link_changed(peer);
        let Some(link) = self.links.table.get_mut(&peer) else { return };
        link.refused = false;
        let came_up = link.is_up() && link.down_since.take().is_some();
        if came_up {
            let again = std::mem::replace(&mut link.was_up, true);
            link.reported = None;
            self.events.push_back(PeerEvent::LinkUp { peer, again });
        }
        // Also if it took the place of a connection whose end we have not noticed.
        if came_up || old.is_some() {
            self.repeat_credit(peer);
        }
        self.answer_introduction(now);
    }

    fn ask_rtt(&mut self, now: Time, conn: ConnId) {
        if let Some(state) = self.links.conns.get_mut(&conn) {
            state.asked = Some(now);
            self.say(conn, &LinkMessage::Ping);
        }
    }

    fn answered(&mut self, now: Time, conn: ConnId, peer: SessionId) {
        let asked = self.links.conns.get_mut(&conn).and_then(|c| c.asked.take());
        let (Some(asked), Some(link)) = (asked, self.links.table.get_mut(&peer)) else { return };
        let rtt_us = now.since(asked).as_micros().clamp(1, u128::from(u32::MAX)) as u32;
        link.rtt_us = Some(link.rtt_us.map_or(rtt_us, |r| r.min(rtt_us)));
        link.rtt_samples += 1;
        if link.rtt_samples < RTT_SAMPLES {
            self.ask_rtt(now, conn);
        }
        self.answer_introduction(now);
    }

    /// Every heartbeat interval: strangers that take too long, links that are silent although an op needs them, links
    /// that stay down.
    pub(super) fn links_tick(&mut self, now: Time) {
        let timeout = self.settings.heartbeat_timeout();
        let slow = |c: &LinkConn| match c.role {
            Role::Stranger | Role::Parked { .. } => now.since(c.opened) > HANDSHAKE_TIMEOUT,
            Role::Dialed { .. } => now.since(c.opened) > timeout.max(Duration::from_millis(500)),
            Role::Up { .. } => c.pinged.is_some_and(|at| now.since(at) > timeout),
        };
        let late: Vec<ConnId> = self.links.conns.iter().filter(|(_, c)| slow(c)).map(|(id, _)| *id).collect();
        for conn in late {
            self.close_link_conn(now, conn, "no answer");
        }
        self.confirm_receiving();
        self.ping_links(now);
        self.report_broken_links(now, timeout);
    }

    /// Whoever sends us much learns every interval that it comes through: its pings may wait behind its data for long.
    fn confirm_receiving(&mut self) {
        let mut confirmed = Vec::new();
        for (conn, state) in &mut self.links.conns {
            if let (Role::Up { peer, stripe }, true) = (state.role, std::mem::take(&mut state.receiving))
                && let Some(link) = self.links.table.get_mut(&peer)
            {
                let s = &mut link.stripes[stripe as usize];
                s.told = s.accepted;
                confirmed.push((*conn, s.accepted));
            }
        }
        for (conn, frames) in confirmed {
            self.say(conn, &LinkMessage::Accepted { frames });
        }
    }

    fn ping_links(&mut self, now: Time) {
        let nothing_owed = self.ops.values().all(|op| op.is_done() || op.attempt.is_none());
        if nothing_owed && !self.needs_blocks() && !self.is_settling() {
            return;
        }
        let quiet = 2 * self.settings.heartbeat_interval();
        let silent: Vec<ConnId> = self
            .links
            .conns
            .iter_mut()
            .filter(|(_, c)| {
                matches!(c.role, Role::Up { .. }) && c.pinged.is_none() && now.since(c.heard) > quiet
            })
            .map(|(id, c)| {
                c.pinged = Some(now);
                c.asked = Some(now);
                *id
            })
            .collect();
        for conn in silent {
            self.say(conn, &LinkMessage::Ping);
        }
    }

    /// Something was heard on a connection.
    pub(super) fn link_heard(&mut self, now: Time, conn: ConnId) {
        if let Some(state) = self.links.conns.get_mut(&conn) {
            state.heard = now;
            state.pinged = None;
        }
    }
}
