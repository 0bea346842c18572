//! One scope: its buckets of calls, and its concurrency, which adapts.

use std::time::Duration;

use crate::file::{ConcurrencyLimit, saturating};
use crate::plan::Call;

/// What an API says after a decrease about attempts that began before it is no news, for so long.
const ROUND_TRIP: Duration = Duration::from_secs(30);

/// A scope's state.
#[derive(Clone, Debug)]
pub(super) struct ScopeState {
    pub(super) name: String,
    buckets: Vec<BucketState>,
    /// Slots allowed at once.
    limit: f64,
    rule: ConcurrencyLimit,
    /// Slots in use.
    in_use: u32,
    last_decrease: Option<Duration>,
    /// Nothing starts before.
    hold_until: Duration,
}

#[derive(Clone, Debug)]
struct BucketState {
    tokens: f64,
    burst: f64,
    rate: f64,
    /// Calls each second that running tasks make by polling.
    polling: f64,
    at: Duration,
}

/// Why a scope lets nothing through, and until when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Refusal {
    /// Concurrency: until something ends.
    Busy,
    /// Calls: until enough have come back; none if something must end first.
    Tokens(Option<Duration>),
    /// `Retry-After`.
    Hold(Duration),
}

impl BucketState {
    fn refill(&mut self, now: Duration) {
        let seconds = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let net = self.rate - self.polling;
        // Polling is on average; a burst of polls may not put us into debt for ever.
        self.tokens = (self.tokens + net * seconds).clamp(-self.burst, self.burst);
    }

    /// When `cost` tokens are there.
    fn ready_at(&self, cost: f64) -> Option<Duration> {
        let net = self.rate - self.polling;
        if net <= 0.0 {
            return None;
        }
        let wait = ((cost - self.tokens) / net).max(0.0);
        // Rounded up, so that the tokens are there when the time has come.
        Some(self.at + saturating(wait) + Duration::from_micros(10))
    }
}

impl ScopeState {
    /// Of the buckets it uses this share: the rest is for callers that we do not know.
    pub(super) fn new(
        name: &str,
        buckets: &[(String, u32, f64)],
        share: f64,
        rule: ConcurrencyLimit,
    ) -> Self {
        let bucket = |&(_, burst, rate): &(String, u32, f64)| {
            let burst = (f64::from(burst) * share).max(1.0);
            BucketState { tokens: burst, burst, rate: rate * share, polling: 0.0, at: Duration::ZERO }
        };
        Self {
            name: name.to_owned(),
            buckets: buckets.iter().map(bucket).collect(),
            limit: f64::from(rule.start),
            rule,
            in_use: 0,
            last_decrease: None,
            hold_until: Duration::ZERO,
        }
    }

    /// Full buckets from now on.
    pub(super) fn begin(&mut self, now: Duration) {
        for bucket in &mut self.buckets {
            bucket.at = now;
        }
    }

    /// Whether a task with these calls may start. `shares_process` says that the process of the task paces its calls
    /// itself.
    pub(super) fn check<'a>(
        &mut self,
        now: Duration,
        slots: u32,
        calls: impl Iterator<Item = &'a Call> + Clone,
        shares_process: bool,
    ) -> Result<(), Refusal> {
        if now < self.hold_until {
            return Err(Refusal::Hold(self.hold_until));
        }
        if self.in_use > 0 && f64::from(self.in_use + slots) > self.limit {
            return Err(Refusal::Busy);
        }
        for call in calls {
            let nobody_else = self.in_use == 0;
            let bucket = &mut self.buckets[call.bucket as usize];
            bucket.refill(now);
            match call.every {
                Some(every) => {
                    let polling = f64::from(call.count) / every.as_secs_f64();
                    if bucket.polling + polling > bucket.rate && !nobody_else {
                        return Err(Refusal::Tokens(None));
                    }
                }
                None if shares_process => {}
                None => {
                    let cost = f64::from(call.count).min(bucket.burst);
                    if bucket.tokens < cost {
                        return Err(Refusal::Tokens(bucket.ready_at(cost)));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn start<'a>(&mut self, now: Duration, slots: u32, calls: impl Iterator<Item = &'a Call>) {
        self.in_use += slots;
        for call in calls {
            let bucket = &mut self.buckets[call.bucket as usize];
            bucket.refill(now);
            match call.every {
                Some(every) => bucket.polling += f64::from(call.count) / every.as_secs_f64(),
                None => bucket.tokens -= f64::from(call.count),
            }
        }
    }

    /// The end of a task that ran since `began`. Its polling was charged by time; what it has charged for a poll that it
    /// did not live to make comes back.
    pub(super) fn end<'a>(
        &mut self,
        now: Duration,
        began: Duration,
        slots: u32,
        calls: impl Iterator<Item = &'a Call>,
    ) {
        self.in_use = self.in_use.saturating_sub(slots);
        let lived = now.saturating_sub(began).as_secs_f64();
        for call in calls {
            let bucket = &mut self.buckets[call.bucket as usize];
            bucket.refill(now);
            if let Some(every) = call.every.map(|every| every.as_secs_f64()) {
                let polling = f64::from(call.count) / every;
                bucket.polling = (bucket.polling - polling).max(0.0);
                bucket.tokens = (bucket.tokens + polling * (lived % every)).min(bucket.burst);
            }
        }
    }

    /// A success: the limit grows by one for each window of successes, as long as it is the constraint.
    /// Called before [`end`](Self::end).
    pub(super) fn grow(&mut self, slots: u32) {
        if f64::from(self.in_use) * 2.0 >= self.limit {
            self.limit = (self.limit + f64::from(slots) / self.limit).min(f64::from(self.rule.max));
        }
    }

    /// The API throttled an attempt that began at `began`. True if the limit went down.
    pub(super) fn throttle(&mut self, now: Duration, began: Duration, retry_after: Option<Duration>) -> bool {
        if let Some(after) = retry_after {
            self.hold_until = self.hold_until.max(now + after);
        }
        let news = self.last_decrease.is_none_or(|last| began >= last || now >= last + ROUND_TRIP);
        if news {
            let used = self.limit.min(f64::from(self.in_use.max(1)));
            self.limit = (used / 2.0).max(f64::from(self.rule.min));
            self.last_decrease = Some(now);
        }
        news
    }

    /// Whether `Retry-After` has not ended.
    pub(super) fn is_held(&self, now: Duration) -> bool {
        now < self.hold_until
    }

    /// Slots allowed at once.
    pub(super) fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Slots in use.
    pub(super) fn in_use(&self) -> u32 {
        self.in_use
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn scope(start: u32) -> ScopeState {
        let rule = ConcurrencyLimit { start, min: 2, max: 128 };
        ScopeState::new("arm", &[("write".to_owned(), 200, 10.0)], 0.9, rule)
    }

    #[test]
    fn simultaneous_throttling_halves_once() {
        let mut scope = scope(128);
        scope.start(S, 128, [].iter());
        assert!(scope.throttle(10 * S, S, None));
        for _ in 0..127 {
            assert!(!scope.throttle(10 * S, S, None));
        }
        assert_eq!(scope.limit(), 64);
        assert!(
            scope.throttle(11 * S, 10 * S + S / 2, None),
            "an attempt that began after the decrease is news"
        );
        assert!(scope.throttle(60 * S, S, None), "so is one that goes on and on");
    }

    #[test]
    fn the_limit_grows_only_where_it_is_the_constraint() {
        let mut scope = scope(64);
        scope.start(S, 10, [].iter());
        scope.grow(1);
        assert_eq!(scope.limit(), 64);
        scope.start(S, 54, [].iter());
        for _ in 0..65 {
            scope.grow(1);
        }
        assert_eq!(scope.limit(), 65);
    }

    #[test]
    fn calls_are_paced_by_what_comes_back_less_what_polling_takes() {
        let mut scope = scope(128);
        scope.begin(S);
        let write = Call { scope: 0, bucket: 0, count: 100, every: None };
        let poll = Call { scope: 0, bucket: 0, count: 4, every: Some(S) };
        assert_eq!(scope.check(S, 1, [&write].into_iter(), false), Ok(()));
        scope.start(S, 1, [&write, &poll].into_iter());
        let refusal = scope.check(S, 1, [&write].into_iter(), false);
        let Err(Refusal::Tokens(Some(at))) = refusal else { panic!("{refusal:?}") };
        // 80 of 180 are left, 20 are missing, 9 − 4 come back each second.
        assert!((at.as_secs_f64() - 5.0).abs() < 0.01, "{at:?}");
        assert_eq!(scope.check(at, 1, [&write].into_iter(), false), Ok(()));
        let more = Call { count: 6, ..poll };
        assert_eq!(scope.check(at, 1, [&more].into_iter(), false), Err(Refusal::Tokens(None)));
        scope.end(at, S, 1, [&write, &poll].into_iter());
        assert_eq!(scope.check(at, 1, [&more].into_iter(), false), Ok(()));
    }

    #[test]
    fn a_poll_that_was_not_made_comes_back() {
        let mut scope = scope(128);
        scope.begin(S);
        let write = Call { scope: 0, bucket: 0, count: 180, every: None };
        let poll = Call { scope: 0, bucket: 0, count: 6, every: Some(2 * S) };
        let left = |scope: &ScopeState| scope.buckets[0].tokens;
        scope.start(S, 1, [&write, &poll].into_iter());
        // 9 − 3 come back each second, for 7 seconds.
        scope.buckets[0].refill(8 * S);
        assert!((left(&scope) - 42.0).abs() < 1e-9, "{}", left(&scope));
        // It polled after 2, 4 and 6 seconds, 18 times in all, and paid for 21.
        scope.end(8 * S, S, 1, [&write, &poll].into_iter());
        assert!((left(&scope) - 45.0).abs() < 1e-9, "{}", left(&scope));
        assert!(scope.buckets[0].polling.abs() < 1e-9);
        // What would not fit in is lost, as it is at the API.
        scope.start(100 * S, 1, [&poll].into_iter());
        scope.end(101 * S, 100 * S, 1, [&poll].into_iter());
        assert!((left(&scope) - 180.0).abs() < 1e-9, "{}", left(&scope));
    }

    #[test]
    fn retry_after_holds_everybody() {
        let mut scope = scope(128);
        scope.throttle(S, S, Some(7 * S));
        assert_eq!(scope.check(2 * S, 1, [].iter(), false), Err(Refusal::Hold(8 * S)));
        assert_eq!(scope.check(8 * S, 1, [].iter(), false), Ok(()));
    }
}
