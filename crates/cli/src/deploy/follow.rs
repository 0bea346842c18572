//! `pccl deploy runs`, `watch` and `serve`: what others do.

use pccl_engine::{Ending, Follower, RunView, Stamp};

use super::{PlaceArgs, ServeArgs, StatusArgs, exit_of};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{complain, print};

/// `pccl deploy runs`.
pub(super) fn runs(args: &PlaceArgs) -> Result<Exit, CliError> {
    let mut follower = Follower::new(&args.journal.place(&args.file.file)?)?;
    follower.refresh()?;
    if args.json {
        let runs: Vec<_> = follower.runs().map(RunView::summary).collect();
        print(&[serde_json::json!({ "runs": runs }).to_string()]);
        return Ok(Exit::Success);
    }
    let mut lines = vec![format!(
        "{:>4}  {:<23}  {:<10}  {:<8}  {:>11}  {:>6}  {:>7}  operator",
        "run", "begun", "mode", "state", "done", "failed", "skipped"
    )];
    lines.extend(follower.runs().map(line));
    print(&lines);
    Ok(Exit::Success)
}

fn line(view: &RunView) -> String {
    let total = view.progress().total();
    let mode = view.history.mode.map_or_else(String::new, |mode| mode.to_string());
    let operator = view.history.sessions.last().map_or("", |(_, operator, _)| operator);
    format!(
        "{:>4}  {:<23}  {mode:<10}  {:<8}  {:>11}  {:>6}  {:>7}  {operator}",
        view.id,
        Stamp(view.created_ms).to_string(),
        view.state().word(),
        format!("{}/{}", total.done, total.total),
        total.failed,
        total.skipped,
    )
}

/// `pccl deploy watch`.
pub(super) fn watch(args: &StatusArgs) -> Result<Exit, CliError> {
    let place = args.journal.place(&args.file.file)?;
    let Ending { run, total, stopped } = pccl_engine::watch(&place, args.run, args.json, false)?;
    if !args.json {
        print(&[format!(
            "run {run}: {} done, {} failed, {} skipped",
            total.done, total.failed, total.skipped
        )]);
    }
    Ok(exit_of(stopped, total.failed + total.skipped, total.done))
}

/// `pccl deploy serve`.
pub(super) fn serve(args: &ServeArgs) -> Result<Exit, CliError> {
    let place = args.journal.place(&args.file.file)?;
    pccl_engine::serve(&place, &args.listen, |addr, is_open| {
        // The line that whoever starts us waits for.
        print(&[format!("listening on http://{addr}")]);
        if is_open {
            complain(format_args!(
                "warning: who reaches {addr} reads all runs: nobody is asked who they are"
            ));
        }
    })?;
    Ok(Exit::Success)
}
