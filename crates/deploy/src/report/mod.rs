//! The picture of a run: what ran when, what waited for what, where the time went.

mod html;
mod trace;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::file::Mode;
use crate::journal::History;
use crate::plan::{Plan, TaskId};
use crate::predict::Timeline;
use crate::schedule::{Event, Outcome};

pub use html::html;
pub use trace::trace;

/// A run as a picture shows it. Times are since the first attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Name of the deployment.
    pub name: String,
    /// Mode of the last session.
    pub mode: String,
    /// Names of the phases.
    pub phases: Vec<String>,
    /// One row for each task that ran or was skipped.
    pub rows: Vec<Row>,
    /// From the first start to the last end.
    pub length: Duration,
    /// No schedule is faster with the times that the tasks took.
    pub bound: Duration,
    /// Names of the tasks of the longest chain.
    pub critical: Vec<String>,
    /// When which scope was throttled, and its slots afterwards.
    pub throttled: Vec<(Duration, String, u32)>,
    /// Calls of each scope and kind by the plan: name, calls, most at once, refill each second.
    pub calls: Vec<(String, f64, u32, f64)>,
    /// Tools and their versions.
    pub tools: BTreeMap<String, String>,
}

/// One task.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name of the task.
    pub name: String,
    /// Index of its phase.
    pub phase: usize,
    /// Its target; empty for none.
    pub target: String,
    /// Attempts: start, end, and why it failed if it did.
    pub attempts: Vec<(Duration, Duration, Option<String>)>,
    /// What it waited for, by label.
    pub waited: BTreeMap<String, Duration>,
    /// Why it was skipped.
    pub skipped: Option<String>,
    /// Whether it is part of the longest chain.
    pub critical: bool,
}

impl Picture {
    /// Bound divided by length, from 0 to 1.
    pub fn efficiency(&self) -> f64 {
        (self.bound.as_secs_f64() / self.length.as_secs_f64().max(1e-9)).min(1.0)
    }

    /// Where the time of all tasks went: work, attempts that failed, and each kind of waiting.
    pub fn where_time_went(&self) -> Vec<(String, Duration)> {
        let mut sums: BTreeMap<String, Duration> = BTreeMap::new();
        for row in &self.rows {
            for (start, end, failed) in &row.attempts {
                let label = if failed.is_some() { "failed attempts" } else { "work" };
                *sums.entry(label.to_owned()).or_default() += end.saturating_sub(*start);
            }
            for (label, time) in &row.waited {
                *sums.entry(format!("waiting: {label}")).or_default() += *time;
            }
        }
        let mut sums: Vec<(String, Duration)> = sums.into_iter().collect();
        sums.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        sums
    }
}

/// The picture of a rehearsal.
pub fn of_timeline(plan: &Plan, timeline: &Timeline) -> Picture {
    let mut rows: BTreeMap<TaskId, Row> = BTreeMap::new();
    for event in &timeline.events {
        match event {
            Event::Started { task, waited, .. } => {
                let row = rows.entry(*task).or_insert_with(|| empty_row(plan, *task));
                for (label, time) in waited {
                    *row.waited.entry((*label).to_owned()).or_default() += *time;
                }
            }
            Event::Skipped { task, why, .. } => {
                rows.entry(*task).or_insert_with(|| empty_row(plan, *task)).skipped = Some(why.to_string());
            }
            _ => {}
        }
    }
    for span in &timeline.spans {
        let failed = (!span.good).then(|| "rehearsed failure".to_owned());
        if let Some(row) = rows.get_mut(&span.task) {
            row.attempts.push((span.start, span.end, failed));
        }
    }
    let throttled = timeline.events.iter().filter_map(|event| match event {
        Event::Scope { at, scope, limit } => Some((*at, scope.clone(), *limit)),
        _ => None,
    });
    let throttled = throttled.collect();
    let mode = plan.deployment.mode;
    finish(plan, rows, mode, throttled, BTreeMap::new())
}

/// The picture of a run in the journal.
pub fn of_history(plan: &Plan, history: &History) -> Picture {
    let first = history.tasks.values().flat_map(|task| &task.attempts).map(|attempt| attempt.start_ms).min();
    let since = |ms: u64| Duration::from_millis(ms.saturating_sub(first.unwrap_or(ms)));
    let last = history.tasks.values().flat_map(|task| &task.attempts).filter_map(|a| a.end_ms).max();
    let mut rows = BTreeMap::new();
    for id in plan.ids() {
        let Some(task) = history.tasks.get(&plan.name(id)) else { continue };
        let mut row = empty_row(plan, id);
        for attempt in &task.attempts {
            // One that is in flight lasts as long as anything is known.
            let end = attempt.end_ms.or(last).unwrap_or(attempt.start_ms).max(attempt.start_ms);
            let failed = match &attempt.outcome {
                Some(Outcome::Success) => None,
                Some(Outcome::Failed(cause)) => Some(cause.to_string()),
                None => Some("in flight".to_owned()),
            };
            row.attempts.push((since(attempt.start_ms), since(end), failed));
            for (label, ms) in &attempt.waited {
                *row.waited.entry(label.clone()).or_default() += Duration::from_millis(*ms);
            }
        }
        row.skipped = task.skipped.as_ref().map(ToString::to_string);
        rows.insert(id, row);
    }
    let throttled =
        history.throttled.iter().map(|(at, scope, limit)| (since(*at), scope.clone(), *limit)).collect();
    let mode = history.mode.unwrap_or(plan.deployment.mode);
    finish(plan, rows, mode, throttled, history.tools.clone())
}

fn empty_row(plan: &Plan, task: TaskId) -> Row {
    Row {
        name: plan.name(task),
        phase: plan.task(task).phase as usize,
        target: plan.target_name(task).to_owned(),
        attempts: Vec::new(),
        waited: BTreeMap::new(),
        skipped: None,
        critical: false,
    }
}

fn finish(
    plan: &Plan,
    mut rows: BTreeMap<TaskId, Row>,
    mode: Mode,
    throttled: Vec<(Duration, String, u32)>,
    tools: BTreeMap<String, String>,
) -> Picture {
    let mut durations = vec![Duration::ZERO; plan.tasks.len()];
    for (id, row) in &rows {
        let good = row.attempts.iter().rev().find(|(_, _, failed)| failed.is_none());
        durations[id.index()] = good.map_or(Duration::ZERO, |(start, end, _)| end.saturating_sub(*start));
    }
    let (_, path) = plan.critical_path(&durations);
    let path: Vec<TaskId> = path.into_iter().filter(|id| !durations[id.index()].is_zero()).collect();
    for id in &path {
        if let Some(row) = rows.get_mut(id) {
            row.critical = true;
        }
    }
    let calls = plan.scopes.iter().enumerate().flat_map(|(at, scope)| {
        let durations = &durations;
        scope.buckets.iter().enumerate().map(move |(kind, (name, burst, rate))| {
            (format!("{} {name}", scope.name), plan.calls(at, kind, durations), *burst, *rate)
        })
    });
    let calls = calls.filter(|(_, calls, ..)| *calls > 0.0).collect();
    let ends = rows.values().flat_map(|row| &row.attempts).map(|(_, end, _)| *end);
    Picture {
        name: plan.deployment.name.clone(),
        mode: mode.to_string(),
        phases: plan.deployment.phases.iter().map(|phase| phase.name.clone()).collect(),
        length: ends.max().unwrap_or_default(),
        bound: plan.lower_bound(&durations, None, mode == Mode::Auto),
        critical: path.iter().map(|id| plan.name(*id)).collect(),
        throttled,
        calls,
        tools,
        rows: rows.into_values().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Deployment;
    use crate::plan::Selection;
    use crate::predict::{Rehearsal, simulate};
    use crate::schedule::Options;

    fn picture(targets: usize, failing: bool) -> Picture {
        let names: Vec<String> = (0..targets).map(|n| format!("t{n}")).collect();
        let text = format!(
            "name: p\ntargets: [{}]\nlimits: [{{ scope: arm, preset: azure-resource-manager }}]\nphases:\n  \
             - {{ name: one, for_each: targets, run: {{ command: {{ run: [x] }} }}, calls: [{{ scope: arm, kind: write, count: 9 }}] }}\n  \
             - {{ name: '2', for_each: targets, after: [one], run: {{ command: {{ run: [x] }} }} }}\n",
            names.join(", ")
        );
        let plan = Plan::new(Deployment::from_yaml(&text, "p").unwrap(), &Selection::default()).unwrap();
        let times = vec![Duration::from_secs(60); plan.tasks.len()];
        let mut rehearsal = Rehearsal::new(times, 1);
        if failing {
            rehearsal.broken.push(TaskId(0));
        }
        let timeline = simulate(&plan, &Options::new(&plan), &rehearsal);
        of_timeline(&plan, &timeline)
    }

    #[test]
    fn the_page_stands_alone_and_shows_every_task() {
        let picture = picture(24, true);
        let page = html(&picture);
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        for foreign in ["http://", "https://", "src=", "@import", "<script"] {
            assert!(!page.contains(foreign), "the page refers to something outside: {foreign}");
        }
        assert_eq!(page.matches("class=\"name\"").count(), 48);
        assert!(page.contains("one/t0 did not succeed"), "why a task was skipped is on the page");
        assert!(page.contains("prefers-color-scheme: dark"));
        assert!(picture.efficiency() > 0.1 && picture.efficiency() <= 1.0);
    }

    #[test]
    fn two_thousand_tasks_are_drawn() {
        let page = html(&picture(1000, false));
        assert_eq!(page.matches("class=\"name\"").count(), 2000);
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
    }

    #[test]
    fn the_trace_has_one_slice_for_each_attempt() {
        let picture = picture(3, false);
        let trace: serde_json::Value = serde_json::from_str(&trace(&picture)).unwrap();
        let slices = trace["traceEvents"].as_array().unwrap().iter().filter(|event| event["ph"] == "X");
        assert_eq!(slices.count(), 6);
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let mut picture = picture(1, false);
        picture.rows[0].name = "<b>&\"x".to_owned();
        let page = html(&picture);
        assert!(page.contains("&lt;b&gt;&amp;&quot;x") && !page.contains("<b>&"));
    }
}
