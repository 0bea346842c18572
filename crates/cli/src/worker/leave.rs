//! `pccl worker leave`: for hooks that run before a worker is stopped, where there is no shell to send a signal.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;

/// Between two looks at the process.
const LOOK: Duration = Duration::from_millis(20);

/// Options of `pccl worker leave`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("in a container, of its first process", "pccl worker leave"),
    ("of another one, and wait for it", "pccl worker leave --pid 4711 --timeout 60"),
]))]
pub(super) struct LeaveArgs {
    /// The worker's process; the first one of a container is not waited for, as its end is the end of all others there
    #[arg(long, value_name = "PID", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pid: i32,

    /// Longest wait for the end of the process
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    timeout: u64,
}

/// Asks the worker, and waits until it has left.
pub(super) fn run(args: &LeaveArgs) -> Result<Exit, CliError> {
    let pid = args.pid;
    let process = Pid::from_raw(pid).ok_or_else(|| CliError::new(Exit::Usage, "process 0 is no worker"))?;
    kill_process(process, Signal::TERM).map_err(|error| {
        let hint = match error {
            Errno::SRCH => "see `pgrep -a pccl` for the processes that run",
            _ => "ask as the user whose worker it is",
        };
        CliError::new(Exit::Input, format!("failed to ask process {pid} to leave: {error}")).hint(hint)
    })?;
    if pid == 1 {
        output::print(&["process 1 leaves after its round".to_owned()]);
        return Ok(Exit::Success);
    }
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    while !has_ended(process) {
        if Instant::now() >= deadline {
            let why = format!("process {pid} has not left after {} s", args.timeout);
            return Err(CliError::new(Exit::Failed, why)
                .hint("`pccl status` says what it waits for; a second Ctrl-C (SIGINT) ends it at once"));
        }
        thread::sleep(LOOK);
    }
    output::print(&[format!("process {pid} has left")]);
    Ok(Exit::Success)
}

/// Also if nobody has looked at its end yet.
fn has_ended(process: Pid) -> bool {
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
    // The name is in brackets and may contain anything; the state follows the last of them.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    matches!(state, Some('Z' | 'X')) || test_kill_process(process) == Err(Errno::SRCH)
}
