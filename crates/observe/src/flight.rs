//! The flight recorder: what a process did last, kept in memory and written down when something goes wrong.
//!
//! It keeps the last control events (who came, who is gone and why) and the last ops with their times. It costs an op two
//! short locks and no allocation, and is bounded. A dump is a file of JSON lines, one [`Line`] each, the first of which
//! says whose it is; `pccl doctor collect` merges the dumps of a fleet into one story.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// The environment variable that names the folder of dumps, for a program with the library. Without it (and without
/// [`set_folder`]) errors write nothing.
pub const FOLDER_VARIABLE: &str = "PCCL_FLIGHT_DIR";

/// Control events that are kept.
const NOTES: usize = 2048;
/// Beginnings and ends of ops that are kept.
const OPS: usize = 4096;
/// Errors write a dump at most so often.
const PAUSE: Duration = Duration::from_secs(60);
/// Dumps that are kept in a folder; older ones make room.
const KEPT_FILES: usize = 16;
const PREFIX: &str = "pccl-flight-";

/// One line of a dump.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Microseconds since 1970, by this machine's clock.
    pub at_us: u64,
    /// Who: a session, or `master`. Empty in the first line.
    #[serde(default)]
    pub who: String,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// The first line: a process, and why it wrote.
    Process {
        /// `master`, `worker`, `library`.
        role: String,
        /// Its number.
        pid: u32,
        /// Its version.
        version: String,
        /// Why the dump was written.
        why: String,
    },
    /// A control event.
    Note {
        /// Something is wrong.
        trouble: bool,
        /// The session that it is about, if it is about another one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        about: Option<String>,
        /// The epoch at the time.
        epoch: u64,
        /// What happened, and why.
        text: String,
    },
    /// A caller called an op.
    OpBegan {
        /// Its tag.
        tag: u64,
        /// The epoch at the time.
        epoch: u64,
        /// Bytes of its tensor.
        bytes: u64,
    },
    /// The call returned.
    OpEnded {
        /// Its tag.
        tag: u64,
        /// The epoch at the time.
        epoch: u64,
        /// How long it took, microseconds.
        took_us: u64,
        /// Attempts that were cut before.
        recoveries: u32,
        /// Why it failed, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
}

struct Kept {
    at: SystemTime,
    who: Arc<str>,
    what: What,
}

struct Recorder {
    role: &'static str,
    folder: Option<PathBuf>,
    notes: VecDeque<Kept>,
    ops: VecDeque<Kept>,
    written: Option<Instant>,
}

static RECORDER: Mutex<Recorder> = Mutex::new(Recorder {
    role: "library",
    folder: None,
    notes: VecDeque::new(),
    ops: VecDeque::new(),
    written: None,
});

fn recorder() -> MutexGuard<'static, Recorder> {
    RECORDER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(queue: &mut VecDeque<Kept>, limit: usize, kept: Kept) {
    if queue.len() == limit {
        queue.pop_front();
    }
    queue.push_back(kept);
}

/// Says what this process is, and where its dumps go.
pub fn set_folder(role: &'static str, folder: PathBuf) {
    let mut recorder = recorder();
    recorder.role = role;
    recorder.folder = Some(folder);
}

/// Records a control event.
pub fn note(who: &Arc<str>, trouble: bool, about: Option<String>, epoch: u64, text: String) {
    let what = What::Note { trouble, about, epoch, text };
    let kept = Kept { at: SystemTime::now(), who: who.clone(), what };
    keep(&mut recorder().notes, NOTES, kept);
}

/// Records that a caller called an op.
pub fn op_began(who: &Arc<str>, tag: u64, epoch: u64, bytes: u64) {
    let kept = Kept { at: SystemTime::now(), who: who.clone(), what: What::OpBegan { tag, epoch, bytes } };
    keep(&mut recorder().ops, OPS, kept);
}

/// Records that a call returned.
pub fn op_ended(
    who: &Arc<str>,
    tag: u64,
    epoch: u64,
    took: Duration,
    recoveries: u32,
    error: Option<String>,
) {
    let what = What::OpEnded { tag, epoch, took_us: took.as_micros() as u64, recoveries, error };
    keep(&mut recorder().ops, OPS, Kept { at: SystemTime::now(), who: who.clone(), what });
}

fn micros(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

/// What is kept, as the text of a dump.
pub fn text(why: &str) -> String {
    let recorder = recorder();
    let process = What::Process {
        role: recorder.role.to_owned(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        why: why.to_owned(),
    };
    let mut lines = vec![Line { at_us: micros(SystemTime::now()), who: String::new(), what: process }];
    let line =
        |kept: &Kept| Line { at_us: micros(kept.at), who: kept.who.to_string(), what: kept.what.clone() };
    lines.extend(recorder.notes.iter().chain(&recorder.ops).map(line));
    drop(recorder);
    lines[1..].sort_by_key(|line| line.at_us);
    // Plain data: it can always be written.
    let texts = lines.iter().filter_map(|line| serde_json::to_string(line).ok());
    texts.fold(String::new(), |all, line| all + &line + "\n")
}

/// Writes a dump where dumps go. `None`: nobody has said where.
pub fn dump(why: &str) -> Option<io::Result<PathBuf>> {
    let folder = recorder().folder.clone();
    let folder = folder.or_else(|| std::env::var_os(FOLDER_VARIABLE).map(PathBuf::from))?;
    Some(dump_into(&folder, why))
}

fn dump_into(folder: &Path, why: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    make_room(folder);
    let name =
        format!("{PREFIX}{}-{}-{}.jsonl", recorder().role, std::process::id(), micros(SystemTime::now()));
    let path = folder.join(name);
    fs::write(&path, text(why))?;
    Ok(path)
}

/// Removes the oldest dumps of a folder: errors that come again and again must not fill a disk.
fn make_room(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(PREFIX);
    let age = |entry: fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
    let mut dumps: Vec<_> = entries.filter(ours).filter_map(age).collect();
    dumps.sort();
    let surplus = (dumps.len() + 1).saturating_sub(KEPT_FILES);
    for (_, path) in dumps.into_iter().take(surplus) {
        // Another process may have been quicker.
        let _ = fs::remove_file(path);
    }
}

/// An op failed: writes a dump, unless one was written a moment ago. The writing is left to a thread of its own, for the
/// caller may hold locks.
pub fn dump_after_error(why: &str) {
    let wanted = {
        let mut recorder = recorder();
        let may = recorder.written.is_none_or(|at| at.elapsed() >= PAUSE);
        if may {
            recorder.written = Some(Instant::now());
        }
        may && (recorder.folder.is_some() || std::env::var_os(FOLDER_VARIABLE).is_some())
    };
    if wanted {
        let why = why.to_owned();
        let writer = std::thread::Builder::new().name("pccl-flight".into());
        // Without a thread there is no dump; the error itself is told by others.
        let _ = writer.spawn(move || say(dump(&why)));
    }
}

/// A panic writes a dump too, before it is reported as ever.
pub fn dump_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // The panicking thread may hold the recorder: then there is nothing to be had.
        let free = RECORDER.try_lock().is_ok();
        if free {
            say(dump(&format!("panic: {info}")));
        }
        before(info);
    }));
}

/// Tells where a dump is.
pub fn say(dump: Option<io::Result<PathBuf>>) {
    match dump {
        Some(Ok(path)) => {
            tracing::warn!(target: "pccl::flight", "flight record written to {}", path.display());
        }
        Some(Err(error)) => {
            tracing::warn!(target: "pccl::flight", "failed to write the flight record: {error}");
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All tests share the recorder of the process: each looks for its own name only.
    fn lines_of(who: &str) -> Vec<Line> {
        let parse = |line: &str| serde_json::from_str::<Line>(line).unwrap();
        text("a test").lines().map(parse).filter(|line| line.who == who).collect()
    }

    #[test]
    fn what_was_recorded_is_read_back_in_order_after_a_line_that_says_whose_it_is() {
        let who: Arc<str> = "reader".into();
        op_began(&who, 7, 3, 4096);
        note(&who, true, Some("9".to_owned()), 3, "the connection to peer 9 broke".to_owned());
        op_ended(&who, 7, 3, Duration::from_millis(2), 1, Some("lost".to_owned()));
        let whats: Vec<What> = lines_of("reader").into_iter().map(|line| line.what).collect();
        assert_eq!(whats.len(), 3);
        assert_eq!(whats[0], What::OpBegan { tag: 7, epoch: 3, bytes: 4096 });
        assert!(matches!(&whats[2], What::OpEnded { took_us: 2000, error: Some(why), .. } if why == "lost"));
        let text = text("a test");
        let first: Line = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert!(matches!(first.what, What::Process { why, .. } if why == "a test"));
    }

    #[test]
    fn it_is_bounded() {
        let who: Arc<str> = "busy".into();
        for tag in 0..OPS as u64 + 10 {
            op_began(&who, tag, 0, 0);
        }
        let lines = lines_of("busy");
        assert!(lines.len() <= OPS);
        assert!(matches!(lines.last().unwrap().what, What::OpBegan { tag, .. } if tag == OPS as u64 + 9));
    }

    #[test]
    fn a_folder_keeps_the_newest_dumps_and_what_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("precious"), "").unwrap();
        for _ in 0..KEPT_FILES + 5 {
            dump_into(folder.path(), "again").unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), KEPT_FILES + 1);
        assert!(folder.path().join("precious").exists());
    }
}
