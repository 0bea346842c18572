//! How far a worker goes, and where it waits: its own options, and the orders of a parent.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An order to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Go on until this round.
    Grant {
        /// The round.
        rounds: u64,
    },
    /// When the rounds that were granted are done, leave.
    Finish,
    /// Stop before the next averaging op, and say so.
    Hold,
    /// Go on.
    Release,
}

#[derive(Debug)]
struct State {
    granted: u64,
    /// Stays after the last round that was granted: there may be more.
    lingers: bool,
    hold: bool,
    /// It is among its peers, and looks here before every turn.
    runs: bool,
    leaves: bool,
}

/// Shared by the worker and the thread that hears its orders.
#[derive(Clone, Debug)]
pub(crate) struct Pace(Arc<(Mutex<State>, Condvar)>);

impl Pace {
    /// To go to round `rounds`, and then leave, unless it `lingers`.
    pub(crate) fn new(rounds: u64, lingers: bool) -> Self {
        let state = State { granted: rounds, lingers, hold: false, runs: false, leaves: false };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    /// Does as told.
    pub(crate) fn obey(&self, order: Order) {
        let mut state = self.lock();
        match order {
            Order::Grant { rounds } => state.granted = state.granted.max(rounds),
            Order::Finish => state.lingers = false,
            Order::Hold => state.hold = true,
            Order::Release => state.hold = false,
        }
        self.0.1.notify_all();
    }

    /// Asks the worker to leave before its next turn. False if it cannot hear that now, or has been asked before.
    pub(crate) fn ask_to_leave(&self) -> bool {
        let mut state = self.lock();
        let is_news = state.runs && !std::mem::replace(&mut state.leaves, true);
        self.0.1.notify_all();
        is_news
    }

    /// From here on the worker looks whether it is to leave.
    pub(crate) fn begin(&self) {
        self.lock().runs = true;
    }

    /// Whether it is to leave.
    pub(crate) fn leaves(&self) -> bool {
        self.lock().leaves
    }

    /// Waits for so long, unless the worker is to leave.
    pub(crate) fn rest(&self, pause: Duration) {
        let state = self.lock();
        drop(self.0.1.wait_timeout_while(state, pause, |state| !state.leaves));
    }

    /// The last round granted.
    pub(crate) fn granted(&self) -> u64 {
        self.lock().granted
    }

    /// Whether more rounds may be granted.
    pub(crate) fn lingers(&self) -> bool {
        self.lock().lingers
    }

    /// Returns when nobody holds this worker (any more); if somebody does, calls `held` first.
    pub(crate) fn pass(&self, held: impl FnOnce()) {
        if !self.lock().hold {
            return;
        }
        held();
        let state = self.lock();
        let released = self.0.1.wait_while(state, |state| state.hold);
        drop(released);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_only_grow_and_finish_ends_the_lingering() {
        let pace = Pace::new(3, true);
        pace.obey(Order::Grant { rounds: 5 });
        pace.obey(Order::Grant { rounds: 4 });
        assert_eq!((pace.granted(), pace.lingers()), (5, true));
        pace.obey(Order::Finish);
        assert!(!pace.lingers());
    }

    #[test]
    fn a_worker_can_be_asked_to_leave_once_it_runs() {
        let pace = Pace::new(1, false);
        assert!(!pace.ask_to_leave() && !pace.leaves());
        pace.begin();
        assert!(pace.ask_to_leave() && pace.leaves());
        assert!(!pace.ask_to_leave(), "the second time is for the impatient");
    }

    #[test]
    fn a_worker_that_rests_leaves_at_once() {
        let pace = Pace::new(1, false);
        pace.begin();
        let other = pace.clone();
        let asks = std::thread::spawn(move || other.ask_to_leave());
        pace.rest(Duration::from_secs(3600));
        assert!(asks.join().unwrap() && pace.leaves());
        Pace::new(1, false).rest(Duration::ZERO);
    }

    #[test]
    fn a_held_worker_says_so_and_goes_on_when_released() {
        let pace = Pace::new(1, false);
        pace.pass(|| unreachable!("nobody holds it"));
        pace.obey(Order::Hold);
        let other = pace.clone();
        pace.pass(move || {
            std::thread::spawn(move || other.obey(Order::Release));
        });
        assert!(!pace.lock().hold);
    }
}
