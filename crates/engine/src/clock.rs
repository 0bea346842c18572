//! Time of day, and how it is shown.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The engine's clock: it does not go back, and its readings can be shown as time of day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    begun: Instant,
    begun_ms: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { begun: Instant::now(), begun_ms: now_ms() }
    }

    /// Time since the start.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// A reading as milliseconds since 1970.
    pub(crate) fn at_ms(&self, reading: Duration) -> u64 {
        self.begun_ms + reading.as_millis() as u64
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Milliseconds since 1970 as `2026-11-22 01:02:03 UTC`.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(pub u64);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(i64::try_from(days).unwrap_or(i64::MAX / 2));
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// Days since 1970 as year, month, day (H. Hinnant, `chrono`-compatible low-level date algorithms).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_dates() {
        assert_eq!(Stamp(0).to_string(), "1970-01-01 00:00:00 UTC");
        assert_eq!(Stamp(951_782_400_000).to_string(), "2000-02-29 00:00:00 UTC");
        assert_eq!(Stamp(1_795_309_323_000).to_string(), "2026-11-22 01:02:03 UTC");
    }
}
