//! Life of an op: call, attempt, promise, verdict.

use super::{Completion, EndReason, OpError, OpId, OpInfo, Peer};
use crate::execute::{Backup, Execution, Kernels, OpMemory, OutFrame, cut};
use crate::ids::{AttemptName, SessionId, Tag, Time};
use crate::message::{ToMaster, View};
use crate::record::Failure;
use crate::rules::Rule;
use crate::schedule::{Schedule, choose, input_len, output_len, schedule};
use crate::settings::RunSettings;
use crate::vocabulary::{Algorithm, Collective, Fingerprint};

/// Ops that send so much are long enough to tell the bandwidth.
const MEASURED_BYTES: u64 = 8 << 20;
/// How long a caller waits before the master is told.
const TELL_AFTER_MS: u64 = 1000;

pub(super) struct Attempt {
    pub(super) name: AttemptName,
    pub(super) execution: Execution,
    pub(super) done: bool,
    /// Why it can never be complete.
    pub(super) impossible: Option<StartError>,
    world: u32,
    rank: u32,
}

pub(super) struct Op<M> {
    id: OpId,
    pub(super) fingerprint: Fingerprint,
    /// The root of a broadcast that has been started; its rank changes with the world.
    root: Option<SessionId>,
    pub(super) memory: M,
    pub(super) attempt: Option<Attempt>,
    /// A retried attempt counts as started in the new epoch before it is.
    pub(super) counted: bool,
    pub(super) recoveries: u32,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) called: Time,
    /// The attached master has been told that the caller waits.
    pub(super) told: bool,
}

impl<M: OpMemory> Op<M> {
    pub(super) fn running_name(&self) -> Option<AttemptName> {
        self.attempt.as_ref().map(|a| a.name)
    }

    pub(super) fn is_done(&self) -> bool {
        self.attempt.as_ref().is_some_and(|a| a.done)
    }

    pub(super) fn impossible(&self) -> Option<String> {
        self.attempt.as_ref()?.impossible.as_ref().map(ToString::to_string)
    }

    pub(super) fn is_restorable(&self, settings: &RunSettings) -> bool {
        settings.enable_buffer_backup || !self.memory.in_place()
    }
}

impl<M: OpMemory> Op<M> {
    /// Makes the call one of this epoch: the root of a broadcast keeps its session, not its rank.
    fn fit(&mut self, view: &View, rank: u32) -> Result<(), StartError> {
        let world = view.members.len() as u32;
        let f = &mut self.fingerprint;
        if f.collective == Collective::Broadcast {
            if let Some(session) = self.root {
                let at = view.members.binary_search_by_key(&session, |m| m.session);
                f.root = at.map_or(u32::MAX, |i| i as u32);
            }
            let root = f.root;
            let member = view.members.get(root as usize).ok_or(StartError::NoSuchRoot { root, world })?;
            self.root = Some(member.session);
        }
        fits(&self.fingerprint, world, rank, &self.memory)
    }
}

impl<M> Op<M> {
    pub(super) fn backup_bytes(&self) -> usize {
        self.attempt.as_ref().map_or(0, |a| a.execution.backup_bytes())
    }
}

/// A call that cannot become an op.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Another op of this tag has not ended.
    #[error("tag {0} is in use by an op that has not ended")]
    TagInUse(Tag),
    /// Not a member.
    #[error("this peer is not a member of an epoch yet")]
    NotAMember,
    /// The peer's life has ended.
    #[error("{0}")]
    Ended(EndReason),
    /// Too many ops at once.
    #[error("{0} ops are in flight already, which is the limit: wait for some of them")]
    TooMany(usize),
    /// The world has grown, and the output does not fit any more.
    #[error("the receive buffer has {have} bytes and needs {needed}")]
    BufferTooSmall {
        /// Bytes.
        needed: u64,
        /// Bytes.
        have: u64,
    },
    /// A rank that does not exist.
    #[error("the root, rank {root}, is not one of the {world} members")]
    NoSuchRoot {
        /// As called.
        root: u32,
        /// Members.
        world: u32,
    },
}

/// Whether an op's buffers are as long as it needs them in this world.
fn fits<M: OpMemory>(f: &Fingerprint, world: u32, rank: u32, memory: &M) -> Result<(), StartError> {
    let check = |units: u64, have: usize| {
        let (needed, have) = (units.saturating_mul(f.unit_bytes()), have as u64);
        if have < needed { Err(StartError::BufferTooSmall { needed, have }) } else { Ok(()) }
    };
    check(input_len(f, world, rank), memory.input().len())?;
    check(output_len(f, world, rank), memory.output().len())
}

/// Most ops of a peer at once.
pub const MAX_OPS_IN_FLIGHT: usize = 1024;

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// Starts an op. Its end comes from [`Peer::poll_completed`]; a call that fails gives the memory back.
    pub fn start(
        &mut self,
        now: Time,
        tag: Tag,
        fingerprint: Fingerprint,
        memory: M,
    ) -> Result<OpId, (StartError, M)> {
        if let Err(why) = self.may_start(tag, &fingerprint, &memory) {
            return Err((why, memory));
        }
        self.next_op += 1;
        let id = OpId(self.next_op);
        let op = Op {
            id,
            fingerprint,
            root: None,
            memory,
            attempt: None,
            counted: false,
            recoveries: 0,
            sent_bytes: 0,
            received_bytes: 0,
            called: now,
            told: false,
        };
        self.ops.insert(tag, op);
        self.try_start(now, tag);
        Ok(id)
    }

    fn may_start(&self, tag: Tag, fingerprint: &Fingerprint, memory: &M) -> Result<(), StartError> {
        if let super::Phase::Ended(why) = &self.phase {
            return Err(StartError::Ended(why.clone()));
        }
        if self.is_settling() {
            return Err(StartError::Ended(EndReason::MasterLost));
        }
        let Some(view) = &self.view else {
            return Err(StartError::NotAMember);
        };
        if self.ops.contains_key(&tag) {
            return Err(StartError::TagInUse(tag));
        }
        if self.ops.len() >= MAX_OPS_IN_FLIGHT {
            return Err(StartError::TooMany(MAX_OPS_IN_FLIGHT));
        }
        let world = view.members.len() as u32;
        let root = fingerprint.root;
        if fingerprint.collective == Collective::Broadcast && root >= world {
            return Err(StartError::NoSuchRoot { root, world });
        }
        fits(fingerprint, world, self.rank, memory)
    }

    /// Starts the ops that waited for an epoch change.
    pub(super) fn thaw(&mut self, now: Time) {
        self.frozen = false;
        let waiting: Vec<Tag> =
            self.ops.iter().filter(|(_, op)| op.attempt.is_none()).map(|(tag, _)| *tag).collect();
        for tag in waiting {
            self.try_start(now, tag);
        }
    }

    /// Begins an attempt at the op of `tag`, unless an epoch change is under way or a failure binds it.
    pub(super) fn try_start(&mut self, now: Time, tag: Tag) {
        if self.frozen || self.is_settling() {
            return;
        }
        if let Some(failure) = self.take_debt(tag) {
            self.complete(tag, Err(OpError::Failed(failure)));
            return;
        }
        let Some(view) = &self.view else { return };
        let Some(op) = self.ops.get_mut(&tag) else { return };
        let world = view.members.len() as u32;
        let impossible = op.fit(view, self.rank).err();
        let n = if op.counted {
            op.counted = false;
            0
        } else {
            let count = self.counts.entry(tag).or_default();
            *count += u32::from(self.rules.hold(Rule::NumberAttempts));
            count.saturating_sub(1)
        };
        let name = AttemptName { epoch: view.epoch, tag, n };
        let f = op.fingerprint;
        let algorithm = choose(&f, world, &view.links);
        let plan = match impossible {
            None => schedule(&f, algorithm, world, self.rank),
            Some(_) => Schedule { algorithm, chunks: Vec::new() },
        };
        let backup = (op.memory.in_place() && self.settings.enable_buffer_backup && f.count > 0)
            .then(|| Backup::for_len(self.spare_backup.take(), op.memory.output().len()));
        let mut execution = Execution::new(
            plan,
            &f,
            world,
            self.rules.limit(cut(&f, world, self.settings.ring_chunk_size), f.unit_bytes()),
            backup,
        );
        execution.start(&mut op.memory, &self.kernels);
        let cannot = impossible.is_some();
        op.attempt = Some(Attempt { name, execution, done: false, impossible, world, rank: self.rank });
        if cannot {
            // It has been started like everybody's, and fails for all alike.
            self.tell_master_if_attached(&ToMaster::Mismatch { name });
        }
        self.grant_attempt(name);
        self.flush_attempt(tag);
        self.replay_held(now, name);
        self.check_done(tag);
    }

    fn take_debt(&mut self, tag: Tag) -> Option<Failure> {
        if self.ops.get(&tag).is_some_and(|op| op.counted) {
            return None;
        }
        let queue = self.debts.get_mut(&tag)?;
        let failure = queue.pop_front();
        if queue.is_empty() {
            self.debts.remove(&tag);
        }
        failure
    }

    /// Hands the frames that the executor put out to the links.
    pub(super) fn flush_attempt(&mut self, tag: Tag) {
        let Some(op) = self.ops.get_mut(&tag) else { return };
        let Some(attempt) = &mut op.attempt else { return };
        let (name, digest) = (attempt.name, op.fingerprint.digest());
        let frames: Vec<OutFrame> = attempt.execution.take_out().collect();
        for frame in frames {
            self.enqueue(name, digest, frame);
        }
    }

    /// Promises the result to the master once it is complete.
    pub(super) fn check_done(&mut self, tag: Tag) {
        let Some(op) = self.ops.get_mut(&tag) else { return };
        let digest = op.fingerprint.digest();
        let Some(attempt) = &mut op.attempt else { return };
        if attempt.done || attempt.impossible.is_some() || !attempt.execution.is_complete() {
            return;
        }
        attempt.done = true;
        let name = attempt.name;
        let heard = self.heard_to;
        self.tell_master_if_attached(&ToMaster::Done { name, digest, heard });
    }

    /// The master says that all members have promised.
    pub(super) fn committed(&mut self, now: Time, name: AttemptName, heard: u64, closed: u64) {
        if name.epoch != self.epoch() {
            return;
        }
        self.heard_to = self.heard_to.max(heard);
        if self.control.is_attached() {
            // Before that the numbers that we remember may be another master's.
            self.heard.retain(|(_, _, number)| *number > closed);
        }
        if !self.heard.iter().any(|(tag, n, _)| (*tag, *n) == (name.tag, name.n)) && heard > closed {
            self.heard.push_back((name.tag, name.n, heard));
        }
        let done = self.ops.get(&name.tag).is_some_and(|op| op.running_name() == Some(name) && op.is_done());
        if done {
            self.measure(now, name.tag);
            self.succeed(name.tag);
        }
    }

    /// Takes the bandwidth of a large op as that of the links, if it is the best so far.
    fn measure(&mut self, now: Time, tag: Tag) {
        let Some(op) = self.ops.get(&tag) else { return };
        if op.sent_bytes >= MEASURED_BYTES && op.recoveries == 0 {
            let took_us = now.since(op.called).as_micros() as u64;
            let mib_us = (took_us * (1 << 20) / op.sent_bytes).clamp(1, u64::from(u32::MAX)) as u32;
            self.mib_us = if self.mib_us == 0 { mib_us } else { self.mib_us.min(mib_us) };
        }
    }

    /// The op's result stands.
    pub(super) fn succeed(&mut self, tag: Tag) {
        let Some(op) = self.ops.get(&tag) else { return };
        let Some(attempt) = &op.attempt else { return };
        let info = OpInfo {
            world: attempt.world,
            rank: attempt.rank,
            epoch: attempt.name.epoch,
            recoveries: op.recoveries,
            sent_bytes: op.sent_bytes,
            received_bytes: op.received_bytes,
            algorithm: self.algorithm_of(attempt),
        };
        self.end_attempt(tag, false);
        self.complete(tag, Ok(info));
    }

    #[expect(clippy::unused_self, reason = "reads well beside the other lookups")]
    fn algorithm_of(&self, attempt: &Attempt) -> Algorithm {
        attempt.execution.schedule().algorithm
    }

    /// Ends the attempt, with the input put back if asked for. Returns false if that was impossible.
    pub(super) fn end_attempt(&mut self, tag: Tag, restore: bool) -> bool {
        let Some(name) = self.ops.get(&tag).and_then(Op::running_name) else {
            return true;
        };
        self.forget_attempt(name);
        let Some(op) = self.ops.get_mut(&tag) else {
            return true;
        };
        let Some(mut attempt) = op.attempt.take() else {
            return true;
        };
        let restored = !restore || attempt.execution.restore(&mut op.memory);
        self.spare_backup = attempt.execution.take_backup().or(self.spare_backup.take());
        restored
    }

    /// The op fails, with its input put back.
    pub(super) fn fail(&mut self, tag: Tag, error: OpError) {
        let restored = self.end_attempt(tag, true);
        let error = if restored { error } else { OpError::InputLost(Box::new(error)) };
        self.complete(tag, Err(error));
    }

    pub(super) fn fail_all_ops(&mut self, why: &EndReason) {
        let tags: Vec<Tag> = self.ops.keys().copied().collect();
        for tag in tags {
            self.fail(tag, OpError::Ended(why.clone()));
        }
    }

    fn complete(&mut self, tag: Tag, result: Result<OpInfo, OpError>) {
        if let Some(op) = self.ops.remove(&tag) {
            self.completed.push_back(Completion { id: op.id, tag, result, memory: op.memory });
        }
    }

    /// Tells the master which ops their callers have waited for.
    pub(super) fn ops_tick(&mut self, now: Time) {
        if !self.control.is_attached() {
            return;
        }
        let epoch = self.epoch();
        // Without backups an epoch change could cost somebody an input: then rather the memory.
        let may = self.settings.enable_buffer_backup && self.rolled != epoch;
        // Those in flight begin again and are counted again: without leaving them out epochs would follow each other for ever.
        if may && self.counts.len() > self.rules.most_tags() + self.ops.len() {
            self.rolled = epoch;
            self.tell_master(&ToMaster::Rollover { epoch });
        }
        let mut waiting = Vec::new();
        for op in self.ops.values_mut().filter(|op| !op.told) {
            let for_ms = now.since(op.called).as_millis() as u64;
            if let (true, Some(attempt)) = (for_ms >= TELL_AFTER_MS, &op.attempt) {
                op.told = true;
                waiting.push(ToMaster::Waiting { name: attempt.name, fingerprint: op.fingerprint, for_ms });
            }
        }
        for message in waiting {
            self.tell_master(&message);
        }
        if self.ops.is_empty() {
            // Memory of a large op is not kept for a caller that has gone on to something else.
            self.spare_backup = None;
        }
    }
}
