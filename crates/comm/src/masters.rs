//! Where the masters are, by the names that the user gave.
//!
//! A master that has moved keeps its name: names are looked up again while no master is heard. A thread of its own does so,
//! since a resolver may take long, and only where there are names to look up.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use pccl_net::Security;

use crate::engine::{Engine, lock};
use crate::error::ConnectError;
use crate::options::Options;

/// Between two looks whether the master is heard.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The masters that a communicator knows.
pub(crate) struct Masters {
    hosts: Vec<String>,
    security: Option<Security>,
    known: Mutex<Vec<SocketAddr>>,
}

impl Masters {
    /// Looks all names up. One that is not found is a warning, if another one is.
    pub(crate) fn find(options: &Options) -> Result<Self, ConnectError> {
        let masters = Self {
            hosts: options.masters.clone(),
            security: options.security.clone(),
            known: Mutex::new(Vec::new()),
        };
        let (found, failed) = masters.look_up();
        if found.is_empty() {
            let none = ConnectError::Resolve { host: String::new(), why: "no master is given".into() };
            return Err(failed.into_iter().next().unwrap_or(none));
        }
        for error in failed {
            tracing::warn!(target: "pccl::peer", "{error}; the other masters are tried");
        }
        *lock(&masters.known) = found;
        Ok(masters)
    }

    /// The addresses, in the order of trial.
    pub(crate) fn known(&self) -> Vec<SocketAddr> {
        lock(&self.known).clone()
    }

    /// Looks the names up again: the addresses, if they are others than before. What cannot be looked up now stays as it
    /// was.
    pub(crate) fn look_again(&self) -> Option<Vec<SocketAddr>> {
        let (found, failed) = self.look_up();
        if !failed.is_empty() || found == *lock(&self.known) {
            return None;
        }
        lock(&self.known).clone_from(&found);
        Some(found)
    }

    fn look_up(&self) -> (Vec<SocketAddr>, Vec<ConnectError>) {
        let (mut all, mut failed) = (Vec::new(), Vec::new());
        for host in &self.hosts {
            let error = |why: String| ConnectError::Resolve { host: host.clone(), why };
            let found: Vec<SocketAddr> = match host.to_socket_addrs() {
                Ok(found) => found.collect(),
                Err(e) => {
                    failed.push(error(e.to_string()));
                    continue;
                }
            };
            if found.is_empty() {
                failed.push(error("it has no address".into()));
            }
            if let Some(security) = &self.security {
                // Its certificate must be for the name that the user gave.
                for addr in &found {
                    security.name_master(*addr, name_of(host));
                }
            }
            all.extend(found);
        }
        (all, failed)
    }

    fn has_names(&self) -> bool {
        self.hosts.iter().any(|host| name_of(host).parse::<IpAddr>().is_err())
    }
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']'])
}

/// Looks names up again while no master is heard, for as long as it lives.
pub(crate) struct Lookout {
    end: Arc<(Mutex<bool>, Condvar)>,
}

impl Lookout {
    /// None if there are no names, only addresses.
    pub(crate) fn start(masters: &Arc<Masters>, engine: &Arc<Engine>) -> std::io::Result<Option<Self>> {
        if !masters.has_names() {
            return Ok(None);
        }
        let end = Arc::new((Mutex::new(false), Condvar::new()));
        let (masters, engine, over) = (Arc::clone(masters), Arc::downgrade(engine), Arc::clone(&end));
        let thread = std::thread::Builder::new().name("pccl-names".into());
        thread.spawn(move || look_out(&masters, &engine, &over))?;
        Ok(Some(Self { end }))
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        // Not waited for: the resolver may be slow.
        *lock(&self.end.0) = true;
        self.end.1.notify_all();
    }
}

fn look_out(masters: &Masters, engine: &Weak<Engine>, (over, changed): &(Mutex<bool>, Condvar)) {
    loop {
        let guard = lock(over);
        let waited = changed.wait_timeout_while(guard, LOOK_EVERY, |over| !*over);
        if waited.map_or(true, |(over, _)| *over) {
            return;
        }
        let Some(engine) = engine.upgrade() else { return };
        if !engine.look(|state| state.peer.misses_master()) {
            continue;
        }
        if let Some(found) = masters.look_again() {
            let list: Vec<String> = found.iter().map(ToString::to_string).collect();
            tracing::info!(target: "pccl::peer", "the masters are at {} now", list.join(", "));
            engine.with(|state| state.peer.set_masters(found));
        }
    }
}
