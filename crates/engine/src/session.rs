//! A session of a run: begin, go on after a crash, try again what failed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use pccl_deploy::Deployment;
use pccl_deploy::file::{Action, OnUnknown};
use pccl_deploy::journal::{History, Record, Standing};
use pccl_deploy::plan::{Plan, TaskId};
use pccl_deploy::schedule::{Outcome, Prior, Scheduler, Skip};
use pccl_launch::{Keeper, StopError};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::clock::{Clock, now_ms};
use crate::display::Display;
use crate::engine::{self, Engine, Message, Summary};
use crate::failure::DeployError;
use crate::metrics;
use crate::outputs::Outputs;
use crate::reconcile::Earlier;
use crate::runners::Site;
use crate::setup::{self, Choices, Source};
use crate::store::{JournalUrl, Place, Store, StoredRun};
use crate::web::{Listener, TcpAddress};

/// How a session is shown and kept.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Folder of the journal and the outputs.
    pub state: Option<PathBuf>,
    /// Whether what is written is on the disk before anything follows from it.
    pub durable: bool,
    /// Records as JSON.
    pub json: bool,
    /// Only the end.
    pub quiet: bool,
    /// Also what tasks print, line by line.
    pub live: bool,
    /// The journal of a team.
    pub journal: Option<JournalUrl>,
    /// Where metrics of the run are served.
    pub metrics: Option<TcpAddress>,
}

/// `pccl deploy run`.
pub fn begin(source: &Source, choices: &Choices, manner: &Manner) -> Result<(Summary, i64), DeployError> {
    run(source, choices, manner, false)
}

/// `pccl deploy down`: the way back of a file, which is `source` already.
pub fn go_back(source: &Source, choices: &Choices, manner: &Manner) -> Result<(Summary, i64), DeployError> {
    let is_whole = choices.only.is_empty() && choices.skip.is_empty() && choices.from.is_none();
    run(source, choices, manner, is_whole)
}

/// The variables that the newest run was begun with: what it did is undone with the same ones.
pub fn last_vars(source: &Source, manner: &Manner) -> Result<Vec<(String, String)>, DeployError> {
    let name = source.deployment()?.name;
    let place = Place::of(source, &name, manner.state.as_deref(), manner.journal.as_ref());
    match Store::look(&place) {
        Ok(mut store) => Ok(store.load(None)?.map(|run| run.choices.vars).unwrap_or_default()),
        Err(DeployError::NoRun { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn run(
    source: &Source,
    choices: &Choices,
    manner: &Manner,
    clears: bool,
) -> Result<(Summary, i64), DeployError> {
    let plan = choices.plan(source)?;
    let secrets = setup::secrets(&plan)?;
    let place = Place::of(source, &plan.deployment.name, manner.state.as_deref(), manner.journal.as_ref());
    let metrics = manner.metrics.as_ref().map(Listener::bind).transpose()?;
    let mut store = Store::open(&place, manner.durable)?;
    let fence = store.lock(&operator(), now_ms())?;
    let run = store.create(&source.path.display().to_string(), &source.text, choices, now_ms())?;
    let session =
        Session { plan, secrets, base: source.base(), run, fence, history: History::default(), clears };
    let (sender, receiver) = channel();
    let _signals = listen(sender.clone())?;
    session.go(store, Vec::new(), manner, metrics, (sender, receiver)).map(|summary| (summary, run))
}

/// What `resume` and `retry` go on with.
pub enum Again {
    /// What is not finished.
    Resume,
    /// And what failed.
    Retry,
}

/// `pccl deploy resume` and `retry`.
pub fn go_on(
    source: &Source,
    run: Option<i64>,
    only: &[String],
    again: &Again,
    manner: &Manner,
) -> Result<(Summary, i64), DeployError> {
    let name = source.name()?;
    let place = Place::of(source, &name, manner.state.as_deref(), manner.journal.as_ref());
    let metrics = manner.metrics.as_ref().map(Listener::bind).transpose()?;
    let mut store = Store::open(&place, manner.durable)?;
    let fence = store.lock(&operator(), now_ms())?;
    let stored = store.load(run)?;
    let Some(StoredRun { id, text, choices, mut history, .. }) = stored else {
        return Err(DeployError::NoRun { folder: place.to_string() });
    };
    // As it was when the run began: a file that has changed since is for the next run. Its paths are those of whoever
    // goes on with it, who may be on another host.
    let stored = Source { path: source.path.clone(), text };
    let plan = choices.plan(&stored)?;
    plan.check_names(only).map_err(DeployError::Plan)?;
    let secrets = setup::secrets(&plan)?;
    let mut display = Display::new(manner.json, manner.quiet);
    let (sender, receiver) = channel();
    let _signals = listen(sender.clone())?;
    let site = Site::new(stored.base(), secrets.clone(), store.services());
    let earlier =
        Earlier { plan: &plan, history: &history, store: &store, run: id, site, signals: &receiver };
    let mut first = earlier.reconcile(&mut display)?;
    for record in &first {
        history.apply(record);
    }
    let mut tasks = ended_services(&plan, &history, only, &store, &mut display)?;
    if matches!(again, Again::Retry) {
        tasks.extend(failed(&plan, &history, only));
    }
    if !tasks.is_empty() || matches!(again, Again::Retry) {
        let retry = Record::Retry { at_ms: now_ms(), tasks };
        history.apply(&retry);
        first.push(retry);
    }
    let session = Session { plan, secrets, base: stored.base(), run: id, fence, history, clears: false };
    session.go(store, first, manner, metrics, (sender, receiver)).map(|summary| (summary, id))
}

/// Whether `only` is empty, or names a task, its phase, its target or its entry.
fn is_wanted(plan: &Plan, id: TaskId, only: &[String]) -> bool {
    let name = plan.name(id);
    let names = [&name, plan.target_name(id), &plan.phase_of(id).name, plan.entry_name(id)];
    only.is_empty() || only.iter().any(|one| names.contains(&one.as_str()))
}

/// Names of the tasks that failed for good, of those that are wanted.
fn failed(plan: &Plan, history: &History, only: &[String]) -> Vec<String> {
    let is_failed = |name: &String| {
        history.tasks.get(name).is_some_and(|task| {
            task.attempts.last().is_some_and(|last| matches!(last.outcome, Some(Outcome::Failed(_))))
        })
    };
    plan.ids().filter(|id| is_wanted(plan, *id, only)).map(|id| plan.name(id)).filter(is_failed).collect()
}

/// Names of the tasks that were done when their service was ready, which does not run any more; and of those behind them
/// that looked at it, or may be run twice. What has changed something stays as it is: nothing that is done is done again.
fn ended_services(
    plan: &Plan,
    history: &History,
    only: &[String],
    store: &Store,
    display: &mut Display,
) -> Result<Vec<String>, DeployError> {
    let services = store.services();
    let mut ended = Vec::new();
    let is_done =
        |id: TaskId| history.tasks.get(&plan.name(id)).is_some_and(|task| task.standing() == Standing::Done);
    let is_service = |id: &TaskId| !plan.task(*id).left_out && plan.phase_of(*id).run.service().is_some();
    for id in plan.ids().filter(is_service).filter(|id| is_wanted(plan, *id, only)) {
        let name = plan.name(id);
        let fail = |e: StopError| DeployError::System(e.to_string());
        if is_done(id) && services.find(&name).map_err(fail)?.is_none() {
            display.note(&format!("the service of {name} has ended: it is started again"));
            ended.push(id);
        }
    }
    let mut names: Vec<String> = ended.iter().map(|id| plan.name(*id)).collect();
    for id in plan.behind(&ended).into_iter().filter(|id| !ended.contains(id) && is_done(*id)) {
        let phase = plan.phase_of(id);
        if phase.run.only_asks() || phase.on_unknown == OnUnknown::Rerun {
            display.note(&format!("{} asked a service that has ended: it is asked again", plan.name(id)));
            names.push(plan.name(id));
        }
    }
    Ok(names)
}

struct Session {
    plan: Plan,
    secrets: BTreeMap<String, String>,
    base: PathBuf,
    run: i64,
    fence: u64,
    history: History,
    /// Nothing of the deployment is to be left at its end.
    clears: bool,
}

impl Session {
    fn go(
        self,
        store: Store,
        mut first: Vec<Record>,
        manner: &Manner,
        metrics: Option<Listener>,
        channel: (Sender<Message>, Receiver<Message>),
    ) -> Result<Summary, DeployError> {
        let Self { plan, secrets, base, run, fence, history, clears } = self;
        let name = plan.deployment.name.clone();
        let logs = store.logs(run);
        std::fs::create_dir_all(&logs).map_err(|e| DeployError::system("make", &logs, &e))?;
        let clock = Clock::start();
        let display = Display::new(manner.json, manner.quiet);
        let options = Choices::options(&plan, now_ms());
        let mode = options.mode;
        // Asking takes as long as a short task: it is done meanwhile.
        let asked = plan.deployment.clone();
        let tools = thread::spawn(move || tools(&asked));
        let prior = prior(&plan, &history);
        let scheduler = Scheduler::new(plan, options, &prior, clock.now());
        let services = store.services();
        let site = Arc::new(Site::new(base, secrets, services.clone()));
        // The beginning of a session closes what earlier ones skipped, so it stands first.
        first.insert(0, Record::Begun { at_ms: now_ms(), mode, operator: operator(), fence });
        let shared = metrics
            .map(|listener| metrics::serve(listener, run, name.clone(), history.clone()))
            .transpose()?;
        let mut engine = Engine::new(scheduler, store, run, clock, site, display, channel, &history);
        engine.shared = shared;
        engine.outputs = manner.live.then(Outputs::default);
        let (summary, mut store) = engine.run(first)?;
        if let Ok(tools) = tools.join() {
            store.append(run, &[Record::Tools { tools }])?;
        }
        if clears && !summary.stopped && summary.counts.failed + summary.counts.skipped == 0 {
            clear(&services, &mut Display::new(manner.json, manner.quiet))?;
        }
        Ok(summary)
    }
}

/// Stops what earlier runs have started and this one does not name: the file, or its variables, have changed since.
fn clear(services: &Keeper, display: &mut Display) -> Result<(), DeployError> {
    let fail = |e: StopError| DeployError::System(e.to_string());
    for name in services.names().map_err(fail)? {
        if services.stop(&name, engine::GRACE, || false).map_err(fail)? {
            display.note(&format!("stopped the service of {name}, which was left over"));
        }
    }
    Ok(())
}

/// What the scheduler has to know about earlier sessions.
fn prior(plan: &Plan, history: &History) -> BTreeMap<TaskId, Prior> {
    let mut prior = BTreeMap::new();
    for id in plan.ids().filter(|id| !plan.task(*id).left_out) {
        let Some(task) = history.tasks.get(&plan.name(id)) else { continue };
        let tried = || Prior::Tried { attempts: task.counted_attempts() };
        match task.standing() {
            Standing::Done => drop(prior.insert(id, Prior::Done)),
            Standing::Failed(cause) => drop(prior.insert(id, Prior::Failed(cause.clone()))),
            Standing::Tried | Standing::InFlight(_) => drop(prior.insert(id, tried())),
            Standing::Skipped(_) if !task.attempts.is_empty() => {
                match task.attempts.last().map(|a| &a.outcome) {
                    Some(Some(Outcome::Success)) => drop(prior.insert(id, Prior::Done)),
                    _ => drop(prior.insert(id, tried())),
                }
            }
            Standing::New | Standing::Skipped(Skip::Upstream(_) | _) => {}
        }
    }
    prior
}

/// Signals become messages.
fn listen(sender: Sender<Message>) -> Result<signal_hook::iterator::Handle, DeployError> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|e| DeployError::System(format!("failed to listen for signals: {e}")))?;
    let handle = signals.handle();
    thread::spawn(move || {
        for _ in signals.forever() {
            if sender.send(Message::Signal).is_err() {
                return;
            }
        }
    });
    Ok(handle)
}

/// User and host.
pub(crate) fn operator() -> String {
    let user =
        std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "somebody".to_owned());
    let name = rustix::system::uname();
    format!("{user}@{} (process {})", name.nodename().to_string_lossy(), std::process::id())
}

/// Versions of the tools that a deployment needs.
fn tools(deployment: &Deployment) -> BTreeMap<String, String> {
    let actions = deployment.phases.iter().flat_map(|phase| [Some(&phase.run), phase.verify.as_ref()]);
    let mut found = BTreeMap::from([("pccl".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    for action in actions.flatten() {
        let line: &[&str] = match action {
            Action::Terraform(_) => &["terraform", "version"],
            Action::Kubectl(_) => &["kubectl", "version", "--client"],
            Action::Helm(_) => &["helm", "version", "--short"],
            _ => continue,
        };
        found.entry(line[0].to_owned()).or_insert_with(|| {
            let output = std::process::Command::new(line[0]).args(&line[1..]).output();
            let text =
                output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            text.lines().next().unwrap_or("not found").to_owned()
        });
    }
    found
}
