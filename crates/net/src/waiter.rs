//! Waiting for sockets.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};

use crate::net::Net;

pub(crate) const WAKE: Token = Token(0);
pub(crate) const LISTENER: Token = Token(1);
pub(crate) const UDP: Token = Token(2);
/// Tokens of connections begin here.
pub(crate) const FIRST_CONN: usize = 8;

/// How long an eager wait looks before it sleeps: about what putting a core of a virtual machine to sleep and waking it costs.
const LOOK: Duration = Duration::from_micros(150);

/// Waits until something can be read or written. Belongs to one thread at a time.
#[derive(Debug)]
pub struct Waiter {
    poll: Poll,
    pub(crate) events: Events,
}

/// Ends the wait of a [`Waiter`] from another thread.
#[derive(Debug, Clone)]
pub struct Wakeup(Arc<Waker>);

/// A [`Net`] and the [`Waiter`] that waits for its sockets.
pub fn pair() -> io::Result<(Net, Waiter, Wakeup)> {
    let poll = Poll::new()?;
    let wakeup = Wakeup(Arc::new(Waker::new(poll.registry(), WAKE)?));
    let net = Net::new(poll.registry().try_clone()?);
    Ok((net, Waiter { poll, events: Events::with_capacity(256) }, wakeup))
}

impl Waiter {
    /// Waits for at most `limit` (for ever if there is none). What happened is handled by [`Net::handle`].
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, limit) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            other => other,
        }
    }

    /// As [`Waiter::wait`], for an answer that is expected at once: looks again and again for some 150 µs, and lets
    /// others have the core between two looks, before it sleeps. On an idle core being woken costs as much as that, and
    /// on a busy one a look costs little more than the switch to another process.
    pub fn wait_eagerly(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let start = Instant::now();
        let look = limit.map_or(LOOK, |l| l.min(LOOK));
        while start.elapsed() < look {
            self.wait(Some(Duration::ZERO))?;
            if !self.events.is_empty() {
                return Ok(());
            }
            std::thread::yield_now();
        }
        self.wait(limit)
    }
}

impl Wakeup {
    /// Wakes the waiting thread.
    pub fn wake(&self) {
        // Fails only if the poll is gone, and then nobody waits.
        let _ = self.0.wake();
    }
}
