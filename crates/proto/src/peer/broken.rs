//! Links that do not come about, and links that do and carry nothing.
//!
//! Connections between two members may come about, with a greeting and pings that get through, and break under the first
//! data: a tunnel whose MTU is smaller than either end believes, and a firewall that drops the router's word of it (RFC 2923,
//! section 2.1). Each new connection begins with the same data, and so on for ever. Both kinds are told to the master.

use std::time::Duration;

use super::links::Link;
use super::{Peer, PeerEvent};
use crate::execute::{Kernels, OpMemory};
use crate::ids::Time;
use crate::message::ToMaster;

/// Connections that break before a link may be called fruitless.
const FRUITLESS_BREAKS: u32 = 3;
/// Heartbeat timeouts that it must have been so.
const FRUITLESS_TIMEOUTS: u32 = 3;

/// Connections that broke with something on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fruitless {
    since: Time,
    breaks: u32,
}

impl Link {
    /// A connection in use has broken; `fetches`: shared state was to come over it.
    pub(super) fn broke(&mut self, now: Time, fetches: bool) {
        let owes = self.stripes.iter().any(|s| !s.queue.is_empty() || !s.sent.is_empty());
        if owes || fetches {
            self.fruitless.get_or_insert(Fruitless { since: now, breaks: 0 }).breaks += 1;
        }
    }

    fn is_down_for_long(&self, now: Time, timeout: Duration) -> bool {
        self.down_since.is_some_and(|at| now.since(at) > timeout)
    }

    /// Whether connections come about again and again, and nothing comes through: how many, and for how long.
    fn is_fruitless(&self, now: Time, timeout: Duration) -> Option<(u32, Duration)> {
        let Fruitless { since, breaks } = self.fruitless?;
        let long = now.since(since);
        (breaks >= FRUITLESS_BREAKS && long > FRUITLESS_TIMEOUTS * timeout).then_some((breaks, long))
    }
}

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// Tells the master which members cannot be reached, so that it can decide who goes.
    pub(super) fn report_broken_links(&mut self, now: Time, timeout: Duration) {
        let Some(view) = self.view.as_ref().filter(|_| self.control.is_attached()) else { return };
        let mut broken = Vec::new();
        for (session, link) in &mut self.links.table {
            let member = view.members.binary_search_by_key(session, |m| m.session).is_ok();
            // Again and again: an epoch change, another master, or a silence on the way may have made it forgotten.
            let due = link.reported.is_none_or(|at| now.since(at) > timeout);
            if !member || !due {
                continue;
            }
            let fruitless = link.is_fruitless(now, timeout);
            if fruitless.is_some() || link.is_down_for_long(now, timeout) {
                let first = link.reported.replace(now).is_none();
                broken.push((*session, fruitless.filter(|_| first)));
            }
        }
        for (peer, fruitless) in broken {
            if let Some((breaks, long)) = fruitless {
                let for_ms = long.as_millis() as u64;
                self.events.push_back(PeerEvent::LinkFruitless { peer, breaks, for_ms });
            }
            self.tell_master(&ToMaster::BrokenLink { peer });
        }
    }
}
