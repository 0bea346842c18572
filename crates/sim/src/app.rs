//! The programs of the peers: the same rounds of votes and ops on all of them, as in a training job.

use std::collections::BTreeMap;

use pccl_kernels::quantize::Residual;
use pccl_proto::execute::OpMemory as _;
use pccl_proto::ids::{Epoch, PeerGroup, SessionId, Tag};
use pccl_proto::message::{View, VoteKind, VoteOutcome};
use pccl_proto::peer::{Completion, OpId, Phase, StartError};
use pccl_proto::schedule::output_len;
use pccl_proto::vocabulary::{Collective, Fingerprint};

use crate::faults::Fault;
use crate::memory::Memory;
use crate::plan::{OpPlan, Round};
use crate::reference;
use crate::store::Begun;
use crate::sync::Kept;
use crate::world::{Body, Event, ProcId, World, say};

/// Rounds that a program has at most.
const PROGRAM: u64 = 1_000_000;

/// What a program is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits to be accepted.
    Joining,
    /// Before its next round.
    Between,
    /// It has ops in flight, or still to start.
    Ops,
    /// It waits for a vote.
    Vote,
    /// It synchronizes.
    Sync,
    /// It has said goodbye.
    Leaving,
    /// It has come to the end.
    Finished,
}

/// An op that the program has called.
pub(crate) struct Called {
    pub(crate) name: OpName,
    pub(crate) plan: OpPlan,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) input: Vec<u8>,
    pub(crate) session: SessionId,
    pub(crate) root: SessionId,
    /// Of a compressed op: what earlier ones have left.
    pub(crate) before: Option<Residual>,
}

/// Names a call of the program, whatever attempts it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OpName {
    pub(crate) group: PeerGroup,
    pub(crate) round: u64,
    pub(crate) index: usize,
}

impl OpName {
    pub(crate) fn number(self) -> u64 {
        (u64::from(self.group.0) << 50) | (self.round << 8) | self.index as u64
    }
}

impl std::fmt::Display for OpName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "op {} of round {} (group {})", self.index, self.round, self.group)
    }
}

pub(crate) struct App {
    pub(crate) slot: usize,
    pub(crate) group: PeerGroup,
    pub(crate) round: u64,
    pub(crate) stage: Stage,
    pub(crate) running: BTreeMap<OpId, Called>,
    /// The shared state.
    pub(crate) kept: Kept,
    /// What compressed ops have left, by tag, and of how many elements.
    residuals: BTreeMap<Tag, (u64, Residual)>,
    todo: Vec<(usize, OpPlan)>,
    due: u64,
}

impl App {
    pub(crate) fn new(slot: usize, group: PeerGroup, kept: Kept) -> Self {
        Self {
            slot,
            group,
            round: 0,
            stage: Stage::Joining,
            running: BTreeMap::new(),
            kept,
            residuals: BTreeMap::new(),
            todo: Vec::new(),
            due: 0,
        }
    }
}

impl World {
    fn app(&mut self, p: ProcId) -> &mut App {
        self.procs[p].app.as_mut().expect("only peers have programs")
    }

    pub(crate) fn think(&mut self, p: ProcId) {
        let long = 2_000 + self.random.below(self.plan.think_us + 1);
        self.app(p).due = self.now + long;
        self.after(long, Event::App(p));
    }

    /// The program's turn, if the time has come.
    pub(crate) fn app_turn(&mut self, p: ProcId) {
        if !self.is_running(p) || self.procs[p].app.is_none() || self.app(p).due > self.now {
            return;
        }
        match self.app(p).stage {
            Stage::Between => self.next_round(p),
            Stage::Ops => self.start_op(p),
            _ => {}
        }
    }

    fn next_round(&mut self, p: ProcId) {
        let (group, round, slot) = (self.app(p).group, self.app(p).round, self.app(p).slot);
        let Some(Body::Peer(peer)) = &mut self.procs[p].body else { return };
        if matches!(peer.phase(), Phase::Ended(_)) {
            return self.look_at_app(p);
        }
        let state = self.check.group(group);
        if state.stop.is_some_and(|stop| round >= stop) {
            say!(self, "{} has come to the end", self.procs[p].name);
            self.app(p).stage = Stage::Finished;
            return;
        }
        if self.kill.is_none()
            && self.healed.is_none()
            && self.plan.faults_us > 0
            && self.random.below(150) == 0
        {
            say!(self, "{} leaves", self.procs[p].name);
            self.stats.fault("leave");
            let Some(Body::Peer(peer)) = &mut self.procs[p].body else { return };
            peer.leave();
            self.app(p).stage = Stage::Leaving;
            return self.drive(p);
        }
        state.begun = state.begun.max(round);
        let warm = state.warm.is_some_and(|warm| round >= warm);
        let calls = state.stop.is_some_and(|stop| round + 3 >= stop);
        let round =
            if warm { self.plan.round(group, round, calls) } else { Round::Vote(VoteKind::UpdateTopology) };
        say!(
            self,
            "{} begins round {}: {}",
            self.procs[p].name,
            self.procs[p].app.as_ref().map_or(0, |a| a.round),
            describe(&round, slot)
        );
        match round {
            Round::Vote(kind) => {
                self.app(p).stage = Stage::Vote;
                let Some(Body::Peer(peer)) = &mut self.procs[p].body else { return };
                peer.vote(kind);
                self.drive(p);
            }
            Round::Sync(plan) => self.begin_sync(p, &plan),
            Round::Ops(ops) => {
                let mut todo: Vec<_> = ops.into_iter().enumerate().collect();
                if self.chance(50) {
                    todo.reverse();
                }
                self.app(p).todo = todo;
                self.app(p).stage = Stage::Ops;
                self.start_op(p);
            }
        }
    }

    fn start_op(&mut self, p: ProcId) {
        let Some((index, plan)) = self.app(p).todo.pop() else { return };
        let (slot, name, left) = {
            let app = self.app(p);
            let name = OpName { group: app.group, round: app.round, index };
            (app.slot, name, app.residuals.get(&plan.tag).cloned())
        };
        let now = self.time(p);
        let Some(Body::Peer(peer)) = &mut self.procs[p].body else { return };
        let (Some(view), Some(session)) = (peer.view(), peer.session()) else { return };
        let world = view.members.len() as u32;
        let fingerprint = plan.call(slot, world);
        let input = if fingerprint.collective == Collective::Barrier {
            Vec::new()
        } else {
            reference::input(session.id, name.number(), &fingerprint)
        };
        // The world may be smaller when the op runs: room for the largest block.
        let elements = match fingerprint.collective {
            Collective::ReduceScatter | Collective::AllReduce => fingerprint.count,
            _ => output_len(&fingerprint, world, 0),
        };
        let output_bytes = elements as usize * fingerprint.dtype.size_bytes();
        let tag = plan.tag;
        let memory = Memory::for_op(&fingerprint, input.clone(), plan.in_place, output_bytes);
        let before = left.filter(|left| plan.compressed && left.0 == fingerprint.count).map(|left| left.1);
        let memory = if plan.compressed { memory.compressed(&fingerprint, before.clone()) } else { memory };
        self.check.says(name, session.id, before.clone());
        let root = view.members.get(fingerprint.root as usize).map(|m| m.session).unwrap_or_default();
        let called = Called { name, plan, fingerprint, input, session: session.id, root, before };
        match peer.start(now, tag, fingerprint, memory) {
            Ok(id) => {
                self.app(p).running.insert(id, called);
            }
            Err((StartError::Ended(_), _)) => return self.look_at_app(p),
            Err((why, _)) => self.check.fail(format!("{} cannot start {name}: {why}", self.procs[p].name)),
        }
        self.drive(p);
        if self.procs[p].body.is_some() && !self.app(p).todo.is_empty() {
            self.think(p);
        }
    }

    /// What the library has for the program.
    pub(crate) fn look_at_app(&mut self, p: ProcId) {
        let Some(Body::Peer(peer)) = &mut self.procs[p].body else { return };
        let completion = peer.poll_completed();
        let vote = if completion.is_none() { peer.poll_vote() } else { None };
        let synchronized = if completion.is_none() { peer.poll_synchronized() } else { None };
        let (phase, view) = (peer.phase().clone(), peer.view().cloned());
        if let Some(view) = &view {
            self.check_view(p, view);
        }
        if let Some(mut completion) = completion {
            self.completed(p, &mut completion);
            return self.look_at_app(p);
        }
        if let Some(outcome) = vote {
            self.vote_ended(p, &outcome);
        }
        if let Some(end) = synchronized {
            self.sync_ended(p, end);
        }
        if self.app(p).stage == Stage::Joining
            && let Some(view) = &view
        {
            let round = self.joined_at(p, view);
            self.app(p).round = round;
            self.app(p).stage = Stage::Between;
            self.procs[p].awake = self.now;
            self.think(p);
        }
        if let Phase::Ended(why) = phase {
            self.peer_ended(p, &why);
        }
    }

    /// The round with which a newcomer begins.
    fn joined_at(&mut self, p: ProcId, view: &View) -> u64 {
        let group = self.app(p).group;
        let Some(Body::Peer(peer)) = &self.procs[p].body else { return 0 };
        let session = peer.session().map(|s| s.id).unwrap_or_default();
        let mut epochs = self.store.epochs.range((group, Epoch(0))..=(group, view.epoch));
        let first = epochs.find(|(_, members)| members.contains(&session)).map(|((_, epoch), _)| *epoch);
        first.and_then(|epoch| self.check.group(group).joins.get(&epoch).copied()).unwrap_or(0)
    }

    fn vote_ended(&mut self, p: ProcId, outcome: &VoteOutcome) {
        if self.app(p).stage != Stage::Vote {
            return;
        }
        if let VoteOutcome::Mismatch { waits } = outcome {
            self.check.fail(format!("{}: a vote ended in a mismatch: {waits:?}", self.procs[p].name));
        }
        self.app(p).round += 1;
        self.app(p).stage = Stage::Between;
        self.think(p);
    }

    fn completed(&mut self, p: ProcId, completion: &mut Completion<Memory>) {
        let Some(called) = self.app(p).running.remove(&completion.id) else {
            let wrong = format!("{}: an op ended that is not in flight, or twice", self.procs[p].name);
            return self.check.fail(wrong);
        };
        if completion.result.is_ok() {
            completion.memory.finish();
        }
        if called.plan.compressed {
            self.stats.op(if called.before.is_some() { "compressed again" } else { "compressed" });
            let committed = completion.result.is_ok();
            let left = completion.memory.end_feedback(committed);
            if committed && let Some(left) = &left {
                self.app(p).residuals.insert(completion.tag, (called.fingerprint.count, left.clone()));
            }
            self.judge_residual(p, &called, completion, left.as_ref());
        }
        self.judge(p, &called, completion);
        let app = self.app(p);
        if app.stage == Stage::Ops && app.running.is_empty() && app.todo.is_empty() {
            app.round += 1;
            app.stage = Stage::Between;
            self.think(p);
        }
    }

    /// The peer's life is over: its program connects again, or ends.
    fn peer_ended(&mut self, p: ProcId, why: &pccl_proto::peer::EndReason) {
        if !self.app(p).running.is_empty() {
            let left = self.app(p).running.len();
            self.check.fail(format!("{} ended with {left} ops that have no outcome", self.procs[p].name));
        }
        self.check.ended(p, why);
        let Some(Body::Peer(peer)) = &self.procs[p].body else { return };
        let session = peer.session();
        let leaves = self.app(p).stage == Stage::Leaving;
        let slot = self.app(p).slot;
        let kept = Self::kept_after(self.app(p).kept.clone(), why);
        self.bury(p, false);
        if leaves && self.chance(60) {
            return;
        }
        if self.plan.told || self.chance(85) {
            self.stats.fault("reconnect");
            self.start_peer(slot, session, kept);
        } else if self.chance(50) {
            let wait = self.random.below(2_000_000);
            self.after(wait, Event::Fault(Fault::Newcomer(slot)));
        }
    }

    /// A write to the store has begun an epoch: where do its newcomers begin?
    pub(crate) fn epoch_begun(&mut self, begun: &Begun) {
        self.stats.epochs += 1;
        if !begun.joined {
            return;
        }
        let mut at = None;
        let mut latest = 0;
        for proc in self.procs.iter().filter(|p| p.body.is_some()) {
            let Some(app) = proc.app.as_ref().filter(|a| a.group == begun.group) else { continue };
            latest = latest.max(app.round);
            let Some(Body::Peer(peer)) = &proc.body else { continue };
            let stays = peer.session().is_some_and(|s| begun.before.contains(&s.id));
            // After a vote all go on with the next round; who synchronizes takes the newcomers in on the way.
            match app.stage {
                Stage::Vote if stays => at = at.max(Some(app.round + 1)),
                Stage::Sync if stays => at = at.max(Some(app.round)),
                _ => {}
            }
        }
        let state = self.check.group(begun.group);
        state.latest = state.latest.max(latest);
        // Where nobody is left, the newcomers begin another program.
        let round = at.unwrap_or((state.latest / PROGRAM + 1) * PROGRAM);
        state.latest = state.latest.max(round);
        state.joins.insert(begun.epoch, round);
    }

    pub(crate) fn output_of(memory: &Memory) -> &[u8] {
        memory.tensor().output()
    }
}

fn describe(round: &Round, slot: usize) -> String {
    match round {
        Round::Vote(kind) => format!("vote {kind}"),
        Round::Sync(plan) => format!("synchronize: {plan:?}"),
        Round::Ops(ops) => ops
            .iter()
            .map(|op| format!("tag {}: {}", op.tag, op.call(slot, 1)))
            .collect::<Vec<_>>()
            .join("; "),
    }
}
