//! `pccl deploy status` and `report`: what has happened.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use pccl_deploy::journal::{History, Standing};
use pccl_deploy::plan::{Plan, TaskId};
use pccl_deploy::report;
use pccl_deploy::schedule::Outcome;
use pccl_engine::{DeployError, Source, Stamp, Store, StoredRun, log_name};

use super::{JournalArgs, ReportArgs, StatusArgs};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::print;

/// Tasks that are listed one by one.
const LISTED: usize = 100;

fn load(path: &Path, journal: &JournalArgs, run: Option<i64>) -> Result<(Store, StoredRun, Plan), CliError> {
    let place = journal.place(path)?;
    let mut store = Store::look(&place)?;
    let stored = store.load(run)?.ok_or_else(|| DeployError::NoRun { folder: place.to_string() })?;
    let then = Source { path: stored.file.clone().into(), text: stored.text.clone() };
    let plan = stored.choices.plan(then.deployment()?)?;
    Ok((store, stored, plan))
}

/// `pccl deploy status`.
pub(super) fn status(args: &StatusArgs) -> Result<Exit, CliError> {
    let (store, stored, plan) = load(&args.file.file, &args.journal, args.run)?;
    let history = &stored.history;
    if args.json {
        print(&[object(&plan, &stored).to_string()]);
        return Ok(Exit::Success);
    }
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
            lines.push(format!("  {:<20} {}", phase.name, counts(&plan, history, &ids)));
        }
    }
    lines.extend(failures(&plan, history, &store, stored.id));
    print(&lines);
    Ok(Exit::Success)
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

fn object(plan: &Plan, stored: &StoredRun) -> serde_json::Value {
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

/// `pccl deploy report`.
pub(super) fn report(args: &ReportArgs) -> Result<Exit, CliError> {
    let (_, stored, plan) = load(&args.file.file, &args.journal, args.run)?;
    let picture = report::of_history(&plan, &stored.history);
    write(&args.output, &report::html(&picture))?;
    if let Some(path) = &args.trace {
        write(path, &report::trace(&picture))?;
    }
    print(&[format!("{} is written", args.output.display())]);
    Ok(Exit::Success)
}

/// Writes a file as a whole.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CliError> {
    fs::write(path, text).map_err(|e| CliError::system(&format!("write {}", path.display()), &e))
}
