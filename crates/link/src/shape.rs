//! What a link does to a packet: pure, with a seed, on a clock that is given.

use std::fmt;
use std::time::Duration;

/// Queue of a link with a rate, unless its shape says otherwise: what the link carries in this time.
const DEFAULT_QUEUE: Duration = Duration::from_millis(100);
/// And at least this: some full packets.
const LEAST_QUEUE_BYTES: u64 = 32 << 10;

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Time on the way, beside the queue.
    pub delay: Duration,
    /// The delay of each packet is drawn evenly from `delay` − `jitter` to `delay` + `jitter`. Where the jitter is larger
    /// than the delay, it counts as the delay: nothing arrives before it was sent.
    pub jitter: Duration,
    /// Share of packets that are lost at random, 0 to 1.
    pub loss: f64,
    /// Bits per second, IP headers included; none is as fast as this machine.
    pub rate_bps: Option<u64>,
    /// What may wait for its turn, bytes; what comes when it is full is lost. None: what the link carries in 100 ms, at
    /// least 32 KiB.
    pub queue_bytes: Option<u64>,
    /// Jitter may let packets overtake each other. False: a packet waits for those before it, which flattens the jitter of
    /// packets that follow each other closely.
    pub reorder: bool,
    /// Packets that are longer vanish, and nobody is told, as behind many firewalls; bytes with IP headers.
    pub mtu: Option<u32>,
}

impl Shape {
    /// A link that does nothing to packets.
    pub const FREE: Self = Self {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        rate_bps: None,
        queue_bytes: None,
        reorder: false,
        mtu: None,
    };

    /// A link that is cut.
    pub const CUT: Self = Self { loss: 1.0, ..Self::FREE };

    /// What may wait for its turn, bytes.
    fn queue_bytes(&self, rate_bps: u64) -> u64 {
        let of_time = (rate_bps as f64 / 8.0 * DEFAULT_QUEUE.as_secs_f64()) as u64;
        self.queue_bytes.unwrap_or(of_time.max(LEAST_QUEUE_BYTES))
    }

    /// The mean absolute difference of the round trips of two consecutive probes, over a link that has this shape in both
    /// directions and lets packets overtake each other.
    ///
    /// It is the mean of |X₁ + X₂ − Y₁ − Y₂| of four numbers drawn evenly from ± jitter, a sum of Irwin–Hall's kind:
    /// 7/15 of the width of 2 · jitter.
    pub fn round_trip_jitter(&self) -> Duration {
        self.jitter.mul_f64(2.0 * 7.0 / 15.0)
    }

    /// The jitter for which [`Self::round_trip_jitter`] is `round_trip`.
    pub fn jitter_for(round_trip: Duration) -> Duration {
        round_trip.mul_f64(15.0 / 14.0)
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self::FREE
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if let Some(rate) = self.rate_bps {
            words.push(format!("{} Mbit/s", rate as f64 * 1e-6));
        }
        if !self.delay.is_zero() || !self.jitter.is_zero() {
            words.push(format!("{:?} ± {:?}", self.delay, self.jitter));
        }
        if self.loss > 0.0 {
            words.push(format!("{} % lost", self.loss * 100.0));
        }
        if let Some(mtu) = self.mtu {
            words.push(format!("MTU {mtu}"));
        }
        if words.is_empty() { f.write_str("free") } else { f.write_str(&words.join(", ")) }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then (nanoseconds on the caller's clock).
    Arrives(u64),
    /// It is lost by chance.
    Lost,
    /// It finds the queue full.
    Overflows,
    /// It is longer than the link carries.
    TooLong,
}

/// One direction of a link at work.
#[derive(Clone, Debug)]
pub struct Shaper {
    shape: Shape,
    random: fastrand::Rng,
    /// When the last packet has left the queue, nanoseconds.
    free_at: u64,
    /// When the last one arrives.
    last_arrival: u64,
}

impl Shaper {
    /// A link whose chances come from `seed`.
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self { shape, random: fastrand::Rng::with_seed(seed), free_at: 0, last_arrival: 0 }
    }

    /// Changes the shape. Packets on their way keep their fates.
    pub fn set(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// What becomes of a packet of so many bytes that is sent `now` (nanoseconds).
    pub fn send(&mut self, now: u64, bytes: usize) -> Fate {
        // Every packet takes its two numbers, so that the fate of one does not hang on another's.
        let (chance, place) = (self.random.f64(), self.random.f64());
        let shape = &self.shape;
        if shape.mtu.is_some_and(|mtu| bytes > mtu as usize) {
            return Fate::TooLong;
        }
        let mut leaves = now;
        if let Some(rate) = shape.rate_bps {
            let begins = now.max(self.free_at);
            let waiting_bytes = (begins - now) as f64 * 1e-9 * rate as f64 / 8.0;
            if waiting_bytes + bytes as f64 > shape.queue_bytes(rate) as f64 {
                return Fate::Overflows;
            }
            leaves = begins + (bytes as f64 * 8e9 / rate as f64) as u64;
            self.free_at = leaves;
        }
        if chance < shape.loss {
            return Fate::Lost;
        }
        let (delay, jitter) = (shape.delay.as_nanos() as u64, shape.jitter.as_nanos() as u64);
        let arrives = leaves + delay.max(jitter) - jitter + (place * 2.0 * jitter as f64) as u64;
        if shape.reorder {
            return Fate::Arrives(arrives);
        }
        self.last_arrival = self.last_arrival.max(arrives);
        Fate::Arrives(self.last_arrival)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn fates(shape: Shape, seed: u64, packets: u64, gap: u64) -> Vec<Fate> {
        let mut shaper = Shaper::new(shape, seed);
        (0..packets).map(|n| shaper.send(n * gap, 1000)).collect()
    }

    #[test]
    fn a_free_link_delivers_at_once() {
        assert_eq!(fates(Shape::FREE, 1, 3, 5), [Fate::Arrives(0), Fate::Arrives(5), Fate::Arrives(10)]);
        assert!(fates(Shape::CUT, 1, 100, 5).iter().all(|fate| *fate == Fate::Lost));
    }

    #[test]
    fn long_packets_vanish_where_the_mtu_is_smaller() {
        let mut shaper = Shaper::new(Shape { mtu: Some(1400), ..Shape::FREE }, 1);
        assert_eq!(shaper.send(0, 1401), Fate::TooLong);
        assert_eq!(shaper.send(0, 1400), Fate::Arrives(0));
    }

    #[test]
    fn a_round_trip_jitters_as_the_formula_says() {
        let shape =
            Shape { reorder: true, jitter: Shape::jitter_for(Duration::from_millis(20)), ..Shape::FREE };
        assert!(shape.round_trip_jitter().abs_diff(Duration::from_millis(20)) < Duration::from_micros(1));
        let (mut there, mut back) = (Shaper::new(shape, 1), Shaper::new(shape, 2));
        let mut trip = |sent: u64| {
            let Fate::Arrives(turned) = there.send(sent, 100) else { return 0 };
            let Fate::Arrives(arrived) = back.send(turned, 100) else { return 0 };
            arrived - sent
        };
        let trips: Vec<u64> = (0..50_000).map(|n| trip(n * 100 * MS)).collect();
        let mean = trips.windows(2).map(|pair| pair[0].abs_diff(pair[1]) as f64).sum::<f64>() / 49_999.0;
        assert!((mean / 20e6 - 1.0).abs() < 0.02, "{mean}");
    }

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_fates(seed: u64, loss in 0.0..1.0, jitter in 0_u64..50, rate in 1_u64..1000) {
            let shape = Shape {
                loss,
                jitter: Duration::from_millis(jitter),
                rate_bps: Some(rate * 1_000_000),
                reorder: true,
                ..Shape::FREE
            };
            prop_assert_eq!(fates(shape, seed, 200, 1000), fates(shape, seed, 200, 1000));
        }

        #[test]
        fn as_many_are_lost_as_the_shape_says(seed: u64, loss in 0.0..1.0) {
            let shape = Shape { loss, ..Shape::FREE };
            let lost = fates(shape, seed, 10_000, 1).iter().filter(|fate| **fate == Fate::Lost).count();
            // Six standard deviations of the worst case.
            prop_assert!((lost as f64 / 10_000.0 - loss).abs() < 0.03, "{lost} of 10,000 at {loss}");
        }

        #[test]
        fn the_rate_is_what_gets_through_and_the_queue_is_bounded(mbps in 1_u64..2000, queue in 10_000_u64..1_000_000) {
            let rate = mbps * 1_000_000;
            let shape = Shape { rate_bps: Some(rate), queue_bytes: Some(queue), ..Shape::FREE };
            // Twice as much as it carries.
            let gap = 8_000_000_000_000 / rate / 2 / 1000;
            let packets = 20_000;
            let arrivals: Vec<u64> = fates(shape, 7, packets, gap)
                .into_iter()
                .filter_map(|fate| if let Fate::Arrives(at) = fate { Some(at) } else { None })
                .collect();
            let last = arrivals.last().copied().unwrap_or(1);
            let got = arrivals.len() as f64 * 8e12 / last as f64;
            prop_assert!((got / rate as f64 - 1.0).abs() < 0.02, "{got} of {rate}");
            let waited = last.saturating_sub(packets * gap) as f64 * 1e-9 * rate as f64 / 8.0;
            prop_assert!(waited <= queue as f64 + 1000.0, "{waited} bytes waited");
        }

        #[test]
        fn without_reorder_nobody_overtakes(seed: u64, jitter in 1_u64..50, gap in 1_u64..10) {
            let shape = Shape { jitter: Duration::from_millis(jitter), ..Shape::FREE };
            let mut last = 0;
            for fate in fates(shape, seed, 500, gap * MS) {
                if let Fate::Arrives(at) = fate {
                    prop_assert!(at >= last);
                    last = at;
                }
            }
        }
    }
}
