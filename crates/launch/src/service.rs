//! Services: programs that stay when whoever started them has ended, and are found again.
//!
//! A record of each stands in a file: written before the start, with the process's number after it. Whoever is killed
//! between the two leaves a record without a number, and then the mark in the environment tells which process it is. So no
//! service is started twice, and none is lost.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use std::{error, fmt};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};

use crate::identity::{self, MARK};
use crate::output;
use crate::program::{Program, StartError};
use crate::run::in_words;
use crate::stop;

/// From the signal that no process can ignore to its end: long only where the kernel holds it.
const KILLED: Duration = Duration::from_secs(10);

/// The services of one place, by name.
#[derive(Clone, Debug)]
pub struct Keeper {
    folder: PathBuf,
}

/// What is written down about a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    /// Its name: a letter of it may be written in another way in the file's name.
    name: String,
    /// What it was started as: another one is another service.
    definition: String,
    /// Number and start time of its process; none: about to be started.
    process: Option<(u32, u64)>,
    /// The life of the kernel that both belong to.
    boot: String,
    /// Where its output goes, and where that begins.
    output: PathBuf,
    begins_at: u64,
}

/// A service that ran when it was looked at.
#[derive(Debug)]
pub struct Service {
    pid: u32,
    started: u64,
    note: Note,
    /// If it is ours.
    child: Option<Child>,
}

/// Why a service has not been ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum StopError {
    /// What is known about it cannot be read or removed.
    Note(String),
    /// It does not end, though it has been killed.
    Lives {
        /// Its number.
        pid: u32,
    },
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note(what) => f.write_str(what),
            Self::Lives { pid } => write!(f, "process {pid} does not end, though it has been killed"),
        }
    }
}

impl error::Error for StopError {}

impl Service {
    /// Its process's number, which is also its group's.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it was started as.
    pub fn definition(&self) -> &str {
        &self.note.definition
    }

    /// Where its output goes.
    pub fn output(&self) -> &Path {
        &self.note.output
    }

    /// How it has ended; none while it runs.
    pub fn end(&mut self) -> Option<String> {
        let status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        if let Some(status) = status {
            return Some(in_words(status));
        }
        let runs = identity::started(self.pid) == Some(self.started);
        (!runs).then(|| "it has ended".to_owned())
    }

    /// The end of its output.
    pub fn tail(&self) -> String {
        output::tail(&self.note.output, self.note.begins_at, output::TAIL)
    }
}

impl Keeper {
    /// The services that are noted in this folder, which need not be there yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The service of this name, if it runs.
    ///
    /// # Errors
    /// What is known about it cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Service>, StopError> {
        Ok(self.read(name)?.and_then(|note| self.process_of(note)))
    }

    /// Names of all services that have been started and not been ended by [`Keeper::stop`], whether they run or not.
    ///
    /// # Errors
    /// What is known about them cannot be read.
    pub fn names(&self) -> Result<Vec<String>, StopError> {
        let unreadable = |e: &io::Error| StopError::Note(format!("{}: {e}", self.folder.display()));
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| unreadable(&e))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| unreadable(&e))?.path();
            if path.extension().is_some_and(|ending| ending == "json") {
                names.extend(read(&path)?.map(|note| note.name));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Starts a service, which must not run, with its output appended to `output`.
    ///
    /// # Errors
    /// There is no such program, the system refuses, or something of an earlier life of it cannot be ended.
    pub fn start(
        &self,
        name: &str,
        program: &Program,
        definition: &str,
        output: &Path,
    ) -> Result<Service, StartError> {
        // What an earlier process of it left behind would be in the way of the new one.
        self.stop(name, Duration::ZERO, || true).map_err(|e| StartError::System(e.to_string()))?;
        let (out, begins_at) = output::append(output)?;
        let mut note = Note {
            name: name.to_owned(),
            definition: definition.to_owned(),
            process: None,
            boot: identity::boot(),
            output: output.to_owned(),
            begins_at,
        };
        self.write(&note)?;
        let mut command = program.command()?;
        command
            .env(MARK, self.mark(name))
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(|e| StartError::System(format!("{}: {e}", output.display())))?)
            .stderr(out);
        let child = match program.spawn(&mut command) {
            Ok(child) => child,
            Err(error) => {
                self.forget(name).map_err(|e| StartError::System(e.to_string()))?;
                return Err(error);
            }
        };
        let pid = child.id();
        // One that has ended already has no start time, and nobody will look for it.
        let started = identity::started(pid).unwrap_or_default();
        note.process = Some((pid, started));
        self.write(&note)?;
        Ok(Service { pid, started, note, child: Some(child) })
    }

    /// Asks a service to end by SIGTERM to its group, and kills it, with all that it has started, after `grace` or as soon
    /// as `hurries` says so. False if nothing ran.
    ///
    /// # Errors
    /// What is known about it cannot be used, or it does not end.
    pub fn stop(
        &self,
        name: &str,
        grace: Duration,
        mut hurries: impl FnMut() -> bool,
    ) -> Result<bool, StopError> {
        let Some(note) = self.read(name)? else { return Ok(false) };
        let leader = self.process_of(note).map(|service| (service.pid, service.started));
        let leader_runs = || leader.is_some_and(|(pid, started)| identity::started(pid) == Some(started));
        let others = || self.marked(name);
        let tell = |signal| {
            if let Some((pid, _)) = leader.filter(|_| leader_runs()) {
                signal_group(pid, signal);
            }
            // Those that have left the group, or outlived who led it.
            for pid in others() {
                signal_one(pid, signal);
            }
        };
        let is_over = || !leader_runs() && others().is_empty();
        let ran = !is_over();
        if ran {
            for signal in [Signal::TERM, Signal::CONT] {
                tell(signal);
            }
            if !stop::within(grace, is_over, &mut hurries) {
                tell(Signal::KILL);
            }
            if !stop::within(KILLED, is_over, || false) {
                let pid = leader.map(|(pid, _)| pid).or_else(|| others().first().copied());
                return Err(StopError::Lives { pid: pid.unwrap_or_default() });
            }
        }
        self.forget(name)?;
        Ok(ran)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.json", name.replace('/', "+")))
    }

    fn mark(&self, name: &str) -> String {
        format!("{}/{name}", self.folder.display())
    }

    /// Numbers of all processes with the mark of a service.
    fn marked(&self, name: &str) -> Vec<u32> {
        let mark = self.mark(name);
        identity::survivors(&mark).remove(&mark).unwrap_or_default()
    }

    fn process_of(&self, note: Note) -> Option<Service> {
        if note.boot != identity::boot() {
            return None;
        }
        let by_mark = || {
            let pid = self.marked(&note.name).into_iter().find(|pid| identity::leads(*pid))?;
            Some((pid, identity::started(pid)?))
        };
        let (pid, started) = note.process.or_else(by_mark)?;
        let is_it = identity::started(pid) == Some(started)
            // A program may have written over its environment; one with another mark is another one.
            && identity::mark(pid).is_none_or(|mark| mark == self.mark(&note.name));
        is_it.then_some(Service { pid, started, note, child: None })
    }

    fn read(&self, name: &str) -> Result<Option<Note>, StopError> {
        read(&self.file(name))
    }

    /// As a whole or not at all.
    fn write(&self, note: &Note) -> Result<(), StartError> {
        let file = self.file(&note.name);
        let fail = |e: io::Error| StartError::System(format!("failed to write {}: {e}", file.display()));
        fs::create_dir_all(&self.folder).map_err(fail)?;
        let text = serde_json::to_string(note).map_err(|e| StartError::System(e.to_string()))?;
        let draft = file.with_extension("draft");
        fs::write(&draft, text).map_err(fail)?;
        fs::rename(&draft, &file).map_err(fail)
    }

    fn forget(&self, name: &str) -> Result<(), StopError> {
        let file = self.file(name);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StopError::Note(format!("failed to remove {}: {e}", file.display())))
            }
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Option<Note>, StopError> {
    let fail = |why: String| StopError::Note(format!("failed to read {}: {why}", path.display()));
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(error.to_string())),
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| fail(e.to_string())),
    }
}

/// Who is gone needs no signal.
fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process_group(pid, signal);
    }
}

fn signal_one(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests;
