//! How a plan is made.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Call, Edges, Plan, PlanError, Scope, Selection, Task};
use crate::file::Deployment;
use crate::template::{Catalog, Renderer, Subject, disrupts};

pub(super) fn build(deployment: Deployment, selection: &Selection) -> Result<Plan, PlanError> {
    selection.check(&deployment)?;
    let catalog = Catalog::new(&deployment)
        .map_err(|error| PlanError::Template { place: error.path.clone(), error })?;
    let mut names = Names::default();
    let (tasks, phases) = tasks(&deployment, &catalog, selection, &mut names)?;
    if tasks.iter().all(|task| task.left_out) {
        return Err(PlanError::Empty);
    }
    let (dependents, dependency_counts) = edges(&deployment, &tasks, &phases);
    let invariant_sizes = deployment.invariants.iter().map(|i| catalog.subjects(Some(&i.of)).len()).collect();
    let waves = super::waves::waves(&deployment);
    let mut plan = Plan {
        deployment,
        catalog,
        tasks,
        phases,
        scopes: names.scopes,
        locks: names.locks,
        waves,
        invariant_sizes,
        dependents,
        dependency_counts,
    };
    rank(&mut plan);
    assign_waves(&mut plan);
    Ok(plan)
}

/// Scopes and locks, each text once.
#[derive(Default)]
struct Names {
    scopes: Vec<Scope>,
    scope_index: BTreeMap<String, u32>,
    locks: Vec<String>,
    lock_index: BTreeMap<String, u32>,
}

impl Names {
    fn scope(&mut self, deployment: &Deployment, limit: usize, key: Option<String>) -> u32 {
        let rule = &deployment.limits[limit];
        let name = key.map_or_else(|| rule.scope.clone(), |key| format!("{}/{key}", rule.scope));
        if let Some(at) = self.scope_index.get(&name) {
            return *at;
        }
        let buckets = rule.all_buckets();
        let buckets = buckets.into_iter().map(|(kind, b)| (kind, b.burst, b.refill.per_second())).collect();
        let at = self.scopes.len() as u32;
        self.scopes.push(Scope { name: name.clone(), limit, buckets });
        self.scope_index.insert(name, at);
        at
    }

    fn lock(&mut self, text: String) -> u32 {
        let next = self.locks.len() as u32;
        *self.lock_index.entry(text).or_insert_with_key(|text| {
            self.locks.push(text.clone());
            next
        })
    }
}

type Tasks = (Vec<Task>, Vec<std::ops::Range<usize>>);

fn tasks(
    deployment: &Deployment,
    catalog: &Catalog,
    selection: &Selection,
    names: &mut Names,
) -> Result<Tasks, PlanError> {
    let renderer = Renderer::new(deployment, catalog);
    let (mut tasks, mut phases) = (Vec::new(), Vec::new());
    for (at, phase) in deployment.phases.iter().enumerate() {
        let begin = tasks.len();
        let disrupted = disrupted(deployment, catalog, &phase.name);
        for subject in catalog.subjects(phase.for_each.as_deref()) {
            let target = subject.target.map(|target| &catalog.targets[target]);
            let fits = phase.only.iter().all(|(k, v)| target.is_some_and(|t| t.labels.get(k) == Some(v)));
            if !fits {
                continue;
            }
            let fail = |what: &str, error| PlanError::Template {
                place: format!("{what} of {}/{}", phase.name, catalog.name(subject)),
                error,
            };
            let text = |what: &str, template: &str| {
                if !template.contains('{') {
                    return Ok(template.to_owned());
                }
                let context = renderer.context(&phase.name, subject);
                renderer.text(template, &context).map_err(|error| fail(what, error))
            };
            let lock = phase.lock.as_deref().map(|lock| text("lock", lock)).transpose()?;
            let mut calls = Vec::new();
            for call in &phase.calls {
                let limit = deployment.limits.iter().position(|l| l.scope == call.scope);
                let Some(limit) = limit else { continue };
                let key = deployment.limits[limit].key.as_deref();
                let key = key.map(|key| text("the scope", key)).transpose()?;
                let scope = names.scope(deployment, limit, key);
                let kinds = &names.scopes[scope as usize].buckets;
                let Some(bucket) = kinds.iter().position(|(kind, ..)| *kind == call.kind) else { continue };
                let every = call.every.map(|every| every.0);
                calls.push(Call { scope, bucket: bucket as u32, count: call.count, every });
            }
            let name = catalog.name(subject);
            tasks.push(Task {
                phase: at as u32,
                target: subject.target.map(|target| target as u32),
                item: subject.item.map(|(_, item)| item as u32),
                wave: 0,
                slots: phase.slots,
                calls: calls.into(),
                lock: lock.map(|lock| names.lock(lock)),
                disrupts: disrupted
                    .iter()
                    .filter(|(_, _, one)| disrupts(subject, *one))
                    .map(|(invariant, thing, _)| (*invariant, *thing))
                    .collect(),
                left_out: !selection.has(deployment, at, name, target.map(|t| t.name.as_str())),
                rank: Duration::ZERO,
            });
        }
        phases.push(begin..tasks.len());
    }
    Ok((tasks, phases))
}

/// The things of invariants that tasks of a phase may take down.
fn disrupted<'a>(deployment: &'a Deployment, catalog: &Catalog, phase: &str) -> Vec<(u32, u32, Subject<'a>)> {
    let mut all = Vec::new();
    for (at, invariant) in deployment.invariants.iter().enumerate() {
        if invariant.disrupted_by.iter().any(|name| name == phase) {
            let things = catalog.subjects(Some(&invariant.of)).into_iter().enumerate();
            all.extend(things.map(|(thing, subject)| (at as u32, thing as u32, subject)));
        }
    }
    all
}

/// Who waits for whom. Nodes behind the tasks are the barriers of the phases.
fn edges(deployment: &Deployment, tasks: &[Task], phases: &[std::ops::Range<usize>]) -> (Edges, Vec<u32>) {
    let mut by_target: Vec<BTreeMap<u32, Vec<u32>>> = vec![BTreeMap::new(); phases.len()];
    let mut by_item: Vec<BTreeMap<u32, u32>> = vec![BTreeMap::new(); phases.len()];
    for (at, task) in tasks.iter().enumerate() {
        let phase = task.phase as usize;
        if let Some(target) = task.target {
            by_target[phase].entry(target).or_default().push(at as u32);
        }
        if let Some(item) = task.item {
            by_item[phase].insert(item, at as u32);
        }
    }
    let targeted: Vec<bool> =
        phases.iter().map(|range| tasks[range.clone()].iter().all(|task| task.target.is_some())).collect();
    let mut pairs: Vec<(u32, u32)> = Vec::new();
    for (at, task) in tasks.iter().enumerate() {
        let phase = &deployment.phases[task.phase as usize];
        for after in &phase.after {
            let Some((other, rule)) = deployment.phase(&after.phase) else { continue };
            let barrier = (tasks.len() + other) as u32;
            let same_list = rule.for_each.is_some() && rule.for_each == phase.for_each;
            if phases[other].is_empty() {
                continue;
            }
            if after.all {
                pairs.push((barrier, at as u32));
            } else if let Some(item) = task.item.filter(|_| same_list) {
                pairs.extend(by_item[other].get(&item).map(|from| (*from, at as u32)));
            } else if let Some(target) = task.target.filter(|_| targeted[other]) {
                let from = by_target[other].get(&target).into_iter().flatten();
                pairs.extend(from.map(|from| (*from, at as u32)));
            } else {
                pairs.push((barrier, at as u32));
            }
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    let mut counts = vec![0; tasks.len()];
    let mut starts = vec![0; tasks.len() + phases.len() + 1];
    for (from, to) in &pairs {
        counts[*to as usize] += 1;
        starts[*from as usize + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    (Edges { starts, ends: pairs.into_iter().map(|(_, to)| to).collect() }, counts)
}

/// Upward ranks, from the last task to the first.
fn rank(plan: &mut Plan) {
    let longest = |plan: &Plan, node: usize| {
        plan.dependents.of(node).iter().map(|to| plan.tasks[*to as usize].rank).max().unwrap_or_default()
    };
    for phase in (0..plan.phases.len()).rev() {
        let behind_all = longest(plan, plan.tasks.len() + phase);
        let mean = plan.deployment.phases[phase].takes.mean.0;
        for at in plan.phases[phase].clone() {
            let own = if plan.tasks[at].left_out { Duration::ZERO } else { mean };
            plan.tasks[at].rank = own + longest(plan, at).max(behind_all);
        }
    }
}

/// A task belongs to its target's wave, or to that of what it waits for, whichever comes later.
fn assign_waves(plan: &mut Plan) {
    let mut of_target = vec![0; plan.catalog.targets.len()];
    for (wave, targets) in plan.waves.iter().enumerate() {
        for target in targets {
            of_target[*target] = wave as u32;
        }
    }
    for phase in 0..plan.phases.len() {
        let mut last = 0;
        for at in plan.phases[phase].clone() {
            let own = plan.tasks[at].target.map_or(0, |target| of_target[target as usize]);
            let wave = plan.tasks[at].wave.max(own);
            plan.tasks[at].wave = wave;
            last = last.max(wave);
            raise(plan, at, wave);
        }
        raise(plan, plan.tasks.len() + phase, last);
    }
}

/// What waits for a node comes no earlier than this wave.
fn raise(plan: &mut Plan, node: usize, wave: u32) {
    for to in plan.dependents.of(node).to_vec() {
        let task = &mut plan.tasks[to as usize];
        task.wave = task.wave.max(wave);
    }
}
