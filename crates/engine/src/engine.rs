//! The engine: drives the scheduler with real processes, and writes every step down.
//!
//! One thread decides and writes; each attempt has a thread that waits for its processes. In each round what has
//! ended is taken in, what follows from it is written to the journal in one transaction, and only then started.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pccl_deploy::journal::{History, Record};
use pccl_deploy::plan::TaskId;
use pccl_deploy::progress::Progress;
use pccl_deploy::schedule::{Command, Counts, Event, Outcome, Scheduler};
use pccl_launch::Control;

use crate::attempt::{self, Job};
use crate::clock::Clock;
use crate::display::Display;
use crate::failure::DeployError;
use crate::metrics::Watched;
use crate::outputs::{Line, Outputs};
use crate::runners::Site;
use crate::store::Store;

/// Time between asking processes to end and ending them.
pub(crate) const GRACE: Duration = Duration::from_secs(15);
/// The display is refreshed this often.
const REFRESH: Duration = Duration::from_millis(200);
/// How often a session says how far it is to those who watch from elsewhere.
const BEAT: Duration = Duration::from_secs(1);
/// Writes this many records, then kills this process: for tests of `resume`.
const FAULT: &str = "PCCL_FAULT_DEPLOY_RECORDS";

/// What attempts and signals tell the engine.
#[derive(Debug)]
pub(crate) enum Message {
    /// A process of these tasks started.
    Process { tasks: Vec<TaskId>, pid: u32, log: PathBuf },
    /// The API throttles a task that goes on.
    Throttled { task: TaskId, retry_after: Option<Duration> },
    /// An attempt of a task ended.
    Ended { task: TaskId, outcome: Outcome },
    /// The thread of a job has nothing more to say.
    Over { job: u64 },
    /// A gate answered.
    Gate { gate: usize, answer: Result<(), String> },
    /// Ctrl-C or SIGTERM.
    Signal,
}

/// A running job, as the engine sees it.
struct Active {
    control: Arc<Control>,
    deadline: Duration,
    asked: bool,
}

/// How a session ended.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// How many tasks are where.
    pub counts: Counts,
    /// Whether the operator stopped it.
    pub stopped: bool,
    /// How long the session took.
    pub took: Duration,
}

pub(crate) struct Engine {
    pub(crate) scheduler: Scheduler,
    pub(crate) store: Store,
    pub(crate) run: i64,
    pub(crate) clock: Clock,
    pub(crate) site: Arc<Site>,
    pub(crate) display: Display,
    pub(crate) sender: Sender<Message>,
    pub(crate) receiver: Receiver<Message>,
    names: Vec<String>,
    /// Number of the last attempt of each task, over all sessions.
    numbers: Vec<u32>,
    records: Vec<Record>,
    active: BTreeMap<u64, Active>,
    next_job: u64,
    jobs: attempt::Workshop,
    signals: u32,
    /// What the metrics of this run are made from.
    pub(crate) shared: Option<Arc<Mutex<Watched>>>,
    /// When this session last said how far it is.
    told: Option<Duration>,
    fault_after: Option<u64>,
    /// What running attempts print, if somebody wants to see it.
    pub(crate) outputs: Option<Outputs>,
}

impl Engine {
    #[expect(clippy::too_many_arguments, reason = "all of them are owned by the engine from here on")]
    pub(crate) fn new(
        scheduler: Scheduler,
        store: Store,
        run: i64,
        clock: Clock,
        site: Arc<Site>,
        display: Display,
        channel: (Sender<Message>, Receiver<Message>),
        history: &History,
    ) -> Self {
        let plan = scheduler.plan();
        let names: Vec<String> = plan.ids().map(|id| plan.name(id)).collect();
        let last =
            |name: &String| history.tasks.get(name).and_then(|t| t.attempts.last()).map_or(0, |a| a.number);
        let numbers = names.iter().map(last).collect();
        let jobs = attempt::Workshop::new(plan, store.logs(run), store.mark(run));
        let fault_after = std::env::var(FAULT).ok().and_then(|text| text.parse().ok());
        let (sender, receiver) = channel;
        Self {
            scheduler,
            store,
            run,
            clock,
            site,
            display,
            sender,
            receiver,
            names,
            numbers,
            records: Vec::new(),
            active: BTreeMap::new(),
            next_job: 0,
            jobs,
            signals: 0,
            shared: None,
            told: None,
            fault_after,
            outputs: None,
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self, first: Vec<Record>) -> Result<(Summary, Store), DeployError> {
        self.records = first;
        let begun = self.clock.now();
        if let Err(error) = self.work() {
            self.abandon();
            return Err(error);
        }
        self.display.finish();
        let summary = Summary {
            counts: self.scheduler.counts(),
            stopped: self.signals > 0,
            took: self.clock.now().saturating_sub(begun),
        };
        Ok((summary, self.store))
    }

    /// Ends what runs, for nothing may go on that nobody writes down: first as an operator would, because a Terraform that
    /// is killed forgets what it has made.
    fn abandon(&mut self) {
        let running = self.active.len();
        if running > 0 {
            self.display
                .note(&format!("the journal cannot be written: {running} running tasks are asked to end"));
        }
        for hard in [false, true] {
            for active in self.active.values() {
                active.control.stop(hard);
            }
            let until = self.clock.now() + GRACE;
            while !self.active.is_empty() {
                match self.receiver.recv_timeout(until.saturating_sub(self.clock.now())) {
                    Ok(Message::Over { job }) => drop(self.active.remove(&job)),
                    // An operator in a hurry.
                    Ok(Message::Signal) => {
                        self.signals += 1;
                        break;
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
    }

    fn work(&mut self) -> Result<(), DeployError> {
        loop {
            let now = self.clock.now();
            self.scheduler.handle_time(now);
            let mut commands = Vec::new();
            while let Some(command) = self.scheduler.poll_command(now) {
                commands.push(command);
            }
            self.write_down()?;
            self.start(commands);
            if self.scheduler.is_finished() && self.active.is_empty() {
                let over = Record::Over { at_ms: self.clock.at_ms(now), stopped: self.signals > 0 };
                self.records.push(over);
                self.told = None;
                self.tell();
                return self.commit();
            }
            self.tell();
            self.wait();
            let lines = self.outputs.as_mut().map(Outputs::lines);
            self.show(lines.unwrap_or_default());
            self.enforce_deadlines();
        }
    }

    /// Says how far it is: to the display, to the metrics, and now and then to whoever watches from elsewhere.
    fn tell(&mut self) {
        let now = self.clock.now();
        let is_due = self.told.is_none_or(|told| now.saturating_sub(told) >= BEAT);
        if !is_due && self.shared.is_none() && !self.display.wants_progress() {
            return;
        }
        let progress = Progress::of_schedule(&self.scheduler);
        self.display.standing(&progress);
        if let Some(shared) = &self.shared {
            shared.lock().unwrap_or_else(PoisonError::into_inner).progress = progress.clone();
        }
        if is_due {
            self.told = Some(now);
            // Who watches sees less then; what must not be lost is in the records.
            if let Err(error) = self.store.publish(self.run, progress, self.clock.at_ms(now)) {
                self.display.note(&format!("{error}"));
            }
        }
    }

    /// Waits for something to happen, and takes in all that has.
    fn wait(&mut self) {
        let now = self.clock.now();
        let deadlines = self.active.values().map(|active| active.deadline);
        let next = self.scheduler.poll_timeout().into_iter().chain(deadlines).min();
        let pause = next.map_or(REFRESH, |next| next.saturating_sub(now).min(REFRESH));
        match self.receiver.recv_timeout(pause) {
            Ok(message) => self.take_in(message),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
        while let Ok(message) = self.receiver.try_recv() {
            self.take_in(message);
        }
    }

    fn take_in(&mut self, message: Message) {
        let now = self.clock.now();
        match message {
            Message::Process { tasks, pid, log } => {
                let tasks = tasks.iter().map(|task| self.names[task.index()].clone()).collect();
                let started = pccl_launch::identity::started(pid).unwrap_or(0);
                let output = log.display().to_string();
                self.records.push(Record::Process { tasks, pid, started, output });
            }
            Message::Throttled { task, retry_after } => {
                self.scheduler.handle_throttled(now, task, retry_after);
            }
            Message::Ended { task, outcome } => {
                self.scheduler.handle_outcome(now, task, outcome);
            }
            Message::Over { job } => {
                self.active.remove(&job);
                let lines = self.outputs.as_mut().map(|outputs| outputs.finish(job));
                self.show(lines.unwrap_or_default());
            }
            Message::Gate { gate, answer } => self.scheduler.handle_gate(now, gate, answer),
            Message::Signal => self.signal(),
        }
    }

    fn show(&mut self, lines: Vec<Line>) {
        for Line { name, text } in lines {
            let text = self.site.redacted(&text).into_owned();
            self.display.output(&Line { name, text });
        }
    }

    /// The first signal asks everything to end, the second ends it.
    fn signal(&mut self) {
        self.signals += 1;
        let now = self.clock.now();
        self.scheduler.handle_stop(now);
        let hard = self.signals > 1;
        self.display.note(if hard {
            "stopping at once"
        } else {
            "stopping: running tasks are asked to end; once more to end them at once"
        });
        for active in self.active.values_mut() {
            active.control.stop(hard);
            active.asked = true;
            active.deadline = now + GRACE;
        }
    }

    fn enforce_deadlines(&mut self) {
        let now = self.clock.now();
        for active in self.active.values_mut().filter(|active| active.deadline <= now) {
            if self.signals == 0 {
                active.control.time_out(active.asked);
            } else {
                active.control.stop(true);
            }
            active.asked = true;
            active.deadline = now + GRACE;
        }
    }

    /// Turns what the scheduler has decided into records, and writes them.
    fn write_down(&mut self) -> Result<(), DeployError> {
        while let Some(event) = self.scheduler.poll_event() {
            if let Some(record) = self.record(event) {
                self.records.push(record);
            }
        }
        self.commit()
    }

    fn record(&mut self, event: Event) -> Option<Record> {
        let name = |task: TaskId| self.names[task.index()].clone();
        Some(match event {
            Event::Started { at, task, waited, .. } => {
                self.numbers[task.index()] += 1;
                let waited =
                    waited.into_iter().map(|(label, time)| (label.to_owned(), time.as_millis() as u64));
                Record::Intent {
                    at_ms: self.clock.at_ms(at),
                    task: name(task),
                    attempt: self.numbers[task.index()],
                    waited: waited.collect(),
                }
            }
            Event::Ended { at, task, outcome, again_at, .. } => Record::Ended {
                at_ms: self.clock.at_ms(at),
                task: name(task),
                attempt: self.numbers[task.index()],
                outcome,
                again: again_at.is_some(),
            },
            Event::Skipped { at, task, why } => {
                Record::Skipped { at_ms: self.clock.at_ms(at), task: name(task), why }
            }
            Event::Scope { at, scope, limit } => {
                Record::Throttled { at_ms: self.clock.at_ms(at), scope, limit }
            }
            Event::Wave { at, wave } => Record::Wave { at_ms: self.clock.at_ms(at), wave: wave + 1 },
            _ => return None,
        })
    }

    fn commit(&mut self) -> Result<(), DeployError> {
        if self.records.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.records);
        self.fault(&records)?;
        self.store.append(self.run, &records)?;
        for record in &records {
            self.display.record(record);
        }
        if let Some(shared) = &self.shared {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            for record in &records {
                shared.history.apply(record);
            }
        }
        Ok(())
    }

    /// For tests: ends this process, as a power failure would, after so many records.
    fn fault(&mut self, records: &[Record]) -> Result<(), DeployError> {
        let Some(left) = self.fault_after else { return Ok(()) };
        if (records.len() as u64) < left {
            self.fault_after = Some(left - records.len() as u64);
            return Ok(());
        }
        self.store.append(self.run, &records[..left as usize])?;
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        Ok(())
    }

    fn start(&mut self, commands: Vec<Command>) {
        let mut batches: BTreeMap<u32, Vec<TaskId>> = BTreeMap::new();
        for command in commands {
            match command {
                Command::Start { task, .. } if self.scheduler.plan().is_batch(task) => {
                    batches.entry(self.scheduler.plan().task(task).phase).or_default().push(task);
                }
                Command::Start { task, .. } => {
                    let job = self.jobs.single(&self.scheduler, task, self.numbers[task.index()]);
                    self.launch(job);
                }
                Command::Gate { wave, gate } => {
                    let job = self.jobs.gate(&self.scheduler, wave, gate);
                    self.launch(job);
                }
                _ => {}
            }
        }
        for tasks in batches.into_values() {
            let job = self.jobs.batch(&self.scheduler, tasks);
            self.launch(job);
        }
    }

    fn launch(&mut self, job: Job) {
        self.next_job += 1;
        let control = Arc::new(Control::default());
        let deadline = self.clock.now().saturating_add(job.timeout());
        if let Some(outputs) = &mut self.outputs {
            outputs.follow(self.next_job, job.name(), job.log().to_owned());
        }
        self.active.insert(self.next_job, Active { control: Arc::clone(&control), deadline, asked: false });
        attempt::spawn(job, self.next_job, Arc::clone(&self.site), control, self.sender.clone());
    }
}
