//! What is to be expected without a rehearsal: for plans that are too large to be rehearsed in every mode.

use std::time::Duration;

use super::{Forecast, risk};
use crate::file::Mode;
use crate::plan::Plan;
use crate::schedule::Options;

/// Forecast of one mode by formulas, from the means of all times: no schedule of that mode is faster. Waiting for others than
/// those that a task depends on, refused calls and bad luck are not in it.
pub fn outline(plan: &Plan, options: &Options, estimates: &[(Duration, f64)]) -> Forecast {
    let mean = |phase: u32| estimates[phase as usize].0;
    let means: Vec<Duration> =
        plan.tasks.iter().map(|task| if task.left_out { Duration::ZERO } else { mean(task.phase) }).collect();
    let with_waves = options.waves && options.mode == Mode::Auto;
    let expected =
        plan.lower_bound(&means, options.width(), with_waves).max(in_sequence(plan, options, &means));
    Forecast {
        mode: options.mode,
        rehearsals: 0,
        expected,
        worst: expected,
        bound: plan.lower_bound(&means, None, with_waves),
        calls: Vec::new(),
        refused: 0.0,
        risk: risk(plan, options, 0.0),
    }
}

/// One task after the other, or one phase after the other; zero in modes that do neither.
fn in_sequence(plan: &Plan, options: &Options, durations: &[Duration]) -> Duration {
    if options.mode == Mode::Sequential {
        return durations.iter().sum();
    }
    let Some(width) = options.width().filter(|_| matches!(options.mode, Mode::Standard | Mode::Max)) else {
        return Duration::ZERO;
    };
    let of_phase = |(at, range): (usize, &std::ops::Range<usize>)| {
        let longest = durations[range.clone()].iter().max().copied().unwrap_or_default();
        let work: Duration = durations[range.clone()].iter().sum();
        let phase = &plan.deployment.phases[at];
        let of_slots = work * phase.slots.min(width) / width.max(1);
        let of_phase = phase.width.map_or(Duration::ZERO, |width| work / width.max(1));
        longest.max(of_slots).max(of_phase)
    };
    plan.phases.iter().enumerate().map(of_phase).sum()
}

#[cfg(test)]
mod tests {
    use super::super::{estimates, forecast};
    use super::*;
    use crate::file::Deployment;
    use crate::plan::Selection;

    #[test]
    fn no_rehearsal_is_faster_than_the_outline_of_its_mode_and_without_chance_it_is_the_same() {
        let names: Vec<String> = (0..40).map(|n| format!("t{n:02}")).collect();
        let phases = |cv: f64| {
            let one = format!(
                "{{ name: one, for_each: targets, takes: {{ mean: 20s, cv: {cv} }}, run: {{ command: {{ run: [x] }} }} }}"
            );
            let two = format!(
                "{{ name: two, for_each: targets, after: [one], slots: 8, takes: {{ mean: 60s, cv: {cv} }}, run: {{ command: {{ run: [x] }} }} }}"
            );
            format!("name: o\ntargets: [{}]\nphases:\n  - {one}\n  - {two}\n", names.join(", "))
        };
        let plan =
            Plan::new(Deployment::from_yaml(&phases(0.0), "o.yaml").unwrap(), &Selection::default()).unwrap();
        for (mode, seconds) in [
            (Mode::Sequential, 40 * 80),
            (Mode::Standard, 20 + 7 * 60),
            (Mode::Max, 20 + 3 * 60),
            (Mode::Ultra, 80),
            (Mode::Auto, 80),
        ] {
            let options = Options { mode, ..Options::new(&plan) };
            let rehearsed = forecast(&plan, &options, &estimates(&plan), 1);
            let outlined = outline(&plan, &options, &estimates(&plan));
            assert_eq!((rehearsed.rehearsals, outlined.rehearsals), (1, 0));
            let [rehearsed, outlined] =
                [rehearsed, outlined].map(|f| [f.expected, f.bound].map(|t| t.as_secs_f64()));
            assert!((rehearsed[0] - f64::from(seconds)).abs() < 0.1, "{mode}: {rehearsed:?}");
            assert!((rehearsed[1] - outlined[1]).abs() < 0.1, "{mode}: {rehearsed:?} {outlined:?}");
            let part = outlined[0] / rehearsed[0];
            assert!((0.8..1.0001).contains(&part), "{mode}: {rehearsed:?} {outlined:?}");
        }
    }
}
