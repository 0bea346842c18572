//! `cargo xtask bench deploy`: the deployment engine beside the tools that operators use today, in one run.
//!
//! Systems are measured one after the other in each round, so that a machine that drifts drifts for all alike; figures
//! are medians of rounds, and what is promised about them stands beside them.

mod cloud;
mod rehearsal;
mod report;
mod tasks;
mod terraform;
mod timing;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::anchors::Places;
use super::process::Stop;
use crate::stage;

/// Compare `pccl deploy` with xargs, GNU parallel and Terraform on this machine.
#[derive(Args, Clone, Debug)]
pub(crate) struct DeployArgs {
    /// Measure only these.
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<What>,

    /// Times that each system is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Of the cloud: how many programs the other tools run at once.
    #[arg(long, value_delimiter = ',', default_value = "10,64,128")]
    widths: Vec<u32>,

    /// Of the cloud: resources in each of 24 regions.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    resources: u32,

    /// Of the cloud: its seconds in one of ours.
    #[arg(long, default_value_t = 10.0, value_name = "FACTOR")]
    speed: f64,

    /// Measure `pccl`, `pccl-cloud` and `pccl-cloud-create` of this folder instead of building them.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,

    /// Longest time of one measurement.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_s: u64,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// A thousand programs that do nothing
    Tasks,
    /// The plan of a hundred thousand tasks
    Plan,
    /// One `terraform apply`, alone and as a phase
    Terraform,
    /// Regions that go on by themselves, and a barrier
    Pipelining,
    /// Resources of a cloud that refuses calls
    Cloud,
    /// Schedules and their lower bounds, in virtual time
    Rehearsal,
}

/// What all measurements need.
struct Bench<'a> {
    pccl: PathBuf,
    /// Where our programs are.
    folder: PathBuf,
    rounds: u32,
    limit: Duration,
    stop: &'a Stop,
}

/// What is going on, for whoever waits.
fn say(what: &str) {
    eprintln!("{what}");
}

/// Our programs as users get them.
fn built() -> Result<PathBuf> {
    let mut build = stage::cargo();
    build.args(["build", "--release", "--package", "pccl-cli", "--package", "pccl-cloud"]);
    ensure!(build.status().context("cannot start cargo")?.success(), "the programs to measure do not build");
    Ok(Places::find()?.release())
}

/// Measures and prints. A promise that is not kept is printed as such and is no error: machines differ.
pub(super) fn run(args: &DeployArgs) -> Result<()> {
    ensure!(args.speed > 0.0 && args.speed.is_finite(), "--speed must be above 0");
    let stop = Stop::on_signals()?;
    let folder = match &args.programs {
        Some(folder) => folder.canonicalize().with_context(|| format!("there is no {}", folder.display()))?,
        None => built()?,
    };
    let limit = Duration::from_secs(args.timeout_s);
    let bench = Bench { pccl: folder.join("pccl"), folder, rounds: args.rounds, limit, stop: &stop };
    let mut missed = false;
    for what in What::value_variants() {
        if !args.only.is_empty() && !args.only.contains(what) {
            continue;
        }
        let part = match what {
            What::Tasks => tasks::small(&bench)?,
            What::Plan => tasks::plan(&bench)?,
            What::Terraform => terraform::apply(&bench)?,
            What::Pipelining => terraform::pipelining(&bench)?,
            What::Cloud => cloud::compare(&bench, args)?,
            What::Rehearsal => {
                rehearsal::show()?;
                continue;
            }
        };
        print!("{part}");
        missed |= !part.holds();
    }
    if missed {
        println!("\nnot everything that is promised was met on this machine");
    }
    Ok(())
}
