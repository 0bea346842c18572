//! What an earlier session left: processes that still run, and tasks of which nobody knows how they ended.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use pccl_deploy::file::{Action, OnUnknown};
use pccl_deploy::journal::{AttemptHistory, History, Record, Standing};
use pccl_deploy::plan::{Plan, TaskId};
use pccl_deploy::schedule::{Cause, Outcome, Scheduler};
use pccl_launch::{Control, identity};
use rustix::process::{Pid, Signal, kill_process};

use crate::attempt::{self, CHECK, GATE, Workshop};
use crate::clock::now_ms;
use crate::display::Display;
use crate::engine::{GRACE, Message};
use crate::failure::DeployError;
use crate::runners::{Site, terraform};
use crate::session::operator;
use crate::setup::Choices;
use crate::store::Store;

/// Checks of tasks that were in flight run side by side, so many at a time.
const CHECKS: usize = 16;
/// Pause between two looks at all processes of the machine.
const LOOK: Duration = Duration::from_millis(50);
/// Pause between two looks at checks that run.
const GLANCE: Duration = Duration::from_millis(5);

/// A run as an earlier session left it.
pub(crate) struct Earlier<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) history: &'a History,
    pub(crate) store: &'a Store,
    pub(crate) run: i64,
    pub(crate) site: Site,
    /// Ctrl-C and SIGTERM.
    pub(crate) signals: &'a Receiver<Message>,
}

type Flying<'a> = (TaskId, &'a AttemptHistory);

impl Earlier<'_> {
    /// Decides about every task that was in flight when the last session ended.
    ///
    /// # Errors
    /// The operator does not want to go on, or there is no place for what checks print.
    pub(crate) fn reconcile(&self, display: &mut Display) -> Result<Vec<Record>, DeployError> {
        let logs = self.store.logs(self.run);
        std::fs::create_dir_all(&logs).map_err(|e| DeployError::system("make", &logs, &e))?;
        self.wait_for_survivors(display)?;
        elsewhere(self.history, display);
        let flying: Vec<Flying<'_>> = self
            .plan
            .ids()
            .filter_map(|id| match self.history.tasks.get(&self.plan.name(id))?.standing() {
                Standing::InFlight(attempt) => Some((id, attempt)),
                _ => None,
            })
            .collect();
        let workshop = Workshop::new(self.plan, logs, self.store.mark(self.run));
        let options = Choices::options(self.plan, 1);
        let scheduler = Scheduler::new(self.plan.clone(), options, &BTreeMap::new(), Duration::ZERO);
        let mut records = Vec::new();
        for group in flying.chunks(CHECKS) {
            let verdicts = self.ask(group, &workshop, &scheduler)?;
            for ((id, attempt), verdict) in group.iter().zip(verdicts) {
                let (outcome, again) = self.decide(*id, attempt, verdict, &workshop, &scheduler)?;
                let said = match (&outcome, again) {
                    (Outcome::Success, _) => "had finished",
                    (_, true) => "runs again",
                    (_, false) => "counts as failed",
                };
                let (task, attempt) = (self.plan.name(*id), attempt.number);
                display.note(&format!("{task} was in flight and {said}"));
                records.push(Record::Ended { at_ms: now_ms(), task, attempt, outcome, again });
            }
        }
        Ok(records)
    }

    /// Asks the checks of some tasks, side by side. One that takes longer than an attempt may is ended.
    fn ask(
        &self,
        group: &[Flying<'_>],
        workshop: &Workshop,
        scheduler: &Scheduler,
    ) -> Result<Vec<Option<Result<(), Cause>>>, DeployError> {
        let controls: Vec<(Control, Duration)> =
            group.iter().map(|(id, _)| (Control::default(), self.plan.phase_of(*id).timeout.0)).collect();
        let site = &self.site;
        thread::scope(|scope| {
            let mut asked = Vec::with_capacity(group.len());
            for ((id, attempt), (control, _)) in group.iter().zip(&controls) {
                let job = workshop.single(scheduler, *id, attempt.number);
                asked.push(scope.spawn(move || attempt::check_after_crash(&job, site, control)));
            }
            let begun = Instant::now();
            let mut stopped: Option<Instant> = None;
            while !asked.iter().all(thread::ScopedJoinHandle::is_finished) {
                let hurries = match self.signals.recv_timeout(GLANCE) {
                    Ok(_) => stopped.replace(stopped.unwrap_or_else(Instant::now)).is_some(),
                    Err(_) => stopped.is_some_and(|at| at.elapsed() >= GRACE),
                };
                for (control, timeout) in &controls {
                    let late = begun.elapsed().checked_sub(*timeout);
                    if stopped.is_some() && (hurries || !control.is_stopped()) {
                        control.stop(hurries);
                    } else if late.is_some() && !control.is_timed_out() {
                        control.time_out(false);
                    } else if late.is_some_and(|late| late >= GRACE) && !control.hurries() {
                        control.time_out(true);
                    }
                }
            }
            let verdicts = asked.into_iter().map(|thread| thread.join().unwrap_or(None)).collect();
            if stopped.is_some() { Err(DeployError::Interrupted) } else { Ok(verdicts) }
        })
    }

    fn decide(
        &self,
        id: TaskId,
        attempt: &AttemptHistory,
        verdict: Option<Result<(), Cause>>,
        workshop: &Workshop,
        scheduler: &Scheduler,
    ) -> Result<(Outcome, bool), DeployError> {
        let unknown = |again| (Outcome::Failed(Cause::Unknown), again);
        let phase = self.plan.phase_of(id);
        // A check that could not be asked, or did not answer, has said nothing.
        let verdict = verdict.filter(|said| !matches!(said, Err(Cause::TimedOut | Cause::Impossible { .. })));
        Ok(match (verdict, &phase.run) {
            (Some(Ok(())), _) => (Outcome::Success, false),
            (None, Action::Terraform(_)) if self.plan.is_batch(id) => {
                let address = workshop.address(scheduler, id);
                let output = attempt.process.as_ref().map(|(_, _, log)| PathBuf::from(log));
                let logs = self.store.logs(self.run);
                let output = output.or_else(|| attempt::batch_logs(&logs, &phase.name).pop());
                let done = address.zip(output).is_some_and(|(address, log)| {
                    let addresses = std::slice::from_ref(&address);
                    terraform::completed(&log, addresses).get(&address) == Some(&true)
                });
                if done { (Outcome::Success, false) } else { unknown(true) }
            }
            // A check says that it is not done; the others converge: running them again changes nothing that is there.
            (Some(Err(_)), _)
            | (
                None,
                Action::Terraform(_)
                | Action::Kubectl(_)
                | Action::Helm(_)
                | Action::Prometheus(_)
                | Action::Service(_),
            ) => unknown(true),
            (None, _) => unknown(self.runs_again(phase.on_unknown, &self.plan.name(id))?),
        })
    }

    fn runs_again(&self, rule: OnUnknown, task: &str) -> Result<bool, DeployError> {
        match rule {
            OnUnknown::Rerun => Ok(true),
            OnUnknown::Ask if std::io::stdin().is_terminal() => {
                let _ = write!(std::io::stderr(), "{task} was in flight. Run it again? [y/N] ");
                let (said, answers) = channel();
                // Who waits for a line does not hear a signal: so somebody else waits for it.
                thread::spawn(move || {
                    let mut answer = String::new();
                    // Without an answer it counts as failed, which harms nobody.
                    let _ = std::io::stdin().read_line(&mut answer);
                    said.send(answer)
                });
                loop {
                    match answers.recv_timeout(LOOK) {
                        Ok(answer) => return Ok(answer.trim().eq_ignore_ascii_case("y")),
                        Err(RecvTimeoutError::Disconnected) => return Ok(false),
                        Err(RecvTimeoutError::Timeout) => self.interrupted()?,
                    }
                }
            }
            OnUnknown::Ask | OnUnknown::Fail => Ok(false),
        }
    }

    fn interrupted(&self) -> Result<(), DeployError> {
        if self.signals.try_recv().is_ok() { Err(DeployError::Interrupted) } else { Ok(()) }
    }

    /// Waits until no process of an attempt is left that was in flight, and ends those that run for longer than they may.
    fn wait_for_survivors(&self, display: &mut Display) -> Result<(), DeployError> {
        let prefix = format!("{}/", self.store.mark(self.run));
        let mut told: BTreeMap<String, Option<Signal>> = BTreeMap::new();
        loop {
            let mut waits = false;
            for (mark, pids) in identity::survivors(&prefix) {
                let name = mark.strip_prefix(&prefix).unwrap_or(&mark).to_owned();
                let Some(allowed) = self.awaited(&name) else { continue };
                waits = true;
                let age = pids.iter().filter_map(|pid| identity::age(*pid)).max().unwrap_or_default();
                let signal = match age.checked_sub(allowed) {
                    None => None,
                    Some(late) if late < GRACE => Some(Signal::TERM),
                    Some(_) => Some(Signal::KILL),
                };
                let before = told.insert(name.clone(), signal);
                if before.is_none() {
                    display.note(&format!("waiting for process {} of {name}, which still runs", pids[0]));
                }
                let Some(signal) = signal.filter(|_| before.flatten() != signal) else { continue };
                display.note(&format!("{name} runs for longer than it may: its processes are ended"));
                for pid in pids.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                    // Who is gone needs no signal.
                    let _ = kill_process(pid, signal);
                }
            }
            if !waits {
                return Ok(());
            }
            self.interrupted()?;
            thread::sleep(LOOK);
        }
    }

    /// How long the processes with a mark may run; none if nobody waits for them: what an attempt that has ended left on
    /// purpose is no attempt.
    fn awaited(&self, mark: &str) -> Option<Duration> {
        // A check of an earlier session has nobody any more whom it could tell.
        if mark.ends_with(CHECK) {
            return Some(Duration::ZERO);
        }
        let (name, number) = mark.rsplit_once('#')?;
        let deployment = &self.plan.deployment;
        let timeout = |phase: &str| deployment.phase(phase).map(|(_, phase)| phase.timeout.0);
        let flies = |attempts: &[AttemptHistory]| {
            attempts.iter().any(|one| one.number.to_string() == number && one.outcome.is_none())
        };
        if number.starts_with("batch-") {
            let (at, phase) = deployment.phase(name)?;
            let mut ids = self.plan.ids().filter(|id| self.plan.task(*id).phase as usize == at);
            let tasks = &self.history.tasks;
            let in_flight = |id: TaskId| {
                matches!(tasks.get(&self.plan.name(id)).map(|t| t.standing()), Some(Standing::InFlight(_)))
            };
            return ids.any(in_flight).then_some(phase.timeout.0);
        }
        if let Some(task) = self.history.tasks.get(name) {
            let phase = name.split('/').next().unwrap_or(name);
            return flies(&task.attempts).then(|| timeout(phase)).flatten();
        }
        let gate = name.strip_prefix(GATE)?;
        let mut gates = deployment.waves.iter().flat_map(|waves| &waves.gates);
        gates.find(|rule| attempt::gate_name(rule) == gate).map(|rule| rule.timeout.0)
    }
}

/// Processes of a session on another host cannot be seen from here: then the operator has to know.
fn elsewhere(history: &History, display: &mut Display) {
    let host = |operator: &str| {
        operator.split_once('@').and_then(|(_, rest)| rest.split(' ').next()).map(str::to_owned)
    };
    let last = history.sessions.last().and_then(|(_, operator, _)| host(operator));
    let flying =
        history.tasks.values().filter(|task| matches!(task.standing(), Standing::InFlight(_))).count();
    if let Some(there) = last.filter(|there| flying > 0 && Some(there) != host(&operator()).as_ref()) {
        display.note(&format!(
            "{flying} tasks were in flight on {there}: make sure that nothing of them still runs there"
        ));
    }
}
