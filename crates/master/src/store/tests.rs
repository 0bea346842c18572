//! The stores, and what can befall a file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use pccl_proto::ids::{PeerGroup, Term};
use pccl_proto::lease::Lease;
use pccl_proto::record::{RunRecord, StoreReply, StoreRequest};
use tempfile::TempDir;

use super::conformance::{RUN, content, group, store_conformance, take_term, write};
use super::file::{self, Disk, FileSystem};
use super::{EmbeddedStore, MemoryStore, StateStore, StoreError};

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.state");
    (dir, path)
}

/// A file with one term and one epoch in it.
fn filled() -> (TempDir, PathBuf, RunRecord) {
    let (dir, path) = place();
    let mut store = EmbeddedStore::open(&path).unwrap();
    store.execute(&take_term(1, RUN));
    assert_eq!(store.execute(&write(2, 1, 0, group(1, 2))), StoreReply::Written { id: 2 });
    let record = content(&mut store);
    (dir, path, record)
}

#[test]
fn memory_store_conforms() {
    store_conformance(MemoryStore::new);
}

#[test]
fn embedded_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = 0;
    store_conformance(|| {
        n += 1;
        EmbeddedStore::open(dir.path().join(format!("{n}.state"))).unwrap()
    });
}

#[test]
fn a_reopened_store_holds_what_was_written() {
    let (_dir, path, record) = filled();
    let mut store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(content(&mut store), record);
    assert_eq!(record.run, RUN);
    let reply = store.execute(&take_term(1, RUN));
    let lease = Lease { term: Term(2), ..record.lease.clone() };
    let taken = RunRecord { term: Term(2), lease, ..record };
    assert_eq!(reply, StoreReply::Taken { id: 1, record: Box::new(taken) });
}

#[test]
fn a_lease_from_before_the_store_was_opened_belongs_to_nobody() {
    let gone = |store: &mut EmbeddedStore| match store.execute(&StoreRequest::Read { id: 1 }) {
        StoreReply::Record { holder_is_gone, .. } => holder_is_gone,
        other => panic!("{other:?}"),
    };
    let (_dir, path, _) = filled();
    let mut store = EmbeddedStore::open(&path).unwrap();
    assert!(gone(&mut store));
    store.execute(&take_term(1, RUN));
    assert!(!gone(&mut store));
}

#[test]
fn only_the_user_may_read_the_keys() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path, _) = filled();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn masters_of_one_file_see_what_the_other_writes_and_when_it_has_gone() {
    let (dir, path) = place();
    let mut first = EmbeddedStore::open(&path).unwrap();
    let link = dir.path().join("other-name");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut second = EmbeddedStore::open(&link).unwrap();
    assert!(matches!(first.execute(&take_term(1, RUN)), StoreReply::Taken { .. }));
    assert_eq!(first.execute(&write(2, 1, 0, group(1, 2))), StoreReply::Written { id: 2 });
    let (seen, gone) = read(&mut second);
    assert_eq!((seen.groups.get(&PeerGroup(5)), gone), (Some(&group(1, 2)), false));
    drop(first);
    assert!(read(&mut second).1);
    assert!(matches!(second.execute(&take_term(3, RUN)), StoreReply::Taken { .. }));
    // The next one finds that somebody leads, and who is deposed cannot write.
    let mut third = EmbeddedStore::open(&path).unwrap();
    assert!(!read(&mut third).1);
    assert!(matches!(third.execute(&take_term(4, RUN)), StoreReply::Taken { .. }));
    assert_eq!(second.execute(&write(5, 2, 1, group(2, 2))), StoreReply::Rejected { id: 5 });
    assert!(!read(&mut second).1, "the third one lives, though the second one held the lock until now");
    let renew = StoreRequest::Renew { id: 6, term: Term(3) };
    assert!(matches!(third.execute(&renew), StoreReply::Renewed { .. }));
    drop(third);
    assert!(read(&mut second).1);
}

/// What stands there, and whether the process that took the term has ended.
fn read(store: &mut dyn StateStore) -> (RunRecord, bool) {
    match store.execute(&StoreRequest::Read { id: 1 }) {
        StoreReply::Record { record, holder_is_gone, .. } => (*record, holder_is_gone),
        other => panic!("{other:?}"),
    }
}

/// A disk that stands still at one step of a write until it is let go.
struct Frozen {
    at_rename: bool,
    reached: Mutex<mpsc::Sender<()>>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Frozen {
    fn stand_still(&self) {
        self.reached.lock().unwrap().send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
    }
}

impl Disk for Frozen {
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if !self.at_rename {
            self.stand_still();
        }
        FileSystem.write_new(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.at_rename {
            self.stand_still();
        }
        FileSystem.rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        FileSystem.sync_directory(path)
    }
}

#[test]
fn who_is_frozen_with_the_lock_loses_it_and_its_write() {
    for at_rename in [false, true] {
        let (_dir, path, old) = filled();
        let ((reached, steps), (go, go_on)) = (mpsc::channel(), mpsc::channel());
        let disk = Frozen { at_rename, reached: Mutex::new(reached), go_on: Mutex::new(go_on) };
        let frozen = std::thread::spawn({
            let path = path.clone();
            go.send(()).unwrap();
            move || {
                let mut store = EmbeddedStore::open_on(&path, Box::new(disk)).unwrap();
                let reply = store.execute(&write(7, 1, 1, group(2, 1)));
                (store, reply)
            }
        });
        // The first write is that of its opening.
        steps.recv().unwrap();
        steps.recv().unwrap();
        let mut other = EmbeddedStore::open(&path).unwrap();
        assert_eq!(content(&mut other), old);
        assert_eq!(other.execute(&write(8, 1, 1, group(2, 2))), StoreReply::Written { id: 8 });
        let new = content(&mut other);
        go.send(()).unwrap();
        let (mut store, reply) = frozen.join().unwrap();
        assert!(matches!(reply, StoreReply::Unknown { id: 7, .. }), "{reply:?}");
        // It may go on, with what stands now.
        go.send(()).unwrap();
        assert_eq!(content(&mut store), new, "{at_rename}");
        assert_eq!(store.execute(&write(9, 1, 1, group(2, 1))), StoreReply::Rejected { id: 9 });
        assert_eq!(content(&mut other), new);
    }
}

#[test]
fn a_place_without_a_directory_is_refused() {
    let (dir, _) = place();
    let error = EmbeddedStore::open(dir.path().join("missing").join("master.state")).unwrap_err();
    assert!(matches!(error, StoreError::Place { .. }), "{error}");
    let error = EmbeddedStore::open(dir.path()).unwrap_err();
    assert!(!error.to_string().is_empty());
}

#[test]
fn a_writer_killed_at_any_byte_leaves_the_old_state() {
    let (_dir, path, record) = filled();
    let old = fs::read(&path).unwrap();
    let mut newer = record.clone();
    newer.apply(&write(3, 1, 1, group(2, 1)));
    let new = file::encode(&newer).unwrap();
    let temp = file::beside(&path, ".tmp");
    // The last round is a whole file whose rename is missing.
    for cut in 0..=new.len() {
        fs::write(&temp, &new[..cut]).unwrap();
        assert_eq!(file::decode(&path, &fs::read(&path).unwrap()).unwrap(), record);
        if cut % 64 == 0 || cut == new.len() {
            assert_eq!(content(&mut EmbeddedStore::open(&path).unwrap()), record);
            assert!(!temp.exists());
            assert_eq!(fs::read(&path).unwrap(), old);
        }
    }
}

#[test]
fn a_file_cut_at_any_byte_is_refused_and_left_alone() {
    let (_dir, path, _) = filled();
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        let error = file::decode(&path, &whole[..cut]).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "cut at {cut}: {error}");
    }
    for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let said = EmbeddedStore::open(&path).unwrap_err().to_string();
        assert!(said.contains(path.to_str().unwrap()) && said.contains("restore it"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), &whole[..cut]);
    }
}

#[test]
fn a_file_with_any_byte_changed_is_refused_or_means_the_same() {
    let (_dir, path, record) = filled();
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for change in [0x01, 0x20, 0x80] {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            // A change of white space may go unnoticed, one of meaning may not.
            if let Ok(read) = file::decode(&path, &damaged) {
                assert_eq!(read, record, "byte {at} changed by {change:#x}");
            }
        }
    }
}

#[test]
fn another_version_and_another_program_s_file_are_told_apart() {
    let (_dir, path) = place();
    fs::write(&path, "{\"format\":\"pccl-master-state\",\"version\":2,\"news\":[]}\n").unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Version { found: 2, .. }), "{error}");
    fs::write(&path, "{\"format\":\"notes\",\"version\":1}\n").unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The disk is full after so many bytes.
    Write(usize),
    /// The rename fails and does nothing, or fails and has happened.
    Rename {
        happens: bool,
    },
    SyncDirectory,
}

/// A file system with one thing wrong with it.
#[derive(Clone, Default)]
struct Faulty(Arc<Mutex<Option<Fault>>>);

impl Faulty {
    fn set(&self, fault: Option<Fault>) {
        *self.0.lock().unwrap() = fault;
    }

    fn fault(&self) -> Option<Fault> {
        *self.0.lock().unwrap()
    }
}

impl Disk for Faulty {
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(Fault::Write(n)) = self.fault() {
            fs::write(path, &bytes[..n.min(bytes.len())])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        FileSystem.write_new(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self.fault() {
            Some(Fault::Rename { happens }) => {
                if happens {
                    FileSystem.rename(from, to)?;
                }
                Err(io::ErrorKind::TimedOut.into())
            }
            _ => FileSystem.rename(from, to),
        }
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        match self.fault() {
            Some(Fault::SyncDirectory) => Err(io::Error::other("input/output error")),
            _ => FileSystem.sync_directory(path),
        }
    }
}

#[test]
fn a_full_disk_keeps_the_old_state_and_reading_goes_on() {
    let (_dir, path, record) = filled();
    let disk = Faulty::default();
    let mut store = EmbeddedStore::open_on(&path, Box::new(disk.clone())).unwrap();
    disk.set(Some(Fault::Write(100)));
    for request in [take_term(7, RUN), write(7, 1, 1, group(2, 1))] {
        let StoreReply::Unknown { id: 7, why } = store.execute(&request) else { panic!() };
        assert!(why.contains(path.to_str().unwrap()) && why.contains("holds the old state"), "{why}");
        assert_eq!(content(&mut store), record);
    }
    disk.set(None);
    assert_eq!(store.execute(&write(8, 1, 1, group(2, 1))), StoreReply::Written { id: 8 });
}

#[test]
fn after_a_late_failure_the_file_says_what_stands() {
    for (fault, happened) in [
        (Fault::Rename { happens: false }, false),
        (Fault::Rename { happens: true }, true),
        (Fault::SyncDirectory, true),
    ] {
        let (_dir, path, old) = filled();
        let disk = Faulty::default();
        let mut store = EmbeddedStore::open_on(&path, Box::new(disk.clone())).unwrap();
        disk.set(Some(fault));
        let request = write(7, 1, 1, group(2, 1));
        let StoreReply::Unknown { id: 7, why } = store.execute(&request) else { panic!("{fault:?}") };
        assert!(why.contains("the old state or the new"), "{why}");
        // What cannot be made sure of is not told.
        let read = store.execute(&pccl_proto::record::StoreRequest::Read { id: 8 });
        assert!(matches!(read, StoreReply::Unknown { id: 8, .. }), "{fault:?}: {read:?}");
        disk.set(None);
        let found = content(&mut store);
        let new = Some(group(2, 1));
        assert_eq!(found.groups.get(&PeerGroup(5)) == new.as_ref(), happened, "{fault:?}");
        assert!(happened || found == old, "{fault:?}");
        drop(store);
        assert_eq!(content(&mut EmbeddedStore::open(&path).unwrap()), found, "{fault:?}");
    }
}

#[test]
fn a_store_whose_directory_has_vanished_says_so() {
    let (dir, path, _) = filled();
    let mut store = EmbeddedStore::open(&path).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    for request in [take_term(3, RUN), StoreRequest::Read { id: 3 }] {
        let StoreReply::Unknown { id: 3, why } = store.execute(&request) else { panic!("{request:?}") };
        assert!(why.contains("has vanished"), "{why}");
    }
}
