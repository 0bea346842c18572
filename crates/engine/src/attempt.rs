//! Jobs: what one thread does for one attempt, one batch of attempts, or one gate.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use pccl_deploy::file::{Action, Gate, TerraformAction};
use pccl_deploy::plan::{Plan, TaskId};
use pccl_deploy::schedule::{Cause, Outcome, Scheduler};
use pccl_deploy::template::{Renderer, TemplateError};
use pccl_launch::Control;

use crate::engine::Message;
use crate::runners::terraform::{self, Batch};
use crate::runners::{self, Context, Site};

/// Stack of a job's thread: it only waits and reads.
const STACK: usize = 256 * 1024;

/// One thread's work.
#[derive(Debug)]
pub(crate) enum Job {
    /// An attempt of one task.
    Single(Single),
    /// Attempts of tasks that share a Terraform state.
    Batch(Together),
    /// A question between two waves.
    Gate(Single, usize),
}

/// One action, and what must be true afterwards.
#[derive(Debug)]
pub(crate) struct Single {
    task: TaskId,
    action: Result<Action, TemplateError>,
    verify: Option<Result<Action, TemplateError>>,
    paper: Paper,
}

/// Several tasks, one process.
#[derive(Debug)]
pub(crate) struct Together {
    tasks: Vec<TaskId>,
    actions: Result<Vec<TerraformAction>, TemplateError>,
    verifies: Vec<Option<Result<Action, TemplateError>>>,
    is_whole: bool,
    earlier: Vec<PathBuf>,
    paper: Paper,
}

/// What every job has.
#[derive(Debug)]
struct Paper {
    name: String,
    log: PathBuf,
    mark: String,
    timeout: Duration,
    parallelism: Option<u32>,
}

impl Job {
    fn paper(&self) -> &Paper {
        match self {
            Self::Single(single) | Self::Gate(single, _) => &single.paper,
            Self::Batch(batch) => &batch.paper,
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.paper().timeout
    }

    /// The file that its processes write to.
    pub(crate) fn log(&self) -> &Path {
        &self.paper().log
    }

    /// What its output is called: the task, the phase of a batch, the gate.
    pub(crate) fn name(&self) -> &str {
        &self.paper().name
    }
}

/// Makes jobs.
pub(crate) struct Workshop {
    renderer: Renderer,
    logs: PathBuf,
    mark: String,
}

/// File name of the output of an attempt.
pub fn log_name(task: &str, attempt: u32) -> String {
    format!("{}.{attempt}.log", task.replace('/', "__"))
}

impl Workshop {
    pub(crate) fn new(plan: &Plan, logs: PathBuf, mark: String) -> Self {
        Self { renderer: Renderer::new(&plan.deployment, &plan.catalog), logs, mark }
    }

    pub(crate) fn single(&self, scheduler: &Scheduler, task: TaskId, attempt: u32) -> Job {
        let plan = scheduler.plan();
        let (phase, name) = (plan.phase_of(task), plan.name(task));
        let context = self.renderer.context(&phase.name, plan.subject(task));
        let render = |action: &Action| self.renderer.action(action, &context);
        Job::Single(Single {
            task,
            action: render(&phase.run),
            verify: phase.verify.as_ref().map(render),
            paper: Paper {
                log: self.logs.join(log_name(&name, attempt)),
                mark: format!("{}/{name}#{attempt}", self.mark),
                name,
                timeout: phase.timeout.0,
                parallelism: scheduler.parallelism(task),
            },
        })
    }

    pub(crate) fn batch(&self, scheduler: &Scheduler, tasks: Vec<TaskId>) -> Job {
        let plan = scheduler.plan();
        let phase = plan.phase_of(tasks[0]);
        let contexts: Vec<_> =
            tasks.iter().map(|task| self.renderer.context(&phase.name, plan.subject(*task))).collect();
        let action = |context| match self.renderer.action(&phase.run, context)? {
            Action::Terraform(action) => Ok(action),
            other => {
                Err(TemplateError { path: String::new(), reason: format!("{} is no batch", other.runner()) })
            }
        };
        let earlier = batch_logs(&self.logs, &phase.name);
        let number = earlier.len() + 1;
        let range = plan.phases[plan.task(tasks[0]).phase as usize].clone();
        Job::Batch(Together {
            actions: contexts.iter().map(action).collect(),
            verifies: contexts
                .iter()
                .map(|context| Some(self.renderer.action(phase.verify.as_ref()?, context)))
                .collect(),
            is_whole: range.len() == tasks.len(),
            earlier,
            paper: Paper {
                name: phase.name.clone(),
                log: self.logs.join(format!("{}.batch-{number:05}.log", phase.name)),
                mark: format!("{}/{}#batch-{number}", self.mark, phase.name),
                timeout: phase.timeout.0,
                parallelism: tasks.iter().filter_map(|task| scheduler.parallelism(*task)).min(),
            },
            tasks,
        })
    }

    pub(crate) fn gate(&self, scheduler: &Scheduler, wave: u32, gate: usize) -> Job {
        let rules = scheduler.plan().deployment.waves.as_ref().map(|waves| &waves.gates);
        let rule = rules.and_then(|gates| gates.get(gate));
        let context = self.renderer.wave_context(wave as usize + 1);
        let missing = || Err(TemplateError { path: String::new(), reason: "the gate is gone".to_owned() });
        let name = rule.map_or_else(String::new, gate_name);
        let single = Single {
            task: TaskId(0),
            action: rule.map_or_else(missing, |rule| self.renderer.action(&rule.run, &context)),
            verify: None,
            paper: Paper {
                name: format!("gate {name}"),
                log: self.logs.join(format!("gate-{}-{name}.log", wave + 1)),
                mark: format!("{}/{GATE}{name}#{wave}", self.mark),
                timeout: rule.map_or(Duration::from_secs(600), |rule| rule.timeout.0),
                parallelism: None,
            },
        };
        Job::Gate(single, gate)
    }
}

/// In the mark of a gate, before its name.
pub(crate) const GATE: &str = "gate-";

/// What a gate is called in names of files and in marks.
pub(crate) fn gate_name(gate: &Gate) -> String {
    gate.name.replace(['/', ' '], "_")
}

/// Outputs of the batches of a phase, oldest first.
pub(crate) fn batch_logs(logs: &Path, phase: &str) -> Vec<PathBuf> {
    let prefix = format!("{phase}.batch-");
    let mut found: Vec<PathBuf> = fs::read_dir(logs)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Starts the thread of a job.
pub(crate) fn spawn(job: Job, number: u64, site: Arc<Site>, control: Arc<Control>, sender: Sender<Message>) {
    let tell = sender.clone();
    let tasks = match &job {
        Job::Single(single) => vec![single.task],
        Job::Batch(batch) => batch.tasks.clone(),
        Job::Gate(..) => Vec::new(),
    };
    let gate = if let Job::Gate(_, gate) = &job { Some(*gate) } else { None };
    // The engine may be gone: then nobody is left to tell. Who has told already is not heard a second time.
    let give_up = move |what: String| {
        for task in tasks {
            let outcome = Outcome::Failed(Cause::Server { what: what.clone() });
            let _ = tell.send(Message::Ended { task, outcome });
        }
        if let Some(gate) = gate {
            let _ = tell.send(Message::Gate { gate, answer: Err(what) });
        }
        let _ = tell.send(Message::Over { job: number });
    };
    let fail = give_up.clone();
    let started = thread::Builder::new().stack_size(STACK).spawn(move || {
        let worked = catch_unwind(AssertUnwindSafe(|| work(job, &site, &control, &sender)));
        match worked {
            Ok(()) => drop(sender.send(Message::Over { job: number })),
            // A fault of ours ends this attempt, and not the waiting for it.
            Err(_) => fail("pccl has a fault: its message is in the output above".to_owned()),
        }
    });
    if let Err(error) = started {
        give_up(format!("failed to start a thread: {error}"));
    }
}

fn work(job: Job, site: &Site, control: &Control, sender: &Sender<Message>) {
    match job {
        Job::Single(single) => {
            let task = single.task;
            let result = one(&single, &[task], site, control, sender);
            let _ = sender.send(Message::Ended { task, outcome: outcome(result, site) });
        }
        Job::Gate(single, gate) => {
            let result = one(&single, &[], site, control, sender);
            let _ = sender.send(Message::Gate {
                gate,
                answer: result.map_err(|cause| site.discreet(cause).to_string()),
            });
        }
        Job::Batch(batch) => together(&batch, site, control, sender),
    }
}

fn outcome(result: Result<(), Cause>, site: &Site) -> Outcome {
    result.map_or_else(|cause| Outcome::Failed(site.discreet(cause)), |()| Outcome::Success)
}

fn impossible(error: &TemplateError) -> Cause {
    Cause::Impossible { what: error.to_string() }
}

/// Runs an action and then its check.
fn one(
    single: &Single,
    tasks: &[TaskId],
    site: &Site,
    control: &Control,
    sender: &Sender<Message>,
) -> Result<(), Cause> {
    with_context(&single.paper, tasks, site, control, sender, |context| {
        let check = |context: &Context<'_>| verify(single.verify.as_ref(), context);
        match single.action.as_ref().map_err(impossible)? {
            // What must be true afterwards is when it is ready.
            Action::Service(service) => runners::service::run(service, context, &check),
            action => {
                runners::run(action, context)?;
                check(context)
            }
        }
    })
}

fn verify(check: Option<&Result<Action, TemplateError>>, context: &Context<'_>) -> Result<(), Cause> {
    let Some(check) = check else { return Ok(()) };
    runners::run(check.as_ref().map_err(impossible)?, context).map_err(|cause| match cause {
        Cause::Failed { what } | Cause::Server { what } => Cause::NotVerified { what },
        other => other,
    })
}

fn with_context<T>(
    paper: &Paper,
    tasks: &[TaskId],
    site: &Site,
    control: &Control,
    sender: &Sender<Message>,
    body: impl FnOnce(&Context<'_>) -> T,
) -> T {
    let started = |pid| {
        let message = Message::Process { tasks: tasks.to_vec(), pid, log: paper.log.clone() };
        let _ = sender.send(message);
    };
    let throttled = |retry_after| {
        if let Some(task) = tasks.first() {
            let _ = sender.send(Message::Throttled { task: *task, retry_after });
        }
    };
    body(&Context {
        site,
        task: &paper.name,
        control,
        log: &paper.log,
        mark: &paper.mark,
        timeout: paper.timeout,
        parallelism: paper.parallelism,
        started: &started,
        throttled: &throttled,
    })
}

fn together(batch: &Together, site: &Site, control: &Control, sender: &Sender<Message>) {
    let end = |at: usize, result: Result<(), Cause>| {
        let _ = sender.send(Message::Ended { task: batch.tasks[at], outcome: outcome(result, site) });
    };
    let actions = match &batch.actions {
        Ok(actions) => actions,
        Err(error) => return (0..batch.tasks.len()).for_each(|at| end(at, Err(impossible(error)))),
    };
    let told = std::sync::Mutex::new(vec![false; batch.tasks.len()]);
    let has_check = batch.verifies.iter().any(Option::is_some);
    with_context(&batch.paper, &batch.tasks, site, control, sender, |context| {
        let done = |at: usize| {
            // What has to be checked first is told at the end.
            if !has_check && let Ok(mut told) = told.lock() {
                told[at] = true;
                end(at, Ok(()));
            }
        };
        let shared = Batch { actions, is_whole: batch.is_whole, earlier: &batch.earlier, done: &done };
        let results = terraform::run(&shared, context);
        let told = told.lock().map(|told| told.clone()).unwrap_or_default();
        for (at, result) in results.into_iter().enumerate() {
            if told.get(at) != Some(&true) {
                end(at, result.and_then(|()| verify(batch.verifies[at].as_ref(), context)));
            }
        }
    });
}

/// Behind the mark of an attempt: what asked how it had ended.
pub(crate) const CHECK: &str = "-check";

/// Asks the check of a task that was in flight when the engine ended; none if there is none, or if it could not be asked.
pub(crate) fn check_after_crash(single: &Job, site: &Site, control: &Control) -> Option<Result<(), Cause>> {
    let Job::Single(single) = single else { return None };
    single.verify.as_ref()?;
    let (sender, started) = std::sync::mpsc::channel();
    let paper = Paper {
        name: single.paper.name.clone(),
        log: single.paper.log.with_extension("check.log"),
        mark: format!("{}{CHECK}", single.paper.mark),
        timeout: single.paper.timeout,
        parallelism: None,
    };
    with_context(&paper, &[], site, control, &sender, |context| {
        // Somebody else may answer in the place of a service that has ended.
        if matches!(&single.action, Ok(action) if action.service().is_some())
            && let Err(cause) = runners::service::must_run(context)
        {
            return Some(Err(cause));
        }
        let answer = verify(single.verify.as_ref(), context);
        let was_asked = started.try_iter().any(|message| matches!(message, Message::Process { .. }));
        (was_asked || answer.is_ok()).then_some(answer)
    })
}

impl Workshop {
    /// The Terraform address of a task.
    pub(crate) fn address(&self, scheduler: &Scheduler, task: TaskId) -> Option<String> {
        let plan = scheduler.plan();
        let phase = plan.phase_of(task);
        let context = self.renderer.context(&phase.name, plan.subject(task));
        match self.renderer.action(&phase.run, &context) {
            Ok(Action::Terraform(action)) => action.address,
            _ => None,
        }
    }
}
