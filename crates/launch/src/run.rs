//! Programs that are waited for: output in a file, stopped gracefully and then hard.

use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::identity::{self, MARK};
use crate::output;
use crate::program::{Program, StartError};
use crate::stop;

/// Longest time to end for what a stopped program has left behind; who stops it usually hurries sooner.
const GRACE: Duration = Duration::from_secs(60);

/// How a program that runs is reached from another thread.
#[derive(Debug, Default)]
pub struct Control {
    group: Mutex<Option<(Pid, bool)>>,
    stopped: AtomicBool,
    timed_out: AtomicBool,
    hurries: AtomicBool,
}

impl Control {
    /// Asks the processes to end, or ends them.
    pub fn stop(&self, hard: bool) {
        self.stopped.store(true, Ordering::SeqCst);
        self.signal(hard);
    }

    /// It has run too long: asks the processes to end, or ends them.
    pub fn time_out(&self, hard: bool) {
        self.timed_out.store(true, Ordering::SeqCst);
        self.signal(hard);
    }

    /// Whether somebody has asked for an end.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Whether it has run too long.
    pub fn is_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::SeqCst)
    }

    /// Whether the time of grace is over.
    pub fn hurries(&self) -> bool {
        self.hurries.load(Ordering::SeqCst)
    }

    fn signal(&self, hard: bool) {
        self.hurries.fetch_or(hard, Ordering::SeqCst);
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((pid, by_interrupt)) = *group {
            // A group that is gone needs no signal.
            let _ = kill_process_group(pid, which(hard, by_interrupt));
        }
    }

    fn set(&self, group: Option<(Pid, bool)>) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = group;
    }
}

/// The signal that asks for an end, or makes it.
fn which(hard: bool, by_interrupt: bool) -> Signal {
    match (hard, by_interrupt) {
        (true, _) => Signal::KILL,
        (false, true) => Signal::INT,
        (false, false) => Signal::TERM,
    }
}

/// A process that runs.
#[derive(Debug)]
pub struct Running<'a> {
    child: Child,
    control: &'a Control,
    mark: String,
    by_interrupt: bool,
    log: PathBuf,
    begins_at: u64,
}

/// Starts a program with its output appended to `log` and `mark` in its environment.
pub fn start<'a>(
    program: &Program,
    mark: &str,
    log: &Path,
    control: &'a Control,
) -> Result<Running<'a>, StartError> {
    let (out, begins_at) = output::append(log)?;
    let mut command = program.command()?;
    command
        .env(MARK, mark)
        .stdin(if program.input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(out.try_clone().map_err(|e| StartError::System(format!("{}: {e}", log.display())))?)
        .stderr(out);
    let mut child = program.spawn(&mut command)?;
    control.set(Some((Pid::from_child(&child), program.stops_by_interrupt)));
    // A stop that came before the process was there.
    if control.is_stopped() || control.is_timed_out() {
        control.signal(control.hurries());
    }
    if let (Some(input), Some(mut pipe)) = (&program.input, child.stdin.take()) {
        // A program that does not read its input says so by its exit status.
        let _ = pipe.write_all(input.as_bytes());
    }
    let (mark, by_interrupt) = (mark.to_owned(), program.stops_by_interrupt);
    Ok(Running { child, control, mark, by_interrupt, log: log.to_owned(), begins_at })
}

impl Running<'_> {
    /// Its number, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end. Meanwhile `Control` can stop it.
    pub fn wait(mut self) -> io::Result<Finished> {
        // Left unreaped until the control forgets it: so its id cannot be another's when a signal is sent.
        let id = WaitId::Pid(Pid::from_child(&self.child));
        while let Err(error) = waitid(id.clone(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            if error != rustix::io::Errno::INTR {
                break;
            }
        }
        if self.control.is_stopped() || self.control.is_timed_out() {
            self.end_rest();
        }
        self.control.set(None);
        let status = self.child.wait()?;
        Ok(Finished { status, log: self.log, begins_at: self.begins_at })
    }

    /// Ends what it started and left behind, in its group or out of it: a shell that ends at once may have a child that
    /// has to write down what it did.
    fn end_rest(&self) {
        let group = self.child.id();
        let rest = || identity::rest(group, &self.mark);
        // The group has been asked already, and a second time means to many programs: at once.
        let outside = rest().into_iter().filter(|(_, own)| *own != group).map(|(pid, _)| pid);
        tell(outside, which(false, self.by_interrupt));
        if !stop::seldom_within(GRACE, || rest().is_empty(), || self.control.hurries()) {
            self.control.signal(true);
            tell(rest().into_iter().map(|(pid, _)| pid), Signal::KILL);
        }
    }

    /// Whether it still runs; for programs whose output is read while they run.
    pub fn has_ended(&mut self) -> bool {
        let id = WaitId::Pid(Pid::from_child(&self.child));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(id, options), Ok(None))
    }
}

/// Who is gone needs no signal.
fn tell(pids: impl Iterator<Item = u32>, signal: Signal) {
    for pid in pids.filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
        let _ = kill_process(pid, signal);
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Finished {
    status: ExitStatus,
    log: PathBuf,
    begins_at: u64,
}

impl Finished {
    /// Whether it says that all is well.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Exit status or signal, in words.
    pub fn how(&self) -> String {
        in_words(self.status)
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        self.last(output::TAIL)
    }

    /// So many bytes of the end of its output.
    pub fn last(&self, bytes: u64) -> String {
        output::tail(&self.log, self.begins_at, bytes)
    }
}

/// Exit status or signal, in words.
pub(crate) fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;
    use crate::identity::{started, survivors};

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

    /// Waits until the program has said so much.
    fn said(log: &Path, word: &str) {
        while !fs::read_to_string(log).unwrap_or_default().contains(word) {
            thread::yield_now();
        }
    }

    #[test]
    fn what_a_stopped_shell_leaves_behind_has_time_to_end() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let control = Control::default();
        // The shell ends by the signal, at once; its child has something to write down first.
        let child = "trap 'sleep 0.2; echo written; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let running =
            start(&shell(&format!("sh -c \"{child}\"; :"), folder.path()), "grace", &log, &control).unwrap();
        said(&log, "up");
        control.stop(false);
        assert_eq!(running.wait().unwrap().how(), "killed by signal 15");
        assert_eq!(fs::read_to_string(&log).unwrap().lines().last(), Some("written"));
    }

    #[test]
    fn a_stop_finds_those_that_have_left_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let control = Control::default();
        let script = "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.05; done' & wait";
        let running = start(&shell(script, folder.path()), "left-mark", &log, &control).unwrap();
        said(&log, "\n");
        let pid: u32 = fs::read_to_string(&log).unwrap().trim().parse().unwrap();
        control.time_out(false);
        thread::scope(|scope| {
            let ended = scope.spawn(|| running.wait());
            assert!(started(pid).is_some(), "it ignores the signal that asks");
            control.time_out(true);
            ended.join().unwrap().unwrap();
        });
        while started(pid).is_some() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let program =
            Program { line: vec!["no-such-program".into()], dir: folder.path().into(), ..Program::default() };
        match start(&program, "m", &folder.path().join("log"), &Control::default()) {
            Err(StartError::NotFound(why)) => assert!(why.contains("`no-such-program` on PATH"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
