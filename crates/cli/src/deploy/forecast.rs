//! `pccl deploy plan` and `rehearse`: what will happen.

use std::collections::BTreeMap;
use std::time::Duration;

use pccl_deploy::file::Mode;
use pccl_deploy::plan::Plan;
use pccl_deploy::predict::{Forecast, Rehearsal, estimates, forecast, sample, simulate};
use pccl_deploy::random::Random;
use pccl_deploy::report;
use pccl_engine::{Choices, DeployError, Place, Source, Store, time};

use super::{JournalArgs, PlanArgs, RehearseArgs};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::print;

/// Runs whose times are used, newest first.
const LEARNED: u32 = 20;
/// Tasks that are listed one by one.
const LISTED: usize = 200;

/// `pccl deploy plan`.
pub(super) fn plan(args: &PlanArgs) -> Result<Exit, CliError> {
    let source = Source::read(&args.file.file)?;
    let plan = args.choices.plan(source.deployment()?)?;
    let JournalArgs { state, journal } = &args.journal;
    let place = Place::of(&source, &plan.deployment.name, state.as_deref(), journal.as_ref());
    let mut known = estimates(&plan);
    let seen = seen(&place)?;
    for (at, phase) in plan.deployment.phases.iter().enumerate() {
        if let Some(figures) = seen.get(&phase.name) {
            known[at] = *figures;
        }
    }
    let of_mode = |mode: Mode| {
        let mut options = Choices::options(&plan, 1);
        options.mode = mode;
        forecast(&plan, &options, &known, args.runs)
    };
    let forecasts: Vec<Forecast> = Mode::ALL.into_iter().map(of_mode).collect();
    let means: Vec<Duration> = plan.tasks.iter().map(|task| known[task.phase as usize].0).collect();
    let (length, path) = plan.critical_path(&means);
    if args.json {
        let path: Vec<String> = path.iter().map(|id| plan.name(*id)).collect();
        let object = serde_json::json!({
            "deployment": plan.deployment.name,
            "tasks": plan.tasks.iter().filter(|task| !task.left_out).count(),
            "waves": plan.waves.iter().map(Vec::len).collect::<Vec<_>>(),
            "critical_path": { "seconds": length.as_secs_f64(), "tasks": path },
            "modes": forecasts,
        });
        print(&[object.to_string()]);
        return Ok(Exit::Success);
    }
    let mut lines = summary(&plan, !seen.is_empty());
    lines.extend(table(&forecasts));
    lines.push(String::new());
    let names: Vec<String> = path.iter().map(|id| plan.name(*id)).collect();
    lines.push(format!("critical path  {}: {}", time(length), names.join(" → ")));
    lines.extend(calls(&forecasts));
    print(&lines);
    Ok(Exit::Success)
}

/// Times that earlier runs took.
fn seen(place: &Place) -> Result<BTreeMap<String, (Duration, f64)>, CliError> {
    let mut all = BTreeMap::new();
    let mut store = match Store::look(place) {
        Ok(store) => store,
        Err(DeployError::NoRun { .. }) => return Ok(all),
        Err(error) => return Err(error.into()),
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

fn summary(plan: &Plan, has_history: bool) -> Vec<String> {
    let from = if has_history { "earlier runs, else the file" } else { "the file" };
    let waves: Vec<String> = plan.waves.iter().map(|wave| wave.len().to_string()).collect();
    vec![
        format!(
            "{}: {} tasks in {} phases for {} targets; times from {from}",
            plan.deployment.name,
            plan.tasks.iter().filter(|task| !task.left_out).count(),
            plan.deployment.phases.len(),
            plan.catalog.targets.len()
        ),
        format!("waves  {}", waves.join(", ")),
        String::new(),
    ]
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

/// The tasks of a plan, one a line.
pub(super) fn tasks(plan: &Plan) -> Vec<String> {
    let chosen: Vec<_> = plan.ids().filter(|id| !plan.task(*id).left_out).collect();
    let mut lines: Vec<String> = chosen
        .iter()
        .take(LISTED)
        .map(|id| {
            let task = plan.task(*id);
            format!("wave {}  {:<10} {}", task.wave + 1, plan.phase_of(*id).run.runner(), plan.name(*id))
        })
        .collect();
    if chosen.len() > LISTED {
        lines.push(format!("… and {} more", chosen.len() - LISTED));
    }
    lines.push(format!("{} tasks; nothing was run", chosen.len()));
    lines
}

/// `pccl deploy rehearse`.
pub(super) fn rehearse(args: &RehearseArgs) -> Result<Exit, CliError> {
    let source = Source::read(&args.file.file)?;
    let plan = args.choices.plan(source.deployment()?)?;
    let mut random = Random::new(args.seed);
    let durations = sample(&plan, &estimates(&plan), &mut random);
    let options = Choices::options(&plan, args.seed);
    let bound = plan.lower_bound(&durations, None, options.mode == Mode::Auto);
    let rehearsal =
        Rehearsal { failing: args.failing.clamp(0.0, 1.0), ..Rehearsal::new(durations, args.seed) };
    let timeline = simulate(&plan, &options, &rehearsal);
    let efficiency = bound.as_secs_f64() / timeline.makespan.as_secs_f64().max(1e-9) * 100.0;
    let counts = timeline.counts;
    let mut lines = vec![
        format!("{} in mode {}, seed {}, simulated clouds", plan.deployment.name, options.mode, args.seed),
        format!(
            "{}; no schedule is faster than {} ({efficiency:.0} % efficiency)",
            time(timeline.makespan),
            time(bound)
        ),
        format!("{} done, {} failed, {} skipped", counts.done, counts.failed, counts.skipped),
    ];
    for one in timeline.calls.iter().filter(|one| one.served + one.refused > 0).take(20) {
        lines.push(format!("{} {}: {} calls, {} refused", one.scope, one.kind, one.served, one.refused));
    }
    print(&lines);
    if let Some(path) = &args.html {
        let page = report::html(&report::of_timeline(&plan, &timeline));
        super::status::write(path, &page)?;
    }
    Ok(if counts.failed + counts.skipped == 0 { Exit::Success } else { Exit::Partial })
}
