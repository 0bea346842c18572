//! A store in a file beside the master.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use pccl_proto::ids::Term;
use pccl_proto::record::{RunRecord, StoreReply, StoreRequest};

use super::StateStore;
use super::file::{self, Disk, FileSystem, StoreError};

/// Keeps the state in a file, whole at every instant.
///
/// A write makes a new file beside the old one (`.tmp`), waits until the disk has it, gives it the old one's name, and
/// waits until the disk has that. Whatever is cut off in between, the file holds the old state or the new one. A `.lock`
/// file beside it keeps a second master away; it stays when the master ends and means nothing then.
pub struct EmbeddedStore {
    path: PathBuf,
    directory: PathBuf,
    temp: PathBuf,
    /// What the file holds. None: a write failed so late that the file must be read to know.
    record: Option<RunRecord>,
    /// The term that stood in the file when it was opened.
    found: Term,
    disk: Box<dyn Disk>,
    _lock: File,
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
        let lock = file::lock(&path)?;
        let record = read(&path)?.unwrap_or_default();
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let temp = file::beside(&path, ".tmp");
        let store = Self { path, directory, temp, record: None, found: record.term, disk, _lock: lock };
        match store.persist(&record) {
            Ok(()) => Ok(Self { record: Some(record), ..store }),
            Err(failed) => Err(StoreError::Write { path: store.path, source: failed.source }),
        }
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
        self.disk.rename(&self.temp, &self.path).map_err(after)?;
        self.disk.sync_directory(&self.directory).map_err(after)
    }

    /// What the file holds; after a failure, read from it and written once more, so that it is sure to stay.
    fn known(&mut self) -> Result<&RunRecord, String> {
        if self.record.is_none() {
            let found = match read(&self.path) {
                Ok(Some(found)) => found,
                Ok(None) => return Err(format!("the master's state {} has vanished", self.path.display())),
                Err(e) => return Err(e.to_string()),
            };
            self.persist(&found).map_err(|e| self.complaint(&e))?;
            self.record = Some(found);
        }
        self.record.as_ref().ok_or_else(String::new)
    }

    fn complaint(&self, failed: &WriteFailed) -> String {
        let (path, source) = (self.path.display(), &failed.source);
        let so =
            if failed.in_doubt { "it may hold the old state or the new" } else { "it holds the old state" };
        format!(
            "failed to write the master's state {path}: {source}; {so}; check free space and permissions of its directory"
        )
    }

    fn try_execute(&mut self, request: &StoreRequest) -> Result<StoreReply, String> {
        let mut record = self.known()?.clone();
        let mut reply = record.apply(request);
        if let StoreReply::Record { holder_is_gone, .. } = &mut reply {
            // Whoever took a term before this process had the lock has ended.
            *holder_is_gone = record.term <= self.found;
        }
        let changed = matches!(
            reply,
            StoreReply::Taken { .. } | StoreReply::Renewed { .. } | StoreReply::Written { .. }
        );
        if changed {
            if let Err(failed) = self.persist(&record) {
                if failed.in_doubt {
                    self.record = None;
                }
                return Err(self.complaint(&failed));
            }
            self.record = Some(record);
        }
        Ok(reply)
    }
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
        self.try_execute(request).unwrap_or_else(|why| StoreReply::Unknown { id: request.id(), why })
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("path", &self.path).finish_non_exhaustive()
    }
}
