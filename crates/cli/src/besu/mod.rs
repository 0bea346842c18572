//! `pccl besu`: a QBFT network of Besu nodes, ready to be deployed.

mod folder;
mod init;

use clap::{Args, Subcommand};

use crate::error::CliError;
use crate::exit::{self, Exit};

/// Options of `pccl besu`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("48 validators in 24 regions, with new keys", "pccl besu init --out network"),
]))]
pub(crate) struct BesuArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Draw keys and write genesis, static nodes, configuration and Kubernetes manifests
    Init(init::InitArgs),
}

/// Does what the subcommand says.
pub(crate) fn run(args: &BesuArgs) -> Result<Exit, CliError> {
    match &args.command {
        Command::Init(args) => init::run(args),
    }
}
