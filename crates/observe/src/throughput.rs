//! Bytes per second over a sliding window, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The time that the rate looks back on.
const WINDOW: Duration = Duration::from_secs(10);
const TICK_MS: u64 = 250;
/// Ticks of one window.
const TICKS: u64 = WINDOW.as_millis() as u64 / TICK_MS;
/// One window, the tick that is filling, and slack so that a slow reader never meets a slot being reused.
const SLOTS: usize = 64;
const _: () = assert!(SLOTS as u64 > TICKS + 1);

/// A slot packs (tick, bytes) into one word, so that "is this slot mine" and "add" are one atomic step.
/// 36 bits hold 64 GiB in a quarter of a second (2 Tbit/s); 28 bits of ticks come round after two years.
const BYTES_BITS: u32 = 36;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;
const TICK_MASK: u64 = (1 << (64 - BYTES_BITS)) - 1;

/// Counts bytes by quarter of a second and tells the mean rate of the last ten seconds.
#[derive(Debug)]
pub(crate) struct Throughput {
    start: Instant,
    slots: [AtomicU64; SLOTS],
}

impl Throughput {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, slots: [const { AtomicU64::new(0) }; SLOTS] }
    }

    /// Counts `bytes` at `now`. A `now` before the start counts as the start.
    pub(crate) fn add(&self, bytes: u64, now: Instant) {
        let tick = self.elapsed_ms(now) / TICK_MS;
        let slot = &self.slots[tick as usize % SLOTS];
        let mut old = slot.load(Ordering::Relaxed);
        loop {
            let age = (tick & TICK_MASK).wrapping_sub(old >> BYTES_BITS) & TICK_MASK;
            if age > TICK_MASK / 2 {
                // Another thread already counts a later round of this slot: these bytes left the window long ago.
                return;
            }
            let held = if age == 0 { old & BYTES_MASK } else { 0 };
            let sum = held.saturating_add(bytes).min(BYTES_MASK);
            let new = ((tick & TICK_MASK) << BYTES_BITS) | sum;
            match slot.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => old = seen,
            }
        }
    }

    /// The mean over the ten seconds before `now`, in 10⁹ bits per second.
    pub(crate) fn gbps(&self, now: Instant) -> f64 {
        let now_ms = self.elapsed_ms(now);
        let tick = now_ms / TICK_MS;
        let mut bytes = 0.0;
        for age in 0..=TICKS.min(tick) {
            let held = self.bytes_of(tick - age) as f64;
            // The oldest tick reaches out of the window: it counts by the share that is still inside.
            let share = if age == TICKS { 1.0 - (now_ms % TICK_MS) as f64 / TICK_MS as f64 } else { 1.0 };
            bytes += held * share;
        }
        bytes * 8.0 / WINDOW.as_secs_f64() / 1e9
    }

    fn bytes_of(&self, tick: u64) -> u64 {
        let word = self.slots[tick as usize % SLOTS].load(Ordering::Relaxed);
        if word >> BYTES_BITS == tick & TICK_MASK { word & BYTES_MASK } else { 0 }
    }

    fn elapsed_ms(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GBIT_BYTES: u64 = 125_000_000;

    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-9, "got {got} Gbit/s, want {want}");
    }

    #[test]
    fn counts_ten_seconds_and_forgets_what_is_older() {
        let start = Instant::now();
        let rate = Throughput::new(start);
        rate.add(10 * GBIT_BYTES, start);
        near(rate.gbps(start), 1.0);
        near(rate.gbps(start + Duration::from_secs(9)), 1.0);
        near(rate.gbps(start + Duration::from_millis(10_125)), 0.5);
        near(rate.gbps(start + Duration::from_millis(10_250)), 0.0);
    }

    #[test]
    fn a_steady_stream_reads_as_its_rate_at_every_moment() {
        let start = Instant::now();
        let rate = Throughput::new(start);
        for ms in (0..40_000).step_by(50) {
            rate.add(2 * GBIT_BYTES / 20, start + Duration::from_millis(ms));
        }
        for ms in [39_950, 39_960, 39_999] {
            let got = rate.gbps(start + Duration::from_millis(ms));
            assert!((got - 2.0).abs() < 0.05, "got {got} at {ms} ms");
        }
    }

    #[test]
    fn a_slot_used_again_starts_from_nothing() {
        let start = Instant::now();
        let rate = Throughput::new(start);
        rate.add(10 * GBIT_BYTES, start);
        let round = Duration::from_millis(TICK_MS * SLOTS as u64);
        rate.add(20 * GBIT_BYTES, start + round);
        near(rate.gbps(start + round), 2.0);
        // A thread that comes with an old clock must not wipe the newer count.
        rate.add(GBIT_BYTES, start);
        near(rate.gbps(start + round), 2.0);
    }

    #[test]
    fn threads_lose_no_byte() {
        let start = Instant::now();
        let rate = Throughput::new(start);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25_000).for_each(|_| rate.add(1000, start)));
            }
        });
        near(rate.gbps(start), 0.08);
    }

    #[test]
    fn a_flood_saturates_instead_of_spilling_into_the_tick() {
        let start = Instant::now();
        let rate = Throughput::new(start);
        rate.add(u64::MAX, start);
        rate.add(u64::MAX, start);
        near(rate.gbps(start), BYTES_MASK as f64 * 8.0 / 1e10);
    }
}
