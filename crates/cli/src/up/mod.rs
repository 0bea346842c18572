//! `pccl up`: a master and workers on this machine, watched, struck, and judged.

mod display;
mod event;
mod fleet;
mod ledger;

use clap::Args;
use pccl_chaos::Kind;

use self::display::{Json, Terminal};
use self::event::Display;
use self::fleet::Fleet;
use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::worker::ModelArgs;

/// Options of `pccl up`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("four workers, 64 MiB, 20 rounds", "pccl up"),
    ("the same while workers are killed, frozen and added", "pccl up --chaos kill,freeze,join"),
    ("a model of your own, for a program to read", "pccl up --workers 3 --input model.safetensors --json"),
]))]
pub(crate) struct UpArgs {
    /// Workers at the start
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,

    #[command(flatten)]
    model: ModelArgs,

    /// Rounds to do; more if a strike has not hit until then
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,

    /// Strikes inside an op, each at least once
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    chaos: Vec<Kind>,

    /// One JSON object per round, and a last one with the verdict
    #[arg(long)]
    json: bool,

    /// Silence after which a peer is dead, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500, hide = true)]
    heartbeat_timeout_ms: u32,
}

/// Runs the fleet to its end.
pub(crate) fn run(args: &UpArgs) -> Result<Exit, CliError> {
    if args.workers < 2 && args.chaos.iter().any(|kind| *kind != Kind::Join) {
        return Err(CliError::new(
            Exit::Usage,
            "failed to plan the strikes: of one worker that is killed or frozen nobody survives",
        )
        .hint("use --workers 2 or more"));
    }
    let display: Box<dyn Display> = if args.json { Box::new(Json) } else { Box::new(Terminal) };
    Fleet::start(args, display)?.run()
}
