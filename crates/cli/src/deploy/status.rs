//! `pccl deploy status` and `report`: what has happened.

use std::fs;
use std::path::Path;

use pccl_deploy::plan::Plan;
use pccl_deploy::report;
use pccl_engine::{DeployError, Source, Store, StoredRun, status};

use super::{JournalArgs, ReportArgs, StatusArgs};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::print;

fn load(path: &Path, journal: &JournalArgs, run: Option<i64>) -> Result<(Store, StoredRun, Plan), CliError> {
    let place = journal.place(path)?;
    let mut store = Store::look(&place)?;
    let stored = store.load(run)?.ok_or_else(|| DeployError::NoRun { folder: place.to_string() })?;
    let then = Source { path: stored.file.clone().into(), text: stored.text.clone() };
    let plan = stored.choices.plan(&then)?;
    Ok((store, stored, plan))
}

/// `pccl deploy status`.
pub(super) fn status(args: &StatusArgs) -> Result<Exit, CliError> {
    let (store, stored, plan) = load(&args.file.file, &args.journal, args.run)?;
    if args.json {
        print(&[status::object(&plan, &stored).to_string()]);
        return Ok(Exit::Success);
    }
    print(&status::lines(&plan, &stored, &store));
    Ok(Exit::Success)
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
