//! The journal: records in order, one lock for each deployment, a fence for each session.
//!
//! What a journal must do is said by [`Backend`], once for a file ([`sqlite`]) and once for a team ([`postgres`]). A run
//! that was killed leaves a lock that nobody holds. A session that is paused for so long that another has taken over finds
//! its fence out of date, and writes nothing.

mod postgres;
mod sqlite;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pccl_deploy::journal::{History, Record};
use pccl_deploy::progress::Progress;
use pccl_launch::Keeper;
use serde::{Deserialize, Serialize};

use crate::failure::DeployError;
use crate::setup::{Choices, Source};

/// So long a lock is asked for before somebody else is said to hold it.
const MOMENT: Duration = Duration::from_secs(1);

/// The address of a journal that a team shares: `postgres://user:password@host:port/database`. Shown without its
/// credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct JournalUrl(String);

impl JournalUrl {
    /// Checks no more than its scheme.
    ///
    /// # Errors
    /// It is for something else than PostgreSQL.
    pub fn parse(text: &str) -> Result<Self, String> {
        if ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Ok(Self(text.to_owned()));
        }
        Err("a journal for a team is postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned())
    }
}

impl fmt::Display for JournalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.split('?').next().unwrap_or_default();
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        write!(f, "postgres://{host}{path}")
    }
}

impl fmt::Debug for JournalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the journal of a deployment is, and the outputs of its attempts.
#[derive(Clone, Debug)]
pub struct Place {
    /// Folder of the outputs, and of the journal if it has no other place.
    pub folder: PathBuf,
    /// Name of the deployment.
    pub deployment: String,
    /// The journal of a team.
    pub journal: Option<JournalUrl>,
}

impl Place {
    /// For a deployment of a file: under `state`, or beside the file.
    pub fn of(source: &Source, name: &str, state: Option<&Path>, journal: Option<&JournalUrl>) -> Self {
        let folder = state.map_or_else(|| source.base().join(".pccl-deploy"), Path::to_owned).join(name);
        Self { folder, deployment: name.to_owned(), journal: journal.cloned() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.journal {
            Some(url) => write!(f, "{url}"),
            None => write!(f, "{}", self.folder.display()),
        }
    }
}

/// A run, as it was begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunRow {
    pub(crate) id: i64,
    pub(crate) created_ms: u64,
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) choices: String,
}

/// What a session says about itself now and then, for whoever watches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Number of the run.
    pub run: i64,
    /// The session.
    pub fence: u64,
    /// Counts up as long as the session lives.
    pub beat: u64,
    /// When it said so, in milliseconds since 1970, by its own clock.
    pub at_ms: u64,
    /// How far it is.
    pub progress: Progress,
}

/// What keeps a journal.
pub(crate) trait Backend: fmt::Debug + Send {
    /// Takes the lock of the deployment and a new fence.
    fn lock(&mut self, operator: &str, now_ms: u64) -> Result<u64, DeployError>;
    /// Begins a run; its `id` is the answer.
    fn create(&mut self, run: &RunRow) -> Result<i64, DeployError>;
    /// Writes records of the session with this fence, all or none. When this returns they are there for good.
    fn append(&mut self, run: i64, fence: u64, first: i64, bodies: &[String]) -> Result<(), DeployError>;
    /// A run by its number, or the newest one.
    fn run(&mut self, id: Option<i64>) -> Result<Option<RunRow>, DeployError>;
    /// Numbers of the last runs, newest first.
    fn runs(&mut self, most: u32) -> Result<Vec<i64>, DeployError>;
    /// Records from this number on, in order.
    fn records(&mut self, run: i64, from: i64) -> Result<Vec<(i64, String)>, DeployError>;
    /// Replaces what the session of this fence says about itself.
    fn publish(&mut self, fence: u64, body: &str) -> Result<(), DeployError>;
    /// What the last session said.
    fn live(&mut self) -> Result<Option<String>, DeployError>;
}

/// The journal of one deployment.
#[derive(Debug)]
pub struct Store {
    backend: Box<dyn Backend>,
    outputs: PathBuf,
    fence: u64,
    next: i64,
    beat: u64,
}

/// One run, as the journal has it.
#[derive(Debug)]
pub struct StoredRun {
    /// Counts from 1.
    pub id: i64,
    /// When it began.
    pub created_ms: u64,
    /// Path of the deployment file when the run began.
    pub file: String,
    /// The deployment, as it was then.
    pub text: String,
    /// What the command line said.
    pub choices: Choices,
    /// What has happened.
    pub history: History,
}

impl Store {
    /// Opens the journal at `place`, which is made if it is not there.
    ///
    /// # Errors
    /// The folder or the database cannot be used.
    pub fn open(place: &Place, durable: bool) -> Result<Self, DeployError> {
        fs::create_dir_all(&place.folder).map_err(|e| DeployError::system("make", &place.folder, &e))?;
        // One name for the folder, whatever way leads there: processes of attempts are marked by it.
        let folder =
            fs::canonicalize(&place.folder).map_err(|e| DeployError::system("resolve", &place.folder, &e))?;
        let (backend, outputs): (Box<dyn Backend>, PathBuf) = match &place.journal {
            None => (Box::new(sqlite::Sqlite::open(&folder, durable)?), folder),
            // A journal in the same folder counts its runs for itself.
            Some(url) => {
                let backend = postgres::Postgres::open(&url.0, &url.to_string(), &place.deployment, durable)?;
                (Box::new(backend), folder.join("shared"))
            }
        };
        Ok(Self { backend, outputs, fence: 0, next: 0, beat: 0 })
    }

    /// Opens a journal that must be there, to read it.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn look(place: &Place) -> Result<Self, DeployError> {
        if place.journal.is_none() && !place.folder.join("journal.db").exists() {
            return Err(DeployError::NoRun { folder: place.to_string() });
        }
        Self::open(place, true)
    }

    /// Where the outputs of a run's attempts are kept.
    pub fn logs(&self, run: i64) -> PathBuf {
        self.outputs.join(format!("run-{run}"))
    }

    /// Where the services of the deployment are noted, whichever run has started them.
    pub(crate) fn services(&self) -> Keeper {
        Keeper::new(self.outputs.join("services"))
    }

    /// What the processes of a run's attempts are marked with, before the name of the task.
    pub(crate) fn mark(&self, run: i64) -> String {
        self.logs(run).display().to_string()
    }

    /// Takes the lock and a new fence.
    ///
    /// # Errors
    /// Somebody else holds it, or the journal cannot be used.
    pub fn lock(&mut self, operator: &str, now_ms: u64) -> Result<u64, DeployError> {
        let begun = Instant::now();
        loop {
            match self.backend.lock(operator, now_ms) {
                // What a killed engine held is free when the last process is gone that it was just about to start, or
                // when the server has noticed: a moment later than the engine itself.
                Err(DeployError::Locked { .. }) if begun.elapsed() < MOMENT => thread::sleep(MOMENT / 50),
                taken => {
                    self.fence = taken?;
                    return Ok(self.fence);
                }
            }
        }
    }

    /// Begins a run.
    ///
    /// # Errors
    /// The journal cannot be used.
    pub fn create(
        &mut self,
        file: &str,
        text: &str,
        choices: &Choices,
        now_ms: u64,
    ) -> Result<i64, DeployError> {
        let choices = serde_json::to_string(choices).map_err(|e| DeployError::Journal(e.to_string()))?;
        self.next = 0;
        let (file, text) = (file.to_owned(), text.to_owned());
        self.backend.create(&RunRow { id: 0, created_ms: now_ms, file, text, choices })
    }

    /// Writes records, all or none; they are there for good when this returns.
    ///
    /// # Errors
    /// Another session has taken over, or the journal cannot be used.
    pub fn append(&mut self, run: i64, records: &[Record]) -> Result<(), DeployError> {
        let body = |record| serde_json::to_string(record).map_err(|e| DeployError::Journal(e.to_string()));
        let bodies: Vec<String> = records.iter().map(body).collect::<Result<_, _>>()?;
        self.backend.append(run, self.fence, self.next, &bodies)?;
        self.next += bodies.len().cast_signed() as i64;
        Ok(())
    }

    /// Says how far this session is, to whoever watches.
    pub(crate) fn publish(&mut self, run: i64, progress: Progress, now_ms: u64) -> Result<(), DeployError> {
        self.beat += 1;
        let live = Live { run, fence: self.fence, beat: self.beat, at_ms: now_ms, progress };
        let body = serde_json::to_string(&live).map_err(|e| DeployError::Journal(e.to_string()))?;
        self.backend.publish(self.fence, &body)
    }

    /// What the last session said about itself.
    ///
    /// # Errors
    /// The journal cannot be used.
    pub fn live(&mut self) -> Result<Option<Live>, DeployError> {
        // What another version has written is not understood, and not needed.
        Ok(self.backend.live()?.and_then(|body| serde_json::from_str(&body).ok()))
    }

    /// A run by its number, or the newest one.
    ///
    /// # Errors
    /// The journal cannot be used, or has been changed by hand.
    pub fn load(&mut self, run: Option<i64>) -> Result<Option<StoredRun>, DeployError> {
        let Some(RunRow { id, created_ms, file, text, choices }) = self.backend.run(run)? else {
            return Ok(None);
        };
        let mut history = History::default();
        self.next = self.follow(id, 0, |record| history.apply(&record))?;
        let choices = serde_json::from_str(&choices)
            .map_err(|e| DeployError::Journal(format!("the choices of run {id} cannot be read: {e}")))?;
        Ok(Some(StoredRun { id, created_ms, file, text, choices, history }))
    }

    /// Reads the records of a run from a number on; the number of the one that comes next is the answer.
    ///
    /// # Errors
    /// The journal cannot be used, or has been changed by hand.
    pub fn follow(&mut self, run: i64, from: i64, mut tell: impl FnMut(Record)) -> Result<i64, DeployError> {
        let mut next = from;
        for (seq, body) in self.backend.records(run, from)? {
            next = seq + 1;
            tell(serde_json::from_str(&body).map_err(|e| {
                DeployError::Journal(format!("record {seq} of run {run} cannot be read: {e}"))
            })?);
        }
        Ok(next)
    }

    /// How a run was begun.
    pub(crate) fn row(&mut self, run: i64) -> Result<Option<RunRow>, DeployError> {
        self.backend.run(Some(run))
    }

    /// Numbers of the last runs, newest first.
    ///
    /// # Errors
    /// The journal cannot be used.
    pub fn runs(&mut self, most: u32) -> Result<Vec<i64>, DeployError> {
        self.backend.runs(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let url = JournalUrl::parse("postgres://me:se@cret@db:5432/team?sslmode=require").unwrap();
        assert_eq!(format!("{url} {url:?}"), "postgres://db:5432/team postgres://db:5432/team");
        assert!(JournalUrl::parse("mysql://db").unwrap_err().contains("postgres://"));
    }
}
