//! What the master has heard and said, for tests that strike at a chosen point.

use super::Master;

impl Master {
    /// Promises for attempts that are not committed, and verdicts *committed* so far.
    pub fn promises(&self) -> (usize, u64) {
        let open = |g: &super::Group| {
            g.attempts.values().filter(|a| a.committed.is_none()).map(|a| a.promised.len()).sum::<usize>()
        };
        (self.groups.values().map(open).sum(), self.groups.values().map(|g| g.heard).sum())
    }
}
