//! Where flight records come from: processes that are asked, and files.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::flight::Line;

/// How long a process may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// No record is nearly as large: a stranger must not fill our memory.
const MOST_BYTES: u64 = 64 << 20;

/// A flight record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it came from.
    pub name: String,
    /// As it was read.
    pub text: String,
    /// Its lines, with times of this machine's clock as far as the difference is known.
    pub lines: Vec<Line>,
}

/// Reads all sources; those that cannot be read are told in words.
pub fn read(sources: &[String]) -> (Vec<Record>, Vec<String>) {
    let mut records = Vec::new();
    let mut unread = Vec::new();
    for source in sources {
        let path = Path::new(source);
        let found = if path.is_dir() {
            files_of(path).into_iter().map(|path| from_file(&path)).collect()
        } else if path.exists() {
            vec![from_file(path)]
        } else {
            vec![from_process(source)]
        };
        for record in found {
            match record {
                Ok(record) => records.push(record),
                Err(why) => unread.push(why),
            }
        }
    }
    (records, unread)
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_record = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pccl-flight-"))
    };
    let mut files: Vec<PathBuf> = entries.filter(is_record).collect();
    files.sort();
    files
}

fn from_file(path: &Path) -> Result<Record, String> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|e| format!("failed to read {name}: {e}"))?;
    record(name, text, 0)
}

fn from_process(address: &str) -> Result<Record, String> {
    let fail = |why: String| format!("failed to ask {address}: {why}");
    let mut addresses = address.to_socket_addrs().map_err(|e| fail(e.to_string()))?;
    let addr = addresses.next().ok_or_else(|| fail("it has no address".to_owned()))?;
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).map_err(|e| fail(e.to_string()))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| fail(e.to_string()))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(|e| fail(e.to_string()))?;
    let asked = now_us();
    // The older protocol ends its answer by closing, and has no chunks.
    write!(stream, "GET /debug/flight HTTP/1.0\r\nHost: pccl\r\n\r\n").map_err(|e| fail(e.to_string()))?;
    let mut answer = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut answer).map_err(|e| fail(e.to_string()))?;
    let answered = now_us();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| fail("no HTTP".to_owned()))?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(fail(head.lines().next().unwrap_or_default().to_owned()));
    }
    // Its first line was written half-way between question and answer.
    let written = body.lines().next().and_then(|line| serde_json::from_str::<Line>(line).ok());
    let offset =
        written.map_or(0, |line| line.at_us.cast_signed() - (asked.midpoint(answered)).cast_signed());
    record(address.to_owned(), body.to_owned(), offset)
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

fn record(name: String, text: String, offset_us: i64) -> Result<Record, String> {
    let parse = |line: &str| serde_json::from_str::<Line>(line);
    let lines: Result<Vec<Line>, _> = text.lines().filter(|line| !line.is_empty()).map(parse).collect();
    let mut lines = lines.map_err(|e| format!("{name} is no flight record: {e}"))?;
    for line in &mut lines {
        line.at_us = line.at_us.saturating_add_signed(-offset_us);
    }
    Ok(Record { name, text, lines })
}

/// Why records were not kept.
#[derive(Debug, Error)]
#[non_exhaustive]
#[error("failed to write {}: {source}", path.display())]
pub struct KeepError {
    /// The folder, or the file in it.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Writes records into a folder, as they were read.
pub fn keep(folder: &Path, records: &[Record]) -> Result<(), KeepError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| KeepError { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    for (number, record) in records.iter().enumerate() {
        let path = folder.join(format!("pccl-flight-collected-{number}.jsonl"));
        fs::write(&path, &record.text).map_err(failed(&path))?;
    }
    Ok(())
}
