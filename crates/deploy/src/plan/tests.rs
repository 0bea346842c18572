//! Plans: who waits for whom, waves, selections, bounds, and how fast they are made.

#![expect(clippy::format_push_string, reason = "a test may allocate")]

use std::time::{Duration, Instant};

use super::*;

fn plan_of(text: &str) -> Plan {
    plan_with(text, &Selection::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn plan_with(text: &str, selection: &Selection) -> Result<Plan, PlanError> {
    let deployment = Deployment::from_yaml(text, "plan.yaml").unwrap_or_else(|error| panic!("{error}"));
    Plan::new(deployment, selection)
}

const FULL: &str = include_str!("../../examples/full.yaml");

fn waiting_for(plan: &Plan, name: &str) -> Vec<String> {
    let id = plan.by_name()[name];
    let node_name = |node: usize| match node.checked_sub(plan.tasks.len()) {
        None => plan.name(TaskId(node as u32)),
        Some(phase) => format!("all of {}", plan.deployment.phases[phase].name),
    };
    let nodes = 0..plan.tasks.len() + plan.phases.len();
    nodes.filter(|node| plan.dependents.of(*node).contains(&id.0)).map(node_name).collect()
}

#[test]
fn what_stands_behind_tasks_is_found_through_barriers() {
    let plan = plan_of(
        "name: p\ntargets: [a, b]\nphases:\n  - { name: one, for_each: targets, run: { command: { run: [x] } } }\n  \
         - { name: two, for_each: targets, after: [one], run: { command: { run: [x] } } }\n  \
         - { name: all, after: [{ phase: two, all: true }], run: { command: { run: [x] } } }\n  \
         - { name: alone, run: { command: { run: [x] } } }\n",
    );
    let behind = plan.behind(&[plan.by_name()["one/b"]]);
    let names: Vec<String> = behind.into_iter().map(|id| plan.name(id)).collect();
    assert_eq!(names, ["two/b", "all"]);
}

#[test]
fn names_that_are_nothing_are_refused_with_what_was_meant() {
    let plan = plan_of(FULL);
    let name = |name: &str| plan.check_names(&[name.to_owned()]);
    for known in ["besu", "uksouth", "validator-03", "besu/validator-03"] {
        assert_eq!(name(known), Ok(()));
    }
    let Err(PlanError::Selection { hint, .. }) = name("besu/validator-3") else { panic!("it is not known") };
    assert_eq!(hint, "did you mean `besu/validator-03`?");
}

#[test]
fn tasks_wait_for_their_target_their_entry_or_a_barrier() {
    let plan = plan_of(FULL);
    assert_eq!(plan.tasks.len(), 24 + 24 + 48 + 2 + 24 + 24 + 48);
    assert_eq!(waiting_for(&plan, "kubernetes/uksouth"), ["infrastructure/uksouth"]);
    assert_eq!(waiting_for(&plan, "besu/validator-03"), ["kubernetes/uksouth"]);
    assert_eq!(waiting_for(&plan, "contracts/mainnet"), ["all of besu"]);
    assert_eq!(waiting_for(&plan, "monitoring/uksouth"), ["besu/validator-03", "besu/validator-04"]);
    assert_eq!(waiting_for(&plan, "restart/validator-48"), ["all of verification"]);
    assert_eq!(plan.locks, ["deployer/138", "deployer/1"]);
    assert_eq!(plan.scopes[0].name, "arm/main");
}

#[test]
fn ranks_are_the_longest_way_to_the_end() {
    let plan = plan_of(FULL);
    let minutes = |name: &str| plan.task(plan.by_name()[name]).rank.as_secs() / 60;
    assert_eq!(minutes("infrastructure/uksouth"), 12 + 3 + 5 + 2 + 1 + 1);
    assert_eq!(minutes("contracts/mainnet"), 4);
}

#[test]
fn waves_by_sizes_fan_out_and_groups() {
    let sizes = |waves: &str| {
        let text = FULL.replace("sizes: [8, 16]", waves);
        plan_of(&text).waves.iter().map(Vec::len).collect::<Vec<_>>()
    };
    assert_eq!(sizes("sizes: [8, 16]"), [8, 16]);
    assert_eq!(sizes("sizes: [8]"), [8, 16]);
    assert_eq!(sizes("fan_out: 3"), [1, 3, 12, 8]);
    assert_eq!(sizes("groups: [[uksouth], [eastasia, japaneast]]"), [1, 2, 21]);
    let plan = plan_of(FULL);
    let wave = |name: &str| plan.task(plan.by_name()[name]).wave;
    assert_eq!((wave("besu/validator-16"), wave("besu/validator-17")), (0, 1));
    assert_eq!(wave("contracts/mainnet"), 1, "it waits for validators of the last wave");
}

#[test]
fn a_selection_leaves_out_and_keeps_the_order() {
    let only = Selection { only: vec!["besu".into(), "uksouth".into()], ..Selection::default() };
    let plan = plan_with(FULL, &only).unwrap();
    let left: Vec<String> =
        plan.ids().filter(|id| !plan.task(*id).left_out).map(|id| plan.name(id)).collect();
    assert_eq!(left, ["besu/validator-03", "besu/validator-04"]);
    let from =
        Selection { from: Some("monitoring".into()), skip: vec!["restart".into()], ..Selection::default() };
    let plan = plan_with(FULL, &from).unwrap();
    assert_eq!(plan.tasks.iter().filter(|task| !task.left_out).count(), 48);
    let typo = Selection { only: vec!["uksout".into()], ..Selection::default() };
    let Err(PlanError::Selection { hint, .. }) = plan_with(FULL, &typo) else {
        panic!("it should be refused")
    };
    assert_eq!(hint, "did you mean `uksouth`?");
    let nothing = Selection { only: vec!["besu".into()], skip: vec!["besu".into()], ..Selection::default() };
    assert_eq!(plan_with(FULL, &nothing).unwrap_err(), PlanError::Empty);
}

#[test]
fn the_bound_is_the_longest_chain_or_what_the_limits_let_through() {
    let plan = plan_of(FULL);
    let minute = Duration::from_secs(60);
    let durations = vec![minute; plan.tasks.len()];
    let (length, path) = plan.critical_path(&durations);
    assert_eq!((length, path.len()), (6 * minute, 6), "{path:?}");
    assert_eq!(plan.lower_bound(&durations, None, false), 6 * minute);
    let work: u64 = plan.tasks.iter().map(|t| u64::from(t.slots)).sum();
    assert_eq!(plan.lower_bound(&durations, Some(10), false), minute * work as u32 / 10);
    // 5 minutes of baking, and the chain of the first wave up to verification in front.
    assert!(plan.lower_bound(&durations, None, true) >= 11 * minute);
    let writes = (0..24).map(|_| 12.0).sum::<f64>();
    let kinds = &plan.scopes[0].buckets;
    let write = kinds.iter().position(|(kind, ..)| kind == "write").unwrap();
    assert!((plan.calls(0, write, &durations) - writes).abs() < 1e-9);
}

#[test]
fn ten_thousand_tasks_are_planned() {
    let targets: Vec<String> = (0..1_000).map(|n| format!("t{n}")).collect();
    let mut text = format!("name: large\ntargets: [{}]\nphases:\n", targets.join(", "));
    for phase in 0..10 {
        let after = if phase == 0 { String::new() } else { format!("    after: [p{}]\n", phase - 1) };
        text.push_str(&format!(
            "  - name: p{phase}\n    for_each: targets\n{after}    run: {{ command: {{ run: [echo, '{{{{ target.name }}}}'] }} }}\n"
        ));
    }
    let began = Instant::now();
    let plan = plan_of(&text);
    let took = began.elapsed();
    assert_eq!(plan.tasks.len(), 10_000);
    println!("10,000 tasks read, checked and planned in {took:?} (this build)");
}
