//! Writing to a connection without a signal.
//!
//! A program in C that this library is part of has not asked for `SIGPIPE` to be ignored, as programs in Rust and Python
//! do, and a write to a connection that the other side has closed would end it. The standard library writes single
//! buffers with `MSG_NOSIGNAL`, several ones without: `clippy.toml` refuses that call.

use std::io::{self, IoSlice};

/// Most buffers that the kernel takes at once (`UIO_MAXIOV`).
const MAX_BUFFERS: usize = 1024;

/// Writes several buffers, as far as the connection takes them.
#[cfg(unix)]
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn send(stream: &impl std::os::fd::AsFd, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let buffers = &buffers[..buffers.len().min(MAX_BUFFERS)];
    Ok(sendmsg(stream, buffers, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
}

/// Writes several buffers, as far as the connection takes them: the standard library has set `SO_NOSIGPIPE`, or there is
/// no such signal.
#[cfg(any(not(unix), target_vendor = "apple"))]
#[expect(clippy::disallowed_methods, reason = "no signal comes of it on this system")]
pub(crate) fn send<S>(stream: &S, buffers: &[IoSlice<'_>]) -> io::Result<usize>
where
    for<'a> &'a S: io::Write,
{
    io::Write::write_vectored(&mut &*stream, &buffers[..buffers.len().min(MAX_BUFFERS)])
}
