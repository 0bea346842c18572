//! The file of the embedded store: its format, the steps of a write, and the lock.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pccl_proto::ids::{PeerGroup, RunId, Term};
use pccl_proto::lease::Lease;
use pccl_proto::record::{GroupRecord, RunRecord};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Version of the format that this program writes; it reads no other.
const VERSION: u32 = 1;
const FORMAT: &str = "pccl-master-state";
/// A lock is held for the time of a write: whoever holds it for longer is frozen, or its disk is.
const FROZEN: Duration = Duration::from_secs(1);
/// Longest time to wait for the lock in all.
const PATIENCE: Duration = Duration::from_secs(3);
/// What files are called that shall take the place of the file: its name, this, and something of their writer's.
pub(super) const TEMP: &str = ".tmp";

/// A store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The address of a database makes no sense.
    #[error("failed to use the store at {url}: {why}")]
    Url {
        /// Without credentials.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The path names no place for a file.
    #[error("failed to open the master's state {path}: {source}; create its directory, or name another file")]
    Place {
        /// As given.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others use it all the time.
    #[error(
        "the master's state {path} has been locked for seconds by others, at last by {}; its disk may be too slow for so \
         many masters",
        name_of(*holder)
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// The last master's process, if it has said so already.
        holder: Option<u32>,
    },
    /// The lock file beside it cannot be used.
    #[error(
        "failed to lock the master's state with {lock}: {source}; check the permissions of file and directory"
    )]
    Lock {
        /// The lock file.
        lock: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is there and cannot be read.
    #[error("failed to read the master's state {path}: {source}; check its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Its content is not what a master has written.
    #[error(
        "the master's state {path} is damaged: {what}; restore it from a backup, or move it away to begin a new run \
         (peers that are still connected to the old one will be told that their sessions are forgotten)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it is seen.
        what: String,
    },
    /// Another version of this program has written it.
    #[error(
        "the master's state {path} has format version {found}, this program knows version {VERSION}; start the \
         version of pccl that wrote it, or move it away to begin a new run"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It cannot be written, so nothing could be remembered.
    #[error(
        "failed to write the master's state {path}: {source}; check free space and permissions of its directory"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn name_of(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".into(), |pid| format!("the process with pid {pid}"))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    format: Cow<'a, str>,
    version: u32,
    /// CRC-32 of the state's bytes as they stand in the file, hexadecimal.
    crc32: String,
    state: Cow<'a, RawValue>,
}

#[derive(Deserialize)]
struct Version {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State<'a> {
    /// Hexadecimal: JSON numbers of 128 bits do not survive most tools.
    run: String,
    term: Term,
    #[serde(default)]
    lease: Cow<'a, Lease>,
    groups: Cow<'a, BTreeMap<PeerGroup, GroupRecord>>,
}

/// The file's content for a record.
pub(super) fn encode(record: &RunRecord) -> io::Result<Vec<u8>> {
    let state = State {
        run: format!("{:032x}", record.run.0),
        term: record.term,
        lease: Cow::Borrowed(&record.lease),
        groups: Cow::Borrowed(&record.groups),
    };
    let state = serde_json::value::to_raw_value(&state)?;
    let envelope = Envelope {
        format: FORMAT.into(),
        version: VERSION,
        crc32: format!("{:08x}", crc32fast::hash(state.get().as_bytes())),
        state: Cow::Owned(state),
    };
    let mut bytes = serde_json::to_vec(&envelope)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The record in a value that another store keeps.
pub(super) fn decode_bytes(bytes: &[u8]) -> Result<RunRecord, String> {
    decode(Path::new("in the store"), bytes).map_err(|e| e.to_string())
}

/// The record in a file's content.
pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<RunRecord, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.into(), what };
    if bytes.is_empty() {
        return Err(damaged("it is empty".into()));
    }
    if bytes.last() != Some(&b'\n') {
        return Err(damaged(format!("it ends in the middle, after {} bytes", bytes.len())));
    }
    let unreadable = |e: serde_json::Error| damaged(format!("it cannot be parsed: {e}"));
    let head: Version = serde_json::from_slice(bytes).map_err(unreadable)?;
    if head.format != FORMAT {
        return Err(damaged(format!("its format is \"{}\", not \"{FORMAT}\"", head.format)));
    }
    if head.version != VERSION {
        return Err(StoreError::Version { path: path.into(), found: head.version });
    }
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(unreadable)?;
    let computed = format!("{:08x}", crc32fast::hash(envelope.state.get().as_bytes()));
    if computed != envelope.crc32 {
        return Err(damaged(format!("its checksum is {}, its content has {computed}", envelope.crc32)));
    }
    let state: State<'_> = serde_json::from_str(envelope.state.get()).map_err(unreadable)?;
    let run =
        u128::from_str_radix(&state.run, 16).map_err(|e| damaged(format!("its run has no name: {e}")))?;
    let (lease, groups) = (state.lease.into_owned(), state.groups.into_owned());
    Ok(RunRecord { run: RunId(run), term: state.term, lease, groups })
}

/// The steps of a write, apart so that each can be made to fail in a test.
pub(super) trait Disk: Send {
    /// Writes a new file and has it on the disk when it returns.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Gives a file the name of another, which it replaces.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Has the names in a directory on the disk when it returns.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The file system.
#[derive(Debug)]
pub(super) struct FileSystem;

impl Disk for FileSystem {
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // A new file each time: after a failed write to an old one nobody knows what a later fsync vouches for.
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // Session keys are in it: for this user only.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// `path` with something appended to its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The one name of the file, whatever links lead to it, so that all masters look for the same lock.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    let place = |source| StoreError::Place { path: path.into(), source };
    match fs::canonicalize(path) {
        Ok(found) => return Ok(found),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(place(e)),
    }
    let Some(name) = path.file_name() else {
        return Err(place(io::ErrorKind::InvalidFilename.into()));
    };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(fs::canonicalize(parent).map_err(place)?.join(name))
}

/// A lock beside a file. The lock file stays: if it were removed, two processes could hold locks on two files of the same
/// name.
///
/// A process that is frozen with the lock would keep all others from the file for as long as it is. So whoever waits for it
/// in vain puts another lock file in its place, and then removes what the frozen one has written and not yet given the
/// file's name ([`sweep`]). Whoever writes looks between the two whether the lock is still its own
/// ([`is_held`](Self::is_held)). Either it sees that it is not, or what it has written was there to be removed: so when it
/// wakes, it can replace nothing.
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    /// Tells this lock's holder from others, and one time that it is held from another.
    name: u64,
    times: u64,
}

impl Lock {
    /// The lock file `path` with `suffix`.
    pub(super) fn beside(path: &Path, suffix: &str) -> Result<Self, StoreError> {
        let lock = beside(path, suffix);
        let wrong = |source| StoreError::Lock { lock: lock.clone(), source };
        let name = getrandom::u64().map_err(|e| wrong(io::Error::other(e)))?;
        let file = Self::open(&lock).map_err(wrong)?;
        Ok(Self { file, path: lock, name, times: 0 })
    }

    fn open(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    }

    fn wrong(&self, source: io::Error) -> StoreError {
        StoreError::Lock { lock: self.path.clone(), source }
    }

    /// Takes it now, or not. It is held until it is given back, or the process ends.
    pub(super) fn try_take(&self) -> Result<bool, StoreError> {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(self.wrong(e.into())),
        }
    }

    /// Takes it, from whoever has held it for seconds if need be, and says who it is. Whether it was taken from somebody:
    /// then [`sweep`] comes first.
    pub(super) fn take(&mut self, path: &Path) -> Result<Option<u32>, StoreError> {
        let begun = Instant::now();
        let (mut seen, mut since) = (self.note()?, begun);
        self.times += 1;
        loop {
            let taken = self.try_take()?;
            if !self.is_held()? {
                self.file = Self::open(&self.path).map_err(|e| self.wrong(e))?;
                continue;
            }
            if taken {
                self.sign()?;
                return Ok(None);
            }
            let note = self.note()?;
            if note != seen {
                (seen, since) = (note, Instant::now());
            }
            let holder = seen.split(' ').next().and_then(|pid| pid.parse().ok());
            if since.elapsed() > FROZEN {
                self.replace()?;
                return Ok(Some(holder.unwrap_or_default()));
            }
            if begun.elapsed() > PATIENCE {
                return Err(StoreError::InUse { path: path.into(), holder });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Another lock file, held, in the place of the one that there is.
    fn replace(&mut self) -> Result<(), StoreError> {
        let fresh = beside(&self.path, &format!(".{:016x}", self.name));
        let file = Self::open(&fresh).map_err(|e| self.wrong(e))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| self.wrong(e.into()))?;
        fs::rename(&fresh, &self.path).map_err(|e| self.wrong(e))?;
        self.file = file;
        self.sign()
    }

    /// Whether nobody has put another lock file in the place of this one.
    pub(super) fn is_held(&self) -> Result<bool, StoreError> {
        let ours = self.file.metadata().map_err(|e| self.wrong(e))?;
        match fs::metadata(&self.path) {
            Ok(found) => Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.wrong(e)),
        }
    }

    /// Gives it back.
    pub(super) fn give_back(&self) {
        // It can fail only if it is not held.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }

    /// Who holds it; never twice the same.
    fn sign(&self) -> Result<(), StoreError> {
        self.set_note(&format!("{} {:016x} {}", std::process::id(), self.name, self.times))
    }

    /// What its last holder has written into it.
    pub(super) fn note(&self) -> Result<String, StoreError> {
        let mut bytes = [0; 64];
        let read = rustix::io::pread(&self.file, &mut bytes, 0).map_err(|e| self.wrong(e.into()))?;
        Ok(String::from_utf8_lossy(&bytes[..read]).trim().to_owned())
    }

    /// Writes into it; only for its holder.
    pub(super) fn set_note(&self, text: &str) -> Result<(), StoreError> {
        let write = || {
            self.file.set_len(0)?;
            std::os::unix::fs::FileExt::write_all_at(&self.file, format!("{text}\n").as_bytes(), 0)
        };
        write().map_err(|e| self.wrong(e))
    }
}

/// Removes what was written to take the place of the file at `path` and never did. Only for the lock's holder.
pub(super) fn sweep(path: &Path) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let begin = beside(Path::new(path.file_name().unwrap_or_default()), TEMP);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(begin.as_os_str().as_encoded_bytes()) {
            match fs::remove_file(entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}
