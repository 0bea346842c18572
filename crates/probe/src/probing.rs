//! Small datagrams at a steady pace: round trips, jitter and loss of both directions.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::host::{Host, MOST_PROBES};
use crate::plan::Settings;
use crate::stats::{RoundTrips, round_trips};
use crate::wire::Kind;

/// The last answers are awaited until none has come for this long.
const SILENCE: Duration = Duration::from_millis(1500);
/// The other side's count is asked for as long as this.
const TALLY_PATIENCE: Duration = Duration::from_secs(5);

/// What probes of one host to another have found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Probed {
    pub(crate) to: usize,
    pub(crate) sent: u64,
    /// What the other side has counted; none if it could not be asked.
    pub(crate) heard: Option<u64>,
    pub(crate) returned: u64,
    pub(crate) trips: Option<RoundTrips>,
}

/// Sends probes to all `targets`, evenly in turn.
pub(crate) fn probe(host: &Host, targets: &[usize], settings: &Settings, hosts: usize) -> Vec<Probed> {
    let streams: Vec<(usize, u32)> = targets.iter().map(|to| (*to, host.stream())).collect();
    let count = settings.probes.clamp(1, MOST_PROBES);
    let gap = Duration::from_micros(settings.gap_us(hosts.saturating_sub(1)));
    let share = gap / streams.len().max(1) as u32;
    let begin = Instant::now();
    let mut due = Duration::ZERO;
    for number in 0..count {
        due += gap.saturating_sub(share * streams.len() as u32);
        for (to, stream) in &streams {
            due += share;
            thread::sleep(due.saturating_sub(begin.elapsed()));
            // What cannot be sent is lost to whoever counts.
            let _ = host.send(*to, Kind::Probe, *stream, number, 0);
        }
    }
    await_silence(host, &streams, u64::from(count));
    let heard = tallies(host, &streams);
    let probed = |((to, stream), heard): (&(usize, u32), Option<u64>)| {
        let mut samples = host.samples(*stream);
        samples.sort_unstable_by_key(|sample| sample.number);
        samples.dedup_by_key(|sample| sample.number);
        Probed {
            to: *to,
            sent: u64::from(count),
            heard,
            returned: samples.len() as u64,
            trips: round_trips(&samples),
        }
    };
    streams.iter().zip(heard).map(probed).collect()
}

fn await_silence(host: &Host, streams: &[(usize, u32)], all: u64) {
    let come = || streams.iter().map(|(_, stream)| host.answered(*stream) as u64).sum::<u64>();
    let (mut before, mut since) = (come(), Instant::now());
    while before < all * streams.len() as u64 && since.elapsed() < SILENCE {
        thread::sleep(Duration::from_millis(20));
        let now = come();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
}

/// All at once: those that do not answer take their time.
fn tallies(host: &Host, streams: &[(usize, u32)]) -> Vec<Option<u64>> {
    thread::scope(|scope| {
        let ask = |(to, stream): &(usize, u32)| {
            let (to, stream) = (*to, *stream);
            scope.spawn(move || host.tally(to, stream, TALLY_PATIENCE).map(|(count, _)| count))
        };
        let asked: Vec<_> = streams.iter().map(ask).collect();
        asked.into_iter().map(|thread| thread.join().unwrap_or(None)).collect()
    })
}
