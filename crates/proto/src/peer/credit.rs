//! Credit: what may be sent to a peer whose caller has not started the attempt yet, and what waits for it.
//!
//! Without credit a link carries at most `eager_bytes` of such frames. A receiver grants credit
//! when its caller starts an op that is larger; a sender that has to hold frames back asks for it.

use std::collections::BTreeSet;

use super::Peer;
use super::links::Outgoing;
use super::stream::Incoming;
use crate::execute::{Kernels, OpMemory, OutFrame};
use crate::ids::{AttemptName, ConnId, SessionId, Time};
use crate::message::LinkMessage;

/// Attempts that the other side may be ahead of us.
const MAX_AHEAD: usize = 4096;

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// Puts a frame into a stripe's queue, or holds it back until the receiver starts the attempt.
    pub(super) fn enqueue(&mut self, name: AttemptName, digest: u32, frame: OutFrame) {
        let Some(session) =
            self.view.as_ref().and_then(|v| v.members.get(frame.to as usize)).map(|m| m.session)
        else {
            return;
        };
        let outgoing = Outgoing { name, digest, frame };
        let Some(link) = self.links.table.get_mut(&session) else {
            return;
        };
        if !link.granted.contains(&name) {
            let used: u64 = link.eager.values().sum();
            if used + u64::from(frame.len) > self.rules.eager_bytes() {
                let first = !link.blocked.iter().any(|o| o.name == name);
                link.blocked.push_back(outgoing);
                if first {
                    self.say_to(session, &LinkMessage::Want { name });
                }
                return;
            }
            *link.eager.entry(name).or_default() += u64::from(frame.len);
        }
        self.queue_frame(session, outgoing);
    }

    fn queue_frame(&mut self, session: SessionId, outgoing: Outgoing) {
        if let Some(op) = self.ops.get_mut(&outgoing.name.tag) {
            op.sent_bytes += u64::from(outgoing.frame.len);
        }
        let Some(link) = self.links.table.get_mut(&session) else {
            return;
        };
        // A further connection that has never come about may never do, also if all others are broken just now.
        let usable = link.stripes.iter_mut().enumerate().filter(|(i, s)| *i == 0 || s.was_up);
        let shortest = usable.map(|(_, s)| s).min_by_key(|s| (s.conn.is_none(), s.queue.len()));
        let Some(stripe) = shortest else { return };
        stripe.queue.push_back(outgoing);
        if let Some(conn) = stripe.conn {
            self.writable.insert(conn);
        }
    }

    /// Our caller has started an attempt: those that hold frames back for it may send them.
    pub(super) fn grant_attempt(&mut self, name: AttemptName) {
        let Some(op) = self.ops.get(&name.tag) else { return };
        let Some(attempt) = &op.attempt else { return };
        let size = op.fingerprint.unit_bytes();
        let Some(view) = &self.view else { return };
        let mut to = Vec::new();
        for (rank, member) in view.members.iter().enumerate() {
            let large =
                attempt.execution.schedule().elements_from(rank as u32) * size > self.rules.eager_bytes();
            let Some(link) = self.links.table.get_mut(&member.session) else {
                continue;
            };
            if link.wanted.remove(&name) || large {
                to.push(member.session);
            }
        }
        for session in to {
            self.say_to(session, &LinkMessage::Grant { name });
        }
    }

    /// After a break: credit may have been lost with the connection.
    pub(super) fn repeat_credit(&mut self, peer: SessionId) {
        let running: Vec<AttemptName> = self.ops.values().filter_map(super::ops::Op::running_name).collect();
        for name in running {
            self.say_to(peer, &LinkMessage::Grant { name });
        }
        let blocked: BTreeSet<AttemptName> = self
            .links
            .table
            .get(&peer)
            .map(|l| l.blocked.iter().map(|o| o.name).collect())
            .unwrap_or_default();
        for name in blocked {
            self.say_to(peer, &LinkMessage::Want { name });
        }
    }

    pub(super) fn wanted(&mut self, now: Time, conn: ConnId, peer: SessionId, name: AttemptName) {
        let started = self.ops.get(&name.tag).is_some_and(|op| op.running_name() == Some(name));
        if started {
            return self.say(conn, &LinkMessage::Grant { name });
        }
        let ended = name.epoch == self.epoch()
            && name.n < self.counts.get(&name.tag).copied().unwrap_or(0)
            && self.ops.get(&name.tag).is_none_or(|op| !op.counted);
        if name.epoch < self.epoch() || ended {
            return;
        }
        let Some(link) = self.links.table.get_mut(&peer) else {
            return;
        };
        link.wanted.insert(name);
        if link.wanted.len() > MAX_AHEAD {
            self.close_link_conn(now, conn, "too many attempts ahead of us");
        }
    }

    pub(super) fn granted(&mut self, now: Time, conn: ConnId, peer: SessionId, name: AttemptName) {
        if name.epoch < self.epoch() {
            return;
        }
        self.credit(peer, name);
        let ahead = self.links.table.get(&peer).map_or(0, |l| l.granted.len());
        if ahead > MAX_AHEAD {
            self.close_link_conn(now, conn, "too many attempts ahead of us");
        }
    }

    /// The other side has started the attempt.
    pub(super) fn credit(&mut self, peer: SessionId, name: AttemptName) {
        let Some(link) = self.links.table.get_mut(&peer) else {
            return;
        };
        if !link.granted.insert(name) {
            return;
        }
        link.eager.remove(&name);
        let mut free = Vec::new();
        link.blocked.retain(|o| {
            if o.name == name {
                free.push(*o);
            }
            o.name != name
        });
        for outgoing in free {
            self.queue_frame(peer, outgoing);
        }
        self.unblock(peer);
    }

    /// Credit has come back: frames of other attempts may fit now.
    fn unblock(&mut self, peer: SessionId) {
        loop {
            let Some(link) = self.links.table.get_mut(&peer) else {
                return;
            };
            let used: u64 = link.eager.values().sum();
            let Some(first) = link.blocked.front().copied() else {
                return;
            };
            if used + u64::from(first.frame.len) > self.rules.eager_bytes() {
                return;
            }
            link.blocked.pop_front();
            *link.eager.entry(first.name).or_default() += u64::from(first.frame.len);
            self.queue_frame(peer, first);
        }
    }

    pub(super) fn frames_accepted(
        &mut self,
        now: Time,
        conn: ConnId,
        peer: SessionId,
        stripe: u16,
        frames: u64,
    ) {
        let Some(link) = self.links.table.get_mut(&peer) else {
            return;
        };
        let s = &mut link.stripes[stripe as usize];
        if frames > s.first_seq + s.sent.len() as u64 {
            return self.close_link_conn(now, conn, "a count of accepted frames that cannot be");
        }
        let n = frames.saturating_sub(s.first_seq);
        s.sent.drain(..n as usize);
        s.first_seq += n;
        if n > 0 {
            link.fruitless = None;
        }
    }

    /// The header of a data frame says how many of ours were accepted.
    pub(super) fn header_accepted(&mut self, now: Time, conn: ConnId, incoming: &Incoming) {
        self.frames_accepted(now, conn, incoming.peer, incoming.stripe, incoming.header.accepted);
    }

    /// An attempt has ended: nothing of it is sent or taken any more.
    pub(super) fn forget_attempt(&mut self, name: AttemptName) {
        let sessions: Vec<SessionId> = self.links.table.keys().copied().collect();
        self.detach_frames(name);
        for session in sessions {
            let Some(link) = self.links.table.get_mut(&session) else {
                continue;
            };
            for stripe in &mut link.stripes {
                // What was sent before a break and waits to be sent again has a number; it stays, and goes out empty.
                stripe.queue.retain(|o| o.name != name);
            }
            link.blocked.retain(|o| o.name != name);
            link.granted.remove(&name);
            if link.eager.remove(&name).is_some() {
                self.unblock(session);
            }
        }
    }
}
