//! The one door to everything a developer does: `cargo xtask --help`.
//!
//! One file for each command. What several of them need, running a stage and counting its outcome, is in `stage`.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod cloud;
mod fuzz;
mod install;
mod link;
mod python;
mod servers;
mod sim;
mod stage;
mod test;
mod tidy;
mod tools;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The one door to everything a developer does", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run all checks of behaviour: tidy, the tests, the doc tests and the simulator
    Test {
        /// Run only the tests whose names contain one of these, and nothing else
        filters: Vec<String>,
    },
    /// Run the simulator: `cargo xtask sim [SEED] [--runs N]`, all arguments are passed through
    #[command(disable_help_flag = true)]
    Sim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Serve Kubernetes clusters to try deployments on: `cargo xtask cloud --kubernetes NAME,… --kubeconfig FILE`
    #[command(disable_help_flag = true)]
    Cloud {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Let libFuzzer look for inputs that do harm
    Fuzz(fuzz::FuzzArgs),
    /// Check the rules of the house that a machine can check
    Tidy {
        /// Lower the figures of the ratchet to what the tree has reached
        #[arg(long)]
        update: bool,
    },
    /// Install the tools that tests run into target/tools: EVM nodes, a contract compiler, Kubernetes schemas,
    /// Helm, Prometheus, an S3 server; and the database servers of Debian
    Tools,
    /// Compare our all-reduce with Gloo, Open MPI and any libpccl.so on this machine
    Bench(Box<bench::BenchArgs>),
    /// Hosts on this machine with links of a given delay, jitter, loss and rate between them
    Link(link::LinkArgs),
    /// Build the Python package, install it into a fresh environment and test it there
    Python,
    /// Install the program, libpccl.so, its headers and its pkg-config file under a prefix
    Install(install::InstallArgs),
    /// Run everything that a change must pass: formatting, lints, and `test`
    Ci,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Test { filters } => Ok(test::run(&filters)),
        Command::Sim { arguments } => sim::run(&arguments),
        Command::Cloud { arguments } => cloud::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Tidy { update } => tidy::run(update),
        Command::Tools => tools::run().map(|()| ExitCode::SUCCESS),
        Command::Bench(arguments) => bench::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Link(arguments) => link::run(&arguments),
        Command::Python => Ok(test::python_only()),
        Command::Install(arguments) => install::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Ci => Ok(ci::run()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_simulator_gets_its_arguments_untouched() {
        for line in [&["7", "--runs", "20"][..], &["--help"], &["--runs=3", "-v"]] {
            let whole = ["xtask", "sim"].iter().chain(line);
            match Arguments::try_parse_from(whole).unwrap().command {
                Command::Sim { arguments } => assert_eq!(arguments, line),
                _ => panic!("{line:?} is not for the simulator"),
            }
        }
    }
}
