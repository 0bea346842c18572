//! What must never be, and what must be in the end.

use std::collections::BTreeMap;

use pccl_kernels::quantize::Residual;
use pccl_proto::ids::{Epoch, PeerGroup, SessionId, Term};
use pccl_proto::master::{Authority, Master};
use pccl_proto::message::View;
use pccl_proto::peer::{Completion, EndReason, OpError, OpInfo, PeerEvent, Phase};
use pccl_proto::record::Failure;
use pccl_proto::schedule::output_len;
use pccl_proto::settings::Recovery;
use pccl_proto::vocabulary::{Collective, Fingerprint};

use crate::app::{Called, OpName, Stage};
use crate::memory::{Memory, UNTOUCHED};
use crate::reference;
use crate::sync::Syncs;
use crate::world::{Body, Event, ProcId, World, say};

/// What is known of a group's program.
#[derive(Default)]
pub(crate) struct GroupState {
    /// From this round on the program is more than waiting for its peers.
    pub(crate) warm: Option<u64>,
    /// The program ends before this round.
    pub(crate) stop: Option<u64>,
    /// Where the newcomers of an epoch begin.
    pub(crate) joins: BTreeMap<Epoch, u64>,
    pub(crate) latest: u64,
    /// The last round that anybody has begun: also of who has died in it, and whose vote may still count.
    pub(crate) begun: u64,
    /// Since when everybody alive is a member of the newest epoch.
    steady: Option<u64>,
}

/// Outcomes of one call on all peers.
#[derive(Default)]
struct Outcomes {
    success: Option<(Epoch, ProcId, Vec<u8>)>,
    failed: Option<ProcId>,
}

pub(crate) struct Check {
    pub(crate) violation: Option<String>,
    groups: BTreeMap<PeerGroup, GroupState>,
    ops: BTreeMap<OpName, Outcomes>,
    /// What earlier compressed ops of a session had left when it called an op.
    residuals: BTreeMap<(OpName, SessionId), Residual>,
    pub(crate) syncs: Syncs,
    masters: BTreeMap<Term, ProcId>,
    /// No master's clock has jumped: no two may decide at the same time.
    pub(crate) clocks_agree: bool,
    terms: BTreeMap<ProcId, Term>,
    epochs: BTreeMap<ProcId, (SessionId, Epoch)>,
    warm_by: u64,
    /// When a master was last able to decide anything.
    decided: u64,
}

impl Check {
    /// A peer calls an op for which earlier ones have left something.
    pub(crate) fn says(&mut self, name: OpName, session: SessionId, before: Option<Residual>) {
        if let Some(before) = before {
            self.residuals.insert((name, session), before);
        }
    }

    /// What a session contributes to an op: its input, with what earlier ops have left.
    fn contribution(&self, called: &Called, session: SessionId, f: &Fingerprint) -> Vec<u8> {
        let input = reference::input(session, called.name.number(), f);
        match self.residuals.get(&(called.name, session)) {
            Some(before) => reference::added(&input, &before.to_f32()),
            None => input,
        }
    }

    pub(crate) fn new(groups: u32) -> Self {
        Self {
            violation: None,
            groups: (0..groups).map(|g| (PeerGroup(g), GroupState::default())).collect(),
            ops: BTreeMap::new(),
            residuals: BTreeMap::new(),
            syncs: Syncs::default(),
            masters: BTreeMap::new(),
            clocks_agree: true,
            terms: BTreeMap::new(),
            epochs: BTreeMap::new(),
            warm_by: 4_000_000,
            decided: 0,
        }
    }

    pub(crate) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(crate) fn group(&mut self, group: PeerGroup) -> &mut GroupState {
        self.groups.entry(group).or_default()
    }

    /// One active master per term.
    pub(crate) fn master(&mut self, p: ProcId, master: &Master) {
        if master.authority() != Authority::Active {
            return;
        }
        let first = *self.masters.entry(master.term()).or_insert(p);
        if first != p {
            self.fail(format!("two active masters in term {}", master.term()));
        }
    }

    /// Terms only grow.
    pub(crate) fn peer_said(&mut self, p: ProcId, event: &PeerEvent) {
        if let PeerEvent::Attached { term } = event {
            let before = self.terms.insert(p, *term).unwrap_or_default();
            if *term < before {
                self.fail(format!("a peer went back from term {before} to {term}"));
            }
        }
    }

    pub(crate) fn ended(&mut self, _p: ProcId, why: &EndReason) {
        if matches!(why, EndReason::Refused(_)) {
            self.fail(format!("an honest peer was refused: {why}"));
        }
    }
}

impl World {
    /// Of masters with leases only one decides at a time.
    pub(crate) fn one_decides(&mut self, p: ProcId) {
        let decides = |q: ProcId| match &self.procs[q].body {
            Some(Body::Master(master)) => master.may_decide(self.time(q)),
            _ => false,
        };
        if self.plan.lease_ms == 0 || !self.check.clocks_agree || !decides(p) {
            return;
        }
        let other = self.living.values().copied().find(|q| *q != p && decides(*q));
        if let Some(q) = other {
            let (a, b) = (&self.procs[p].name, &self.procs[q].name);
            self.check.fail(format!("{a} and {b} decide at the same time"));
        }
    }

    /// Epochs only grow, and are what the store says.
    pub(crate) fn check_view(&mut self, p: ProcId, view: &View) {
        let Some(Body::Peer(peer)) = &self.procs[p].body else { return };
        let session = peer.session().map(|s| s.id).unwrap_or_default();
        let group = self.procs[p].app.as_ref().map(|a| a.group).unwrap_or_default();
        let before = self.check.epochs.insert(p, (session, view.epoch));
        if before == Some((session, view.epoch)) {
            return;
        }
        if before.is_some_and(|(s, e)| s == session && e > view.epoch) {
            self.check.fail(format!("a peer went back to epoch {}", view.epoch));
        }
        let members: Vec<SessionId> = view.members.iter().map(|m| m.session).collect();
        if self.store.epochs.get(&(group, view.epoch)) != Some(&members) {
            let name = &self.procs[p].name;
            self.check.fail(format!("{name} is in an epoch {} that the store does not know so", view.epoch));
        }
    }

    /// Judges the outcome of an op.
    pub(crate) fn judge(&mut self, p: ProcId, called: &Called, completion: &Completion<Memory>) {
        let outcome = match &completion.result {
            Ok(info) => format!("succeeded in epoch {} with {} peers", info.epoch, info.world),
            Err(why) => format!("failed: {why}"),
        };
        say!(self, "{}: {} (tag {}) {outcome}", self.procs[p].name, called.name, completion.tag);
        let judged = match &completion.result {
            Ok(info) => self.judge_success(p, called, info, &completion.memory),
            Err(error) => self.judge_error(p, called, error, &completion.memory),
        };
        if let Err(wrong) = judged {
            let text = format!("{}: {}: {wrong} ({outcome})", self.procs[p].name, called.name);
            self.check.fail(text);
        }
    }

    /// After an op that has committed there is left what its quantization took away, else what was left before.
    pub(crate) fn judge_residual(
        &mut self,
        p: ProcId,
        called: &Called,
        completion: &Completion<Memory>,
        left: Option<&Residual>,
    ) {
        let expected = match &completion.result {
            Err(_) => called.before.clone().map(|before| before.to_f32()),
            Ok(_) if called.plan.stubborn.is_some() => return,
            Ok(info) => {
                let Some(members) = self.store.epochs.get(&(called.name.group, info.epoch)) else { return };
                let f = called.fingerprint;
                let said: Vec<_> = members.iter().map(|s| self.check.contribution(called, *s, &f)).collect();
                Some(reference::left(&f, info.algorithm, &said, info.rank))
            }
        };
        let left = left.map(Residual::to_f32);
        if left != expected {
            let what = format!("{}: {}: what is left is wrong", self.procs[p].name, called.name);
            self.check.fail(what);
        }
    }

    fn judge_success(
        &mut self,
        p: ProcId,
        called: &Called,
        info: &OpInfo,
        memory: &Memory,
    ) -> Result<(), String> {
        let phase = match &self.procs[p].body {
            Some(Body::Peer(peer)) => peer.phase().clone(),
            _ => Phase::Connecting,
        };
        let settled = matches!(phase, Phase::Settling | Phase::Ended(EndReason::MasterLost));
        self.stats.op(match info.recoveries {
            _ if settled => "succeeded by settlement",
            0 => "succeeded",
            _ => "recovered",
        });
        let Some(members) = self.store.epochs.get(&(called.name.group, info.epoch)) else {
            return Err("an epoch that the store does not know".into());
        };
        let Some(rank) = members.iter().position(|s| *s == called.session) else {
            return Err("success in an epoch that it is not a member of".into());
        };
        if info.world != members.len() as u32 {
            return Err(format!("a world of {}, but the epoch has {}", info.world, members.len()));
        }
        let mut f = called.fingerprint;
        if f.collective == Collective::Broadcast {
            // Whoever has the rank when the call begins; from then on its session counts.
            let root = members.iter().position(|s| *s == called.root);
            let root = root.or((called.fingerprint.root == 0).then_some(0));
            f.root = root.ok_or("success without the root")? as u32;
        }
        let mut output = Self::output_of(memory);
        if called.plan.stubborn.is_none() {
            let input = |s: &SessionId| self.check.contribution(called, *s, &f);
            let inputs: Vec<Vec<u8>> = members.iter().map(input).collect();
            let expected = reference::result(&f, info.algorithm, &inputs, rank as u32);
            if output.get(..expected.len()) != Some(&expected[..]) {
                return Err("the result is wrong".into());
            }
            let beyond = &output[expected.len()..];
            if info.recoveries == 0 && beyond.iter().any(|b| *b != UNTOUCHED) {
                return Err("bytes beyond the result were written".into());
            }
            output = &output[..expected.len()];
            let sent = reference::sent_bytes(&f, info.algorithm, info.world, rank as u32);
            if !self.is_disturbed() && sent.is_some_and(|sent| sent != info.sent_bytes) {
                return Err(format!("sent {} bytes, and the formula says {sent:?}", info.sent_bytes));
            }
        } else {
            // In a smaller world than the call began in, what is beyond the result means nothing.
            let elements = match f.quantization {
                Some(_) => f.count,
                None => output_len(&f, info.world, rank as u32),
            };
            let len = elements as usize * f.dtype.size_bytes();
            output = output.get(..len).ok_or("the result is longer than its memory")?;
        }
        if matches!(memory.tensor(), Memory::Apart { .. })
            && !Self::memory_is_unchanged(memory, &called.input)
        {
            return Err("the input of an op that is not in place was changed".into());
        }
        self.compare(p, called, info.epoch, output.to_vec())
    }

    /// Whether anything was done to this run that may end or repeat an op.
    pub(crate) fn is_disturbed(&self) -> bool {
        !self.stats.faults.is_empty()
            || self.plan.told
            || self.plan.most_tags < 100
            || self.kill.is_some()
            || self.plan.mismatches
    }

    /// All who succeed do so in one epoch with one result, and nobody fails.
    fn compare(&mut self, p: ProcId, called: &Called, epoch: Epoch, output: Vec<u8>) -> Result<(), String> {
        let outcomes = self.check.ops.entry(called.name).or_default();
        if let Some(other) = outcomes.failed {
            return Err(format!("success, but it failed on {}", self.procs[other].name));
        }
        match &outcomes.success {
            None => outcomes.success = Some((epoch, p, output)),
            Some((e, q, _)) if *e != epoch => {
                let other = &self.procs[*q].name;
                return Err(format!("success in epoch {epoch}, but in epoch {e} on {other}"));
            }
            Some((_, q, bytes)) => {
                let same = called.fingerprint.collective != Collective::ReduceScatter;
                if same && *bytes != output {
                    return Err(format!("another result than on {}", self.procs[*q].name));
                }
            }
        }
        Ok(())
    }

    fn judge_error(
        &mut self,
        p: ProcId,
        called: &Called,
        error: &OpError,
        memory: &Memory,
    ) -> Result<(), String> {
        let settings = &self.plan.settings;
        let inner = match error {
            OpError::InputLost(inner) => {
                if settings.enable_buffer_backup || !called.plan.in_place {
                    return Err("an input was lost that could be restored".into());
                }
                inner
            }
            error => {
                if !Self::memory_is_unchanged(memory, &called.input) {
                    return Err("the input was not restored".into());
                }
                error
            }
        };
        let stubborn = called.plan.stubborn.is_some();
        if !self.is_disturbed() {
            return Err("an error in an undisturbed run".into());
        }
        match inner {
            OpError::Failed(why) => {
                self.stats.op(match why {
                    Failure::Mismatch { .. } => "failed: mismatch",
                    Failure::Cut { .. } => "failed: cut",
                    Failure::TooManyRecoveries { .. } => "failed: too many recoveries",
                    Failure::TimedOut { .. } => "failed: timed out",
                    Failure::Deadlock { .. } => "failed: deadlock",
                    Failure::Impossible { .. } => "failed: impossible",
                });
                let expected = match why {
                    // Callers that name the youngest as root may mean different ones.
                    Failure::Mismatch { .. } => {
                        stubborn || called.fingerprint.collective == Collective::Broadcast
                    }
                    Failure::Cut { .. } => {
                        let restorable = settings.enable_buffer_backup || !called.plan.in_place;
                        let rooted = called.fingerprint.collective == Collective::Broadcast;
                        settings.recovery == Recovery::ByCaller || !restorable || rooted
                    }
                    Failure::TooManyRecoveries { .. } => true,
                    // The root that a caller named left before its call began.
                    Failure::Impossible { .. } => called.fingerprint.collective == Collective::Broadcast,
                    Failure::TimedOut { .. } => settings.op_timeout_ms > 0,
                    Failure::Deadlock { .. } => false,
                };
                if !expected {
                    return Err("a failure that nobody has caused".into());
                }
                let last = self.check.group(called.name.group).stop;
                // Without a backup any epoch change ends an op in place.
                let sturdy = settings.enable_buffer_backup || !called.plan.in_place;
                if last.is_some_and(|stop| called.name.round + 2 >= stop)
                    && !stubborn
                    && sturdy
                    && self.kill.is_none()
                {
                    return Err("a failure long after everything is healed".into());
                }
                let outcomes = self.check.ops.entry(called.name).or_default();
                outcomes.failed = Some(p);
                if let Some((_, q, _)) = &outcomes.success {
                    return Err(format!("a failure, but it succeeded on {}", self.procs[*q].name));
                }
            }
            OpError::Ended(_) if self.is_member(p) => {
                return Err("it says that its peer's life is over, and that goes on".into());
            }
            OpError::Ended(EndReason::MasterLost) => self.stats.op("restored by settlement"),
            OpError::Ended(_) | OpError::InputLost(_) => self.stats.op("ended with its peer"),
        }
        Ok(())
    }

    /// Whether the peer's life goes on.
    fn is_member(&self, p: ProcId) -> bool {
        matches!(&self.procs[p].body, Some(Body::Peer(peer)) if *peer.phase() == Phase::Member)
    }

    // ---- progress ----

    /// Every tenth of a second: is somebody in charge, is everybody there, is it over?
    pub(crate) fn watch(&mut self) {
        self.supervise();
        self.nobody_waits_for_ever();
        if self.healed.is_none() && self.plan.told && self.now > 120_000_000 {
            self.check.fail("the story does not go on: what it waits for does not come".into());
        }
        let groups: Vec<PeerGroup> = self.check.groups.keys().copied().collect();
        for group in &groups {
            self.warm_up(*group);
        }
        if let Some(healed) = self.healed {
            for group in &groups {
                self.steady(*group);
            }
            if self.is_finished() {
                self.nothing_is_left();
                return self.finish();
            }
            let patience = u64::from(self.plan.settings.master_timeout_ms) * 1000 + 60_000_000;
            if self.now > healed + patience {
                let standing = self.standing();
                return self
                    .check
                    .fail(format!("no progress for {} s after healing: {standing}", patience / 1_000_000));
            }
        }
        self.after(100_000, Event::Watch);
    }

    /// Whether it is a master that may decide, and can.
    fn decides(&self, p: ProcId) -> bool {
        match &self.procs[p].body {
            Some(Body::Master(master)) => self.is_running(p) && master.may_decide(self.time(p)),
            _ => false,
        }
    }

    /// A process has done something. A master may decide, and end, between two looks at everybody.
    pub(crate) fn note_decider(&mut self, p: ProcId) {
        if self.decides(p) {
            self.check.decided = self.now;
        }
    }

    /// Without anybody who decides, peers settle after `master_timeout`, whatever answers them.
    fn nobody_waits_for_ever(&mut self) {
        if self.living.values().any(|p| self.decides(*p)) {
            self.check.decided = self.now;
        }
        let patience = u64::from(self.plan.settings.master_timeout_ms) * 1000 + 2_500_000;
        let waits = |p: ProcId| self.is_member(p) && self.is_running(p);
        let for_ever = |p: &ProcId| self.now > self.check.decided.max(self.procs[*p].awake) + patience;
        let found = self.living.values().copied().find(|p| waits(*p) && for_ever(p));
        if let Some(p) = found.filter(|_| self.plan.spoiled_per_mille == 0) {
            let text = format!("{} waits for a master, and nobody decides anything", self.procs[p].name);
            self.check.fail(text);
        }
    }

    fn apps(&self, group: PeerGroup) -> impl Iterator<Item = (ProcId, &crate::app::App)> {
        self.procs
            .iter()
            .enumerate()
            .filter(|(_, p)| p.body.is_some())
            .filter_map(move |(id, p)| Some((id, p.app.as_ref().filter(|a| a.group == group)?)))
    }

    fn warm_up(&mut self, group: PeerGroup) {
        if self.check.group(group).warm.is_some() {
            return;
        }
        let joined = self.apps(group).filter(|(_, a)| a.stage != Stage::Joining).count();
        let expected = (0..self.plan.peers).filter(|s| self.plan.group(*s) == group).count();
        if joined >= expected || self.now > self.check.warm_by {
            let latest = self.apps(group).map(|(_, a)| a.round).max().unwrap_or(0);
            let state = self.check.group(group);
            state.warm = Some(latest.max(state.begun) + 1);
        }
    }

    /// Once everybody alive is a member of the newest epoch, and has been for a while, the program may end.
    fn steady(&mut self, group: PeerGroup) {
        let epoch = self.store.record.groups.get(&group).map(|g| g.epoch).unwrap_or_default();
        let members = self.store.epochs.get(&(group, epoch)).map_or(0, Vec::len);
        let is_in = |p: ProcId, stage: Stage| {
            let Some(Body::Peer(peer)) = &self.procs[p].body else { return false };
            *peer.phase() == Phase::Member && !matches!(stage, Stage::Joining | Stage::Leaving)
        };
        let alive = self.apps(group).count();
        let all = alive > 0 && self.apps(group).all(|(p, a)| is_in(p, a.stage)) && members == alive;
        let latest = self.apps(group).map(|(_, a)| a.round).max().unwrap_or(0);
        let now = self.now;
        let long = if self.plan.simple { 200_000 } else { 2_500_000 };
        let state = self.check.group(group);
        if !all {
            state.steady = None;
            return;
        }
        let since = *state.steady.get_or_insert(now);
        if now >= since + long && state.stop.is_none() && state.warm.is_some() {
            state.stop = Some(latest + 5);
        }
    }

    fn is_finished(&self) -> bool {
        self.procs
            .iter()
            .filter(|p| p.body.is_some())
            .all(|p| p.app.as_ref().is_none_or(|a| a.stage == Stage::Finished))
    }

    /// When all programs have ended, nobody keeps anything for an op.
    fn nothing_is_left(&mut self) {
        for p in &self.procs {
            let Some(Body::Peer(peer)) = &p.body else { continue };
            let left = peer.leftovers();
            if !left.is_empty() {
                let text = format!("{} has come to the end, and there is left: {}", p.name, left.join(", "));
                return self.check.fail(text);
            }
        }
    }

    fn finish(&mut self) {
        self.over = true;
        self.stats.virtual_us = self.now;
        self.stats.terms = self.store.record.term.0;
    }

    /// Who waits for what.
    fn standing(&self) -> String {
        let one = |p: &crate::world::Proc| match (&p.body, &p.app) {
            (Some(Body::Peer(peer)), Some(app)) => format!(
                "{} at round {} ({:?}, {} ops, {:?}, epoch {:?})",
                p.name,
                app.round,
                app.stage,
                peer.ops_in_flight(),
                peer.phase(),
                peer.view().map(|v| v.epoch.0)
            ),
            (Some(Body::Master(master)), _) => {
                format!("{} {:?} in term {}", p.name, master.authority(), master.term())
            }
            _ => String::new(),
        };
        let living = self.procs.iter().filter(|p| p.body.is_some());
        living.map(one).collect::<Vec<_>>().join("; ")
    }
}
