//! `pccl checkpoint`: what is kept of the shared state, whether it is whole, and getting it back.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use pccl::{CheckpointError, CheckpointInfo, Checkpoints};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;
use crate::settings::ConfigArgs;
use pccl_observe::table::Table;

/// Options of `pccl checkpoint`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("what is there", "pccl checkpoint list s3://bucket/run-7"),
    ("read all of the newest one and compare it with its hashes", "pccl checkpoint verify /mnt/shared/run-7"),
    ("as one file, for any program that reads safetensors", "pccl checkpoint restore /mnt/shared/run-7 --output model.safetensors"),
]))]
pub(crate) struct CheckpointArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// The checkpoints that are there, the newest first
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// One JSON object a line instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Read a checkpoint and compare it with its hashes
    Verify {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        which: Which,
        /// Every complete one
        #[arg(long, conflicts_with = "revision")]
        all: bool,
    },
    /// Write a checkpoint as one safetensors file
    Restore {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        which: Which,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// Where.
#[derive(Args, Clone, Debug)]
struct PlaceArgs {
    /// A directory, s3://bucket/folder, az://container/folder or gs://bucket/folder [default: fault_tolerance.checkpoint_url]
    place: Option<String>,

    #[command(flatten)]
    config: ConfigArgs,
}

/// Which of them.
#[derive(Args, Clone, Debug)]
struct Which {
    /// The peer group
    #[arg(long, value_name = "N", default_value_t = 0)]
    group: u32,

    /// The revision of the shared state [default: the newest]
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
}

/// Looks, reads, and writes what was asked for.
pub(crate) fn run(args: &CheckpointArgs) -> Result<Exit, CliError> {
    match &args.command {
        Command::List { place, json } => list(&open(place)?, *json),
        Command::Verify { place, which, all } => verify(&open(place)?, which, *all),
        Command::Restore { place, which, output } => {
            let checkpoints = open(place)?;
            let info = checkpoints.get(which.group, which.revision)?;
            let bytes = checkpoints.export(&info, output)?;
            let (revision, file) = (info.revision, output.display());
            output::print(&[format!("revision {revision} of group {}: {bytes} bytes in {file}", info.group)]);
            Ok(Exit::Success)
        }
    }
}

fn open(args: &PlaceArgs) -> Result<Checkpoints, CliError> {
    let place = match &args.place {
        Some(place) => Some(place.clone()),
        None => args.config.load()?.fault_tolerance.checkpoint_url,
    };
    let place = place.ok_or_else(|| {
        CliError::new(Exit::Usage, "failed to find checkpoints: no place is given")
            .hint("name it, or set fault_tolerance.checkpoint_url in pccl_config.yaml")
    })?;
    Ok(Checkpoints::open(&place)?)
}

fn list(checkpoints: &Checkpoints, json: bool) -> Result<Exit, CliError> {
    let all = checkpoints.list()?;
    if json {
        let line = |info: &CheckpointInfo| {
            serde_json::json!({
                "name": info.name, "group": info.group, "revision": info.revision, "epoch": info.epoch,
                "run": info.run, "bytes": info.bytes, "completed_ms": info.completed_ms,
            })
            .to_string()
        };
        output::print(&all.iter().map(line).collect::<Vec<_>>());
        return Ok(Exit::Success);
    }
    if all.is_empty() {
        output::print(&["no checkpoints"]);
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["group", "revision", "epoch", "<run", "MB", "<complete since"]);
    for info in &all {
        table.push([
            info.group.to_string(),
            info.revision.to_string(),
            info.epoch.to_string(),
            info.run.clone(),
            format!("{:.1}", info.bytes as f64 * 1e-6),
            info.completed_ms.map_or_else(|| "not complete".to_owned(), ago),
        ]);
    }
    output::print(&table.lines());
    Ok(Exit::Success)
}

fn verify(checkpoints: &Checkpoints, which: &Which, all: bool) -> Result<Exit, CliError> {
    let chosen = if all {
        checkpoints
            .list()?
            .into_iter()
            .filter(|c| c.group == which.group && c.completed_ms.is_some())
            .collect()
    } else {
        vec![checkpoints.get(which.group, which.revision)?]
    };
    let mut exit = Exit::Success;
    for info in chosen {
        let line = match checkpoints.verify(&info) {
            Ok(bytes) => format!("revision {}: whole, {bytes} bytes", info.revision),
            Err(error @ (CheckpointError::Damaged { .. } | CheckpointError::Version { .. })) => {
                exit = Exit::Failed;
                format!("revision {}: {error}", info.revision)
            }
            Err(error) => return Err(error.into()),
        };
        output::print(&[line]);
    }
    Ok(exit)
}

/// How long ago a moment was: `3 min ago`.
fn ago(moment_ms: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let then = Duration::from_millis(u64::try_from(moment_ms).unwrap_or(0));
    match now.saturating_sub(then).as_secs() {
        s @ 0..120 => format!("{s} s ago"),
        s @ 120..7_200 => format!("{} min ago", s / 60),
        s @ 7_200..172_800 => format!("{} h ago", s / 3_600),
        s => format!("{} days ago", s / 86_400),
    }
}

impl From<CheckpointError> for CliError {
    fn from(error: CheckpointError) -> Self {
        let exit = match error {
            CheckpointError::Access { .. } => Exit::Connect,
            CheckpointError::Damaged { .. } | CheckpointError::Version { .. } => Exit::Failed,
            CheckpointError::File { .. } => Exit::System,
            _ => Exit::Input,
        };
        Self::new(exit, error.to_string()).hint(error.hint())
    }
}
