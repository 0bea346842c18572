//! Prediction: the scheduler that runs deployments, against clouds in virtual time.

#[cfg(test)]
mod bars;
mod outline;
mod simulate;

use std::time::Duration;

use serde::Serialize;

use crate::file::Mode;
use crate::plan::Plan;
use crate::random::Random;
use crate::schedule::Options;

pub use outline::outline;
pub use simulate::{Rehearsal, ScopeUse, Span, Timeline, simulate};

/// What is to be expected of one mode.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Which.
    pub mode: Mode,
    /// Rehearsals that it comes from; none for an [`outline`].
    pub rehearsals: u32,
    /// Median time.
    pub expected: Duration,
    /// Time that 19 of 20 runs do not exceed.
    pub worst: Duration,
    /// No schedule is faster (median).
    pub bound: Duration,
    /// Calls and refusals of a median run, for each scope and kind.
    pub calls: Vec<ScopeUse>,
    /// Share of calls that are refused, from 0 to 1.
    pub refused: f64,
    /// What may go wrong, in a few words.
    pub risk: String,
}

/// Times of all tasks, by the file's or the journal's estimates: mean and coefficient of variation of each phase.
pub fn sample(plan: &Plan, estimates: &[(Duration, f64)], random: &mut Random) -> Vec<Duration> {
    let time = |phase: u32, random: &mut Random| {
        let (mean, cv) = estimates[phase as usize];
        Duration::from_secs_f64(random.lognormal(mean.as_secs_f64().max(0.001), cv))
    };
    plan.tasks
        .iter()
        .map(|task| if task.left_out { Duration::ZERO } else { time(task.phase, random) })
        .collect()
}

/// What the file says about how long the phases take.
pub fn estimates(plan: &Plan) -> Vec<(Duration, f64)> {
    plan.deployment.phases.iter().map(|phase| (phase.takes.mean.0, phase.takes.cv)).collect()
}

/// Forecast of one mode, from `runs` rehearsals.
pub fn forecast(plan: &Plan, options: &Options, estimates: &[(Duration, f64)], runs: u32) -> Forecast {
    let mut outcomes: Vec<Outcome> = (0..u64::from(runs.max(1)))
        .map(|seed| {
            let mut random = Random::new(options.seed.wrapping_add(seed));
            let durations = sample(plan, estimates, &mut random);
            let waves = options.waves && options.mode == Mode::Auto;
            let bound = plan.lower_bound(&durations, None, waves);
            let (makespan, calls) = simulate::time(plan, options, &Rehearsal::new(durations, seed));
            Outcome { makespan, bound, refused: simulate::refused(&calls), calls }
        })
        .collect();
    outcomes.sort_by_key(|outcome| outcome.makespan);
    let mut bounds: Vec<Duration> = outcomes.iter().map(|outcome| outcome.bound).collect();
    bounds.sort();
    let at = |part: f64| ((outcomes.len() - 1) as f64 * part).round() as usize;
    let (median, worst) = (at(0.5), at(0.95));
    let (worst, bound) = (outcomes[worst].makespan, bounds[median]);
    let Outcome { makespan, calls, refused, .. } = outcomes.swap_remove(median);
    Forecast {
        mode: options.mode,
        rehearsals: outcomes.len() as u32 + 1,
        expected: makespan,
        worst,
        bound,
        calls,
        refused,
        risk: risk(plan, options, refused),
    }
}

/// What is kept of a rehearsal.
struct Outcome {
    makespan: Duration,
    bound: Duration,
    refused: f64,
    calls: Vec<ScopeUse>,
}

fn risk(plan: &Plan, options: &Options, refused: f64) -> String {
    let mut risks = Vec::new();
    if refused >= 0.01 {
        risks.push(format!("{:.0} % of calls refused", refused * 100.0));
    }
    let gradual = options.mode == Mode::Auto && options.waves && plan.waves.len() > 1;
    if !gradual && plan.catalog.targets.len() > 1 && !matches!(options.mode, Mode::Sequential) {
        risks.push("a bad change reaches all targets at once".to_owned());
    }
    if plan.deployment.failures.max.is_none() && !gradual {
        risks.push("no limit on failed targets".to_owned());
    }
    let strict = plan.deployment.failures.max.filter(|_| plan.deployment.failures.strict);
    if let Some(max) = strict.filter(|_| options.mode == Mode::Auto) {
        let at_once = max.of(plan.catalog.targets.len()) + 1;
        return format!("low: failures are limited strictly, so {at_once} targets at once at most");
    }
    if risks.is_empty() { "low".to_owned() } else { risks.join("; ") }
}
