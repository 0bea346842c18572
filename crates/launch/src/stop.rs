//! Ends, graceful and then hard.

use std::thread;
use std::time::{Duration, Instant};

/// The first pause between two looks at who is to end, which most do at once, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Where a look takes a while, because it is at all processes of the machine.
const SELDOM: Duration = Duration::from_millis(200);

/// Waits for an end. False if it has not come within `grace`, or before `hurry` says that nobody waits any more.
pub(crate) fn within(grace: Duration, is_over: impl FnMut() -> bool, hurry: impl FnMut() -> bool) -> bool {
    look(grace, LONGEST_PAUSE, is_over, hurry)
}

/// The same with fewer looks.
pub(crate) fn seldom_within(
    grace: Duration,
    is_over: impl FnMut() -> bool,
    hurry: impl FnMut() -> bool,
) -> bool {
    look(grace, SELDOM, is_over, hurry)
}

fn look(
    grace: Duration,
    longest: Duration,
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
        pause = (pause * 2).min(longest);
    }
}
