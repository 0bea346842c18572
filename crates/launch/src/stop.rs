//! Ends, graceful and then hard.

use std::thread;
use std::time::{Duration, Instant};

/// The first pause between two looks at who is to end, which most do at once, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Waits for an end. False if it has not come within `grace`, or before `hurry` says that nobody waits any more.
pub(crate) fn within(
    grace: Duration,
    mut is_over: impl FnMut() -> bool,
    mut hurry: impl FnMut() -> bool,
) -> bool {
    let until = Instant::now() + grace;
    let mut pause = FIRST_PAUSE;
    loop {
        if is_over() {
            return true;
        }
        if hurry() || Instant::now() >= until {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
