//! Lines on standard output, and words beside them on standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use crate::error::CliError;

/// Why not everything that was printed has got anywhere.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Prints lines. A reader that has gone away (`pccl up | head`) is no reason to stop in the middle of something, and a
/// full disk is only at the end: see [`whole`].
pub(crate) fn print(lines: &[impl AsRef<str>]) {
    let mut out = io::stdout().lock();
    let written = lines.iter().try_for_each(|line| writeln!(out, "{}", line.as_ref()));
    if let Err(error) = written.and_then(|()| out.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        LOST.get_or_init(|| error);
    }
}

/// Whether all that was printed has been written; whoever reads a file that was cut short should learn it here.
pub(crate) fn whole() -> Result<(), CliError> {
    match LOST.get() {
        None => Ok(()),
        Some(error) => Err(CliError::system("write standard output", error)
            .hint("what is there is not all of it: make room, and run it again")),
    }
}

/// Says something beside the output. Whoever does not listen misses it; `eprintln!` would panic.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
