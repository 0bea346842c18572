//! Attached children: started, told, heard, struck, and never left behind.
//!
//! A parent writes orders to a child's standard input and reads its standard output, both as lines of JSON. Nothing
//! outlives the parent: it kills what is left when it ends; if it cannot, the kernel kills its children
//! ([`die_with_parent`](crate::parent::die_with_parent)), and where the kernel does not do that, they end when their
//! standard input does.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::program::{Program, StartError};
use crate::stop;

/// Names a child: its place in the order in which the crew started them.
pub type Id = usize;

/// Lines of standard error that are kept of each child.
const COMPLAINT_LINES: usize = 12;
/// From the end of its standard input to the signal that no process can ignore.
const GRACE: Duration = Duration::from_secs(2);

/// What the parent hears.
#[derive(Debug)]
pub enum Happening {
    /// A child printed a line.
    Line(Id, String),
    /// A child has ended, after all its lines.
    Ended(Id, ExitStatus),
    /// Ctrl-C, SIGTERM or SIGHUP to the parent.
    Interrupted,
}

enum Event {
    Line(Id, String),
    Closed(Id),
    Signal,
}

struct Member {
    name: String,
    process: Child,
    pid: Pid,
    orders: Option<ChildStdin>,
    errors: Option<JoinHandle<VecDeque<String>>>,
    complaint: VecDeque<String>,
    ended: Option<ExitStatus>,
}

/// The children of this process. Dropping it ends them all.
pub struct Crew {
    members: Vec<Member>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    /// Log lines of the children go to our standard error: somebody asked for a log.
    forward: bool,
}

impl Crew {
    /// Nobody yet. From here on Ctrl-C, SIGTERM and SIGHUP are heard by [`Crew::next`]. With `forward`, what children
    /// write on standard error goes to ours, behind their names.
    ///
    /// # Errors
    /// The system does not let us watch for signals.
    pub fn new(forward: bool) -> io::Result<Self> {
        let (sender, events) = mpsc::channel();
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let watcher = sender.clone();
        thread::spawn(move || {
            for _ in signals.forever() {
                let _ = watcher.send(Event::Signal);
            }
        });
        Ok(Self { members: Vec::new(), sender, events, forward })
    }

    /// Starts a program. Only a thread that lives as long as this process may do it: the kernel takes the end of the
    /// thread that started a child for the end of its parent.
    pub fn spawn(&mut self, name: impl Into<String>, program: &Program) -> Result<Id, StartError> {
        let name = name.into();
        let mut command = program.command()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = program.spawn(&mut command)?;
        let id = self.members.len();
        let sender = self.sender.clone();
        if let Some(pipe) = process.stdout.take() {
            thread::spawn(move || forward_lines(id, pipe, &sender));
        }
        let prefix = self.forward.then(|| name.clone());
        let errors =
            process.stderr.take().map(|pipe| thread::spawn(move || keep_errors(pipe, prefix.as_deref())));
        self.members.push(Member {
            pid: Pid::from_child(&process),
            orders: process.stdin.take(),
            name,
            process,
            errors,
            complaint: VecDeque::new(),
            ended: None,
        });
        Ok(id)
    }

    /// The next thing that happens, unless nothing does for `timeout`.
    pub fn next(&mut self, timeout: Duration) -> Option<Happening> {
        let event = match self.events.recv_timeout(timeout) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        };
        Some(match event {
            Event::Line(id, line) => Happening::Line(id, line),
            Event::Closed(id) => Happening::Ended(id, self.members[id].reap()),
            Event::Signal => Happening::Interrupted,
        })
    }

    /// Gives a child an order. One that has ended hears nothing, which is no error.
    pub fn tell(&mut self, id: Id, order: &impl Serialize) {
        let Ok(line) = serde_json::to_string(order) else {
            return;
        };
        if let Some(orders) = &mut self.members[id].orders {
            let _ = writeln!(orders, "{line}").and_then(|()| orders.flush());
        }
    }

    /// `kill -9`, `kill -STOP` or `kill -CONT`.
    pub fn signal(&self, id: Id, signal: Signal) {
        self.members[id].signal(signal);
    }

    /// A child's process number.
    pub fn pid(&self, id: Id) -> u32 {
        self.members[id].process.id()
    }

    /// A child's name.
    pub fn name(&self, id: Id) -> &str {
        &self.members[id].name
    }

    /// The last lines that a child wrote on standard error; complete once it has ended.
    pub fn complaint(&self, id: Id) -> String {
        let lines: Vec<&str> = self.members[id].complaint.iter().map(String::as_str).collect();
        lines.join("\n")
    }
}

impl Member {
    fn signal(&self, signal: Signal) {
        // A process that has not been waited for keeps its number, so this cannot hit a stranger.
        if self.ended.is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Waits for a process that has closed its output.
    fn reap(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        self.orders = None;
        // Whoever cannot be waited for has ended.
        if !stop::within(GRACE, || !matches!(self.process.try_wait(), Ok(None)), || false) {
            let _ = self.process.kill();
        }
        let status = self.process.wait().unwrap_or_default();
        self.ended = Some(status);
        if let Some(Ok(lines)) = self.errors.take().map(JoinHandle::join) {
            self.complaint = lines;
        }
        status
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let mut left: Vec<&mut Member> = self.members.iter_mut().filter(|m| m.ended.is_none()).collect();
        for member in &mut left {
            member.orders = None;
            member.signal(Signal::CONT);
        }
        let all_over = || {
            left.retain_mut(|member| !matches!(member.process.try_wait(), Ok(Some(_))));
            left.is_empty()
        };
        if stop::within(GRACE, all_over, || false) {
            return;
        }
        for member in left {
            let _ = member.process.kill();
            let _ = member.process.wait();
        }
    }
}

fn forward_lines(id: Id, pipe: ChildStdout, sender: &Sender<Event>) {
    for line in BufReader::new(pipe).lines() {
        let Ok(line) = line else { break };
        // The crew may be gone: nobody is left to tell.
        let _ = sender.send(Event::Line(id, line));
    }
    let _ = sender.send(Event::Closed(id));
}

/// Reads standard error to its end and keeps the last lines, bytes that are no text replaced.
fn keep_errors(pipe: ChildStderr, forward_as: Option<&str>) -> VecDeque<String> {
    let mut kept = VecDeque::new();
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while let Ok(1..) = reader.by_ref().take(1 << 16).read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if let Some(name) = forward_as {
            // Nobody need listen; `eprintln!` would panic then.
            let _ = writeln!(io::stderr(), "[{name}] {text}");
        }
        kept.push_back(text);
        if kept.len() > COMPLAINT_LINES {
            kept.pop_front();
        }
    }
    kept
}
