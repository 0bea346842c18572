//! The loop of a worker: let newcomers in, agree, bring everybody to one model, move it, average it, synchronize it.

use std::thread;
use std::time::{Duration, Instant};

use pccl::{
    Call, Class, CollectiveError, Communicator, NoCandidate, OpInfo, Options, ReduceOp, SharedState,
    Strategy, SyncError, SyncInfo, VoteError,
};

use super::agree::{self, AVERAGE_TAG, Agreement, Voice, persist};
use super::model::Model;
use super::pace::Pace;
use super::report::{Audience, RoundReport, WorkerEvent};
use super::resume::{Demand, ROUNDS};
use crate::error::CliError;
use crate::exit::Exit;

/// Between two looks for newcomers while there is nothing else to do.
const IDLE: Duration = Duration::from_millis(5);

/// A worker among its peers.
pub(crate) struct Worker {
    comm: Communicator,
    model: Model,
    /// Rounds that the model has been through; none if it must be taken over.
    holds: Option<u64>,
    /// Of the shared state: grows with every synchronization.
    revision: u64,
    /// It has just come in: the others are past their join point, too.
    is_new: bool,
    /// It has said that it has the fleet's model.
    said_synced: bool,
    pace: Pace,
    wanted: u32,
    pause: Duration,
    layout: u64,
    /// Rounds of the model that it began with.
    began_at: u64,
    demand: Demand,
    audience: Audience,
}

/// What a worker begins with.
pub(crate) struct Start {
    /// The same on all peers that have just been started.
    pub(crate) model: Model,
    /// If it is a checkpoint's: rounds it has been through, and its revision.
    pub(crate) resumed: Option<(u64, u64)>,
    /// Workers to wait for.
    pub(crate) wanted: u32,
    /// From one round to the next.
    pub(crate) pause: Duration,
    /// Asked for checkpoints.
    pub(crate) demand: Demand,
}

/// How a turn of the loop ended.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Next,
    Done,
}

/// Why a turn did not end well.
enum Trouble {
    /// This peer's membership ended; the others go on.
    Out(String),
    /// Nothing helps.
    Fatal(CliError),
}

impl From<CollectiveError> for Trouble {
    fn from(error: CollectiveError) -> Self {
        match error.class() {
            Class::Reconfigure => Self::Out(error.to_string()),
            _ => Self::Fatal(error.into()),
        }
    }
}

impl From<VoteError> for Trouble {
    fn from(error: VoteError) -> Self {
        match error.class() {
            Class::Reconfigure => Self::Out(error.to_string()),
            _ => Self::Fatal(error.into()),
        }
    }
}

impl From<SyncError> for Trouble {
    fn from(error: SyncError) -> Self {
        match error.class() {
            Class::Reconfigure => Self::Out(error.to_string()),
            _ => Self::Fatal(error.into()),
        }
    }
}

impl Worker {
    /// Connects.
    pub(crate) fn connect(
        options: &Options,
        start: Start,
        pace: Pace,
        audience: Audience,
    ) -> Result<Self, CliError> {
        let begun = Instant::now();
        let comm = Communicator::connect(options)?;
        let (began_at, revision) = start.resumed.unwrap_or((0, 0));
        let worker = Self {
            comm,
            layout: start.model.layout_digest(),
            model: start.model,
            holds: Some(began_at),
            revision,
            is_new: true,
            said_synced: false,
            pace,
            wanted: start.wanted,
            pause: start.pause,
            began_at,
            demand: start.demand,
            audience,
        };
        worker.tell_joined(begun);
        Ok(worker)
    }

    /// Goes on until all rounds are done.
    pub(crate) fn run(mut self) -> Result<(), CliError> {
        self.pace.begin();
        loop {
            match self.turn() {
                Ok(Turn::Next) => {}
                Ok(Turn::Done) => break,
                Err(Trouble::Out(why)) => self.come_back(why)?,
                Err(Trouble::Fatal(error)) => return Err(error),
            }
        }
        let rounds = self.holds.unwrap_or(0);
        self.comm.leave();
        self.audience.tell(&WorkerEvent::Left { rounds });
        Ok(())
    }

    fn come_back(&mut self, why: String) -> Result<(), CliError> {
        self.audience.tell(&WorkerEvent::Expelled { why });
        let begun = Instant::now();
        self.comm.reconnect()?;
        self.holds = None;
        self.is_new = true;
        self.said_synced = false;
        self.tell_joined(begun);
        Ok(())
    }

    fn tell_joined(&self, begun: Instant) {
        let membership = self.comm.membership();
        self.audience.tell(&WorkerEvent::Joined {
            session: membership.session,
            rank: membership.rank,
            world_size: membership.world_size,
            epoch: membership.epoch,
            seconds: begun.elapsed().as_secs_f64(),
        });
    }

    /// The calls of a turn are the same, in the same order, on all members; newcomers begin after the join point.
    fn turn(&mut self) -> Result<Turn, Trouble> {
        if !std::mem::replace(&mut self.is_new, false) {
            if self.pace.leaves() {
                return Ok(Turn::Done);
            }
            self.comm.update_topology()?;
        }
        let agreed = agree::agree(&self.comm, &self.voice())?;
        if !agreed.one_layout {
            self.settle_layout(&agreed)?;
            return Ok(Turn::Next);
        }
        let rounds = self.catch_up(&agreed)?;
        let taken_over = self.holds.replace(rounds) != Some(rounds);
        if !std::mem::replace(&mut self.said_synced, true) {
            self.audience.tell(&WorkerEvent::Synced { rounds, taken_over });
        }
        let gathering = rounds == agreed.began_at && agreed.world < agreed.wanted;
        if !gathering && rounds < agreed.granted {
            self.round(rounds + 1, agreed.someone_demands)?;
            self.pace.rest(self.pause);
        } else if gathering || agreed.someone_lingers {
            thread::sleep(IDLE);
        } else {
            return Ok(Turn::Done);
        }
        Ok(Turn::Next)
    }

    fn voice(&self) -> Voice {
        Voice {
            holds: self.holds,
            granted: self.pace.granted(),
            lingers: self.pace.lingers(),
            wanted: self.wanted,
            layout: self.layout,
            began_at: self.began_at,
            demands: self.demand.is_raised(),
        }
    }

    /// The layout of those with the newest model counts; who has another one goes.
    fn settle_layout(&mut self, agreed: &Agreement) -> Result<(), Trouble> {
        let mine = (self.holds == agreed.newest).then_some(self.layout);
        match agree::common_layout(&self.comm, mine)? {
            Some(layout) if layout == self.layout => Ok(()),
            _ => Err(Trouble::Fatal(
                CliError::new(
                    Exit::Collective,
                    format!(
                        "failed to average: the peers' models differ in names, types or shapes; \
                         here are {} tensors with {} bytes to average",
                        self.model.tensor_count(),
                        self.model.averaged_bytes()
                    ),
                )
                .hint("start every worker with the same --input, or the same --bytes and --seed"),
            )),
        }
    }

    /// Whoever is behind takes over the newest model; returns the rounds it has been through.
    fn catch_up(&mut self, agreed: &Agreement) -> Result<u64, Trouble> {
        let newest = agreed.newest.ok_or_else(nobody_left)?;
        if agreed.someone_behind {
            self.synchronize(self.holds == Some(newest), newest, false)?;
        }
        Ok(newest)
    }

    /// Makes the models of all members identical, those of `holders` being the ones that count. Newcomers wait for the
    /// join point.
    fn synchronize(&mut self, holder: bool, rounds: u64, checkpoint: bool) -> Result<SyncInfo, Trouble> {
        let mut behind = false;
        loop {
            let revision = if holder { self.revision + 1 } else { 0 };
            let mut state = SharedState::new(revision)
                .admit_newcomers(false)
                .checkpoint(checkpoint)
                .note(ROUNDS, rounds.to_string());
            for tensor in self.model.shared() {
                state.push(tensor);
            }
            match self.comm.synchronize(&mut state, Strategy::EnforcePopular) {
                Ok(info) => {
                    self.revision = info.revision;
                    return Ok(info);
                }
                // An earlier fleet of the same run has left: all members hear it and go on from its revision.
                Err(SyncError::NoCandidate { why: NoCandidate::Behind { expected, .. } }) if !behind => {
                    behind = true;
                    self.revision = expected.saturating_sub(1);
                }
                Err(SyncError::NoCandidate { .. }) => return Err(nobody_left()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn round(&mut self, round: u64, checkpoint: bool) -> Result<(), Trouble> {
        self.model.move_by(session_number(&self.comm.membership().session), round);
        let audience = self.audience;
        self.pace.pass(|| audience.tell(&WorkerEvent::Held { round }));
        audience.tell(&WorkerEvent::Reducing { round });
        let begun = Instant::now();
        let (info, recoveries) = self.average()?;
        let seconds = begun.elapsed().as_secs_f64();
        audience.tell(&WorkerEvent::Reduced { round, recoveries });
        // What the averaging made, before the synchronization could repair it.
        let hash = format!("{:032x}", self.model.hash());
        let begun = Instant::now();
        let synced = self.synchronize(true, round, checkpoint)?;
        if checkpoint {
            self.demand.lower();
        }
        self.holds = Some(round);
        audience.tell(&WorkerEvent::Round(RoundReport {
            round,
            epoch: info.epoch.0,
            world_size: info.world,
            seconds,
            gbs: self.model.averaged_bytes() as f64 / seconds * 1e-9,
            recoveries,
            sync_seconds: begun.elapsed().as_secs_f64(),
            repaired: synced.changed.len(),
            hash,
        }));
        Ok(())
    }

    /// Averages all parts; returns the last op's result and the recoveries of all.
    fn average(&mut self) -> Result<(OpInfo, u32), Trouble> {
        let mut last = None;
        let mut recoveries = 0;
        for (number, part) in self.model.parts_mut().iter_mut().enumerate() {
            let Some(dtype) = part.averaged else { continue };
            let call = Call::new(AVERAGE_TAG + number as u64).op(ReduceOp::Avg);
            let info = persist(|| self.comm.all_reduce_bytes_in_place(dtype, &mut part.bytes, &call))?;
            recoveries += info.recoveries;
            last = Some(info);
        }
        match last {
            Some(info) => Ok((info, recoveries)),
            None => Err(Trouble::Fatal(CliError::new(Exit::Input, "failed to average: the model is empty"))),
        }
    }
}

fn nobody_left() -> Trouble {
    Trouble::Fatal(
        CliError::new(Exit::Collective, "failed to take over the model: no peer that held it is left")
            .hint("start the workers again: they begin with the model of --input or --seed"),
    )
}

/// A number of its own for each session, so that each moves its model in a way of its own.
fn session_number(session: &str) -> u64 {
    pccl::hash_bytes(session.as_bytes()) as u64
}
