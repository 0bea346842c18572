//! What measurements say: arithmetic on times and counts.

use serde::{Deserialize, Serialize};

/// One probe that came back. Times are nanoseconds: `sent` and `returned` on the clock of whoever asks, `heard` and
/// `answered` on the clock of the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its number.
    pub number: u32,
    /// When it was sent.
    pub sent: u64,
    /// When the other side's kernel had it.
    pub heard: u64,
    /// When the other side answered.
    pub answered: u64,
    /// When our kernel had the answer.
    pub returned: u64,
}

impl Sample {
    /// The time on the way there and back, without what the other side took to answer, nanoseconds.
    pub fn round_trip(&self) -> u64 {
        self.returned.saturating_sub(self.sent).saturating_sub(self.answered.saturating_sub(self.heard))
    }

    /// How far the other clock is ahead of ours, nanoseconds; wrong by half a round trip at most (Mills, RFC 5905 §8).
    fn clock_ahead(&self) -> i64 {
        let there = i128::from(self.heard) - i128::from(self.sent);
        let back = i128::from(self.answered) - i128::from(self.returned);
        i64::try_from(i128::midpoint(there, back)).unwrap_or(i64::MAX)
    }
}

/// Round trips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// The shortest, milliseconds.
    pub min_ms: f64,
    /// The median.
    pub median_ms: f64,
    /// 99 of 100 are shorter.
    pub p99_ms: f64,
    /// The mean absolute difference of two that follow each other, milliseconds. None where no two did.
    pub jitter_ms: Option<f64>,
    /// How far the other side's clock is ahead of ours, milliseconds.
    pub clock_ahead_ms: f64,
    /// By how much that can be wrong.
    pub clock_error_ms: f64,
}

/// What the probes of one stream say; none if none came back.
pub fn round_trips(samples: &[Sample]) -> Option<RoundTrips> {
    let mut by_number = samples.to_vec();
    by_number.sort_by_key(|sample| sample.number);
    by_number.dedup_by_key(|sample| sample.number);
    let mut trips: Vec<u64> = by_number.iter().map(Sample::round_trip).collect();
    trips.sort_unstable();
    let shortest = by_number.iter().min_by_key(|sample| sample.round_trip())?;
    Some(RoundTrips {
        min_ms: ms(*trips.first()?),
        median_ms: ms(quantile(&trips, 0.5)),
        p99_ms: ms(quantile(&trips, 0.99)),
        jitter_ms: jitter_ms(&by_number),
        clock_ahead_ms: shortest.clock_ahead() as f64 * 1e-6,
        clock_error_ms: ms(shortest.round_trip()) / 2.0,
    })
}

fn ms(nanoseconds: u64) -> f64 {
    nanoseconds as f64 * 1e-6
}

fn quantile(sorted: &[u64], share: f64) -> u64 {
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

/// Of probes in the order of their numbers. A lost one takes both differences with it that it is a part of.
fn jitter_ms(by_number: &[Sample]) -> Option<f64> {
    let follows = |pair: &&[Sample]| pair[1].number == pair[0].number + 1;
    let differences: Vec<f64> = by_number
        .windows(2)
        .filter(follows)
        .map(|pair| ms(pair[0].round_trip().abs_diff(pair[1].round_trip())))
        .collect();
    (!differences.is_empty()).then(|| differences.iter().sum::<f64>() / differences.len() as f64)
}

/// The share of `sent` that did not arrive, in percent. Duplicates cannot make it negative.
pub fn loss_percent(sent: u64, arrived: u64) -> Option<f64> {
    (sent > 0).then(|| (1.0 - arrived.min(sent) as f64 / sent as f64) * 100.0)
}

/// The rate at which a train of datagrams came out of a link, in bits per second on the link; none if too few came.
///
/// `arrivals` are times (nanoseconds) with bytes on the wire. The first and the last tenth are left out: there a train is not
/// yet, or no longer, as dense as the link makes it, and jitter has smeared its ends.
pub fn delivery_rate(arrivals: &[(u64, u32)]) -> Option<f64> {
    let mut sorted = arrivals.to_vec();
    sorted.sort_unstable();
    let tenth = sorted.len() / 10;
    let middle = &sorted[tenth..sorted.len() - tenth];
    let (first, last) = (middle.first()?, middle.last()?);
    let nanoseconds = last.0.checked_sub(first.0).filter(|time| *time > 0)?;
    // What came with the first had begun before.
    let bytes: u64 = middle[1..].iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    (middle.len() >= 10).then(|| bytes as f64 * 8e9 / nanoseconds as f64)
}

/// The middle of some figures; none of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Ports as people write them: `7118-7120, 7130`.
pub fn port_ranges(ports: &[u16]) -> String {
    let mut sorted = ports.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in sorted {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == port => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let text = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A probe over a way of `there` and `back`, to a clock that is `ahead`.
    fn sample(number: u32, there: u64, back: u64, ahead: u64) -> Sample {
        let sent = 1_000_000_000 + u64::from(number) * 1_000_000;
        let heard = sent + there + ahead;
        let answered = heard + 77_000;
        Sample { number, sent, heard, answered, returned: answered - ahead + back }
    }

    #[test]
    fn nothing_says_nothing() {
        assert_eq!(round_trips(&[]), None);
        assert_eq!(loss_percent(0, 0), None);
        assert_eq!(delivery_rate(&[]), None);
        assert_eq!(delivery_rate(&[(5, 1500); 100]), None);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn jitter_is_of_probes_that_follow_each_other() {
        // 10, 14, (lost), 30, 26 ms: differences 4 and 4; the one across the gap does not count.
        let trips = [(0, 10), (1, 14), (3, 30), (4, 26)];
        let samples: Vec<_> = trips.iter().map(|(n, ms)| sample(*n, ms * 1_000_000, 0, 0)).collect();
        let said = round_trips(&samples).unwrap();
        assert!((said.jitter_ms.unwrap() - 4.0).abs() < 1e-9);
        assert!((said.min_ms - 10.0).abs() < 1e-9);
        let alone = round_trips(&samples[..1]).unwrap();
        assert_eq!(alone.jitter_ms, None);
    }

    #[test]
    fn ports_are_written_as_ranges() {
        assert_eq!(port_ranges(&[7120, 7118, 7119, 7130, 7118]), "7118-7120, 7130");
        assert_eq!(port_ranges(&[]), "");
    }

    proptest! {
        #[test]
        fn the_clock_is_found_within_its_error(there in 0_u64..500_000_000, back in 0_u64..500_000_000, ahead in 0_u64..1 << 50) {
            let said = round_trips(&[sample(0, there, back, ahead)]).unwrap();
            prop_assert!((said.min_ms - (there + back) as f64 * 1e-6).abs() < 1e-3);
            let wrong = (said.clock_ahead_ms - ahead as f64 * 1e-6).abs();
            prop_assert!(wrong <= said.clock_error_ms + 1e-3, "{wrong} {said:?}");
        }

        #[test]
        fn the_order_of_arrival_changes_nothing(seed: u64, count in 2_usize..50) {
            let trip = |n: usize| seed.rotate_left(n as u32) % 100_000_000;
            let mut samples: Vec<_> = (0..count).map(|n| sample(n as u32, trip(n), 0, 0)).collect();
            let said = round_trips(&samples);
            samples.reverse();
            samples.push(samples[0]);
            prop_assert_eq!(round_trips(&samples), said);
        }

        #[test]
        fn a_steady_train_has_its_rate_however_it_is_smeared(mbps in 1.0_f64..5000.0, smear in 0_u64..20_000_000, count in 2000_usize..4000) {
            let gap = 1500.0 * 8e3 / mbps;
            let span = gap * count as f64;
            // Smeared by a fiftieth of the train at most.
            let smear = smear.min(span as u64 / 50) + 1;
            let arrivals: Vec<(u64, u32)> = (0..count)
                .map(|n| (1_000_000 + (n as f64 * gap) as u64 + (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % smear, 1500))
                .collect();
            let rate = delivery_rate(&arrivals).unwrap();
            prop_assert!((rate / (mbps * 1e6) - 1.0).abs() < 0.06, "{rate} of {mbps}");
        }

        #[test]
        fn loss_is_a_share(sent in 1_u64..1_000_000, arrived in 0_u64..2_000_000) {
            let loss = loss_percent(sent, arrived).unwrap();
            prop_assert!((0.0..=100.0).contains(&loss));
        }
    }
}
