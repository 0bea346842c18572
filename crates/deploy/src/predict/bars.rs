//! How good the schedules are, on a deployment like besu-138 and the simulated Azure, over 100 seeds.

use std::time::Duration;

use super::{Rehearsal, Timeline, sample, simulate};
use crate::file::{Deployment, Mode};
use crate::plan::{Plan, Selection};
use crate::random::Random;
use crate::schedule::{Event, Options};

const SEEDS: u64 = 100;

/// 24 regions; 12 resources that the API creates in each, 8 of them at the same time; durations and limits as published.
fn plan(waves: &str) -> Plan {
    let regions: Vec<String> = (1..=24).map(|n| format!("region{n:02}")).collect();
    let phase = |name: &str, after: &str, mean: &str, cv: f64, more: &str| {
        format!(
            "  - name: {name}\n    for_each: targets\n    after: [{after}]\n    run: {{ command: {{ run: [x] }} }}\n    \
             takes: {{ mean: {mean}, cv: {cv} }}\n{more}"
        )
    };
    let infrastructure = "    slots: 8\n    calls:\n      - { scope: arm, kind: write, count: 12 }\n      \
                          - { scope: arm, kind: read, count: 24 }\n      \
                          - { scope: arm, kind: read, count: 3, every: 10s }\n";
    let text = format!(
        "name: besu-like\ntargets: [{}]\nlimits:\n  - scope: arm\n    preset: azure-resource-manager\n\
         phases:\n{}{}{}{}{}{waves}",
        regions.join(", "),
        phase("infrastructure", "", "12m", 0.3, infrastructure),
        phase("kubernetes", "infrastructure", "3m", 0.3, ""),
        phase("besu", "kubernetes", "5m", 0.4, ""),
        phase("monitoring", "besu", "2m", 0.3, ""),
        phase("verification", "monitoring", "1m", 0.3, ""),
    );
    let deployment = Deployment::from_yaml(&text, "bars").unwrap_or_else(|error| panic!("{error}"));
    Plan::new(deployment, &Selection::default()).unwrap()
}

struct Run {
    timeline: Timeline,
    bound: Duration,
}

fn run(plan: &Plan, mode: Mode, seed: u64, stragglers: f64) -> Run {
    let mut random = Random::new(seed);
    let mut durations = sample(plan, &super::estimates(plan), &mut random);
    for duration in &mut durations {
        if random.unit() < stragglers {
            *duration *= 3;
        }
    }
    let options = Options { mode, seed, ..Options::new(plan) };
    let bound = plan.lower_bound(&durations, None, mode == Mode::Auto);
    let timeline = simulate(plan, &options, &Rehearsal::new(durations, seed));
    assert_eq!(timeline.counts.done as usize, plan.tasks.len(), "seed {seed}");
    dependencies_are_kept(plan, &timeline);
    Run { timeline, bound }
}

fn dependencies_are_kept(plan: &Plan, timeline: &Timeline) {
    let mut ends = vec![None; plan.tasks.len()];
    for event in &timeline.events {
        match event {
            Event::Started { at, task, .. } => {
                let before = plan.tasks.iter().enumerate().filter(|(_, t)| {
                    t.target == plan.task(*task).target && t.phase + 1 == plan.task(*task).phase
                });
                for (other, _) in before {
                    assert!(ends[other].is_some_and(|end: Duration| end <= *at), "{task:?} before {other}");
                }
            }
            Event::Ended { at, task, again_at: None, .. } => ends[task.index()] = Some(*at),
            _ => {}
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

fn check_auto(name: &str, plan: &Plan, stragglers: f64) {
    let runs: Vec<Run> = (0..SEEDS).map(|seed| run(plan, Mode::Auto, seed, stragglers)).collect();
    let to_bound = median(runs.iter().map(|r| ratio(r.timeline.makespan, r.bound)).collect());
    let refused = runs.iter().map(|r| r.timeline.refused()).fold(0.0, f64::max);
    println!("{name}: {to_bound:.3} x the lower bound, at most {:.2} % refused", refused * 100.0);
    assert!(to_bound <= 1.15, "{name}: {to_bound}");
    assert!(refused <= 0.01, "{name}: {refused}");
}

#[test]
fn modes_are_as_fast_as_operators_are_told_and_auto_is_near_the_bound() {
    let plan = plan("");
    let of = |mode| (0..SEEDS).map(|seed| run(&plan, mode, seed, 0.0).timeline).collect::<Vec<_>>();
    let sequential = of(Mode::Sequential);
    for (mode, least) in [(Mode::Standard, 6.0), (Mode::Max, 10.0), (Mode::Ultra, 15.0), (Mode::Auto, 15.0)] {
        let timelines = of(mode);
        let faster =
            median(sequential.iter().zip(&timelines).map(|(s, t)| ratio(s.makespan, t.makespan)).collect());
        let minutes = median(timelines.iter().map(|t| t.makespan.as_secs_f64() / 60.0).collect());
        let refused = median(timelines.iter().map(Timeline::refused).collect());
        println!("{mode}: {minutes:.1} min, {faster:.1} x sequential, {:.1} % refused", refused * 100.0);
        assert!(faster >= least, "{mode}: {faster}");
        if mode == Mode::Ultra {
            assert!(refused >= 0.10, "without admission the cloud must refuse: {refused}");
        }
    }
    check_auto("auto", &plan, 0.0);
}

#[test]
fn stragglers_and_waves_do_not_move_auto_away_from_the_bound() {
    check_auto("3 % stragglers", &plan(""), 0.03);
    check_auto("waves 8, 16", &plan("waves: { sizes: [8, 16] }\n"), 0.0);
    check_auto("waves and stragglers", &plan("waves: { sizes: [8, 16], bake: 5m }\n"), 0.03);
}

/// The operators' own file: one Terraform for all regions, whose calls come as its resources do.
#[test]
fn the_deployment_of_chain_138_is_rehearsed_near_its_bound_without_being_refused() {
    let text = include_str!("../../../../deployments/besu-138/deploy.yaml");
    let deployment = Deployment::from_yaml(text, "deploy.yaml").unwrap_or_else(|error| panic!("{error}"));
    let plan = Plan::new(deployment, &Selection::default()).unwrap();
    let runs = (0..20).map(|seed| {
        let durations = sample(&plan, &super::estimates(&plan), &mut Random::new(seed));
        let bound = plan.lower_bound(&durations, None, true);
        let timeline =
            simulate(&plan, &Options { seed, ..Options::new(&plan) }, &Rehearsal::new(durations, seed));
        assert_eq!(timeline.counts.done as usize, plan.tasks.len(), "seed {seed}");
        (ratio(timeline.makespan, bound), timeline.refused())
    });
    let (ratios, refused): (Vec<f64>, Vec<f64>) = runs.unzip();
    let (to_bound, refused) = (median(ratios), refused.into_iter().fold(0.0, f64::max));
    println!("besu-138: {to_bound:.3} x the lower bound, at most {:.2} % refused", refused * 100.0);
    assert!(to_bound <= 1.15 && refused <= 0.01, "{to_bound}, {refused}");
}
