//! The journal in a file, by SQLite. The lock is one of the kernel's: it goes with the process.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use rustix::fs::{FlockOperation, flock};

use super::{Backend, RunRow};
use crate::failure::DeployError;

/// Tables of version 1.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, created_ms INTEGER NOT NULL, file TEXT NOT NULL,
    text TEXT NOT NULL, choices TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (run INTEGER NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (run, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session (one INTEGER PRIMARY KEY CHECK (one = 1), fence INTEGER NOT NULL,
    operator TEXT NOT NULL, since_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS live (one INTEGER PRIMARY KEY CHECK (one = 1), body TEXT NOT NULL);
";

#[derive(Debug)]
pub(super) struct Sqlite {
    database: Connection,
    folder: PathBuf,
    /// Held while this session may write.
    lock: Option<File>,
}

impl From<rusqlite::Error> for DeployError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Journal(error.to_string())
    }
}

impl Sqlite {
    pub(super) fn open(folder: &Path, durable: bool) -> Result<Self, DeployError> {
        let database = Connection::open(folder.join("journal.db"))?;
        database.busy_timeout(std::time::Duration::from_secs(10))?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", if durable { "FULL" } else { "OFF" })?;
        database.execute_batch(SCHEMA)?;
        Ok(Self { database, folder: folder.to_owned(), lock: None })
    }
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        id: row.get(0)?,
        created_ms: row.get(1)?,
        file: row.get(2)?,
        text: row.get(3)?,
        choices: row.get(4)?,
    })
}

impl Backend for Sqlite {
    fn lock(&mut self, operator: &str, now_ms: u64) -> Result<u64, DeployError> {
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
        let fence: u64 = self.database.query_row(
            "INSERT INTO session (one, fence, operator, since_ms) VALUES (1, 1, ?1, ?2)
             ON CONFLICT (one) DO UPDATE SET fence = fence + 1, operator = ?1, since_ms = ?2 RETURNING fence",
            params![operator, now_ms],
            |row| row.get(0),
        )?;
        self.lock = Some(file);
        Ok(fence)
    }

    fn create(&mut self, run: &RunRow) -> Result<i64, DeployError> {
        self.database.execute(
            "INSERT INTO runs (created_ms, file, text, choices) VALUES (?1, ?2, ?3, ?4)",
            params![run.created_ms, run.file, run.text, run.choices],
        )?;
        Ok(self.database.last_insert_rowid())
    }

    fn append(&mut self, run: i64, fence: u64, first: i64, bodies: &[String]) -> Result<(), DeployError> {
        // One that begins with reading fails if anybody writes before it does.
        let transaction = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let newest: u64 = transaction.query_row("SELECT fence FROM session", [], |row| row.get(0))?;
        if newest != fence {
            return Err(DeployError::Fenced);
        }
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO records (run, seq, body) VALUES (?1, ?2, ?3)")?;
            for (seq, body) in (first..).zip(bodies) {
                insert.execute(params![run, seq, body])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn run(&mut self, id: Option<i64>) -> Result<Option<RunRow>, DeployError> {
        let sql = "SELECT id, created_ms, file, text, choices FROM runs
                   WHERE id = ?1 OR ?1 IS NULL ORDER BY id DESC LIMIT 1";
        Ok(self.database.query_row(sql, params![id], run_row).optional()?)
    }

    fn runs(&mut self, most: u32) -> Result<Vec<i64>, DeployError> {
        let mut query = self.database.prepare("SELECT id FROM runs ORDER BY id DESC LIMIT ?1")?;
        let rows = query.query_map([most], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn records(&mut self, run: i64, from: i64) -> Result<Vec<(i64, String)>, DeployError> {
        let sql = "SELECT seq, body FROM records WHERE run = ?1 AND seq >= ?2 ORDER BY seq";
        let mut query = self.database.prepare_cached(sql)?;
        let rows = query.query_map(params![run, from], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn publish(&mut self, fence: u64, body: &str) -> Result<(), DeployError> {
        self.database.execute(
            "INSERT INTO live (one, body) SELECT 1, ?2 FROM session WHERE fence = ?1
             ON CONFLICT (one) DO UPDATE SET body = excluded.body",
            params![fence, body],
        )?;
        Ok(())
    }

    fn live(&mut self) -> Result<Option<String>, DeployError> {
        Ok(self.database.query_row("SELECT body FROM live", [], |row| row.get(0)).optional()?)
    }
}
