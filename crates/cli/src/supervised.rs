//! Processes that this program starts again as a part of itself, and how they end: the exit codes around
//! [`pccl_launch::crew`] and [`pccl_launch::parent`].

use pccl_config::{Key, schema};
use pccl_launch::parent::{self, NoOrders};
use pccl_launch::{Crew, Program, StartError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Nobody yet. Log lines of the children go to our standard error if somebody asked for a log.
pub(crate) fn crew() -> Result<Crew, CliError> {
    let forward = std::env::var_os(pccl_observe::LEVEL_VARIABLE).is_some_and(|level| !level.is_empty());
    Crew::new(forward).map_err(|error| CliError::system("watch for signals", &error))
}

/// This program with these arguments. It is told all it needs; secrets of another fleet are not among it.
pub(crate) fn program(args: Vec<String>) -> Result<Program, CliError> {
    Program::ourselves(args).map(alone).map_err(|error| not_started("this program", &error))
}

/// The same program without secrets in its environment.
pub(crate) fn alone(program: Program) -> Program {
    let secrets = schema().iter().filter(|key| key.is_secret()).flat_map(Key::variables);
    Program { without: secrets.map(Into::into).collect(), ..program }
}

/// Why it does not run.
pub(crate) fn not_started(name: &str, error: &StartError) -> CliError {
    CliError::new(Exit::System, format!("failed to start {name}: {error}"))
}

/// Hands every order of the parent to `handle`. When the orders end, so does this process.
pub(crate) fn follow<T: DeserializeOwned>(handle: impl FnMut(T) + Send + 'static) {
    parent::follow(handle, |end| {
        let exit = match end {
            NoOrders::Over => Exit::Success,
            NoOrders::NotUnderstood(what) => {
                output::complain(format_args!("error: {what}"));
                Exit::Usage
            }
        };
        std::process::exit(exit.code().into());
    });
}

/// Reports one event on standard output. Without a reader this process has no purpose, and ends.
pub(crate) fn say(event: &impl Serialize) {
    if parent::say(event).is_err() {
        std::process::exit(Exit::System.code().into());
    }
}
