//! Child processes that cannot be left behind: each in a process group of its own, and a crew of them
//! ends together, whether by success, failure, timeout or a signal to us.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const POLL: Duration = Duration::from_millis(20);
/// From the polite signal to the other one.
const GRACE: Duration = Duration::from_secs(2);
const STDERR_KEPT_BYTES: usize = 4096;

/// Set by Ctrl-C, SIGTERM and SIGHUP; everything that waits looks at it.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From here on those signals no longer end this process; they set the flag.
    pub(super) fn on_signals() -> Result<Self> {
        let stop = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stop.0))
                .with_context(|| format!("cannot watch for signal {signal}"))?;
        }
        Ok(stop)
    }

    /// Whether such a signal came.
    pub(super) fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something may take, and what may cut it short.
#[derive(Clone, Debug)]
pub(super) struct Deadline {
    until: Instant,
    limit: Duration,
    stop: Stop,
}

impl Deadline {
    /// `limit` from now.
    pub(super) fn after(limit: Duration, stop: &Stop) -> Self {
        Self { until: Instant::now() + limit, limit, stop: stop.clone() }
    }

    /// Err once the time is over or a signal came.
    pub(super) fn check(&self) -> Result<()> {
        if self.stop.requested() {
            bail!("interrupted");
        }
        if Instant::now() >= self.until {
            bail!("not finished after {} s; --timeout-s allows more", self.limit.as_secs());
        }
        Ok(())
    }
}

enum Event {
    Line(usize, String),
    Closed(usize),
}

struct Member {
    name: String,
    child: Child,
    pid: Pid,
    stdout: String,
    stdout_closed: bool,
    stderr: Arc<Mutex<Vec<u8>>>,
    exit_seen: Option<Instant>,
    status: Option<ExitStatus>,
}

/// Processes that do one thing together.
pub(super) struct Crew {
    members: Vec<Member>,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

impl Crew {
    /// Nobody yet.
    pub(super) fn new() -> Self {
        let (sender, events) = mpsc::channel();
        Self { members: Vec::new(), sender, events }
    }

    /// Starts `command` without standard input. Returns its number in the crew.
    pub(super) fn spawn(&mut self, name: impl Into<String>, command: &mut Command) -> Result<usize> {
        self.start(name.into(), command.stdin(Stdio::null()))
    }

    /// Starts `command` and returns its standard input; dropping that tells it to end.
    pub(super) fn spawn_with_input(
        &mut self,
        name: impl Into<String>,
        command: &mut Command,
    ) -> Result<(usize, Option<ChildStdin>)> {
        let number = self.start(name.into(), command.stdin(Stdio::piped()))?;
        Ok((number, self.members[number].child.stdin.take()))
    }

    fn start(&mut self, name: String, command: &mut Command) -> Result<usize> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.get_program().display()))?;
        let number = self.members.len();
        let stderr = Arc::new(Mutex::new(Vec::new()));
        if let Some(pipe) = child.stdout.take() {
            let sender = self.sender.clone();
            thread::spawn(move || forward_lines(number, pipe, &sender));
        }
        if let Some(pipe) = child.stderr.take() {
            let kept = Arc::clone(&stderr);
            thread::spawn(move || keep_tail(pipe, &kept));
        }
        let pid = Pid::from_child(&child);
        let (stdout, stdout_closed, exit_seen, status) = (String::new(), false, None, None);
        self.members.push(Member { name, child, pid, stdout, stdout_closed, stderr, exit_seen, status });
        Ok(number)
    }

    /// Waits until member `number` has printed `line`.
    pub(super) fn wait_for_line(&mut self, number: usize, line: &str, deadline: &Deadline) -> Result<()> {
        while !self.members[number].stdout.lines().any(|printed| printed == line) {
            self.turn(deadline)?;
            let member = &self.members[number];
            if member.status.is_some() {
                bail!("{} ended before it said `{line}`", member.name);
            }
        }
        Ok(())
    }

    /// Waits until member `number` has ended well. Returns what it printed.
    pub(super) fn wait_for_end(&mut self, number: usize, deadline: &Deadline) -> Result<String> {
        while self.members[number].status.is_none() {
            self.turn(deadline)?;
        }
        Ok(std::mem::take(&mut self.members[number].stdout))
    }

    /// One event or a short wait; a member that ended badly is an error.
    fn turn(&mut self, deadline: &Deadline) -> Result<()> {
        deadline.check().map_err(|error| match self.last_words() {
            Some(words) => error.context(words),
            None => error,
        })?;
        match self.events.recv_timeout(POLL) {
            Ok(Event::Line(number, line)) => {
                let stdout = &mut self.members[number].stdout;
                stdout.push_str(&line);
                stdout.push('\n');
                return Ok(());
            }
            Ok(Event::Closed(number)) => self.members[number].stdout_closed = true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        for member in &mut self.members {
            member.look()?;
        }
        Ok(())
    }

    /// What the first member that said anything on standard error said last.
    fn last_words(&self) -> Option<String> {
        self.members.iter().find_map(|m| m.complaint().map(|words| format!("{}: {words}", m.name)))
    }
}

impl Member {
    /// Notices that the process has ended. What it left in its group is killed before the process is
    /// reaped: until then nobody else can have its number.
    fn look(&mut self) -> Result<()> {
        if self.status.is_some() || !self.has_exited()? {
            return Ok(());
        }
        let seen = *self.exit_seen.get_or_insert_with(Instant::now);
        if !self.stdout_closed && seen.elapsed() < GRACE {
            return Ok(());
        }
        let status = self.reap()?;
        if !status.success() {
            // The reader of standard error may be a moment behind.
            thread::sleep(POLL);
            let why = self.complaint().unwrap_or_else(|| "it gave no reason".to_owned());
            bail!("{} failed ({status}): {why}", self.name);
        }
        Ok(())
    }

    fn has_exited(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let state =
            waitid(WaitId::Pid(self.pid), options).with_context(|| format!("cannot watch {}", self.name))?;
        Ok(state.is_some())
    }

    fn reap(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL);
        let status = self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        self.status = Some(status);
        Ok(status)
    }

    /// To the whole group; one that is gone already needs no signal.
    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    fn complaint(&self) -> Option<String> {
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &self.members {
            member.signal(Signal::TERM);
        }
        let until = Instant::now() + GRACE;
        let running = |m: &Member| m.status.is_none() && !m.has_exited().unwrap_or(true);
        while self.members.iter().any(running) && Instant::now() < until {
            thread::sleep(POLL);
        }
        for member in self.members.iter_mut().filter(|m| m.status.is_none()) {
            let _ = member.reap();
        }
    }
}

fn forward_lines(number: usize, pipe: impl Read, sender: &Sender<Event>) {
    for line in BufReader::new(pipe).split(b'\n') {
        let Ok(line) = line else { break };
        // The crew may be gone: nobody is left to tell.
        let _ = sender.send(Event::Line(number, String::from_utf8_lossy(&line).into_owned()));
    }
    let _ = sender.send(Event::Closed(number));
}

fn keep_tail(mut pipe: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = pipe.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..n]);
        let surplus = kept.len().saturating_sub(STDERR_KEPT_BYTES);
        kept.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn long() -> Deadline {
        Deadline::after(Duration::from_secs(60), &Stop::default())
    }

    #[test]
    fn collects_what_a_member_prints() {
        let mut crew = Crew::new();
        let number = crew.spawn("echo", &mut shell("echo one; echo two")).unwrap();
        assert_eq!(crew.wait_for_end(number, &long()).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_failure_says_who_and_why() {
        let mut crew = Crew::new();
        let number = crew.spawn("broken", &mut shell("echo the disk is full >&2; exit 3")).unwrap();
        let error = crew.wait_for_end(number, &long()).unwrap_err().to_string();
        assert!(
            error.contains("broken") && error.contains("the disk is full") && error.contains('3'),
            "{error}"
        );
    }

    #[test]
    fn one_that_fails_ends_the_wait_for_another() {
        let mut crew = Crew::new();
        let waiting = crew.spawn("waiting", &mut shell("sleep 600")).unwrap();
        crew.spawn("broken", &mut shell("exit 1")).unwrap();
        assert!(crew.wait_for_end(waiting, &long()).unwrap_err().to_string().contains("broken"));
    }

    #[test]
    fn input_tells_a_member_to_end_and_a_line_that_it_is_ready() {
        let mut crew = Crew::new();
        let (number, input) = crew.spawn_with_input("cat", &mut shell("echo ready; cat")).unwrap();
        crew.wait_for_line(number, "ready", &long()).unwrap();
        drop(input);
        crew.wait_for_end(number, &long()).unwrap();
    }

    #[test]
    fn nobody_survives_the_crew_not_even_grandchildren_that_ignore_sigterm() {
        let mut crew = Crew::new();
        let number =
            crew.spawn("parent", &mut shell("trap '' TERM; sleep 600 & echo $!; wait; sleep 600")).unwrap();
        while crew.members[number].stdout.is_empty() {
            crew.turn(&long()).unwrap();
        }
        let grandchild = format!("/proc/{}/cmdline", crew.members[number].stdout.trim());
        // Between fork and exec it has no command line.
        while !std::fs::read_to_string(&grandchild).unwrap().contains("600") {
            thread::sleep(POLL);
        }
        drop(crew);
        while std::fs::read_to_string(&grandchild).is_ok_and(|line| line.contains("600")) {
            thread::sleep(POLL);
        }
    }

    #[test]
    fn the_deadline_and_a_stop_end_a_wait() {
        let mut crew = Crew::new();
        let number = crew.spawn("sleeper", &mut shell("sleep 600")).unwrap();
        let over = Deadline::after(Duration::ZERO, &Stop::default());
        assert!(crew.wait_for_end(number, &over).unwrap_err().to_string().contains("not finished"));
        let stop = Stop::default();
        stop.0.store(true, Ordering::Relaxed);
        let deadline = Deadline::after(Duration::from_secs(60), &stop);
        assert!(crew.wait_for_end(number, &deadline).unwrap_err().to_string().contains("interrupted"));
    }
}
