//! `pccl top`: a fleet as it is now.

use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use clap::Args;
use pccl_doctor::top::{Column, Sampler, TopOptions, lines, live};

use crate::doctor::FleetArgs;
use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::settings;

/// Options of `pccl top`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("who is there, how fast, and who waits for whom; q quits, s sorts", "pccl top --master a.example.com,b.example.com"),
    ("plain lines, once", "pccl top --master 10.0.0.7 --once"),
]))]
pub(crate) struct TopArgs {
    #[command(flatten)]
    fleet: FleetArgs,

    /// Between two looks, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    interval: u64,

    /// Plain lines, once; so it is also where there is no terminal
    #[arg(long)]
    once: bool,
}

/// Shows it.
pub(crate) fn run(args: &TopArgs) -> Result<Exit, CliError> {
    let config = args.fleet.config.load()?;
    let mut sampler = Sampler::new(TopOptions {
        masters: args.fleet.masters(&config)?,
        metrics: args.fleet.metrics.clone(),
        metrics_port: config.metrics.address.for_program().map(|at| at.port).filter(|port| *port != 0),
        security: settings::security(&config)?,
        timeout: Duration::from_secs(args.fleet.timeout),
    });
    let interval = Duration::from_millis(args.interval);
    if !args.once && !args.fleet.json && std::io::stdout().is_terminal() {
        live(sampler, interval).map_err(|error| CliError::system("show the fleet", &error))?;
        return Ok(Exit::Success);
    }
    // Rates are of the time between two looks.
    sampler.sample();
    thread::sleep(interval);
    let sample = sampler.sample();
    args.fleet.print(&sample, || lines(&sample, Column::default()))?;
    Ok(if sample.run.is_empty() { Exit::Connect } else { Exit::Success })
}
