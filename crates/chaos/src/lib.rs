//! When to strike whom, and whether it hit. Pure: facts and the time come in, actions go out.
//!
//! A strike counts only if it hit an op: the survivors of a kill or a freeze must have reported the op, or the one right
//! after it, with a recovery; a thawed worker must have learned that it was expelled; an extra worker must have come in
//! and taken over the model. What missed (the op was over, or had not begun) is tried again.
//!
//! Ops that take a while are struck at a random moment in their middle. A short op would be over before the strike
//! lands: there the victim is told to stop before it, so that the others are inside the op and wait for its data.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use pccl_proto::ids::Seeded;
use serde::Serialize;

/// Names a worker, as whoever has started it does.
pub type Id = usize;

/// Ops that usually take less than this are struck with a victim that stops before them.
const SHORT_OP_SECONDS: f64 = 0.03;
/// From the moment the others have called an op until the strike at one that holds back.
const HELD_DELAY: Duration = Duration::from_millis(15);
/// Rounds between the end of a strike and the next one.
const CALM_ROUNDS: u64 = 2;

/// A kind of strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// kill -9 one worker, and start another in its place
    Kill,
    /// kill -STOP one worker, and kill -CONT it when the others are past the op
    Freeze,
    /// Start an extra worker
    Join,
}

/// What the fleet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The worker calls the op of this round now.
    Entered(Id, u64),
    /// It stands before that op, as it was told.
    Held(Id),
    /// It is through the op of this round.
    Reduced {
        /// The worker.
        worker: Id,
        /// The round.
        round: u64,
        /// Attempts that were cut before it.
        recoveries: u32,
    },
    /// Its membership has ended, and it knows.
    Expelled(Id),
    /// It has the fleet's model.
    Synced(Id),
}

/// What became of a strike.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// What it was.
    pub kind: Kind,
    /// The round whose op it hit, or was meant to.
    pub round: u64,
    /// Whether it counts.
    pub hit: bool,
    /// If it does: from the strike until the last survivor was through that op, or until the extra worker had the model.
    pub seconds: Option<f64>,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Tell the worker to stop before its next op.
    Hold(Id),
    /// kill -9.
    Kill(Id, u64),
    /// kill -STOP.
    Freeze(Id, u64),
    /// Let go on, and kill -CONT.
    Thaw(Id),
    /// Start an extra worker, in the op of this round; [`Chaos::started`] hears which.
    Start(u64),
    /// Start a worker in the place of the one that was killed; [`Chaos::started`] hears which.
    Replace,
    /// A strike is over.
    Judged(Judgement),
}

/// How often each kind hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Kills that cut an op which the survivors completed.
    pub kill: u32,
    /// Freezes that cut an op which the survivors completed, and whose victim learned of its expulsion and came back.
    pub freeze: u32,
    /// Extra workers that came in.
    pub join: u32,
    /// Strikes that hit no op.
    pub missed: u32,
}

/// How far the present strike is.
#[derive(Debug)]
enum Stage {
    /// Nothing before this round.
    Calm { until: u64 },
    /// The victim will hold back.
    Holding { kind: Kind, victim: Id, is_held: bool },
    /// At this time, in the op of this round.
    Aimed { kind: Kind, victim: Id, round: u64, at: Instant },
    /// Done; what became of it?
    Struck(Struck),
}

#[derive(Debug)]
struct Struck {
    kind: Kind,
    round: u64,
    at: Instant,
    /// When the last survivor was through the op that was hit, or the extra worker had the model.
    over: Option<Instant>,
    /// The one that was killed or frozen; of a join, nobody.
    victim: Option<Id>,
    /// The one that takes its place, or is the extra one.
    newcomer: Option<Id>,
    /// The round that survivors reported with a recovery.
    recovered: Option<u64>,
    thawed: bool,
    expelled: bool,
    synced: bool,
    /// The victim did this round or a later one as if nothing had been.
    unhurt: bool,
}

/// The fleet, as far as a strike needs to know it.
#[derive(Debug)]
pub struct Fleet<'a> {
    /// Members that are neither dead nor frozen, with the newest op that each has called and has done.
    pub members: &'a [(Id, u64, u64)],
    /// Usual time of an op.
    pub typical_seconds: Option<f64>,
}

impl Fleet<'_> {
    /// A round whose op somebody has called and not done.
    fn any_op(&self) -> Option<u64> {
        let inside = self.members.iter().find(|(_, entered, done)| entered > done);
        inside.map(|(_, entered, _)| *entered)
    }

    /// The round whose op all but `except` have called and not done.
    fn common_op(&self, except: Option<Id>) -> Option<u64> {
        let mut ops = self.members.iter().filter(|(id, ..)| Some(*id) != except);
        let (_, entered, done) = ops.next()?;
        let all_inside = entered > done && ops.all(|(_, e, d)| e == entered && e > d);
        all_inside.then_some(*entered)
    }
}

/// The plan of all strikes.
#[derive(Debug)]
pub struct Chaos {
    wanted: VecDeque<Kind>,
    stage: Stage,
    tally: Tally,
    random: Seeded,
    /// Rounds from the end of one strike to the next.
    spacing: u64,
    misses_in_a_row: u32,
}

impl Chaos {
    /// Each of `kinds` once, spread over `rounds`.
    pub fn new(kinds: &[Kind], rounds: u64, seed: u64) -> Self {
        let spacing = (rounds / (kinds.len() as u64 + 1)).saturating_sub(1).max(CALM_ROUNDS);
        Self {
            wanted: kinds.iter().copied().collect(),
            stage: Stage::Calm { until: spacing },
            tally: Tally::default(),
            random: Seeded::new(seed),
            spacing,
            misses_in_a_row: 0,
        }
    }

    /// Whether everything that was wanted has hit.
    pub fn is_over(&self) -> bool {
        self.wanted.is_empty() && matches!(self.stage, Stage::Calm { .. })
    }

    /// What has hit so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// What has not hit yet.
    pub fn wanted(&self) -> Vec<Kind> {
        self.wanted.iter().copied().collect()
    }

    /// When to [`poll`](Self::poll) at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.stage {
            Stage::Aimed { at, .. } => Some(at),
            _ => None,
        }
    }

    /// The worker that [`Action::Start`] or [`Action::Replace`] asked for.
    pub fn started(&mut self, newcomer: Id) {
        if let Stage::Struck(struck) = &mut self.stage {
            struck.newcomer = Some(newcomer);
        }
    }

    /// Takes in what a worker said.
    pub fn handle(&mut self, now: Instant, fact: Fact) {
        match &mut self.stage {
            Stage::Holding { victim, is_held, .. } => *is_held |= fact == Fact::Held(*victim),
            Stage::Struck(struck) => struck.handle(now, fact),
            Stage::Calm { .. } | Stage::Aimed { .. } => {}
        }
    }

    /// What to do now; call until there is nothing.
    pub fn poll(&mut self, now: Instant, fleet: &Fleet<'_>) -> Option<Action> {
        match &mut self.stage {
            Stage::Calm { until } => {
                let until = *until;
                self.begin(now, fleet, until)
            }
            Stage::Holding { kind, victim, is_held } => {
                let round = fleet.common_op(Some(*victim)).filter(|_| *is_held)?;
                let (kind, victim, at) = (*kind, *victim, now + HELD_DELAY);
                self.stage = Stage::Aimed { kind, victim, round, at };
                None
            }
            Stage::Aimed { kind, victim, round, at } => {
                let (kind, victim, round) = (*kind, *victim, *round);
                (now >= *at).then(|| self.strike(now, kind, victim, round))
            }
            Stage::Struck(struck) => {
                let kind = struck.kind;
                if kind == Kind::Kill && struck.newcomer.is_none() {
                    return struck.others_are_past(fleet).then_some(Action::Replace);
                }
                if kind == Kind::Freeze && !struck.thawed && struck.others_are_past(fleet) {
                    struck.thawed = true;
                    return struck.victim.map(Action::Thaw);
                }
                let judgement = struck.judgement(fleet)?;
                self.note(&judgement, fleet);
                Some(Action::Judged(judgement))
            }
        }
    }

    /// Chooses victim and moment.
    fn begin(&mut self, now: Instant, fleet: &Fleet<'_>, until: u64) -> Option<Action> {
        let kind = *self.wanted.front()?;
        let typical = fleet.typical_seconds?;
        let newest = fleet.members.iter().map(|(_, entered, _)| *entered).max()?;
        if newest < until || fleet.members.len() < 2 {
            return None;
        }
        let short = typical < SHORT_OP_SECONDS || self.misses_in_a_row >= 3;
        let victim = fleet.members[self.random.below(fleet.members.len() as u64) as usize].0;
        if short && kind != Kind::Join {
            self.stage = Stage::Holding { kind, victim, is_held: false };
            return Some(Action::Hold(victim));
        }
        let round = match kind {
            Kind::Join => fleet.any_op()?,
            Kind::Kill | Kind::Freeze => fleet.common_op(None)?,
        };
        let share = 0.1 + 0.5 * (self.random.below(1000) as f64 / 1000.0);
        let at = now + Duration::from_secs_f64(typical * share);
        self.stage = Stage::Aimed { kind, victim, round, at };
        None
    }

    fn strike(&mut self, now: Instant, kind: Kind, victim: Id, round: u64) -> Action {
        self.stage = Stage::Struck(Struck {
            kind,
            round,
            at: now,
            over: None,
            victim: (kind != Kind::Join).then_some(victim),
            newcomer: None,
            recovered: None,
            thawed: false,
            expelled: false,
            synced: false,
            unhurt: false,
        });
        match kind {
            Kind::Kill => Action::Kill(victim, round),
            Kind::Freeze => Action::Freeze(victim, round),
            Kind::Join => Action::Start(round),
        }
    }

    /// Counts it, and leaves the fleet alone for a while.
    fn note(&mut self, judgement: &Judgement, fleet: &Fleet<'_>) {
        if judgement.hit {
            self.wanted.pop_front();
            self.misses_in_a_row = 0;
            match judgement.kind {
                Kind::Kill => self.tally.kill += 1,
                Kind::Freeze => self.tally.freeze += 1,
                Kind::Join => self.tally.join += 1,
            }
        } else {
            self.tally.missed += 1;
            self.misses_in_a_row += 1;
        }
        let newest = fleet.members.iter().map(|(_, _, done)| *done).max().unwrap_or(judgement.round);
        let calm = if judgement.hit { self.spacing } else { CALM_ROUNDS };
        self.stage = Stage::Calm { until: newest + calm };
    }
}

impl Struck {
    fn handle(&mut self, now: Instant, fact: Fact) {
        match fact {
            Fact::Reduced { worker, round, recoveries } if Some(worker) != self.victim => {
                let is_ours = (self.round..=self.round + 1).contains(&round) && recoveries > 0;
                if is_ours {
                    self.recovered.get_or_insert(round);
                    self.over = Some(now);
                }
            }
            // What it had said before it was struck may be heard after: only a round begun since then counts.
            Fact::Entered(worker, round) if Some(worker) == self.victim => {
                self.unhurt |= self.thawed && !self.expelled && round > self.round;
            }
            Fact::Expelled(worker) => self.expelled |= Some(worker) == self.victim,
            Fact::Synced(worker) => {
                let awaited = match self.kind {
                    Kind::Freeze => self.victim.filter(|_| self.expelled),
                    Kind::Kill | Kind::Join => self.newcomer,
                };
                self.synced |= Some(worker) == awaited;
                if self.kind == Kind::Join && self.synced {
                    self.over.get_or_insert(now);
                }
            }
            Fact::Entered(..) | Fact::Held(_) | Fact::Reduced { .. } => {}
        }
    }

    /// All others have done the op that was struck.
    fn others_are_past(&self, fleet: &Fleet<'_>) -> bool {
        let mut others = fleet.members.iter().filter(|(id, ..)| Some(*id) != self.victim);
        others.all(|(_, _, done)| *done >= self.round)
    }

    /// What became of it, once that is known and the fleet is whole again.
    fn judgement(&self, fleet: &Fleet<'_>) -> Option<Judgement> {
        let hit = self.hit(fleet)?;
        let after = |over: Instant| over.saturating_duration_since(self.at).as_secs_f64();
        Some(Judgement {
            kind: self.kind,
            round: self.recovered.unwrap_or(self.round),
            hit,
            seconds: self.over.filter(|_| hit).map(after),
        })
    }

    fn hit(&self, fleet: &Fleet<'_>) -> Option<bool> {
        match self.kind {
            Kind::Join => self.synced.then_some(true),
            Kind::Kill => (self.synced && self.others_are_past(fleet)).then_some(self.recovered.is_some()),
            Kind::Freeze if self.synced => Some(self.recovered.is_some()),
            Kind::Freeze => self.unhurt.then_some(false),
        }
    }
}

#[cfg(test)]
mod tests;
