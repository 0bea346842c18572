//! Programs that run, and end with the test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build::{Language, compile};

/// A process and what it says.
pub(crate) struct Program {
    name: String,
    child: Child,
    /// Open for as long as this value lives, also when the process has ended and its children have not.
    _stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Program {
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        Self::of(Command::new(program).args(arguments))
    }

    /// Starts a program that looks for libraries in this folder first.
    pub(crate) fn start_with(libraries: &Path, program: &Path, arguments: &[&str]) -> Result<Self> {
        Self::of(Command::new(program).args(arguments).env("LD_LIBRARY_PATH", libraries))
    }

    fn of(command: &mut Command) -> Result<Self> {
        let name = format!("{command:?}");
        let mut child = command
            // Other tests' peers listen here too.
            .env("PCCL_NETWORK__P2P_PORTS", "20000-60000")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        let out = child.stdout.take().context("standard output")?;
        let (said, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name, _stdin: child.stdin.take(), child, lines })
    }

    /// Waits for this line.
    pub(crate) fn says(&mut self, wanted: &str, patience: Duration) -> Result<()> {
        while self.line(patience)? != wanted {}
        Ok(())
    }

    pub(crate) fn line(&mut self, patience: Duration) -> Result<String> {
        self.lines.recv_timeout(patience).with_context(|| format!("{} is silent or has ended", self.name))
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn succeeds(mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("{}: {status}", self.name);
            }
            if Instant::now() > deadline {
                bail!("{} has not ended", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A master, in C.
pub(crate) struct Master {
    program: Program,
    pub(crate) port: String,
}

impl Master {
    pub(crate) fn start() -> Result<Self> {
        Self::with_heartbeat_timeout("5000")
    }

    /// One that takes so many milliseconds of silence for a death.
    pub(crate) fn with_heartbeat_timeout(ms: &str) -> Result<Self> {
        Self::with(&["network.heartbeat_timeout_ms", ms])
    }

    /// One whose run compresses what is large.
    pub(crate) fn that_compresses() -> Result<Self> {
        Self::with(&["network.heartbeat_timeout_ms", "5000", "performance.enable_compression", "true"])
    }

    fn with(options: &[&str]) -> Result<Self> {
        let mut program = Program::start(&compile("tests/c/master.c", Language::C)?, options)?;
        let port = program.line(Duration::from_secs(10))?;
        Ok(Self { program, port })
    }

    /// Waits until a peer is a member.
    pub(crate) fn has_a_member(&self, patience: Duration) -> Result<()> {
        let (addr, deadline) = (format!("127.0.0.1:{}", self.port).parse()?, Instant::now() + patience);
        loop {
            let status = pccl_master::query_status(addr, Duration::from_secs(5), None)?;
            if status.groups.iter().any(|g| g.peers.iter().any(|p| p.rank.is_some())) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("nobody has come");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it by a signal.
    pub(crate) fn terminates(self) -> Result<()> {
        let pid = self.program.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        self.program.succeeds(Duration::from_secs(10))
    }
}
