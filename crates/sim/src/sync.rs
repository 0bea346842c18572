//! Programs synchronize: what they offer, what they take, and what must be after it.
//!
//! A program's tensors are those of its last synchronization, moved by the update of the round. All programs make the same
//! update, except those that the plan lets drift. A synchronization that fails leaves the tensors of the one before.

use std::collections::{BTreeMap, BTreeSet};

use pccl_proto::ids::{PeerGroup, Seeded};
use pccl_proto::peer::{EndReason, SyncEnd, SyncFailure, SyncStartError, Synchronized};
use pccl_proto::record::Removal;
use pccl_proto::shared_state::{Agreed, NoCandidate, Offer, Strategy};

use crate::app::Stage;
use crate::state::State;
use crate::world::{Body, ProcId, World, say};

/// How all peers of a group synchronize in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyncPlan {
    /// The slots, modulo two, that only send while the others only receive. None: the popular content wins.
    pub(crate) senders: Option<usize>,
    /// Slots of a hundred whose tensors differ.
    pub(crate) drift: u64,
    /// Whether newcomers are let in.
    pub(crate) admits: bool,
}

impl SyncPlan {
    pub(crate) fn random(r: &mut Seeded) -> Self {
        let mixed = r.below(10) < 3;
        Self {
            senders: mixed.then(|| r.below(2) as usize),
            drift: [0, 20, 60][r.below(3) as usize],
            admits: r.below(2) == 0,
        }
    }

    /// What the program in `slot` wants. Whoever has never synchronized has nothing to send.
    pub(crate) fn strategy(&self, slot: usize, revision: u64) -> Strategy {
        match self.senders {
            None => Strategy::EnforcePopular,
            Some(parity) if slot % 2 == parity && revision > 0 => Strategy::SendOnly,
            Some(_) => Strategy::ReceiveOnly,
        }
    }
}

/// What a program has, and of which revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) revision: u64,
    pub(crate) bytes: Vec<u8>,
}

/// An offer that was made.
struct Offered {
    revision: u64,
    content: u128,
    sends: bool,
}

/// What a round's synchronization came to, as it was first heard.
struct Came {
    agreed: Agreed,
    bytes: Vec<u8>,
    by: ProcId,
}

/// What is known of the synchronizations of all rounds.
#[derive(Default)]
pub(crate) struct Syncs {
    offers: BTreeMap<(PeerGroup, u64), Vec<Offered>>,
    came: BTreeMap<(PeerGroup, u64), Came>,
    /// Everything that a store has ever said.
    pub(crate) written: BTreeSet<(PeerGroup, u64, u128)>,
}

impl World {
    /// The tensors of a program before its first synchronization: two and two have the same.
    pub(crate) fn first_tensors(&self, slot: usize) -> Vec<u8> {
        let r = &mut Seeded::new(self.plan.seed ^ ((slot / 2) as u64) << 17 ^ 0x5eed);
        (0..self.plan.shape.bytes()).map(|_| r.next_u64() as u8).collect()
    }

    /// The tensors after the update of a round.
    fn updated(&self, p: ProcId, plan: &SyncPlan) -> Vec<u8> {
        let Some(app) = &self.procs[p].app else { return Vec::new() };
        let mut bytes = app.kept.bytes.clone();
        let mut change = |name: u64, times: u64| {
            let r = &mut Seeded::new(self.plan.seed ^ name.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for _ in 0..times {
                let at = r.below(bytes.len().max(1) as u64) as usize;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = r.next_u64() as u8;
                }
            }
        };
        change(app.round, 3);
        let name = app.round << 8 | app.slot as u64;
        let sends = plan.strategy(app.slot, app.kept.revision) == Strategy::SendOnly;
        if !sends && Seeded::new(name ^ self.plan.seed).below(100) < plan.drift {
            change(name << 1 | 1, 1 + (app.slot as u64 % 3));
        }
        bytes
    }

    /// Begins the synchronization of a round.
    pub(crate) fn begin_sync(&mut self, p: ProcId, plan: &SyncPlan) {
        let own = self.updated(p, plan);
        let Some(app) = &mut self.procs[p].app else { return };
        app.stage = Stage::Sync;
        let (name, revision) = ((app.group, app.round), app.kept.revision + 1);
        let strategy = plan.strategy(app.slot, app.kept.revision);
        let shape = self.plan.shape.clone();
        let content = shape.content(&own);
        let offer = Offer {
            revision,
            strategy,
            counts: true,
            admits: plan.admits,
            block_bytes: shape.block_bytes,
            content,
            tensors: shape.keys(),
        };
        let sends = strategy != Strategy::ReceiveOnly;
        self.check.syncs.offers.entry(name).or_default().push(Offered { revision, content, sends });
        let memory = Box::new(State::new(shape, own));
        let Some(Body::Peer(peer)) = &mut self.procs[p].body else { return };
        match peer.synchronize(offer, memory) {
            Ok(()) => self.drive(p),
            Err((SyncStartError::Ended(_), _)) => self.look_at_app(p),
            Err((why, _)) => {
                self.check.fail(format!("{} cannot synchronize: {why}", self.procs[p].name));
            }
        }
    }

    /// A synchronization has ended, one way or the other.
    pub(crate) fn sync_ended(&mut self, p: ProcId, end: SyncEnd) {
        let Ok(memory) = end.memory.into_any().downcast::<State>() else { return };
        let name = self.procs[p].name.clone();
        let Some(app) = self.procs[p].app.as_mut().filter(|a| a.stage == Stage::Sync) else {
            return self.check.fail(format!("{name}: a synchronization ended that was not called, or twice"));
        };
        let round = app.round;
        app.round += 1;
        app.stage = Stage::Between;
        let judged = match end.result {
            Ok(done) => {
                say!(self, "{name}: synchronized in round {round}: revision {}", done.agreed.revision);
                self.judge_sync(p, round, &memory, &done)
            }
            Err(why) => {
                say!(self, "{name}: failed to synchronize in round {round}: {why:?}");
                self.judge_sync_failure(p, round, &why)
            }
        };
        if let Err(wrong) = judged {
            self.check.fail(format!("{name}: the synchronization of round {round}: {wrong}"));
        }
        self.think(p);
    }

    fn judge_sync(
        &mut self,
        p: ProcId,
        round: u64,
        memory: &State,
        done: &Synchronized,
    ) -> Result<(), String> {
        let agreed = done.agreed;
        let bytes = memory.taken();
        let Some(app) = &mut self.procs[p].app else { return Ok(()) };
        let (group, before) = (app.group, app.kept.revision);
        app.kept = Kept { revision: agreed.revision, bytes: bytes.clone() };
        let received = bytes != memory.own();
        self.stats.op(match (done.recoveries, received) {
            (0, false) => "synchronized",
            (0, true) => "synchronized: received",
            (_, false) => "synchronized: elected again",
            (_, true) => "synchronized: elected again, received",
        });
        if agreed.revision <= before {
            return Err(format!("revision {} after revision {before}", agreed.revision));
        }
        if self.plan.shape.content(&bytes) != agreed.content {
            return Err("the tensors are not what was agreed on".into());
        }
        if received && done.received_bytes == 0 {
            return Err("tensors have changed, and nothing was received".into());
        }
        let syncs = &mut self.check.syncs;
        if !syncs.written.contains(&(group, agreed.revision, agreed.content)) {
            return Err(format!("revision {} is not what the store has had", agreed.revision));
        }
        let offers = syncs.offers.get(&(group, round)).map(Vec::as_slice).unwrap_or_default();
        let offered = |o: &&Offered| o.sends && (o.revision, o.content) == (agreed.revision, agreed.content);
        if !offers.iter().any(|o| offered(&o)) {
            return Err("the content is nobody's who has synchronized and sends".into());
        }
        let new = || Came { agreed, bytes: bytes.clone(), by: p };
        let first = syncs.came.entry((group, round)).or_insert_with(new);
        if first.agreed != agreed || first.bytes != bytes {
            let (other, was) = (self.procs[first.by].name.clone(), first.agreed.revision);
            return Err(format!("revision {}, but {was} on {other}, or other tensors", agreed.revision));
        }
        Ok(())
    }

    fn judge_sync_failure(&mut self, p: ProcId, round: u64, why: &SyncFailure) -> Result<(), String> {
        let mixed = matches!(&self.procs[p].app, Some(app) if self.mixed_sync(app.group, round));
        match why {
            SyncFailure::Nobody(NoCandidate::AllReceive) if mixed => {
                self.stats.op("not synchronized: all receive");
                Ok(())
            }
            SyncFailure::Nobody(NoCandidate::Behind { expected, .. }) if self.is_disturbed() => {
                // Those that had it are gone. What the error says is what the callers do.
                self.stats.op("not synchronized: behind");
                if let Some(app) = &mut self.procs[p].app {
                    app.kept.revision = app.kept.revision.max(expected - 1);
                }
                Ok(())
            }
            SyncFailure::Nobody(NoCandidate::HoldersLost) if self.is_disturbed() => {
                self.stats.op("not synchronized: holders lost");
                Ok(())
            }
            SyncFailure::Ended(_) if self.is_disturbed() => {
                self.stats.op("not synchronized: ended");
                Ok(())
            }
            other => Err(format!("it failed: {other:?}")),
        }
    }

    fn mixed_sync(&self, group: PeerGroup, round: u64) -> bool {
        matches!(self.plan.round(group, round, false), crate::plan::Round::Sync(plan) if plan.senders.is_some())
    }

    /// What a program has when its peer's life is over: nothing, if the group has thrown it out for it.
    pub(crate) fn kept_after(kept: Kept, why: &EndReason) -> Option<Kept> {
        let thrown_out = matches!(why, EndReason::Expelled { why: Some(Removal::SharedState(_)), .. });
        (!thrown_out).then_some(kept)
    }
}
