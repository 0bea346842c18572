//! What is to be expected of a deployment, in every mode: forecasts from rehearsals, for `pccl deploy plan`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use pccl_deploy::file::Mode;
use pccl_deploy::plan::{Plan, TaskId};
use pccl_deploy::predict::{Forecast, estimates, forecast};

use crate::display::time;
use crate::failure::DeployError;
use crate::setup::Choices;
use crate::store::{Place, Store};

/// Runs whose times are used, newest first.
const LEARNED: u32 = 20;

/// A plan, and what is to be expected of it.
#[derive(Clone, Debug)]
pub struct Outlook {
    plan: Plan,
    forecasts: Vec<Forecast>,
    /// Rehearsals of each mode.
    runs: u32,
    /// Times come from earlier runs, as far as there were some.
    has_history: bool,
    /// The longest chain of tasks, and how long it takes.
    path: Vec<TaskId>,
    length: Duration,
}

impl Outlook {
    /// Rehearses every mode so often, with times of the runs in the journal, else of the file.
    pub fn of(plan: Plan, place: &Place, runs: Option<u32>) -> Result<Self, DeployError> {
        let mut known = estimates(&plan);
        let seen = seen(place)?;
        for (at, phase) in plan.deployment.phases.iter().enumerate() {
            if let Some(figures) = seen.get(&phase.name) {
                known[at] = *figures;
            }
        }
        let runs = runs.unwrap_or_else(|| rehearsals(plan.tasks.len()));
        let of_mode = |mode: Mode| {
            let mut options = Choices::options(&plan, 1);
            options.mode = mode;
            forecast(&plan, &options, &known, runs)
        };
        let forecasts = at_once(&Mode::ALL, of_mode);
        let means: Vec<Duration> = plan.tasks.iter().map(|task| known[task.phase as usize].0).collect();
        let (length, path) = plan.critical_path(&means);
        Ok(Self { plan, forecasts, runs, has_history: !seen.is_empty(), path, length })
    }

    /// For programs.
    pub fn object(&self) -> serde_json::Value {
        serde_json::json!({
            "deployment": self.plan.deployment.name,
            "tasks": self.tasks(),
            "rehearsals": self.runs,
            "waves": self.plan.waves.iter().map(Vec::len).collect::<Vec<_>>(),
            "critical_path": { "seconds": self.length.as_secs_f64(), "tasks": self.path_names() },
            "modes": self.forecasts,
        })
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.summary();
        lines.extend(table(&self.forecasts));
        lines.push(String::new());
        lines.push(format!("critical path  {}: {}", time(self.length), self.path_names().join(" → ")));
        lines.extend(calls(&self.forecasts));
        lines
    }

    fn tasks(&self) -> usize {
        self.plan.tasks.iter().filter(|task| !task.left_out).count()
    }

    fn path_names(&self) -> Vec<String> {
        self.path.iter().map(|id| self.plan.name(*id)).collect()
    }

    fn summary(&self) -> Vec<String> {
        let from = if self.has_history { "earlier runs, else the file" } else { "the file" };
        let waves: Vec<String> = self.plan.waves.iter().map(|wave| wave.len().to_string()).collect();
        vec![
            format!(
                "{}: {} tasks in {} phases for {} targets; times from {from}, each mode rehearsed {} ×",
                self.plan.deployment.name,
                self.tasks(),
                self.plan.deployment.phases.len(),
                self.plan.catalog.targets.len(),
                self.runs
            ),
            format!("waves  {}", waves.join(", ")),
            String::new(),
        ]
    }
}

/// Times that earlier runs took.
fn seen(place: &Place) -> Result<BTreeMap<String, (Duration, f64)>, DeployError> {
    let mut all = BTreeMap::new();
    let mut store = match Store::look(place) {
        Ok(store) => store,
        Err(DeployError::NoRun { .. }) => return Ok(all),
        Err(error) => return Err(error),
    };
    for run in store.runs(LEARNED)? {
        if let Some(stored) = store.load(Some(run))? {
            for (phase, figures) in stored.history.estimates() {
                all.entry(phase).or_insert(figures);
            }
        }
    }
    Ok(all)
}

/// How often each mode is rehearsed: a plan is looked at by a person who waits.
fn rehearsals(tasks: usize) -> u32 {
    (50_000 / tasks.max(1)).clamp(1, 20) as u32
}

/// The forecasts of all modes, made on all cores.
fn at_once(modes: &[Mode], of_mode: impl Fn(Mode) -> Forecast + Sync) -> Vec<Forecast> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut made = Vec::new();
        while let Some((at, mode)) = modes.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            made.push((at, of_mode(*mode)));
        }
        made
    };
    let others = thread::available_parallelism().map_or(1, usize::from).min(modes.len()) - 1;
    let mut made = thread::scope(|scope| {
        let others: Vec<_> = (0..others).map(|_| scope.spawn(work)).collect();
        let mut made = work();
        for other in others {
            match other.join() {
                Ok(more) => made.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        made
    });
    made.sort_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, forecast)| forecast).collect()
}

fn table(forecasts: &[Forecast]) -> Vec<String> {
    let sequential = forecasts.first().map_or(Duration::ZERO, |forecast| forecast.expected);
    let mut lines = vec![format!(
        "{:<11} {:>9} {:>9} {:>9} {:>8} {:>9}  {}",
        "mode", "expected", "worst", "bound", "faster", "refused", "risk"
    )];
    for forecast in forecasts {
        let faster = sequential.as_secs_f64() / forecast.expected.as_secs_f64().max(1e-9);
        lines.push(format!(
            "{:<11} {:>9} {:>9} {:>9} {:>7.1}× {:>8.1}%  {}",
            forecast.mode.name(),
            time(forecast.expected),
            time(forecast.worst),
            time(forecast.bound),
            faster,
            forecast.refused * 100.0,
            forecast.risk
        ));
    }
    lines
}

fn calls(forecasts: &[Forecast]) -> Vec<String> {
    let Some(auto) = forecasts.last().filter(|forecast| !forecast.calls.is_empty()) else {
        return Vec::new();
    };
    let mut lines = vec![String::new(), "API calls in mode auto, and the limit".to_owned()];
    for one in auto.calls.iter().filter(|one| one.served + one.refused > 0).take(20) {
        let (burst, rate) = one.limit;
        lines.push(format!(
            "  {:<28} {:<7} {:>7} calls, {} refused; limit {burst} + {rate:.2}/s",
            one.scope, one.kind, one.served, one.refused
        ));
    }
    lines
}
