//! How far a run is, from its journal: for people, and as an object.

use std::fmt::Write as _;

use pccl_deploy::journal::{History, Standing};
use pccl_deploy::plan::{Plan, TaskId};
use pccl_deploy::schedule::Outcome;

use crate::attempt::log_name;
use crate::clock::Stamp;
use crate::store::{Store, StoredRun};

/// Tasks that are listed one by one.
const LISTED: usize = 100;

/// A run as lines: what it is, its phases, and what failed, with the places of the output.
pub fn lines(plan: &Plan, stored: &StoredRun, store: &Store) -> Vec<String> {
    let history = &stored.history;
    let mut lines = vec![format!(
        "run {} of {}, begun {}, mode {}",
        stored.id,
        plan.deployment.name,
        Stamp(stored.created_ms),
        history.mode.map_or_else(String::new, |mode| mode.to_string())
    )];
    lines.push(match (history.over, history.sessions.last()) {
        (Some((at, true)), _) => format!("stopped {}; go on: pccl deploy resume", Stamp(at)),
        (Some((at, false)), _) => format!("ended {}", Stamp(at)),
        (None, Some((at, who, _))) => {
            format!("running, or killed: {who} since {}; if nobody runs it: pccl deploy resume", Stamp(*at))
        }
        (None, None) => "never begun".to_owned(),
    });
    for (at, phase) in plan.deployment.phases.iter().enumerate() {
        let ids = plan.phases[at].clone().map(|task| TaskId(task as u32));
        let ids: Vec<TaskId> = ids.filter(|id| !plan.task(*id).left_out).collect();
        if !ids.is_empty() {
            lines.push(format!("  {:<20} {}", phase.name, counts(plan, history, &ids)));
        }
    }
    lines.extend(failures(plan, history, store, stored.id));
    lines
}

fn counts(plan: &Plan, history: &History, ids: &[TaskId]) -> String {
    let (mut done, mut failed, mut flying, mut skipped) = (0, 0, 0, 0);
    for id in ids {
        match history.tasks.get(&plan.name(*id)).map_or(Standing::New, |task| task.standing()) {
            Standing::Done => done += 1,
            Standing::Failed(_) => failed += 1,
            Standing::InFlight(_) => flying += 1,
            Standing::Skipped(_) => skipped += 1,
            Standing::New | Standing::Tried => {}
        }
    }
    let mut text = format!("{done}/{} done", ids.len());
    for (count, word) in [(flying, "in flight"), (failed, "failed"), (skipped, "skipped")] {
        if count > 0 {
            let _ = write!(text, ", {count} {word}");
        }
    }
    text
}

fn failures(plan: &Plan, history: &History, store: &Store, run: i64) -> Vec<String> {
    let mut lines = Vec::new();
    for id in plan.ids() {
        let name = plan.name(id);
        let Some(task) = history.tasks.get(&name) else { continue };
        if let Standing::Failed(cause) = task.standing() {
            lines.push(format!("  {name} failed after {} attempts: {cause}", task.attempts.len()));
            let log = task.attempts.last().map(|last| match &last.process {
                Some((_, _, output)) => output.clone(),
                None => store.logs(run).join(log_name(&name, last.number)).display().to_string(),
            });
            lines.extend(log.map(|log| format!("    output: {log}")));
        }
    }
    let more = lines.len().saturating_sub(2 * LISTED);
    lines.truncate(2 * LISTED);
    if more > 0 {
        lines.push(format!("  … and {} more", more / 2));
    }
    lines
}

/// A run as an object: every task with its state and its last cause of failure.
pub fn object(plan: &Plan, stored: &StoredRun) -> serde_json::Value {
    let word = |standing: Standing<'_>| match standing {
        Standing::New => "new",
        Standing::Done => "done",
        Standing::Failed(_) => "failed",
        Standing::Tried => "tried",
        Standing::InFlight(_) => "in_flight",
        Standing::Skipped(_) => "skipped",
    };
    let task = |id: TaskId| {
        let name = plan.name(id);
        let history = stored.history.tasks.get(&name);
        let last = history.and_then(|task| task.attempts.last()).and_then(|last| last.outcome.as_ref());
        serde_json::json!({
            "task": name,
            "state": word(history.map_or(Standing::New, |task| task.standing())),
            "attempts": history.map_or(0, |task| task.attempts.len()),
            "cause": match last { Some(Outcome::Failed(cause)) => Some(cause.to_string()), _ => None },
        })
    };
    let tasks: Vec<_> = plan.ids().filter(|id| !plan.task(*id).left_out).map(task).collect();
    serde_json::json!({
        "run": stored.id,
        "deployment": plan.deployment.name,
        "begun_ms": stored.created_ms,
        "over": stored.history.over.is_some(),
        "tasks": tasks,
    })
}
