//! The journal in SQLite: records in order, one lock for each deployment, a fence for each session.
//!
//! A run that was killed leaves a lock file that nobody holds: the kernel gives it back. A session that is paused for
//! so long that another has taken over finds its fence out of date, and writes nothing.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use pccl_deploy::journal::{History, Record};
use rusqlite::{Connection, OptionalExtension, params};
use rustix::fs::{FlockOperation, flock};

use crate::failure::DeployError;
use crate::setup::Choices;

/// Tables of version 1.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, created_ms INTEGER NOT NULL, file TEXT NOT NULL,
    text TEXT NOT NULL, choices TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (run INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (run, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session (one INTEGER PRIMARY KEY CHECK (one = 1), fence INTEGER NOT NULL,
    operator TEXT NOT NULL, since_ms INTEGER NOT NULL);
";

/// The journal of one deployment.
#[derive(Debug)]
pub struct Store {
    database: Connection,
    folder: PathBuf,
    /// Held while this session may write.
    lock: Option<File>,
    fence: u64,
    next: i64,
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
    /// Opens the journal in `folder`, which is made if it is not there.
    pub fn open(folder: &Path, durable: bool) -> Result<Self, DeployError> {
        fs::create_dir_all(folder).map_err(|e| DeployError::system("make", folder, &e))?;
        let database = Connection::open(folder.join("journal.db"))?;
        database.busy_timeout(std::time::Duration::from_secs(10))?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", if durable { "FULL" } else { "OFF" })?;
        database.execute_batch(SCHEMA)?;
        Ok(Self { database, folder: folder.to_owned(), lock: None, fence: 0, next: 0 })
    }

    /// Where the outputs of a run's attempts are kept.
    pub fn logs(&self, run: i64) -> PathBuf {
        self.folder.join(format!("run-{run}"))
    }

    /// Takes the lock and a new fence.
    pub(crate) fn lock(&mut self, operator: &str, now_ms: u64) -> Result<u64, DeployError> {
        let path = self.folder.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| DeployError::system("open", &path, &e))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder: Option<(String, u64)> = self
                .database
                .query_row("SELECT operator, since_ms FROM session", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let (operator, since_ms) = holder.unwrap_or_else(|| ("somebody".to_owned(), now_ms));
            return Err(DeployError::Locked { operator, since_ms });
        }
        let transaction = self.database.transaction()?;
        let fence: u64 =
            transaction.query_row("SELECT fence FROM session", [], |row| row.get(0)).optional()?.unwrap_or(0)
                + 1;
        transaction.execute(
            "INSERT INTO session (one, fence, operator, since_ms) VALUES (1, ?1, ?2, ?3)
             ON CONFLICT (one) DO UPDATE SET fence = ?1, operator = ?2, since_ms = ?3",
            params![fence, operator, now_ms],
        )?;
        transaction.commit()?;
        self.lock = Some(file);
        self.fence = fence;
        Ok(fence)
    }

    /// Begins a run.
    pub(crate) fn create(
        &mut self,
        file: &str,
        text: &str,
        choices: &Choices,
        now_ms: u64,
    ) -> Result<i64, DeployError> {
        let choices = serde_json::to_string(choices).map_err(|e| DeployError::Journal(e.to_string()))?;
        self.database.execute(
            "INSERT INTO runs (created_ms, file, text, choices) VALUES (?1, ?2, ?3, ?4)",
            params![now_ms, file, text, choices],
        )?;
        self.next = 0;
        Ok(self.database.last_insert_rowid())
    }

    /// Writes records, all or none; they are on the disk when this returns.
    pub(crate) fn append(&mut self, run: i64, records: &[Record]) -> Result<(), DeployError> {
        let transaction = self.database.transaction()?;
        let fence: u64 = transaction.query_row("SELECT fence FROM session", [], |row| row.get(0))?;
        if fence != self.fence {
            return Err(DeployError::Fenced);
        }
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO records (run, seq, body) VALUES (?1, ?2, ?3)")?;
            for record in records {
                let body = serde_json::to_string(record).map_err(|e| DeployError::Journal(e.to_string()))?;
                insert.execute(params![run, self.next, body])?;
                self.next += 1;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// A run by its number, or the newest one.
    pub fn load(&mut self, run: Option<i64>) -> Result<Option<StoredRun>, DeployError> {
        let sql = "SELECT id, created_ms, file, text, choices FROM runs
                   WHERE id = ?1 OR ?1 IS NULL ORDER BY id DESC LIMIT 1";
        let row = self
            .database
            .query_row(sql, params![run], |row| {
                let choices: String = row.get(4)?;
                Ok((row.get::<_, i64>(0)?, row.get::<_, u64>(1)?, row.get(2)?, row.get(3)?, choices))
            })
            .optional()?;
        let Some((id, created_ms, file, text, choices)) = row else { return Ok(None) };
        let mut history = History::default();
        let mut next = 0;
        let mut query = self.database.prepare("SELECT seq, body FROM records WHERE run = ?1 ORDER BY seq")?;
        let mut rows = query.query(params![id])?;
        while let Some(row) = rows.next()? {
            next = row.get::<_, i64>(0)? + 1;
            let body: String = row.get(1)?;
            let record: Record = serde_json::from_str(&body).map_err(|e| {
                DeployError::Journal(format!("record {} of run {id} cannot be read: {e}", next - 1))
            })?;
            history.apply(&record);
        }
        drop(rows);
        drop(query);
        self.next = next;
        let choices = serde_json::from_str(&choices)
            .map_err(|e| DeployError::Journal(format!("the choices of run {id} cannot be read: {e}")))?;
        Ok(Some(StoredRun { id, created_ms, file, text, choices, history }))
    }

    /// The histories of the last runs, for estimates.
    pub fn runs(&self) -> Result<Vec<i64>, DeployError> {
        let mut query = self.database.prepare("SELECT id FROM runs ORDER BY id DESC LIMIT 20")?;
        let rows = query.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(at_ms: u64) -> Record {
        Record::Over { at_ms, stopped: false }
    }

    #[test]
    fn records_come_back_in_order_and_a_second_operator_is_told_who_holds_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), true).unwrap();
        assert_eq!(store.lock("ada@here", 7).unwrap(), 1);
        let run = store.create("d.yaml", "name: d", &Choices::default(), 7).unwrap();
        store.append(run, &[over(8), over(9)]).unwrap();
        let mut second = Store::open(folder.path(), true).unwrap();
        match second.lock("bob@there", 10) {
            Err(DeployError::Locked { operator, since_ms }) => {
                assert_eq!((operator.as_str(), since_ms), ("ada@here", 7));
            }
            other => panic!("{other:?}"),
        }
        let loaded = second.load(None).unwrap().unwrap();
        assert_eq!((loaded.id, loaded.history.over), (run, Some((9, false))));
    }

    #[test]
    fn a_session_that_another_has_replaced_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut old = Store::open(folder.path(), true).unwrap();
        old.lock("ada@here", 7).unwrap();
        let run = old.create("d.yaml", "name: d", &Choices::default(), 7).unwrap();
        old.lock = None;
        let mut new = Store::open(folder.path(), true).unwrap();
        assert_eq!(new.lock("bob@there", 10).unwrap(), 2);
        assert!(matches!(old.append(run, &[over(8)]), Err(DeployError::Fenced)));
        new.load(Some(run)).unwrap();
        new.append(run, &[over(9)]).unwrap();
    }
}
