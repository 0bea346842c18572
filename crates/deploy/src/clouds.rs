//! How clouds count calls and refuse them, in virtual time.
//!
//! Shapes and figures as the clouds publish them: Azure Resource Manager and EC2 refill token buckets, Google counts
//! in fixed windows of a minute. A call sent before `Retry-After` has ended is not served.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::file::{Bucket, Preset};
use crate::random::Random;

/// How calls are counted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Shape {
    /// `burst` at once, refilled at `per_second`.
    Bucket {
        /// Most at once.
        burst: f64,
        /// Refill.
        per_second: f64,
    },
    /// `count` in each window, windows one after the other.
    Window {
        /// Calls in one window.
        count: f64,
        /// Its length.
        length: Duration,
    },
}

/// Counts calls of one kind to one scope.
#[derive(Clone, Debug)]
pub struct Meter {
    shape: Shape,
    left: f64,
    at: Duration,
    refused_until: Duration,
    served: u64,
    refused: u64,
}

impl Meter {
    /// A meter that nobody has used.
    pub fn new(shape: Shape) -> Self {
        let (Shape::Bucket { burst: left, .. } | Shape::Window { count: left, .. }) = shape;
        Self { shape, left, at: Duration::ZERO, refused_until: Duration::ZERO, served: 0, refused: 0 }
    }

    /// One call.
    ///
    /// # Errors
    /// It is refused; the time is what `Retry-After` says.
    pub fn call(&mut self, now: Duration) -> Result<(), Duration> {
        self.refill(now);
        if now < self.refused_until {
            self.refused += 1;
            return Err(self.refused_until.saturating_sub(now));
        }
        if self.left < 1.0 {
            self.refused += 1;
            // In whole seconds, as the header is.
            let wait = Duration::from_secs(self.wait(now).as_secs_f64().ceil().max(1.0) as u64);
            self.refused_until = now + wait;
            return Err(wait);
        }
        self.left -= 1.0;
        self.served += 1;
        Ok(())
    }

    /// Calls that it would serve at once: the header `x-ms-ratelimit-remaining-…`.
    pub fn left(&self) -> u32 {
        self.left.max(0.0) as u32
    }

    /// Calls served and calls refused.
    pub fn counts(&self) -> (u64, u64) {
        (self.served, self.refused)
    }

    fn refill(&mut self, now: Duration) {
        match self.shape {
            Shape::Bucket { burst, per_second } => {
                let seconds = now.saturating_sub(self.at).as_secs_f64();
                self.left = (self.left + per_second * seconds).min(burst);
            }
            Shape::Window { count, length } => {
                if now.as_nanos() / length.as_nanos() != self.at.as_nanos() / length.as_nanos() {
                    self.left = count;
                }
            }
        }
        self.at = self.at.max(now);
    }

    fn wait(&self, now: Duration) -> Duration {
        match self.shape {
            Shape::Bucket { per_second, .. } => Duration::from_secs_f64((1.0 - self.left) / per_second),
            Shape::Window { length, .. } => {
                let into = now.as_nanos() % length.as_nanos();
                Duration::from_nanos((length.as_nanos() - into) as u64)
            }
        }
    }
}

/// How a cloud counts what a bucket of the file describes.
pub fn shape(preset: Option<Preset>, bucket: Bucket) -> Shape {
    match preset {
        Some(Preset::GcpCompute | Preset::AzureNetwork) => {
            Shape::Window { count: bucket.refill.count, length: bucket.refill.per }
        }
        _ => Shape::Bucket { burst: f64::from(bucket.burst), per_second: bucket.refill.per_second() },
    }
}

/// What a cloud answers to a call that it refuses: status and code in the body.
pub fn refusal(preset: Preset) -> (u16, &'static str) {
    match preset {
        Preset::AzureResourceManager | Preset::AzureNetwork | Preset::AzureCompute | Preset::AzureAks => {
            (429, "TooManyRequests")
        }
        Preset::AwsEc2 => (503, "RequestLimitExceeded"),
        Preset::GcpCompute => (403, "rateLimitExceeded"),
    }
}

/// The meters of one scope, by kind of call.
pub fn meters(preset: Option<Preset>, buckets: &BTreeMap<String, Bucket>) -> BTreeMap<String, Meter> {
    buckets.iter().map(|(kind, bucket)| (kind.clone(), Meter::new(shape(preset, *bucket)))).collect()
}

/// How long it takes to create an AKS cluster: 6 to 15 minutes, and in 1 of 100 cases 20 minutes or more.
pub fn aks_creation(random: &mut Random) -> Duration {
    let minutes = if random.unit() < 0.01 {
        20.0 + 20.0 * random.unit()
    } else {
        random.lognormal(10.0, 0.2).clamp(6.0, 15.0)
    };
    Duration::from_secs_f64(minutes * 60.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_serves_its_burst_and_then_its_refill() {
        let mut meter = Meter::new(Shape::Bucket { burst: 200.0, per_second: 10.0 });
        assert_eq!((0..300).filter(|_| meter.call(S).is_ok()).count(), 200);
        assert_eq!(meter.call(S), Err(S));
        assert_eq!(meter.call(S + S / 2), Err(S / 2), "before Retry-After has ended nothing is served");
        assert_eq!((0..300).filter(|_| meter.call(2 * S).is_ok()).count(), 10);
        assert_eq!(meter.counts(), (210, 392));
    }

    #[test]
    fn a_window_starts_anew_on_the_minute() {
        let minute = Bucket { burst: 1500, refill: crate::file::Rate { count: 1500.0, per: 60 * S } };
        let mut meter = Meter::new(shape(Some(Preset::GcpCompute), minute));
        assert_eq!((0..2000).filter(|_| meter.call(50 * S).is_ok()).count(), 1500);
        assert_eq!(meter.call(50 * S), Err(10 * S));
        assert_eq!(meter.call(60 * S), Ok(()));
        assert_eq!(refusal(Preset::GcpCompute).0, 403);
    }

    #[test]
    fn aks_takes_its_time() {
        let mut random = Random::new(3);
        let times: Vec<f64> = (0..2000).map(|_| aks_creation(&mut random).as_secs_f64() / 60.0).collect();
        assert!(times.iter().all(|t| (6.0..=40.0).contains(t)));
        let slow = times.iter().filter(|t| **t >= 20.0).count();
        assert!((5..=50).contains(&slow), "{slow}");
    }
}
