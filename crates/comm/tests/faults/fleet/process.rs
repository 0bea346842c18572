//! A process of a fleet, and the lines that it is driven by.
//!
//! A command is a line on its standard input. It says `= ok key=value …` or `= error key=value … text=…` once it has
//! obeyed, and `: event` at points on the way.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use rustix::process::{Pid, Signal, kill_process};

use super::namespace::Namespace;
use super::{HANG, until};

/// Says what a process shall be.
pub(crate) const ROLE: &str = "PCCL_TEST_ROLE";

/// What a process said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) ok: bool,
    pub(crate) from: String,
    pub(crate) text: String,
    fields: BTreeMap<String, String>,
}

impl Reply {
    fn parse(from: &str, line: &str) -> Self {
        let (said, text) = line.split_once(" text=").unwrap_or((line, ""));
        let mut words = said.split(' ');
        let ok = words.next() == Some("ok");
        let fields = words.filter_map(|w| w.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
        Self { ok, from: from.to_owned(), text: text.to_owned(), fields: fields.collect() }
    }

    /// It went well.
    pub(crate) fn ok(self) -> Self {
        assert!(self.ok, "{self:?}");
        self
    }

    /// It went wrong.
    pub(crate) fn error(self) -> Self {
        assert!(!self.ok, "{self:?}");
        self
    }

    pub(crate) fn get(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    pub(crate) fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or_else(|_| panic!("{key} in {self:?}"))
    }
}

enum Line {
    Event(String),
    Reply(Reply),
}

/// A process that ends with its owner.
pub(crate) struct Process {
    pub(crate) name: String,
    /// A peer's bit in the results.
    pub(crate) id: u32,
    /// Where a peer listens.
    pub(crate) addr: Option<SocketAddr>,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    early: VecDeque<Line>,
    log: PathBuf,
    owed: usize,
}

impl Process {
    pub(crate) fn spawn(name: &str, role: &str, dir: &Path, inside: Option<(&Namespace, u32)>) -> Self {
        let log = dir.join(format!("{name}.log"));
        let errors = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = match inside {
            Some((namespace, user)) => namespace.command(user),
            None => Command::new(std::env::current_exe().unwrap()),
        };
        let mut child = command
            .args(["this_process_may_be_a_peer", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env_remove("NEXTEST")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            name: name.to_owned(),
            id: 0,
            addr: None,
            child,
            stdin,
            lines,
            early: VecDeque::new(),
            log,
            owed: 0,
        }
    }

    /// Gives a command, which will be answered. A process that has been killed hears nothing.
    pub(crate) fn send(&mut self, command: &str) {
        self.owed += 1;
        let _ = writeln!(self.stdin, "{command}");
    }

    /// The last command is not answered by itself.
    pub(crate) fn forgive(&mut self) {
        self.owed -= 1;
    }

    /// Commands that have not been answered.
    pub(crate) fn owed(&self) -> usize {
        self.owed
    }

    fn line(&mut self) -> Line {
        loop {
            let line = match self.lines.recv_timeout(HANG) {
                Ok(line) => line,
                Err(why) => panic!("{} says nothing: {why}", self.name),
            };
            if let Some(reply) = line.strip_prefix("= ") {
                return Line::Reply(Reply::parse(&self.name, reply));
            }
            if let Some(event) = line.strip_prefix(": ") {
                return Line::Event(event.to_owned());
            }
        }
    }

    /// The next answer.
    pub(crate) fn reply(&mut self) -> Reply {
        assert!(self.owed > 0, "{} was asked nothing", self.name);
        self.owed -= 1;
        if let Some(at) = self.early.iter().position(|l| matches!(l, Line::Reply(_)))
            && let Some(Line::Reply(reply)) = self.early.remove(at)
        {
            return reply;
        }
        loop {
            match self.line() {
                Line::Reply(reply) => return reply,
                event @ Line::Event(_) => self.early.push_back(event),
            }
        }
    }

    /// A command and its answer.
    pub(crate) fn ask(&mut self, command: &str) -> Reply {
        self.send(command);
        self.reply()
    }

    /// Events that have come; an error that was not awaited is one.
    pub(crate) fn news(&mut self) -> Result<Vec<String>, Reply> {
        let mut news = Vec::new();
        while let Ok(line) = self.lines.try_recv() {
            if let Some(reply) = line.strip_prefix("= ") {
                let reply = Reply::parse(&self.name, reply);
                if !reply.ok {
                    return Err(reply);
                }
            }
            news.extend(line.strip_prefix(": ").map(str::to_owned));
        }
        Ok(news)
    }

    /// Waits for an event; gives what it says after its name.
    pub(crate) fn event(&mut self, name: &str) -> String {
        let told = |text: &str| text.strip_prefix(name).map(|rest| rest.trim().to_owned());
        while let Some(line) = self.early.pop_front() {
            match line {
                Line::Event(text) if text.starts_with(name) => return told(&text).unwrap(),
                Line::Event(_) => {}
                reply @ Line::Reply(_) => {
                    self.early.push_front(reply);
                    break;
                }
            }
        }
        loop {
            match self.line() {
                Line::Event(text) if text.starts_with(name) => return told(&text).unwrap(),
                Line::Event(_) => {}
                reply @ Line::Reply(_) => self.early.push_back(reply),
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// SIGKILL, and waits until nothing is left.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGKILL, without waiting.
    pub(crate) fn strike(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for its end, which comes from elsewhere.
    pub(crate) fn gone(&mut self) {
        let name = self.name.clone();
        until(&format!("the end of {name}"), || self.child.try_wait().unwrap().is_some());
    }

    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        self.stands_still();
    }

    /// Waits until it is stopped.
    pub(crate) fn stands_still(&self) {
        until(&format!("{} to stop", self.name), || self.stat().contains(") T "));
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn stat(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default()
    }

    /// Resident memory, KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        self.status_field("VmRSS:")
    }

    pub(crate) fn threads(&self) -> u64 {
        self.status_field("Threads:")
    }

    fn status_field(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("0");
        line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// Open files.
    pub(crate) fn fds(&self) -> u64 {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, |d| d.count() as u64)
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- {}:", self.name);
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
