//! A store in a file beside the master.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pccl_proto::ids::Term;
use pccl_proto::record::{RunRecord, StoreReply, StoreRequest};

use super::StateStore;
use super::file::{self, Disk, FileSystem, Lock, StoreError};

/// Keeps the state in a file, whole at every instant.
///
/// A write makes a new file beside the old one (`.tmp-` and a number), waits until the disk has it, gives it the old one's name, and
/// waits until the disk has that. Whatever is cut off in between, the file holds the old state or the new one.
///
/// Several masters on one machine may share the file: a `.lock` file beside it lets one at a time write (one that is frozen
/// loses it after a second), and the active one holds an `.active` file locked for as long as it lives, so that the others
/// know at once when it has died. Both files stay when the masters end and mean nothing then. The file must be on a disk of
/// this machine.
pub struct EmbeddedStore {
    path: PathBuf,
    directory: PathBuf,
    temp: PathBuf,
    /// A write failed so late that the file may hold the old state or the new one.
    in_doubt: bool,
    /// There may be files of others that would replace ours.
    unswept: bool,
    /// The term whose lease this process took.
    leads: Option<Term>,
    disk: Box<dyn Disk>,
    lock: Lock,
    active: Lock,
}

/// A write that failed.
struct WriteFailed {
    source: io::Error,
    /// Whether the file may have changed all the same.
    in_doubt: bool,
}

impl EmbeddedStore {
    /// Opens the store in the file at `path`; without one it begins a new, empty state. The directory must exist.
    ///
    /// Writes the state once, so that a place where nothing can be kept is found now and not in the first emergency.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_on(path.as_ref(), Box::new(FileSystem))
    }

    pub(super) fn open_on(path: &Path, disk: Box<dyn Disk>) -> Result<Self, StoreError> {
        let path = file::resolve(path)?;
        let lock = Lock::beside(&path, ".lock")?;
        let active = Lock::beside(&path, ".active")?;
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let name = getrandom::u64().map_err(|e| file_error(&path, io::Error::other(e)))?;
        let temp = file::beside(&path, &format!("{}-{name:016x}", file::TEMP));
        let mut store =
            Self { path, directory, temp, in_doubt: false, unswept: true, leads: None, disk, lock, active };
        store.take_lock()?;
        let written = read(&store.path).and_then(|found| {
            store.persist(&found.unwrap_or_default()).map_err(|failed| file_error(&store.path, failed.source))
        });
        store.lock.give_back();
        written.map(|()| store)
    }

    /// Nobody else writes when it returns, not even who had the lock and was frozen.
    fn take_lock(&mut self) -> Result<(), StoreError> {
        if let Some(pid) = self.lock.take(&self.path)? {
            self.unswept = true;
            tracing::warn!(
                target: "pccl::master",
                "the process with pid {pid} has kept the lock of the master's state {} for too long: it is frozen, or its \
                 disk is; this one goes on without it",
                self.path.display()
            );
        }
        if self.unswept {
            file::sweep(&self.path).map_err(|source| {
                self.lock.give_back();
                file_error(&self.path, source)
            })?;
            self.unswept = false;
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn persist(&self, record: &RunRecord) -> Result<(), WriteFailed> {
        let before = |source| WriteFailed { source, in_doubt: false };
        let after = |source| WriteFailed { source, in_doubt: true };
        let bytes = file::encode(record).map_err(before)?;
        self.disk.write_new(&self.temp, &bytes).map_err(before)?;
        // Only now: see `Lock`.
        if !self.lock.is_held().map_err(|e| before(io::Error::other(e)))? {
            return Err(before(io::Error::other(
                "this process stood still, and another master has gone on without it",
            )));
        }
        self.disk.rename(&self.temp, &self.path).map_err(after)?;
        self.disk.sync_directory(&self.directory).map_err(after)
    }

    /// What the file holds; after a failure, written once more, so that it is sure to stay.
    fn known(&mut self) -> Result<RunRecord, String> {
        let found = match read(&self.path) {
            Ok(Some(found)) => found,
            Ok(None) => return Err(self.vanished()),
            Err(e) => return Err(e.to_string()),
        };
        if self.in_doubt {
            self.persist(&found).map_err(|e| self.complaint(&e))?;
            self.in_doubt = false;
        }
        Ok(found)
    }

    fn vanished(&self) -> String {
        format!("the master's state {} has vanished", self.path.display())
    }

    fn complaint(&self, failed: &WriteFailed) -> String {
        let (path, source) = (self.path.display(), &failed.source);
        let so =
            if failed.in_doubt { "it may hold the old state or the new" } else { "it holds the old state" };
        format!(
            "failed to write the master's state {path}: {source}; {so}; check free space and permissions of its directory"
        )
    }

    /// With the lock, or for a read that changes nothing.
    fn try_execute(&mut self, request: &StoreRequest) -> Result<StoreReply, String> {
        let mut record = self.known()?;
        let mut reply = record.apply(request);
        if self.leads.is_some_and(|term| term < record.term) {
            self.leads = None;
            self.active.give_back();
        }
        if let StoreReply::Record { holder_is_gone, .. } = &mut reply {
            *holder_is_gone = self.holder_is_gone(record.term);
        }
        let changed = matches!(
            reply,
            StoreReply::Taken { .. } | StoreReply::Renewed { .. } | StoreReply::Written { .. }
        );
        if changed && let Err(failed) = self.persist(&record) {
            self.in_doubt |= failed.in_doubt;
            return Err(self.complaint(&failed));
        }
        let is_ours = matches!(reply, StoreReply::Taken { .. } | StoreReply::Renewed { .. });
        if is_ours && self.leads != Some(record.term) {
            self.lead(record.term);
        }
        Ok(reply)
    }

    /// Shows the others that the holder of this term lives. If that cannot be done, they wait for the end of its lease.
    fn lead(&mut self, term: Term) {
        let shown = self.active.try_take().is_ok_and(|taken| taken)
            && self.active.set_note(&term.0.to_string()).is_ok();
        self.leads = shown.then_some(term);
    }

    /// Whether the process that took this term has ended.
    fn holder_is_gone(&self, term: Term) -> bool {
        if self.leads == Some(term) || !self.active.try_take().is_ok_and(|taken| taken) {
            return false;
        }
        let is_its = self.active.note().is_ok_and(|note| note == term.0.to_string());
        self.active.give_back();
        is_its
    }
}

fn file_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::Write { path: path.into(), source }
}

fn read(path: &Path) -> Result<Option<RunRecord>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => file::decode(path, &bytes).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Read { path: path.into(), source }),
    }
}

impl StateStore for EmbeddedStore {
    fn execute(&mut self, request: &StoreRequest) -> StoreReply {
        // The file is whole at every instant. A standby looks often, and shall not be in the active one's way.
        if matches!(request, StoreRequest::Read { .. }) && !self.in_doubt {
            return self
                .try_execute(request)
                .unwrap_or_else(|why| StoreReply::Unknown { id: request.id(), why });
        }
        if let Err(why) = self.take_lock() {
            let why = if self.path.exists() { why.to_string() } else { self.vanished() };
            return StoreReply::Unknown { id: request.id(), why };
        }
        let reply = self.try_execute(request);
        self.lock.give_back();
        reply.unwrap_or_else(|why| StoreReply::Unknown { id: request.id(), why })
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("path", &self.path).finish_non_exhaustive()
    }
}
