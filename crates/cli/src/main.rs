//! The program `pccl`: commands, displays, exit codes.
//!
//! One module per command; each has its options, a `run`, and what only it needs. What several need: [`supervised`]
//! (children that cannot be left behind), [`settings`] (where settings come from), [`error`] and [`exit`] (how it ends).
#![forbid(unsafe_code)]

mod args;
mod average;
mod bench;
mod besu;
mod cert;
mod check;
mod checkpoint;
mod configuration;
mod deploy;
mod doctor;
mod error;
mod exit;
mod firewall;
mod local;
mod master;
mod output;
mod peer;
mod reload;
mod settings;
mod status;
mod supervised;
mod top;
mod up;
mod verify;
mod worker;

use std::process::ExitCode;

use args::Command;
use error::CliError;
use exit::Exit;

fn main() -> ExitCode {
    // The role is that of `PCCL_ROLE`, else of the file.
    let command = args::parse(std::env::args_os(), |config| Ok(config.load()?.role));
    let ended = command.and_then(|command| run(&command)).and_then(|exit| output::whole().map(|()| exit));
    let exit = ended.unwrap_or_else(|error| {
        output::complain(&error);
        error.exit()
    });
    ExitCode::from(exit.code())
}

fn run(command: &Command) -> Result<Exit, CliError> {
    match command {
        Command::Up(args) => up::run(args),
        Command::Master(args) => master::run(args),
        Command::Worker(args) => worker::run(args),
        Command::Bench(args) => bench::run(args),
        Command::BenchPeer(args) => bench::run_peer(args),
        Command::Average(args) => average::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Check(args) => check::run(args),
        Command::Cert(args) => cert::run(args),
        Command::Besu(args) => besu::run(args),
        Command::Config(args) => configuration::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Firewall(args) => firewall::run(args),
        Command::Deploy(args) => deploy::run(args),
        Command::Status(args) => status::run(args),
        Command::Top(args) => top::run(args),
        Command::Checkpoint(args) => checkpoint::run(args),
    }
}
