//! `pccl worker`: a peer that holds a model, moves it, and averages it with the others', round by round.

mod agree;
mod leave;
pub(crate) mod load;
mod model;
mod pace;
mod report;
mod resume;
mod rounds;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use pccl::Ports;
use pccl_config::Config;
use pccl_observe::flight;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

pub(crate) use model::Source;
pub(crate) use pace::Order;
pub(crate) use report::{RoundReport, WorkerEvent, recoveries};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;
use crate::peer::{self, PeerArgs};
use crate::reload::Reload;
use crate::settings;
use crate::supervised;
use pace::Pace;
use pccl_config::ByteSize;
use report::Audience;
use resume::{CheckpointArgs, Demand};
use rounds::{Start, Worker};

/// Options of `pccl worker`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = exit::help(&[
    ("on each of three machines", "pccl worker --master 10.0.0.7:7117 --workers 3 --rounds 100"),
    ("average a model of your own", "pccl worker --master 10.0.0.7 --input model.safetensors"),
]))]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    peer: PeerArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    checkpoints: CheckpointArgs,

    /// Rounds to do [default: until Ctrl-C]
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,

    /// Workers to wait for before the first round
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: u32,

    /// Seconds to rest after each round
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pause: Duration,

    /// Events as lines of JSON
    #[arg(long)]
    json: bool,

    /// Started by another pccl: orders on standard input, events on standard output, any free port
    #[arg(long, hide = true)]
    supervised: bool,

    #[command(subcommand)]
    order: Option<WorkerOrder>,
}

/// To a worker that runs on this machine.
#[derive(Subcommand, Clone, Debug)]
enum WorkerOrder {
    /// Let it leave the run after its round; the others go on without a recovery
    Leave(leave::LeaveArgs),
}

/// Which model.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// Size of the made-up model
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = model_size)]
    pub(crate) bytes: ByteSize,

    /// The model in these safetensors files instead of a made-up one
    #[arg(long, value_name = "FILE", num_args = 1.., value_delimiter = ',', conflicts_with = "bytes")]
    pub(crate) input: Vec<PathBuf>,

    /// What the made-up model is made from; all workers of a run need the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or_else(|| "a number of seconds, such as 1 or 0.5".to_owned())
}

fn model_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size.0 > 0 && size.0.is_multiple_of(4) {
        Ok(size)
    } else {
        Err("a model of f32 values has a positive multiple of 4 bytes".to_owned())
    }
}

impl ModelArgs {
    /// Where it comes from.
    pub(crate) fn source(&self) -> Source {
        if self.input.is_empty() {
            Source::Seed(self.bytes, self.seed)
        } else {
            Source::Files(self.input.clone())
        }
    }

    /// The option again, for a child; the seed is another one.
    pub(crate) fn to_arg(&self) -> String {
        if self.input.is_empty() {
            return format!("--bytes={}", self.bytes.0);
        }
        // A comma is no part of a path: it has stood between two already.
        let paths: Vec<String> = self.input.iter().map(|path| path.display().to_string()).collect();
        format!("--input={}", paths.join(","))
    }
}

/// Runs until all rounds are done.
pub(crate) fn run(args: &WorkerArgs) -> Result<Exit, CliError> {
    if let Some(WorkerOrder::Leave(args)) = &args.order {
        return leave::run(args);
    }
    let (config, metrics, log) = if args.supervised {
        pccl_launch::parent::die_with_parent();
        settings::start_child_log()?;
        (Config::default(), None, None)
    } else {
        let config = args.peer.config.load()?;
        let log = settings::start_log("worker", &config)?;
        let metrics = settings::start_metrics(&config);
        (config, metrics, Some(log))
    };
    let security = settings::security(&config)?;
    let pace = Pace::new(args.rounds.unwrap_or(u64::MAX), args.supervised);
    let demand = Demand::default();
    if let Some(log) = log {
        let reload = Reload::new(&args.peer.config, &config, log, security.as_ref());
        leave_on_signals(&pace, &demand, reload)?;
    } else {
        let pace = pace.clone();
        supervised::follow(move |order: Order| pace.obey(order));
    }
    let mut options = peer::options(&args.peer, &config, security.as_ref())?;
    if args.supervised {
        options = options.ports(Ports::Any);
    }
    options = match &metrics {
        Some((metrics, _)) => options.metrics(metrics.clone()),
        None => options.metrics_address("off"),
    };
    if let Some(checkpoints) = args.checkpoints.options(&config) {
        options = options.checkpoints(checkpoints);
    }
    let mut model = args.model.source().model()?;
    let resumed = args.checkpoints.resume(&config, args.peer.group(&config), &mut model)?;
    let audience = if args.supervised || args.json { Audience::Program } else { Audience::Person };
    let start = Start { model, resumed, wanted: args.workers, pause: args.pause, demand };
    Worker::connect(&options, start, pace, audience)?.run()?;
    Ok(Exit::Success)
}

/// The first Ctrl-C (or SIGTERM) lets the worker leave after its round, the second Ctrl-C ends it at once: supervisors send
/// more than one SIGTERM to be sure (Kubernetes after a preStop hook), and have SIGKILL for what lasts too long. SIGUSR1
/// asks for the flight record now, SIGUSR2 for a checkpoint after the next round, SIGHUP for new settings.
fn leave_on_signals(pace: &Pace, demand: &Demand, mut reload: Option<Reload>) -> Result<(), CliError> {
    let (pace, demand) = (pace.clone(), demand.clone());
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2])
        .map_err(|error| CliError::system("watch for signals", &error))?;
    thread::spawn(move || {
        for signal in signals.forever() {
            match (signal, &mut reload) {
                (SIGHUP, Some(reload)) => reload.now(),
                (SIGUSR1, _) => flight::say(flight::dump("SIGUSR1")),
                (SIGUSR2, _) => demand.raise(),
                _ if pace.ask_to_leave() => {
                    output::complain("leaving after this round; Ctrl-C ends it at once");
                }
                (SIGTERM, _) if pace.leaves() => {}
                _ => std::process::exit(Exit::Interrupted.code().into()),
            }
        }
    });
    Ok(())
}
