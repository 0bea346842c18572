//! One attempt's process: a group of its own, output in a file, stopped gracefully and then hard.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// Marks every process of an attempt in its environment, so that a later session finds those that still run.
pub(crate) const MARK: &str = "PCCL_DEPLOY_ATTEMPT";

/// Bytes at the end of an output that are read to find out why an attempt failed.
const TAIL: u64 = 64 * 1024;

/// A program to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Program {
    pub(crate) line: Vec<String>,
    pub(crate) dir: PathBuf,
    pub(crate) env: BTreeMap<String, String>,
    /// Variables of ours that it does not get.
    pub(crate) without: Vec<OsString>,
    /// Written to its standard input.
    pub(crate) input: Option<String>,
    /// Asked to stop by SIGINT instead of SIGTERM.
    pub(crate) stops_by_interrupt: bool,
}

/// How the engine reaches a running attempt.
#[derive(Debug, Default)]
pub(crate) struct Control {
    group: Mutex<Option<(Pid, bool)>>,
    stopped: AtomicBool,
    timed_out: AtomicBool,
}

impl Control {
    /// Asks the processes to end, or ends them.
    pub(crate) fn stop(&self, hard: bool) {
        self.stopped.store(true, Ordering::SeqCst);
        self.signal(hard);
    }

    /// The attempt has run too long.
    pub(crate) fn time_out(&self, hard: bool) {
        self.timed_out.store(true, Ordering::SeqCst);
        self.signal(hard);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(crate) fn is_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::SeqCst)
    }

    fn signal(&self, hard: bool) {
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((pid, by_interrupt)) = *group {
            let signal = match (hard, by_interrupt) {
                (true, _) => Signal::KILL,
                (false, true) => Signal::INT,
                (false, false) => Signal::TERM,
            };
            // A group that is gone needs no signal.
            let _ = kill_process_group(pid, signal);
        }
    }

    fn set(&self, group: Option<(Pid, bool)>) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = group;
    }
}

/// Why a program did not run to its end.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// There is no such program, or it may not be run.
    NotFound(String),
    /// The system refused.
    System(String),
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    child: Child,
    control: &'a Control,
    log: PathBuf,
    begins_at: u64,
}

/// Starts a program with its output appended to `log`.
pub(crate) fn start<'a>(
    program: &Program,
    mark: &str,
    log: &Path,
    control: &'a Control,
) -> Result<Running<'a>, SpawnError> {
    let system = |e: io::Error| SpawnError::System(format!("{}: {e}", log.display()));
    let out = OpenOptions::new().create(true).append(true).open(log).map_err(system)?;
    let begins_at = out.metadata().map_err(system)?.len();
    let Some((name, arguments)) = program.line.split_first() else {
        return Err(SpawnError::NotFound("the program's name is empty".to_owned()));
    };
    let mut command = Command::new(name);
    for variable in &program.without {
        command.env_remove(variable);
    }
    command
        .args(arguments)
        .current_dir(&program.dir)
        .envs(&program.env)
        .env(MARK, mark)
        .stdin(if program.input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(out.try_clone().map_err(system)?)
        .stderr(out)
        .process_group(0);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if !program.dir.is_dir() => {
            SpawnError::NotFound(format!("there is no folder {}", program.dir.display()))
        }
        io::ErrorKind::NotFound => SpawnError::NotFound(format!("there is no program `{name}` on PATH")),
        io::ErrorKind::PermissionDenied => SpawnError::NotFound(format!("`{name}` may not be run: {error}")),
        _ => SpawnError::System(format!("failed to start `{name}`: {error}")),
    })?;
    control.set(Some((Pid::from_child(&child), program.stops_by_interrupt)));
    // A stop that came before the process was there.
    if control.is_stopped() || control.is_timed_out() {
        control.signal(false);
    }
    if let (Some(input), Some(mut pipe)) = (&program.input, child.stdin.take()) {
        // A program that does not read its input says so by its exit status.
        let _ = pipe.write_all(input.as_bytes());
    }
    Ok(Running { child, control, log: log.to_owned(), begins_at })
}

impl Running<'_> {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end. Meanwhile `Control` can stop it.
    pub(crate) fn wait(mut self) -> io::Result<Finished> {
        // Left unreaped until the control forgets it: so its id cannot be another's when a signal is sent.
        let id = WaitId::Pid(Pid::from_child(&self.child));
        while let Err(error) = waitid(id.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            if error != rustix::io::Errno::INTR {
                break;
            }
        }
        if self.control.is_stopped() || self.control.is_timed_out() {
            // What it started and left behind.
            self.control.signal(true);
        }
        self.control.set(None);
        let status = self.child.wait()?;
        Ok(Finished { status, log: self.log, begins_at: self.begins_at })
    }

    /// Whether it still runs; for programs whose output is read while they run.
    pub(crate) fn has_ended(&mut self) -> bool {
        let id = WaitId::Pid(Pid::from_child(&self.child));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(id, options), Ok(None))
    }
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    status: ExitStatus,
    log: PathBuf,
    begins_at: u64,
}

impl Finished {
    pub(crate) fn success(&self) -> bool {
        self.status.success()
    }

    /// Exit status or signal, in words.
    pub(crate) fn how(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            _ => "ended".to_owned(),
        }
    }

    /// The end of its output.
    pub(crate) fn tail(&self) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.begins_at.max(end.saturating_sub(TAIL))))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

/// When a process started, as the kernel counts.
pub(crate) fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may contain anything; behind it the start time is the 20th field.
    let (_, rest) = stat.rsplit_once(')')?;
    let state = rest.split_whitespace().next()?;
    if state == "Z" {
        return None;
    }
    rest.split_whitespace().nth(19)?.parse().ok()
}

/// Marks of attempts whose processes still run, with their process ids.
pub(crate) fn survivors(prefix: &str) -> BTreeMap<String, Vec<u32>> {
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() || started(pid).is_none() {
            continue;
        }
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        for variable in environment.split(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(variable);
            let mark = text.strip_prefix(MARK).and_then(|rest| rest.strip_prefix('='));
            if let Some(mark) = mark.filter(|mark| mark.starts_with(prefix)) {
                found.entry(mark.to_owned()).or_default().push(pid);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn shell(script: &str, dir: &Path) -> Program {
        let line = ["sh", "-c", script].map(str::to_owned).into();
        Program { line, dir: dir.to_owned(), ..Program::default() }
    }

    #[test]
    fn output_goes_to_the_file_and_the_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let control = Control::default();
        let program = shell("cat; echo out; echo err >&2; exit 3", folder.path());
        let program = Program { input: Some("in\n".into()), ..program };
        let finished = start(&program, "m", &log, &control).unwrap().wait().unwrap();
        assert!(!finished.success());
        assert_eq!(finished.how(), "exit status 3");
        assert_eq!(finished.tail(), "in\nout\nerr\n");
    }

    #[test]
    fn a_stop_ends_the_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let control = Control::default();
        let program = shell("trap '' TERM; sleep 1000 & echo $!; wait; wait", folder.path());
        let running = start(&program, "group-mark", &log, &control).unwrap();
        let child = loop {
            let text = fs::read_to_string(&log).unwrap();
            if let Ok(pid) = text.trim().parse::<u32>() {
                break pid;
            }
            thread::yield_now();
        };
        // At the moment at which it becomes another program, a process shows no environment.
        while !survivors("group-mark").values().flatten().any(|pid| *pid == child) {
            assert!(started(child).is_some(), "the child has ended by itself");
            thread::yield_now();
        }
        control.stop(true);
        assert_eq!(running.wait().unwrap().how(), "killed by signal 9");
        while started(child).is_some() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let program =
            Program { line: vec!["no-such-program".into()], dir: folder.path().into(), ..Program::default() };
        match start(&program, "m", &folder.path().join("log"), &Control::default()) {
            Err(SpawnError::NotFound(why)) => assert!(why.contains("`no-such-program` on PATH"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
