//! After `fork` the child closes our sockets.
//!
//! A child has every descriptor of its parent, and none of its threads. If it kept them, the connections of a trainer that
//! is killed would stay open for as long as its data loaders live, its port would go on listening, and the others would
//! hear of the death by silence only. So the sockets of this process are remembered, and the child closes them before it
//! does anything else.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Most descriptors that are remembered; more than a process may have open as systems come.
const MOST: usize = 1 << 20;
const BITS: usize = 64;

/// One bit for each descriptor: no lock that a thread may hold at the moment of the fork.
static OURS: [AtomicU64; MOST / BITS] = [const { AtomicU64::new(0) }; MOST / BITS];
/// Words of it that were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);

fn place(descriptor: RawFd) -> Option<(usize, u64)> {
    let number = usize::try_from(descriptor).ok().filter(|n| *n < MOST)?;
    Some((number / BITS, 1 << (number % BITS)))
}

fn remember(descriptor: RawFd) {
    static WATCH: Once = Once::new();
    WATCH.call_once(watch);
    if let Some((word, bit)) = place(descriptor) {
        USED.fetch_max(word + 1, Ordering::Relaxed);
        OURS[word].fetch_or(bit, Ordering::Release);
    }
}

fn forget(descriptor: RawFd) {
    if let Some((word, bit)) = place(descriptor) {
        OURS[word].fetch_and(!bit, Ordering::Release);
    }
}

fn watch() {
    // SAFETY: the handler does nothing but system calls and atomic operations, which a child with several threads in its
    // parent may do. The C library forgets it when this library is unloaded.
    let failed = unsafe { libc::pthread_atfork(None, None, Some(close_all)) };
    if failed != 0 {
        tracing::warn!(
            "failed to watch for forks: {}; children keep this process's connections open",
            std::io::Error::from_raw_os_error(failed)
        );
    }
}

/// In the child. What owns the descriptors there is of no use any more and must not be dropped.
unsafe extern "C" fn close_all() {
    for (word, bits) in OURS[..USED.load(Ordering::Relaxed).min(OURS.len())].iter().enumerate() {
        let mut left = bits.swap(0, Ordering::Acquire);
        while left != 0 {
            // `MOST` fits.
            let descriptor = RawFd::try_from(word * BITS + left.trailing_zeros() as usize).unwrap_or(-1);
            left &= left - 1;
            // SAFETY: it was open in the parent at the moment of the fork, and the child has done nothing yet.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// A socket that a child after `fork` does not keep.
pub(crate) struct Ours<S: AsRawFd> {
    _remembered: Remembered,
    socket: S,
}

/// Forgets the descriptor when it goes, which is before the socket goes.
struct Remembered(RawFd);

impl Drop for Remembered {
    fn drop(&mut self) {
        forget(self.0);
    }
}

impl<S: AsRawFd> Ours<S> {
    pub(crate) fn new(socket: S) -> Self {
        remember(socket.as_raw_fd());
        Self { _remembered: Remembered(socket.as_raw_fd()), socket }
    }
}

impl<S: AsRawFd> Deref for Ours<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.socket
    }
}

impl<S: AsRawFd> DerefMut for Ours<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.socket
    }
}

/// A child after `fork` does not keep this socket either, which stays open for as long as the process lives.
pub fn not_for_children(socket: RawFd) {
    remember(socket);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn is_remembered(descriptor: RawFd) -> bool {
        place(descriptor).is_some_and(|(word, bit)| OURS[word].load(Ordering::Acquire) & bit != 0)
    }

    #[test]
    fn a_socket_is_remembered_for_as_long_as_it_is_open() {
        let socket = Ours::new(TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(is_remembered(socket.as_raw_fd()));
        let none_has_this = RawFd::try_from(MOST - 1).unwrap();
        remember(none_has_this);
        assert!(is_remembered(none_has_this));
        drop(Remembered(none_has_this));
        assert!(!is_remembered(none_has_this));
        assert!(place(-1).is_none() && place(RawFd::MAX).is_none());
    }
}
