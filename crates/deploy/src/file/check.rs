//! What a file must fulfil beyond its types: names that exist, numbers that make sense, templates that render.

use std::collections::BTreeSet;

use super::{Action, Deployment, EnvValue, Invariant, Limit, List, Phase, Share, TARGETS, Waves, services};
use crate::error::{FileErrorKind as Kind, Problem, shown, suggestion};
use crate::template::{Catalog, Renderer, TemplateError, disrupts};

/// A problem and the path of its place.
pub(super) type Refusal = (String, Problem);
pub(super) type Check = Result<(), Refusal>;

/// Longest name, in letters: two of them are the name of a file.
const LONGEST_NAME: usize = 100;

/// So many tasks of each phase have their templates rendered: enough to find a target that lacks a value.
const RENDERED: usize = 2000;

pub(super) fn check(file: &Deployment) -> Check {
    name("name", &file.name)?;
    if file.phases.is_empty() {
        return fail("phases", Kind::Missing, "there is no phase: nothing would be done");
    }
    targets(file)?;
    for (at, limit) in file.limits.iter().enumerate() {
        let others = file.limits[..at].iter().map(|l| l.scope.as_str());
        unique(&format!("limits.{at}.scope"), &limit.scope, others)?;
        self::limit(&format!("limits.{at}"), limit)?;
    }
    for at in 0..file.phases.len() {
        phase(file, at)?;
    }
    if file.width == Some(0) {
        return fail("width", Kind::Value, "`width` must be at least 1");
    }
    let catalog = Catalog::new(file).map_err(|e| (e.path.clone(), template_problem(&e)))?;
    names_of_items(file, &catalog)?;
    something(file, &catalog)?;
    for (at, invariant) in file.invariants.iter().enumerate() {
        self::invariant(file, &catalog, &format!("invariants.{at}"), invariant)?;
    }
    if let Some(waves) = &file.waves {
        self::waves(file, waves)?;
    }
    templates(file, &catalog)
}

pub(super) fn fail<T>(path: impl Into<String>, kind: Kind, message: impl Into<String>) -> Result<T, Refusal> {
    Err((path.into(), Problem::new(kind, message)))
}

pub(super) fn fail_with<T>(
    path: impl Into<String>,
    kind: Kind,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Result<T, Refusal> {
    Err((path.into(), Problem::new(kind, message).hint(hint)))
}

fn name(path: &str, name: &str) -> Check {
    let sound = !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !name.starts_with('.');
    if sound && name.len() > LONGEST_NAME {
        let message = format!("a name of {} letters: {}", name.len(), shown(name));
        return fail_with(
            path,
            Kind::Value,
            message,
            format!("at most {LONGEST_NAME}: it becomes part of file names"),
        );
    }
    if sound {
        return Ok(());
    }
    let message = format!("{} cannot be a name", shown(name));
    fail_with(path, Kind::Value, message, "letters, digits, `-`, `_` and `.`: it becomes part of file names")
}

fn unique<'a>(path: &str, name: &str, mut others: impl Iterator<Item = &'a str>) -> Check {
    self::name(path, name)?;
    if others.any(|other| other == name) {
        return fail(path, Kind::Conflict, format!("the name {} stands here twice", shown(name)));
    }
    Ok(())
}

fn known<'a>(path: &str, what: &str, name: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> Check {
    if names.clone().into_iter().any(|other| other == name) {
        return Ok(());
    }
    let message = format!("there is no {what} {}", shown(name));
    fail_with(path, Kind::UnknownName, message, suggestion(name, names))
}

fn targets(file: &Deployment) -> Check {
    let mut seen = BTreeSet::new();
    for (at, target) in file.targets.iter().enumerate() {
        name(&format!("targets.{at}"), &target.name)?;
        if !seen.insert(target.name.as_str()) {
            let message = format!("the target {} stands here twice", shown(&target.name));
            return fail(format!("targets.{at}"), Kind::Conflict, message);
        }
    }
    for (list, entries) in &file.lists {
        let path = format!("lists.{list}");
        name(&path, list)?;
        if list == TARGETS {
            return fail_with(
                path,
                Kind::Conflict,
                "a list cannot be called `targets`",
                "give it another name",
            );
        }
        let List::Items(items) = entries else {
            if file.targets.is_empty() {
                return fail(path, Kind::Missing, "`per_target` needs `targets`");
            }
            continue;
        };
        for (at, item) in items.iter().enumerate() {
            if let Some(target) = item.target.as_deref().filter(|target| !seen.contains(target)) {
                let hint = suggestion(target, seen.iter().copied());
                let message = format!("there is no target {}", shown(target));
                return fail_with(format!("{path}.{at}.target"), Kind::UnknownName, message, hint);
            }
        }
    }
    Ok(())
}

fn names_of_items(file: &Deployment, catalog: &Catalog) -> Check {
    for (list, items) in &catalog.lists {
        let mut seen = BTreeSet::new();
        let generated = matches!(file.lists.get(list), Some(List::Generated(_)));
        for (at, item) in items.iter().enumerate() {
            let path = if generated { format!("lists.{list}.name") } else { format!("lists.{list}.{at}") };
            name(&path, &item.name)?;
            if !seen.insert(item.name.as_str()) {
                let message = format!("the name {} stands in this list twice", shown(&item.name));
                return fail(path, Kind::Conflict, message);
            }
        }
    }
    Ok(())
}

/// Whether any phase has a task.
fn something(file: &Deployment, catalog: &Catalog) -> Check {
    let fits = |phase: &Phase, target: Option<usize>| {
        let labels = target.map(|at| &catalog.targets[at].labels);
        phase.only.iter().all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
    };
    let has_tasks = |phase: &Phase| {
        catalog.subjects(phase.for_each.as_deref()).into_iter().any(|subject| fits(phase, subject.target))
    };
    if file.phases.iter().any(has_tasks) {
        return Ok(());
    }
    let hint = "the list of its `for_each` is empty, or no target has the labels of its `only`";
    fail_with("phases", Kind::Missing, "no phase has anything to do", hint)
}

fn limit(path: &str, limit: &Limit) -> Check {
    let concurrency = limit.concurrency;
    if concurrency.min == 0 || concurrency.min > concurrency.start || concurrency.start > concurrency.max {
        let message = "`concurrency` must have 1 ≤ min ≤ start ≤ max";
        return fail(format!("{path}.concurrency"), Kind::Value, message);
    }
    if !(limit.share > 0.0 && limit.share <= 1.0) {
        let message = "`share` is a part of what the API allows: above 0, and 1 at most";
        return fail(format!("{path}.share"), Kind::Value, message);
    }
    for (kind, bucket) in &limit.buckets {
        if bucket.burst == 0 {
            let path = format!("{path}.buckets.{kind}.burst");
            return fail(path, Kind::Value, "a bucket with `burst` 0 never lets anything through");
        }
    }
    Ok(())
}

fn phase(file: &Deployment, at: usize) -> Check {
    let phase = &file.phases[at];
    let path = format!("phases.{at}");
    let above = || file.phases[..at].iter().map(|p| p.name.as_str());
    unique(&format!("{path}.name"), &phase.name, above())?;
    if let Some(list) = phase.for_each.as_deref().filter(|list| *list != TARGETS) {
        let lists: Vec<&str> = file.lists.keys().map(String::as_str).chain([TARGETS]).collect();
        known(&format!("{path}.for_each"), "list", list, lists)?;
    }
    if phase.for_each.as_deref() == Some(TARGETS) && file.targets.is_empty() {
        return fail(format!("{path}.for_each"), Kind::Missing, "there are no targets in this file");
    }
    for (number, after) in phase.after.iter().enumerate() {
        let path = format!("{path}.after.{number}");
        if file.phases[at..].iter().any(|p| p.name == after.phase) {
            let message = format!("{} does not stand above {}", shown(&after.phase), shown(&phase.name));
            let hint = "phases stand in the order in which they run: move it up";
            return fail_with(path, Kind::Conflict, message, hint);
        }
        known(&path, "phase", &after.phase, above().collect::<Vec<_>>())?;
    }
    numbers(&path, phase)?;
    services::check(&path, phase)?;
    for (number, call) in phase.calls.iter().enumerate() {
        let path = format!("{path}.calls.{number}");
        let scopes: Vec<&str> = file.limits.iter().map(|l| l.scope.as_str()).collect();
        known(&path, "scope", &call.scope, scopes)?;
        let Some(limit) = file.limits.iter().find(|l| l.scope == call.scope) else { continue };
        let buckets = limit.all_buckets();
        known(&path, "kind of call", &call.kind, buckets.keys().map(String::as_str).collect::<Vec<_>>())?;
        if call.every.is_none() && call.count > buckets[&call.kind].burst {
            let burst = buckets[&call.kind].burst;
            let message = format!("one task makes {} calls, and the bucket holds {burst}", call.count);
            return fail_with(
                path,
                Kind::Conflict,
                message,
                "cut the task, or give the bucket a larger `burst`",
            );
        }
        if call.every.is_some_and(|every| every.0.is_zero()) {
            return fail(path, Kind::Value, "`every` must not be 0");
        }
    }
    for (key, action) in actions(phase) {
        self::action(file, &format!("{path}.{key}"), action)?;
    }
    Ok(())
}

fn numbers(path: &str, phase: &Phase) -> Check {
    let fail = |key: &str, message: &str| fail(format!("{path}.{key}"), Kind::Value, message);
    if phase.slots == 0 {
        return fail("slots", "`slots` must be at least 1");
    }
    if phase.width == Some(0) {
        return fail("width", "`width` must be at least 1");
    }
    if phase.retry.attempts == 0 {
        return fail("retry.attempts", "`attempts` must be at least 1: the first one counts");
    }
    if phase.timeout.0.is_zero() {
        return fail("timeout", "`timeout` must not be 0");
    }
    if !(0.0..=10.0).contains(&phase.takes.cv) {
        return fail("takes.cv", "`cv` must be from 0 to 10");
    }
    Ok(())
}

fn actions(phase: &Phase) -> impl Iterator<Item = (&'static str, &Action)> {
    let optional = [("verify", phase.verify.as_ref()), ("undo", phase.undo.as_ref())];
    [("run", &phase.run)].into_iter().chain(optional.into_iter().filter_map(|(key, a)| Some((key, a?))))
}

fn action(file: &Deployment, path: &str, action: &Action) -> Check {
    let secrets = || file.secrets.keys().map(String::as_str).collect::<Vec<_>>();
    for (name, value) in action.references() {
        if let EnvValue::Secret { secret } = value {
            known(&format!("{path}.{}.{name}", action.runner()), "secret", secret, secrets())?;
        }
    }
    let path = format!("{path}.{}", action.runner());
    match action {
        Action::Command(command) if command.run.is_empty() => {
            fail(path, Kind::Missing, "`run` names no program")
        }
        Action::Terraform(terraform) if terraform.parallelism == 0 => {
            fail(format!("{path}.parallelism"), Kind::Value, "`parallelism` must be at least 1")
        }
        Action::Http(http) if !http.url.contains("{{") => self::url(&format!("{path}.url"), &http.url),
        Action::Prometheus(query) if crate::compare::Comparison::parse(&query.expect).is_none() => {
            let message = format!("{} is no comparison", shown(&query.expect));
            fail_with(format!("{path}.expect"), Kind::Value, message, "such as `\">= 32\"` or `\"== 1\"`")
        }
        Action::Prometheus(query) if !query.url.contains("{{") => {
            self::url(&format!("{path}.url"), &query.url)
        }
        Action::Helm(helm) if !helm.uninstall && helm.chart.is_none() => {
            fail_with(path, Kind::Missing, "`chart` is missing here", "add `chart: …`, or `uninstall: true`")
        }
        Action::Kubectl(kubectl)
            if kubectl.apply.is_empty()
                && kubectl.kustomize.is_empty()
                && kubectl.rollout.is_empty()
                && kubectl.wait.is_empty()
                && kubectl.delete.is_empty()
                && kubectl.args.is_empty() =>
        {
            let message = "nothing to do: none of apply, kustomize, rollout, wait, delete, args";
            fail(path, Kind::Missing, message)
        }
        _ => Ok(()),
    }
}

fn url(path: &str, url: &str) -> Check {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Ok(());
    }
    let message = format!("{} is no address", shown(url));
    fail_with(path, Kind::Value, message, "it begins with http:// or https://")
}

fn invariant(file: &Deployment, catalog: &Catalog, path: &str, invariant: &Invariant) -> Check {
    let count = if invariant.of == TARGETS {
        file.targets.len()
    } else {
        let lists: Vec<&str> = file.lists.keys().map(String::as_str).chain([TARGETS]).collect();
        known(&format!("{path}.of"), "list", &invariant.of, lists)?;
        catalog.lists.get(&invariant.of).map_or(0, Vec::len)
    };
    let phases: Vec<&str> = file.phases.iter().map(|p| p.name.as_str()).collect();
    for (at, phase) in invariant.disrupted_by.iter().enumerate() {
        known(&format!("{path}.disrupted_by.{at}"), "phase", phase, phases.clone())?;
    }
    let most = largest_disruption(file, catalog, invariant);
    if invariant.min_up as usize + most > count {
        let message = format!(
            "at least {} of {count} {} must be up, and one task takes down {most}: it could never run",
            invariant.min_up, invariant.of
        );
        return fail(format!("{path}.min_up"), Kind::Conflict, message);
    }
    Ok(())
}

/// How many things of the invariant one task takes down.
fn largest_disruption(file: &Deployment, catalog: &Catalog, invariant: &Invariant) -> usize {
    let all = catalog.subjects(Some(&invariant.of));
    let phases = invariant.disrupted_by.iter().filter_map(|name| file.phase(name));
    let tasks = phases.flat_map(|(_, phase)| catalog.subjects(phase.for_each.as_deref()));
    tasks.map(|task| all.iter().filter(|one| disrupts(task, **one)).count()).max().unwrap_or(0)
}

fn waves(file: &Deployment, waves: &Waves) -> Check {
    let given = [!waves.sizes.is_empty(), waves.fan_out.is_some(), !waves.groups.is_empty()];
    if given.iter().filter(|given| **given).count() != 1 {
        return fail("waves", Kind::Conflict, "`waves` needs exactly one of `sizes`, `fan_out`, `groups`");
    }
    if file.targets.is_empty() {
        return fail("waves", Kind::Missing, "`waves` needs `targets`");
    }
    if waves.sizes.contains(&0) || waves.fan_out == Some(0) {
        return fail("waves", Kind::Value, "a wave of 0 targets makes no sense");
    }
    let names: Vec<&str> = file.targets.iter().map(|t| t.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    for (wave, group) in waves.groups.iter().enumerate() {
        for (at, target) in group.iter().enumerate() {
            let path = format!("waves.groups.{wave}.{at}");
            known(&path, "target", target, names.clone())?;
            if !seen.insert(target) {
                return fail(path, Kind::Conflict, format!("{} is in two waves", shown(target)));
            }
        }
    }
    for (at, gate) in waves.gates.iter().enumerate() {
        let path = format!("waves.gates.{at}.run");
        if matches!(gate.run, Action::Service(_)) {
            return fail(path, Kind::Conflict, "a service is no gate: it does not end");
        }
        action(file, &path, &gate.run)?;
    }
    if let Share::Count(count) = waves.max_failures
        && count as usize > file.targets.len()
    {
        return fail("waves.max_failures", Kind::Value, "more failures than there are targets");
    }
    Ok(())
}

fn templates(file: &Deployment, catalog: &Catalog) -> Check {
    let renderer = Renderer::new(file, catalog);
    for (at, phase) in file.phases.iter().enumerate() {
        for subject in catalog.subjects(phase.for_each.as_deref()).into_iter().take(RENDERED) {
            let context = renderer.context(&phase.name, subject);
            let about = catalog.name(subject);
            let refuse = |path: String, error: &TemplateError| {
                let path = format!("phases.{at}.{path}.{}", error.path);
                let mut problem = template_problem(error);
                if !about.is_empty() {
                    problem.message = format!("{} (for {about})", problem.message);
                }
                (path, problem)
            };
            for (key, action) in actions(phase) {
                renderer.action(action, &context).map_err(|e| refuse(key.to_owned(), &e))?;
            }
            if let Some(lock) = &phase.lock {
                renderer.text(lock, &context).map_err(|e| refuse("lock".to_owned(), &e))?;
            }
            for call in &phase.calls {
                let limit = file.limits.iter().enumerate().find(|(_, l)| l.scope == call.scope);
                let Some((number, key)) = limit.and_then(|(at, l)| Some((at, l.key.as_deref()?))) else {
                    continue;
                };
                renderer
                    .text(key, &context)
                    .map_err(|e| (format!("limits.{number}.key"), refuse(String::new(), &e).1))?;
            }
        }
    }
    let context = renderer.wave_context(1);
    for (at, gate) in file.waves.iter().flat_map(|w| &w.gates).enumerate() {
        renderer
            .action(&gate.run, &context)
            .map_err(|e| (format!("waves.gates.{at}.run.{}", e.path), template_problem(&e)))?;
    }
    Ok(())
}

fn template_problem(error: &TemplateError) -> Problem {
    let hint = "a template may name `target`, `item`, `vars`, `targets`, `lists`, `phase.name` and \
                `deployment.name`; a value that may be missing: `{{ x | default(\"…\") }}`; secrets go through `env`";
    Problem::new(Kind::Template, error.reason.clone()).hint(hint)
}
