//! Files that outputs are kept in.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::program::StartError;

/// Bytes at the end of an output that are read to find out why something failed.
pub(crate) const TAIL: u64 = 64 * 1024;

/// Opens a file to append to, and says where what is appended begins.
pub(crate) fn append(log: &Path) -> Result<(File, u64), StartError> {
    let system = |e: io::Error| StartError::System(format!("{}: {e}", log.display()));
    // For the operator alone: nobody knows what programs print.
    let out = OpenOptions::new().create(true).append(true).mode(0o600).open(log).map_err(system)?;
    let begins_at = out.metadata().map_err(system)?.len();
    Ok((out, begins_at))
}

/// The end of an output that begins there: so many bytes at most.
pub(crate) fn tail(log: &Path, begins_at: u64, most: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(begins_at.max(end.saturating_sub(most))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
