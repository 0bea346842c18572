//! The outputs of running attempts, read while they are written: whole lines, so that no two of them mix.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

/// A line without an end is cut here: what a program draws on one line for ever must not fill the memory.
const LONGEST_LINE_BYTES: usize = 64 * 1024;
/// Most that is read of one file at a time; the rest comes next time.
const MOST_AT_ONCE: u64 = 1 << 20;

/// The files that are followed, by the number of their job.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    files: BTreeMap<u64, Followed>,
}

#[derive(Debug)]
struct Followed {
    name: String,
    path: PathBuf,
    /// Bytes that have been read.
    read: u64,
    /// A line that has not ended yet.
    begun: Vec<u8>,
}

/// A line, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Outputs {
    /// Reads this file from now on; it need not be there yet.
    pub(crate) fn follow(&mut self, job: u64, name: &str, path: PathBuf) {
        let read = path.metadata().map_or(0, |data| data.len());
        self.files.insert(job, Followed { name: name.to_owned(), path, read, begun: Vec::new() });
    }

    /// The lines that have ended since the last time.
    pub(crate) fn lines(&mut self) -> Vec<Line> {
        self.files.values_mut().flat_map(Followed::lines).collect()
    }

    /// The last lines of a job that is over.
    pub(crate) fn finish(&mut self, job: u64) -> Vec<Line> {
        let Some(mut file) = self.files.remove(&job) else { return Vec::new() };
        let mut lines = Vec::new();
        loop {
            let before = file.read;
            lines.extend(file.lines());
            if file.read == before {
                break;
            }
        }
        if !file.begun.is_empty() {
            let rest = std::mem::take(&mut file.begun);
            lines.push(file.line(&rest));
        }
        lines
    }
}

impl Followed {
    fn line(&self, bytes: &[u8]) -> Line {
        // A progress bar goes back to the beginning of its line: what it drew last counts.
        let text = String::from_utf8_lossy(bytes);
        let shown = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
        Line { name: self.name.clone(), text: shown.to_owned() }
    }

    fn lines(&mut self) -> Vec<Line> {
        // A file that cannot be read now shows nothing now; the attempt itself says what is wrong with it.
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.take(MOST_AT_ONCE).read_to_end(&mut bytes)
        });
        let Ok(count) = read else { return Vec::new() };
        self.read += count as u64;
        let mut lines = Vec::new();
        for byte in bytes {
            if byte == b'\n' || self.begun.len() >= LONGEST_LINE_BYTES {
                let ended = std::mem::take(&mut self.begun);
                lines.push(self.line(&ended));
            }
            if byte != b'\n' {
                self.begun.push(byte);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;

    use super::*;

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn lines_come_whole_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut outputs = Outputs::default();
        outputs.follow(1, "infra/eu", path.clone());
        assert!(outputs.lines().is_empty(), "there is no file yet");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(outputs.lines(), [Line { name: "infra/eu".into(), text: "one".into() }]);
        assert!(outputs.lines().is_empty());
        file.write_all(b"o\n10 %\r20 %\rdone\r\nlast").unwrap();
        assert_eq!(texts(&outputs.lines()), ["two", "done"]);
        assert_eq!(texts(&outputs.finish(1)), ["last"]);
        assert!(outputs.finish(1).is_empty());
    }

    #[test]
    fn what_was_there_before_is_not_shown_and_no_line_is_endless() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        std::fs::write(&path, "of an earlier session\n").unwrap();
        let mut outputs = Outputs::default();
        outputs.follow(7, "infra", path.clone());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&vec![b'x'; 3 * LONGEST_LINE_BYTES / 2]).unwrap();
        let lines = outputs.finish(7);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].text.len(), LONGEST_LINE_BYTES);
    }
}
