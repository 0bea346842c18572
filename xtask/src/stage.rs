//! Running one stage after the other and counting what passed.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// What passed and what failed, in tests or in whole stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Counts {
    /// One thing that passed or failed as a whole.
    pub(crate) fn one(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed) }
    }

    /// A command that says it failed has failed, also when it counted no failure (say, it did not build).
    pub(crate) fn or_failed(self, status: ExitStatus) -> Self {
        if status.success() { self } else { Self { failed: self.failed.max(1), ..self } }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// The stages of a run, in order. A stage that fails does not stop the later ones: one run tells everything.
#[derive(Default)]
pub(crate) struct Stages {
    done: Vec<(&'static str, Counts, Duration)>,
}

impl Stages {
    /// Runs a stage; an error counts as one failure.
    pub(crate) fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Result<Counts>) {
        println!("\n==> {name}");
        let start = Instant::now();
        let counts = stage().unwrap_or_else(|error| {
            eprintln!("error: {name}: {error:#}");
            Counts::one(false)
        });
        let took = start.elapsed();
        println!("<== {name}: {}", line(counts, took));
        self.done.push((name, counts, took));
    }

    /// A stage that is one command, and passes if the command does.
    pub(crate) fn command(&mut self, name: &'static str, mut command: Command) {
        self.run(name, || {
            let status = command.status().with_context(|| format!("failed to start {command:?}"))?;
            Ok(Counts::one(status.success()))
        });
    }

    /// Prints every stage again, then the line `N passed, N failed`, the last one of the run.
    pub(crate) fn finish(self) -> ExitCode {
        println!();
        let mut all = Counts::default();
        for (name, counts, took) in &self.done {
            println!("{name:<16} {}", line(*counts, *took));
            all += *counts;
        }
        println!("{} passed, {} failed", all.passed, all.failed);
        if all.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn line(counts: Counts, took: Duration) -> String {
    let word = if counts.failed == 0 { "ok" } else { "FAILED" };
    format!("{word:<6} {:>5} passed {:>3} failed {:>7.1} s", counts.passed, counts.failed, took.as_secs_f64())
}

/// The cargo that runs us, in the root of the workspace.
pub(crate) fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command
}

/// The root of the workspace, one folder above this crate.
///
/// Cargo says where the crate is when it runs us. What was true at build time is the last resort: checkouts that
/// share a target directory share this program too.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let here =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let here = PathBuf::from(here);
        here.parent().map(Path::to_owned).unwrap_or(here)
    })
}

/// Runs a command, shows its standard output while it comes, and returns it.
pub(crate) fn run_and_read(mut command: Command) -> Result<(ExitStatus, String)> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("failed to start {command:?}"))?;
    let mut text = String::new();
    if let Some(output) = child.stdout.take() {
        let mut show = std::io::stdout();
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("failed to read a command's output")?;
            let line = String::from_utf8_lossy(&line);
            writeln!(show, "{line}")?;
            text.push_str(&line);
            text.push('\n');
        }
    }
    let status = child.wait().with_context(|| format!("failed to wait for {command:?}"))?;
    Ok((status, text))
}

/// Runs a quick command that must succeed and returns its standard output.
pub(crate) fn read(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", complaint.trim());
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} did not answer in UTF-8"))
}

/// Our exit code for a command's.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_command_that_failed_without_counting_counts_once() {
        let (good, bad) = (ExitStatus::from_raw(0), ExitStatus::from_raw(101 << 8));
        let none = Counts::default();
        assert_eq!(none.or_failed(good), none);
        assert_eq!(none.or_failed(bad), Counts { passed: 0, failed: 1 });
        let counted = Counts { passed: 5, failed: 3 };
        assert_eq!(counted.or_failed(bad), counted);
    }

    #[test]
    fn stages_go_on_after_a_failure_and_the_sum_remembers_it() {
        let mut stages = Stages::default();
        stages.run("first", || Ok(Counts { passed: 2, failed: 0 }));
        stages.run("second", || anyhow::bail!("did not start"));
        stages.run("third", || Ok(Counts::one(true)));
        let counts: Vec<_> =
            stages.done.iter().map(|(_, counts, _)| (counts.passed, counts.failed)).collect();
        assert_eq!(counts, [(2, 0), (0, 1), (1, 0)]);
        assert_eq!(stages.finish(), ExitCode::FAILURE);
    }
}
