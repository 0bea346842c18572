//! The fleet of `pccl up`: its processes, what is known of each, and the loop that turns what they say into events.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pccl_launch::{Crew, Happening, Id, Program};
use pccl_master::query_status;
use rustix::process::Signal;

use super::UpArgs;
use super::event::{Display, Event, Outcome, Verdict};
use super::ledger::Ledger;
use crate::error::CliError;
use crate::exit::Exit;
use crate::local::{Local, Wishes};
use crate::supervised;
use crate::worker::{Order, WorkerEvent};
use pccl_chaos::{Action, Chaos, Fact, Judgement, Kind};

/// How long nothing at all may happen, besides what the liveness of the run needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rounds that a strike which does not hit may cost beyond those asked for.
const EXTRA_ROUNDS: u64 = 100;

/// What a worker is doing, as far as we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not a member, or not with the fleet's model.
    Coming,
    Member,
    /// Stopped by us.
    Frozen,
    /// Killed by us.
    Dead,
    /// It has ended as it should.
    Left,
}

#[derive(Debug)]
struct Hand {
    state: State,
    /// The newest round whose op it has called.
    entered: u64,
    /// The newest round whose op it is through.
    reduced: u64,
    /// The newest round that it has done.
    done: u64,
    /// It was started after the beginning.
    is_late: bool,
}

/// All processes and what is known of them.
pub(super) struct Fleet {
    args: UpArgs,
    crew: Crew,
    local: Local,
    master: Id,
    master_addr: SocketAddr,
    hands: BTreeMap<Id, Hand>,
    ledger: Ledger,
    chaos: Chaos,
    judgements: Vec<Judgement>,
    display: Box<dyn Display>,
    granted: u64,
    shown: u64,
    finishing: bool,
    begun: Instant,
}

impl Fleet {
    /// Starts the master and the workers.
    pub(super) fn start(args: &UpArgs, display: Box<dyn Display>) -> Result<Self, CliError> {
        // Read here first: one clear error, not one of each worker.
        let model = args.model.source().model()?;
        let mut crew = supervised::crew()?;
        let (workers, heartbeat_timeout_ms) = (args.workers, args.heartbeat_timeout_ms);
        let wishes = Wishes { workers, heartbeat_timeout_ms, model: Some(&args.model) };
        let mut local = Local::new(&wishes)?;
        let (master, master_addr) = local.start_master(&mut crew, None)?;
        let mut fleet = Self {
            crew,
            local,
            master,
            master_addr,
            hands: BTreeMap::new(),
            ledger: Ledger::default(),
            chaos: Chaos::new(&args.chaos, args.rounds, args.model.seed),
            judgements: Vec::new(),
            display,
            granted: args.rounds,
            shown: 0,
            finishing: false,
            begun: Instant::now(),
            args: args.clone(),
        };
        fleet.display.show(&Event::Started {
            master: master_addr,
            workers: args.workers,
            bytes: model.averaged_bytes(),
            tensors: model.tensor_count(),
        });
        for worker in fleet.local.workers()? {
            fleet.start_worker(worker)?;
        }
        Ok(fleet)
    }

    fn start_worker(&mut self, mut worker: Program) -> Result<Id, CliError> {
        worker.line.push(format!("--rounds={}", self.granted));
        let is_late = self.ledger.newest() > 0;
        let number = self.hands.len();
        let name = format!("worker {number}");
        let spawned = self.crew.spawn(&name, &worker);
        let id = spawned.map_err(|error| supervised::not_started(&name, &error))?;
        let state = State::Coming;
        self.hands.insert(id, Hand { state, entered: 0, reduced: 0, done: 0, is_late });
        Ok(id)
    }

    /// Until everybody has left.
    pub(super) fn run(mut self) -> Result<Exit, CliError> {
        let mut interrupted = false;
        let mut last_heard = Instant::now();
        while !self.is_over() {
            let wait = self.chaos.poll_timeout().map(|at| at.saturating_duration_since(Instant::now()));
            match self.crew.next(wait.unwrap_or(PATIENCE).min(PATIENCE)) {
                Some(Happening::Interrupted) => {
                    interrupted = true;
                    break;
                }
                Some(Happening::Line(id, line)) => self.hear(id, &line)?,
                Some(Happening::Ended(id, status)) => self.ended(id, status)?,
                None if wait.is_none() && last_heard.elapsed() >= PATIENCE => return Err(self.stuck()),
                None => {}
            }
            last_heard = Instant::now();
            self.strike()?;
            self.show_rounds();
            self.pace();
        }
        Ok(self.conclude(interrupted))
    }

    fn is_over(&self) -> bool {
        let gone = |hand: &Hand| matches!(hand.state, State::Left | State::Dead);
        self.finishing && self.hands.values().all(gone)
    }

    /// Takes in one line of a child.
    fn hear(&mut self, id: Id, line: &str) -> Result<(), CliError> {
        if id == self.master {
            return Ok(());
        }
        let event: WorkerEvent = serde_json::from_str(line).map_err(|error| {
            let name = self.crew.name(id);
            CliError::new(Exit::System, format!("failed to understand {name}: {error}: {line}"))
        })?;
        let name = self.crew.name(id).to_owned();
        let Some(hand) = self.hands.get_mut(&id) else { return Ok(()) };
        let now = Instant::now();
        match event {
            WorkerEvent::Joined { world_size, seconds, .. } => {
                if hand.is_late || hand.done > 0 {
                    self.display.show(&Event::Joined { worker: name, world_size, seconds });
                }
            }
            WorkerEvent::Synced { rounds, .. } => {
                hand.state = State::Member;
                (hand.entered, hand.reduced, hand.done) = (rounds, rounds, rounds);
                self.chaos.handle(now, Fact::Synced(id));
            }
            WorkerEvent::Reducing { round } => {
                hand.entered = round;
                self.chaos.handle(now, Fact::Entered(id, round));
            }
            WorkerEvent::Held { .. } => self.chaos.handle(now, Fact::Held(id)),
            WorkerEvent::Reduced { round, recoveries } => {
                hand.reduced = round;
                self.chaos.handle(now, Fact::Reduced { worker: id, round, recoveries });
            }
            WorkerEvent::Round(report) => {
                hand.done = report.round;
                self.ledger.note(id, report);
            }
            WorkerEvent::Expelled { why } => {
                if hand.state == State::Member {
                    hand.state = State::Coming;
                }
                self.chaos.handle(now, Fact::Expelled(id));
                self.display.show(&Event::Expelled { worker: name, why });
            }
            WorkerEvent::Left { .. } => {}
        }
        Ok(())
    }

    /// A child has ended; only those that were killed or told to may.
    fn ended(&mut self, id: Id, status: std::process::ExitStatus) -> Result<(), CliError> {
        let expected = self.finishing && status.success();
        match self.hands.get_mut(&id) {
            Some(hand) if hand.state == State::Dead => return Ok(()),
            Some(hand) if expected => {
                hand.state = State::Left;
                return Ok(());
            }
            Some(_) | None => {}
        }
        let exit = status.code().and_then(Exit::from_code).unwrap_or(Exit::Collective);
        let complaint = self.crew.complaint(id);
        let complaint = complaint.trim_start_matches("error: ");
        Err(CliError::new(
            exit,
            format!("failed to keep {} running ({status}): {complaint}", self.crew.name(id)),
        ))
    }

    /// Does what the plan of the strikes says now.
    fn strike(&mut self) -> Result<(), CliError> {
        loop {
            let members: Vec<(Id, u64, u64)> = self
                .hands
                .iter()
                .filter(|(_, hand)| hand.state == State::Member)
                .map(|(id, hand)| (*id, hand.entered, hand.reduced))
                .collect();
            let fleet =
                pccl_chaos::Fleet { members: &members, typical_seconds: self.ledger.typical_seconds() };
            match self.chaos.poll(Instant::now(), &fleet) {
                Some(action) => self.act(action)?,
                None => return Ok(()),
            }
        }
    }

    fn act(&mut self, action: Action) -> Result<(), CliError> {
        match action {
            Action::Hold(id) => self.crew.tell(id, &Order::Hold),
            Action::Kill(id, round) => self.hit(id, Signal::KILL, State::Dead, Kind::Kill, round),
            Action::Freeze(id, round) => self.hit(id, Signal::STOP, State::Frozen, Kind::Freeze, round),
            Action::Thaw(id) => {
                self.crew.tell(id, &Order::Release);
                self.crew.signal(id, Signal::CONT);
                self.set_state(id, State::Member);
                let worker = self.crew.name(id).to_owned();
                self.display.show(&Event::Thawed { worker });
            }
            Action::Start(round) => {
                let id = self.start_worker(self.local.another_worker()?)?;
                self.chaos.started(id);
                let worker = self.crew.name(id).to_owned();
                self.display.show(&Event::Struck { kind: Kind::Join, worker, round });
            }
            Action::Replace => {
                let id = self.start_worker(self.local.another_worker()?)?;
                self.chaos.started(id);
                let worker = self.crew.name(id).to_owned();
                self.display.show(&Event::Replaced { worker });
            }
            Action::Judged(judgement) => {
                self.judgements.push(judgement);
                self.display.show(&Event::Judged(judgement));
            }
        }
        Ok(())
    }

    fn hit(&mut self, id: Id, signal: Signal, state: State, kind: Kind, round: u64) {
        self.crew.signal(id, signal);
        self.set_state(id, state);
        let worker = format!("{} (pid {})", self.crew.name(id), self.crew.pid(id));
        self.display.show(&Event::Struck { kind, worker, round });
    }

    fn set_state(&mut self, id: Id, state: State) {
        if let Some(hand) = self.hands.get_mut(&id) {
            hand.state = state;
        }
    }

    /// Shows the rounds that all who can have reported.
    fn show_rounds(&mut self) {
        while self.is_complete(self.shown + 1) {
            self.shown += 1;
            if let Some(summary) = self.ledger.summary(self.shown) {
                self.display.show(&Event::Round(summary));
            }
        }
    }

    /// Whether everybody who took part and can still say so has said that the round is done.
    fn is_complete(&self, round: u64) -> bool {
        let Some(summary) = self.ledger.summary(round) else {
            return false;
        };
        let owes = |hand: &Hand| hand.state == State::Member && hand.done < round;
        // Whoever called the op and was struck, or expelled, before it could say more.
        let silent = self.hands.iter().filter(|(id, hand)| {
            hand.state != State::Member && hand.entered >= round && !self.ledger.has(round, **id)
        });
        let heard = summary.reports + silent.count();
        heard >= summary.world_size as usize && !self.hands.values().any(owes)
    }

    /// Grants more rounds while strikes are missing, and ends the run when nothing is.
    fn pace(&mut self) {
        if self.finishing {
            return;
        }
        let done = self.shown >= self.granted;
        let may_go_on = self.granted < self.args.rounds + EXTRA_ROUNDS;
        if !self.chaos.is_over() && self.ledger.newest() + 1 >= self.granted && may_go_on {
            self.granted += 1;
            self.tell_all(&Order::Grant { rounds: self.granted });
        } else if done && self.hands.values().all(|hand| matches!(hand.state, State::Member | State::Dead)) {
            self.finishing = true;
            self.tell_all(&Order::Finish);
        }
    }

    fn tell_all(&mut self, order: &Order) {
        for (id, hand) in &self.hands {
            if !matches!(hand.state, State::Dead | State::Left) {
                self.crew.tell(*id, order);
            }
        }
    }

    fn stuck(&self) -> CliError {
        let waits = match query_status(self.master_addr, Duration::from_secs(2), None) {
            Ok(status) => pccl_doctor::status_lines(&status).join("\n"),
            Err(error) => error.to_string(),
        };
        CliError::new(
            Exit::Failed,
            format!("failed to go on: nothing has happened for {} s\n{waits}", PATIENCE.as_secs()),
        )
    }

    /// The verdict, shown and as an exit code. The crew, and with it every process, ends here.
    fn conclude(mut self, interrupted: bool) -> Exit {
        let rounds = self.ledger.summaries();
        let identical = rounds.iter().all(|round| round.identical);
        let outcome = Outcome {
            verdict: if identical { Verdict::Identical } else { Verdict::Diverged },
            rounds: self.shown,
            recoveries: rounds.iter().map(|round| round.recoveries).sum(),
            world_size: rounds.last().map_or(0, |round| round.world_size),
            chaos: self.chaos.tally(),
            strikes: std::mem::take(&mut self.judgements),
            not_hit: self.chaos.wanted(),
            interrupted,
            seconds: self.begun.elapsed().as_secs_f64(),
        };
        let exit = match (outcome.is_well(), interrupted) {
            (_, true) => Exit::Interrupted,
            (true, false) => Exit::Success,
            (false, false) => Exit::Failed,
        };
        self.display.show(&Event::Ended { outcome, rounds });
        exit
    }
}
