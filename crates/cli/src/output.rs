//! Lines on standard output.

use std::io::{self, Write};

/// Prints lines. A reader that has gone away (`pccl up | head`) is no reason to stop in the middle of something.
pub(crate) fn print(lines: &[impl AsRef<str>]) {
    let mut out = io::stdout().lock();
    for line in lines {
        if writeln!(out, "{}", line.as_ref()).is_err() {
            return;
        }
    }
    let _ = out.flush();
}
