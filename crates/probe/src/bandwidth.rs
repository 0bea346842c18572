//! What a link carries: trains of datagrams, faster and faster until it gives out less than was put in.
//!
//! One TCP stream on a long link with losses gets a small part of what the link carries, and many fleets use many streams.
//! A train does not slow down when something is lost: what comes out of a full link at its far end is what it carries.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::plan::Settings;
use crate::stats::median;

/// The first train: enough to see a link of some Mbit/s, not enough to hurt one.
const FIRST_BPS: f64 = 16e6;
/// How much faster each next one is.
const FASTER: f64 = 4.0;
const LOOKING: Duration = Duration::from_millis(300);
/// Trains that the figure is taken from, and how much faster than the link they are.
const MEASURING: Duration = Duration::from_millis(800);
const TRAINS: usize = 3;
const OVER: f64 = 1.25;
/// A link that gives out less than this of what was put in is full.
const FULL: f64 = 0.88;
/// A sender that has put in less than this of what it should has reached its own limit.
const SENDER: f64 = 0.75;
/// Trains of which nothing is heard, before the way counts as closed.
const SILENT: u32 = 3;
/// Trains that are sent again because their sender was held up.
const LATE: u32 = 2;
/// Datagrams that are due are sent together after this time, more often than any queue overflows.
const TICK: Duration = Duration::from_micros(250);
/// A sender that was held up catches up on this much at most.
const MOST_LATE: Duration = Duration::from_millis(5);
const TALLY_PATIENCE: Duration = Duration::from_secs(4);

/// What one direction of a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Carried {
    pub(crate) to: usize,
    /// Megabits per second, IP headers included; none if nothing came.
    pub(crate) mbps: Option<f64>,
    /// The hosts, or the limit of the check, gave out before the link did.
    pub(crate) at_least: bool,
}

/// A train, measured at both ends, bits per second.
struct Passed {
    sent_bps: f64,
    came_bps: f64,
}

/// Finds what the way to `to` carries, whose random loss is known and whose datagrams are `packet_bytes` long on the wire.
pub(crate) fn measure(
    host: &Host,
    to: usize,
    settings: &Settings,
    loss_percent: f64,
    packet_bytes: u32,
) -> Carried {
    let survives = (1.0 - loss_percent / 100.0).clamp(0.05, 1.0);
    let most_bps = settings.most_mbps * 1e6;
    let mut rate = FIRST_BPS.min(most_bps);
    let (mut silent, mut late) = (0, 0);
    loop {
        let Some(passed) = train(host, to, rate, LOOKING, packet_bytes) else {
            silent += 1;
            if silent == SILENT {
                return Carried { to, mbps: None, at_least: false };
            }
            continue;
        };
        let came = passed.came_bps / survives;
        let (full, is_late) = (came < FULL * passed.sent_bps, passed.sent_bps < SENDER * rate);
        if is_late && !full && late < LATE {
            late += 1;
            continue;
        }
        if !full && !is_late && rate < most_bps {
            rate = (rate * FASTER).min(most_bps);
            continue;
        }
        let limit = if full { came } else { passed.sent_bps };
        let measuring = (limit * OVER).min(most_bps);
        let trains: Vec<Passed> =
            (0..TRAINS).filter_map(|_| train(host, to, measuring, MEASURING, packet_bytes)).collect();
        let came = median(&trains.iter().map(|passed| passed.came_bps / survives).collect::<Vec<_>>());
        let sent = median(&trains.iter().map(|passed| passed.sent_bps).collect::<Vec<_>>());
        let empty = came.zip(sent).is_none_or(|(came, sent)| came >= FULL * sent);
        if full && empty && rate < most_bps {
            // Something held up the train that seemed to have filled the link: it carries more.
            rate = (rate * FASTER).min(most_bps);
            continue;
        }
        let at_least = came.is_some() && (!full || empty);
        return Carried { to, mbps: came.map(|bps| bps * 1e-6), at_least };
    }
}

/// Sends a train and asks what has come of it; none if the other side says nothing, or nothing came.
fn train(host: &Host, to: usize, rate_bps: f64, time: Duration, packet_bytes: u32) -> Option<Passed> {
    let stream = host.stream();
    let length = packet_bytes.saturating_sub(host.headers(to)) as usize;
    let per_second = rate_bps / 8.0 / f64::from(packet_bytes);
    let (begin, mut sent, mut skipped) = (Instant::now(), 0_u32, 0.0);
    while begin.elapsed() < time {
        let due = begin.elapsed().as_secs_f64() * per_second - skipped;
        let late = due - f64::from(sent) - MOST_LATE.as_secs_f64() * per_second;
        if late > 1.0 {
            skipped += late;
        }
        let until = (due - late.max(0.0)) as u32;
        if until > sent {
            // What the system does not take is lost before the link: that is this host's limit.
            let _ = host.send_train(to, stream, sent..until, length);
            sent = until;
        }
        thread::sleep(TICK);
    }
    let sent_bps = f64::from(sent) * f64::from(packet_bytes) * 8.0 / begin.elapsed().as_secs_f64();
    // A queue takes its time to run empty: until the count stays the same.
    let mut last = None;
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let tallied = host.tally(to, stream, TALLY_PATIENCE)?;
        if last == Some(tallied) {
            break;
        }
        last = Some(tallied);
        thread::sleep(Duration::from_millis(150));
    }
    let (_, came_bps) = last?;
    (came_bps > 0).then_some(Passed { sent_bps, came_bps: came_bps as f64 })
}
