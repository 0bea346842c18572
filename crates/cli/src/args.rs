//! The command line as a whole: which command, by name or by `PCCL_ROLE`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use pccl_config::Role;

use crate::average::AverageArgs;
use crate::bench::{BenchArgs, PeerArgs};
use crate::besu::BesuArgs;
use crate::cert::CertArgs;
use crate::check::CheckArgs;
use crate::checkpoint::CheckpointArgs;
use crate::configuration::ConfigurationArgs;
use crate::deploy::DeployArgs;
use crate::doctor::DoctorArgs;
use crate::error::CliError;
use crate::exit;
use crate::firewall::FirewallArgs;
use crate::master::MasterArgs;
use crate::settings::ConfigArgs;
use crate::status::StatusArgs;
use crate::top::TopArgs;
use crate::up::UpArgs;
use crate::verify::VerifyArgs;
use crate::worker::WorkerArgs;

/// Collectives that survive: peers sum and average tensors over TCP/IP, and may die or join at any moment.
#[derive(Parser, Debug)]
#[command(name = "pccl", version, after_help = exit::help(&[
    ("see a fleet on this machine, and see it struck", "pccl up --chaos kill,freeze,join"),
    ("the same by hand: a master", "pccl master"),
    ("and a worker on each machine; without a command, PCCL_ROLE decides, or `role` in the configuration", "pccl worker --master 10.0.0.7 --workers 3"),
]))]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do. Without a command, PCCL_ROLE or the key `role` of the configuration decides: master, standby, worker.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// A master and workers on this machine, averaging a model round by round
    Up(UpArgs),
    /// The coordination service
    Master(MasterArgs),
    /// A peer that averages its model with the others'
    Worker(WorkerArgs),
    /// Time all-reduce
    Bench(BenchArgs),
    /// Leaves the same averaged model on every machine where it runs
    Average(AverageArgs),
    /// Whether machines can all-reduce, and whether the sums are right
    Verify(VerifyArgs),
    /// Whether the network between the hosts of a fleet is good enough, and what to do if not
    Check(CheckArgs),
    /// The rules of a firewall that let a fleet through, and nobody else: iptables, nftables, AWS, Azure, Google Cloud
    Firewall(FirewallArgs),
    /// A private authority, and certificates of a fleet
    Cert(CertArgs),
    /// A QBFT network of Besu nodes: keys, genesis, configuration, Kubernetes manifests
    Besu(BesuArgs),
    /// A deployment as parallel as its dependencies and the clouds' limits allow
    Deploy(DeployArgs),
    /// Who is in the run, and who waits for whom
    Status(StatusArgs),
    /// A fleet as it is now: members, links, who waits for whom, masters
    Top(TopArgs),
    /// Kept states of the model: list, verify, restore
    Checkpoint(CheckpointArgs),
    /// What the configuration says, and where each value comes from
    Config(ConfigurationArgs),
    /// What is wrong with a fleet and what to do, by symptoms; what happened, from its flight records
    Doctor(DoctorArgs),
    /// One peer of `bench`
    #[command(hide = true)]
    BenchPeer(PeerArgs),
}

/// Reads the command line; ends the process where it makes no sense, or asks for help. Where it names no command, `role`
/// is asked for one, with what it says of `--config`.
pub(crate) fn parse(
    line: impl IntoIterator<Item = OsString>,
    role: impl FnOnce(ConfigArgs) -> Result<Option<Role>, CliError>,
) -> Result<Command, CliError> {
    let mut line: Vec<OsString> = line.into_iter().collect();
    if names_no_command(&line) {
        let words: &[&str] = match role(ConfigArgs { config: file(&line) })? {
            Some(Role::Master) => &["master"],
            Some(Role::Standby) => &["master", "--standby"],
            Some(Role::Worker) => &["worker"],
            _ => &[],
        };
        line.splice(1..1, words.iter().map(OsString::from));
    }
    Ok(Cli::parse_from(line).command)
}

/// What `--config` says, in either form.
fn file(line: &[OsString]) -> Option<PathBuf> {
    let after = line.iter().position(|word| word == "--config").and_then(|at| line.get(at + 1));
    let glued = || line.iter().find_map(|word| word.to_str()?.strip_prefix("--config=").map(PathBuf::from));
    after.map(PathBuf::from).or_else(glued)
}

/// Whether nothing but options follows the program's name, and they ask for something.
fn names_no_command(line: &[OsString]) -> bool {
    let Some(first) = line.get(1) else { return true };
    let about_us = ["-h", "--help", "-V", "--version"];
    first.to_str().is_some_and(|first| first.starts_with('-') && !about_us.contains(&first))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn command(line: &[&str], role: Option<Role>) -> Command {
        parse(line.iter().map(OsString::from), |_| Ok(role)).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_role_decides_only_where_no_command_is_given() {
        assert!(matches!(command(&["pccl"], Some(Role::Worker)), Command::Worker(_)));
        assert!(matches!(command(&["pccl", "--listen", "[::1]:0"], Some(Role::Master)), Command::Master(_)));
        assert!(matches!(command(&["pccl"], Some(Role::Standby)), Command::Master(args) if args.standby));
        assert!(matches!(command(&["pccl", "up"], Some(Role::Worker)), Command::Up(_)));
    }

    #[test]
    fn every_command_shows_an_example_and_the_exit_codes() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains(&format!("  pccl {}", command.get_name())), "{help}");
            assert!(help.contains("Exit codes:"), "{help}");
        }
    }
}
