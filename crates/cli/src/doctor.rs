//! `pccl doctor`: what happened, from the flight records of a fleet.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use pccl_observe::story;

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;

/// Options of `pccl doctor`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("what the processes of a fleet did last, by their metrics addresses", "pccl doctor collect 10.0.0.7:9090 10.0.0.8:9090"),
    ("from files that were written on an error, a panic or SIGUSR1", "pccl doctor collect /var/log/pccl"),
]))]
pub(crate) struct DoctorArgs {
    #[command(subcommand)]
    command: DoctorCommand,
}

/// What to look at.
#[derive(Subcommand, Clone, Debug)]
enum DoctorCommand {
    /// Merges flight records into one timeline and points at the first cause
    Collect(CollectArgs),
}

/// Options of `pccl doctor collect`.
#[derive(Args, Clone, Debug)]
struct CollectArgs {
    /// Processes by the address of their metrics (HOST:PORT), and files or folders of flight records
    #[arg(required = true, value_name = "HOST:PORT|FILE|FOLDER")]
    sources: Vec<String>,

    /// Every op, not only those that failed, began again or have not ended
    #[arg(long)]
    all: bool,

    /// Keep the records that were read in this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Collects and tells.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, CliError> {
    let DoctorCommand::Collect(args) = &args.command;
    let (records, unread) = story::read(&args.sources);
    for why in &unread {
        eprintln!("warning: {why}");
    }
    if records.is_empty() {
        return Err(CliError::new(Exit::Input, "failed to collect flight records: none could be read").hint(
            "name processes by their metrics addresses, or files that `kill -USR1` has made them write",
        ));
    }
    if let Some(folder) = &args.out {
        story::keep(folder, &records).map_err(|e| CliError::new(Exit::System, e.to_string()))?;
    }
    let story = story::tell(&records, args.all);
    if args.json {
        let text = serde_json::to_string(&story).map_err(|e| CliError::new(Exit::System, e.to_string()))?;
        output::print(&[text]);
    } else {
        output::print(&story.lines());
    }
    Ok(Exit::Success)
}
