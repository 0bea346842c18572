//! `cargo xtask cloud`: clusters on this machine that deployments are tried on.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::stage;

/// Serves until it is stopped; all arguments are passed through.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    let mut command = stage::cargo();
    command.args(["run", "--quiet", "--package", "pccl-cloud", "--bin", "pccl-cloud", "--"]).args(arguments);
    // Paths are meant from where the caller stands.
    command.current_dir(std::env::current_dir().context("failed to tell the current folder")?);
    Ok(stage::exit_code(command.status().context("failed to start cargo for the clouds")?))
}
