//! `cargo xtask sim`: the simulator, built with optimization.

use std::ffi::OsStr;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::stage;

pub(crate) fn run<A: AsRef<OsStr>>(arguments: &[A]) -> Result<ExitCode> {
    let status = command(arguments).status().context("failed to start cargo for the simulator")?;
    Ok(stage::exit_code(status))
}

/// The command line of a simulation: a debug build would see a tenth of the schedules in the same time.
pub(crate) fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = stage::cargo();
    command.args(["run", "--release", "--package", "pccl-sim", "--bin", "pccl-sim", "--"]).args(arguments);
    command
}
