//! A log file that starts anew when it is full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Full files that are kept beside the one being written: `worker.log.1` is the newest of them.
const KEPT: usize = 5;

/// How often a line looks whether the file is still at its place.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file that is moved aside when the next line would make it longer than its limit.
///
/// * One call of `write` is one line and stays in one file; a line longer than the limit gets a file of its own.
/// * A line has reached the kernel when `write` returns, so a killed process loses none. Only a machine that loses
///   its power can: there is no `fsync`, because a log must not slow down the work it tells about.
/// * Files change places by renaming. A crash between two renames leaves a gap in the numbers, never a lost or
///   doubled line, and the next rotation closes it.
/// * When a rotation fails (say the folder became read-only), the file grows on and the next try comes after
///   another `max_bytes`: a log that is too long is better than none, and than a failing program.
/// * A file that was moved or removed, also with its folder, is made anew within a second, so that `logrotate` and a
///   folder that was cleared lose what was in them and nothing after it.
/// * When the disk is full, lines are lost; the first one that fits again begins a line of its own.
/// * Several processes may share a file: they append whole lines, and one that meets a file moved by another
///   opens the new one instead of moving it again.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    max_bytes: u64,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
    /// Rotate when a line would go beyond this: `max_bytes`, or more after a failed try.
    limit: u64,
    /// A part of a line may be the last that is there.
    cut: bool,
    /// When the file was at its place.
    seen: Instant,
}

impl RotatingFile {
    /// Opens `path` to append to it, with the folders it needs. Zero `max_bytes` means no limit.
    pub fn open(path: impl Into<PathBuf>, max_bytes: u64) -> io::Result<Self> {
        let path = path.into();
        let max_bytes = if max_bytes == 0 { u64::MAX } else { max_bytes };
        let open = Mutex::new(append_to(&path, max_bytes)?);
        Ok(Self { path, max_bytes, open })
    }

    fn write_line(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.lock();
        if open.seen.elapsed() >= LOOK_EVERY {
            open.seen = Instant::now();
            if !is_at(&open.file, &self.path).unwrap_or(true) {
                // If it cannot be made anew, the old one takes the line.
                if let Ok(fresh) = append_to(&self.path, self.max_bytes) {
                    *open = fresh;
                }
            }
        }
        let grown = open.length.saturating_add(line.len() as u64);
        if open.length > 0 && grown > open.limit {
            match self.rotate(&open.file) {
                Ok(fresh) => *open = fresh,
                Err(_) => open.limit = grown.saturating_add(self.max_bytes),
            }
        }
        if open.cut {
            open.file.write_all(b"\n")?;
            open.cut = false;
        }
        let written = open.file.write_all(line);
        open.cut = written.is_err();
        open.length += line.len() as u64;
        written
    }

    fn rotate(&self, current: &File) -> io::Result<Open> {
        if is_at(current, &self.path)? {
            for kept in (1..KEPT).rev() {
                rename_if_there(&numbered(&self.path, kept), &numbered(&self.path, kept + 1))?;
            }
            rename_if_there(&self.path, &numbered(&self.path, 1))?;
        }
        append_to(&self.path, self.max_bytes)
    }

    /// A thread that panicked inside `write` left at worst a short line: the others log on.
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for &RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_line(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().file.flush()
    }
}

fn append_to(path: &Path, max_bytes: u64) -> io::Result<Open> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let there = file.metadata()?;
    // `/dev/stdout`, a pipe: nothing that can be moved aside.
    let limit = if there.is_file() { max_bytes } else { u64::MAX };
    Ok(Open { file, length: there.len(), limit, cut: false, seen: Instant::now() })
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether `file` is still what `path` names: another process, or logrotate, may have moved it.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(log: &RotatingFile, line: &str) {
        let mut writer = log;
        writer.write_all(line.as_bytes()).unwrap();
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_full_file_moves_aside_and_no_line_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/worker.log");
        let log = RotatingFile::open(&path, 20).unwrap();
        for number in 0..5 {
            put(&log, &format!("line {number}..\n"));
        }
        assert_eq!(read(&path), "line 4..\n");
        assert_eq!(read(&numbered(&path, 1)), "line 2..\nline 3..\n");
        assert_eq!(read(&numbered(&path, 2)), "line 0..\nline 1..\n");
        assert_eq!(names(path.parent().unwrap()), ["worker.log", "worker.log.1", "worker.log.2"]);
    }

    #[test]
    fn exactly_full_is_not_too_full_and_a_giant_line_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = RotatingFile::open(&path, 4).unwrap();
        put(&log, "ab\n");
        put(&log, "\n");
        assert_eq!(names(folder.path()), ["a.log"]);
        put(&log, "a giant\n");
        put(&log, "c\n");
        assert_eq!(read(&path), "c\n");
        assert_eq!(read(&numbered(&path, 1)), "a giant\n");
        assert_eq!(read(&numbered(&path, 2)), "ab\n\n");
    }

    #[test]
    fn only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = RotatingFile::open(&path, 1).unwrap();
        for number in 0..20 {
            put(&log, &format!("{number}\n"));
        }
        assert_eq!(names(folder.path()).len(), 1 + KEPT);
        assert_eq!(read(&path), "19\n");
        assert_eq!(read(&numbered(&path, KEPT)), "14\n");
    }

    #[test]
    fn a_restart_appends_and_counts_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        put(&RotatingFile::open(&path, 10).unwrap(), "before\n");
        let log = RotatingFile::open(&path, 10).unwrap();
        put(&log, "ab\n");
        assert_eq!(read(&path), "before\nab\n");
        put(&log, "c\n");
        assert_eq!(read(&path), "c\n");
        assert_eq!(read(&numbered(&path, 1)), "before\nab\n");
    }

    #[test]
    fn a_crash_between_two_renames_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        // What a crash leaves: `.1` has already become `.2`, the live file has not moved yet.
        fs::write(&path, "live\n").unwrap();
        fs::write(numbered(&path, 2), "older\n").unwrap();
        let log = RotatingFile::open(&path, 5).unwrap();
        put(&log, "new\n");
        assert_eq!(read(&path), "new\n");
        assert_eq!(read(&numbered(&path, 1)), "live\n");
        assert_eq!(read(&numbered(&path, 3)), "older\n");
    }

    #[test]
    fn two_processes_on_one_file_rotate_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let (one, two) = (RotatingFile::open(&path, 8).unwrap(), RotatingFile::open(&path, 8).unwrap());
        put(&one, "one 1\n");
        put(&two, "two 1\n");
        put(&one, "one 2\n");
        put(&two, "two 2\n");
        assert_eq!(read(&path), "one 2\ntwo 2\n");
        assert_eq!(read(&numbered(&path, 1)), "one 1\ntwo 1\n");
        assert_eq!(names(folder.path()), ["a.log", "a.log.1"]);
    }

    #[test]
    fn a_rotation_that_fails_keeps_logging() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = RotatingFile::open(&path, 4).unwrap();
        // A folder stands where the oldest kept file should go.
        fs::create_dir(numbered(&path, KEPT)).unwrap();
        fs::write(numbered(&path, KEPT - 1), "old\n").unwrap();
        put(&log, "one\n");
        put(&log, "two\n");
        put(&log, "three\n");
        assert_eq!(read(&path), "one\ntwo\nthree\n");
    }

    /// As if the last look had been long ago.
    fn look_again(log: &RotatingFile) {
        let mut open = log.lock();
        open.seen = open.seen.checked_sub(LOOK_EVERY).unwrap();
    }

    #[test]
    fn a_folder_that_was_removed_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a.log");
        let log = RotatingFile::open(&path, 1_000).unwrap();
        put(&log, "one\n");
        fs::remove_dir_all(folder.path().join("logs")).unwrap();
        look_again(&log);
        put(&log, "two\n");
        assert_eq!(read(&path), "two\n");
        // As `logrotate` does.
        fs::rename(&path, numbered(&path, 1)).unwrap();
        look_again(&log);
        put(&log, "three\n");
        assert_eq!((read(&path), read(&numbered(&path, 1))), ("three\n".into(), "two\n".into()));
        // Where it cannot be made anew, the lines go on to where they went.
        fs::rename(folder.path().join("logs"), folder.path().join("old")).unwrap();
        fs::write(folder.path().join("logs"), "").unwrap();
        look_again(&log);
        put(&log, "four\n");
        assert_eq!(read(&folder.path().join("old/a.log")), "three\nfour\n");
    }

    #[test]
    fn a_full_disk_costs_lines_and_spoils_none_after_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = RotatingFile::open(&path, 1_000).unwrap();
        log.lock().file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut writer = &log;
        assert!(writer.write_all(b"lost\n").is_err());
        // What a write that did not fit may leave.
        fs::write(&path, "half a li").unwrap();
        log.lock().file = OpenOptions::new().append(true).open(&path).unwrap();
        put(&log, "whole\n");
        put(&log, "again\n");
        assert_eq!(read(&path), "half a li\nwhole\nagain\n");
    }

    #[test]
    fn what_is_no_file_is_never_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        let log = RotatingFile::open(&path, 1).unwrap();
        (0..10).for_each(|_| put(&log, "line\n"));
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn threads_share_it_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = RotatingFile::open(&path, 8 * 100).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let log = &log;
                scope.spawn(move || (0..100).for_each(|n| put(log, &format!("{thread} {n:05}\n"))));
            }
        });
        let mut lines = Vec::new();
        for name in names(folder.path()) {
            lines.extend(read(&folder.path().join(name)).lines().map(str::to_owned));
        }
        lines.sort();
        let mut expected: Vec<_> =
            (0..4).flat_map(|t| (0..100).map(move |n| format!("{t} {n:05}"))).collect();
        expected.sort();
        assert_eq!(lines, expected);
        assert_eq!(names(folder.path()).len(), 4);
    }

    #[test]
    fn no_limit_never_rotates() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let log = RotatingFile::open(&path, 0).unwrap();
        (0..100).for_each(|_| put(&log, "line\n"));
        assert_eq!(read(&path).lines().count(), 100);
        assert_eq!(names(folder.path()), ["a.log"]);
    }
}
