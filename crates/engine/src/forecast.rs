//! What is to be expected of a deployment, in every mode: forecasts from rehearsals, for `pccl deploy plan`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use pccl_deploy::file::Mode;
use pccl_deploy::plan::{Plan, TaskId};
use pccl_deploy::predict::{Forecast, estimates, forecast, outline};

use crate::display::time;
use crate::failure::DeployError;
use crate::setup::Choices;
use crate::store::{Place, Store};

/// Runs whose times are used, newest first.
const LEARNED: u32 = 20;
/// Tasks of all rehearsals of one mode: a plan is looked at by a person who waits.
const REHEARSED: usize = 50_000;
/// Most rehearsals of one mode.
const MOST: u32 = 20;

/// A plan, and what is to be expected of it.
#[derive(Clone, Debug)]
pub struct Outlook {
    plan: Plan,
    /// Of each mode.
    forecasts: Vec<Forecast>,
    /// Times come from earlier runs, as far as there were some.
    has_history: bool,
    /// The longest chain of tasks, and how long it takes.
    path: Vec<TaskId>,
    length: Duration,
}

impl Outlook {
    /// Rehearses every mode so often, with times of the runs in the journal, else of the file. Without a number, small
    /// plans are rehearsed more often than larger ones, and of very large ones only the mode that they are run in.
    pub fn of(plan: Plan, place: &Place, runs: Option<u32>) -> Result<Self, DeployError> {
        let mut known = estimates(&plan);
        let seen = seen(place)?;
        for (at, phase) in plan.deployment.phases.iter().enumerate() {
            if let Some(figures) = seen.get(&phase.name) {
                known[at] = *figures;
            }
        }
        let is_outlined =
            |mode: Mode| runs.is_none() && plan.tasks.len() > REHEARSED && mode != plan.deployment.mode;
        let of_mode = |mode: Mode| {
            let mut options = Choices::options(&plan, 1);
            options.mode = mode;
            if is_outlined(mode) {
                return outline(&plan, &options, &known);
            }
            forecast(&plan, &options, &known, runs.unwrap_or_else(|| rehearsals(plan.tasks.len())))
        };
        let forecasts = at_once(&Mode::ALL, of_mode);
        let means: Vec<Duration> = plan.tasks.iter().map(|task| known[task.phase as usize].0).collect();
        let (length, path) = plan.critical_path(&means);
        Ok(Self { plan, forecasts, has_history: !seen.is_empty(), path, length })
    }

    /// For programs.
    pub fn object(&self) -> serde_json::Value {
        serde_json::json!({
            "deployment": self.plan.deployment.name,
            "tasks": self.tasks(),
            "waves": self.plan.waves.iter().map(Vec::len).collect::<Vec<_>>(),
            "critical_path": { "seconds": self.length.as_secs_f64(), "tasks": self.path_names() },
            "modes": self.forecasts,
        })
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.summary();
        lines.extend(table(&self.forecasts));
        if self.forecasts.iter().any(|forecast| forecast.rehearsals == 0) {
            lines.push(format!(
                "≥ is by formula, for there are more than {REHEARSED} tasks: `--runs 1` rehearses every mode"
            ));
        }
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
                "{}: {} tasks in {} phases for {} targets; times from {from}, rehearsed {} ×",
                self.plan.deployment.name,
                self.tasks(),
                self.plan.deployment.phases.len(),
                self.plan.catalog.targets.len(),
                self.forecasts.iter().map(|forecast| forecast.rehearsals).max().unwrap_or(0)
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

/// How often a mode is rehearsed.
fn rehearsals(tasks: usize) -> u32 {
    (REHEARSED / tasks.max(1)).clamp(1, MOST as usize) as u32
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
        let (expected, worst, refused) = if forecast.rehearsals == 0 {
            (format!("≥ {}", time(forecast.expected)), "–".to_owned(), "–".to_owned())
        } else {
            let refused = format!("{:.1}%", forecast.refused * 100.0);
            (time(forecast.expected), time(forecast.worst), refused)
        };
        lines.push(format!(
            "{:<11} {expected:>9} {worst:>9} {:>9} {faster:>7.1}× {refused:>9}  {}",
            forecast.mode.name(),
            time(forecast.bound),
            forecast.risk
        ));
    }
    lines
}

fn calls(forecasts: &[Forecast]) -> Vec<String> {
    let Some(known) = forecasts.iter().rev().find(|forecast| !forecast.calls.is_empty()) else {
        return Vec::new();
    };
    let mut lines = vec![String::new(), format!("API calls in mode {}, and the limit", known.mode)];
    for one in known.calls.iter().filter(|one| one.served + one.refused > 0).take(20) {
        let (burst, rate) = one.limit;
        lines.push(format!(
            "  {:<28} {:<7} {:>7} calls, {} refused; limit {burst} + {rate:.2}/s",
            one.scope, one.kind, one.served, one.refused
        ));
    }
    lines
}
