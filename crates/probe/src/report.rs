//! What a check has found, the same for all hosts.

use serde::{Deserialize, Serialize};

use crate::plan::Settings;
use crate::stats::{RoundTrips, port_ranges};
use crate::verdict::{
    Judged, Level, What, judge, judge_bandwidth, judge_mtu, judge_observed_bandwidth, judge_ports, judge_udp,
};

/// The whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The worst of all pairs.
    pub verdict: Level,
    /// What was asked for.
    pub settings: Settings,
    /// Who took part.
    pub hosts: Vec<HostReport>,
    /// Every pair once, in the order of the hosts.
    pub pairs: Vec<PairReport>,
}

/// A host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// What it calls itself.
    pub name: String,
    /// Where the others reach it.
    pub address: String,
    /// Its UDP port.
    pub udp_port: u16,
    /// Peer-to-peer ports that another program there has.
    pub busy_ports: Vec<u16>,
}

/// What was found between two hosts. `there` is from the first to the second, `back` the other way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    /// The first, by its place among the hosts.
    pub a: usize,
    /// The second.
    pub b: usize,
    /// Round trips, seen from the first.
    pub round_trips: Option<RoundTrips>,
    /// The round trip is that of TCP connections: no datagram came back.
    pub by_tcp: bool,
    /// Probes that were sent, one way.
    pub probes: u64,
    /// Lost on the way there, percent.
    pub loss_there: Option<f64>,
    /// Lost on the way back, percent.
    pub loss_back: Option<f64>,
    /// What each way carries.
    pub there: Way,
    /// The other.
    pub back: Way,
    /// The worst of `judged`.
    pub level: Option<Level>,
    /// All verdicts.
    pub judged: Vec<(Direction, Judged)>,
}

/// One direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// Mbit/s, IP headers included.
    pub mbps: Option<f64>,
    /// The link carries at least this; what it carries was not reached.
    pub at_least: bool,
    /// The figure comes from the counters of a running fleet.
    pub from_counters: bool,
    /// Longest packet that came, bytes with IP headers.
    pub mtu: Option<u32>,
    /// Longest one that the interface sends.
    pub mtu_sendable: u32,
    /// TCP ports of the receiver that were tried.
    pub ports_tried: Vec<u16>,
    /// And could be connected to.
    pub ports_open: Vec<u16>,
    /// Gave no answer.
    pub ports_silent: Vec<u16>,
    /// Refused.
    pub ports_refused: Vec<u16>,
}

/// Whom a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Both ways.
    Both,
    /// From the first to the second.
    There,
    /// From the second to the first.
    Back,
}

impl PairReport {
    /// Judges what was found.
    pub(crate) fn judge(&mut self, settings: &Settings, udp_port: u16) {
        let mut judged = Vec::new();
        let trips = self.round_trips;
        judged.push((Direction::Both, judge_udp(trips.is_some() && !self.by_tcp, udp_port)));
        judged.push((Direction::Both, judge(What::RoundTrip, trips.map(|trips| trips.median_ms))));
        judged.push((Direction::Both, judge(What::Jitter, trips.and_then(|trips| trips.jitter_ms))));
        // Nobody can tell clocks apart by less than the error.
        let clock = trips.filter(|_| !self.by_tcp);
        let clock = clock.map(|trips| (trips.clock_ahead_ms.abs() - trips.clock_error_ms).max(0.0));
        judged.push((Direction::Both, judge(What::Clock, clock)));
        for (direction, way, loss) in
            [(Direction::There, &self.there, self.loss_there), (Direction::Back, &self.back, self.loss_back)]
        {
            judged.push((direction, judge(What::Loss, loss)));
            if settings.running {
                judged.push((direction, judge_observed_bandwidth(way.mbps)));
                continue;
            }
            judged.push((direction, judge_bandwidth(way.mbps, way.at_least)));
            judged.push((direction, judge_mtu(way.mtu, way.mtu_sendable)));
            let (silent, refused) = (port_ranges(&way.ports_silent), port_ranges(&way.ports_refused));
            judged.push((
                direction,
                judge_ports(way.ports_open.len(), way.ports_tried.len(), &silent, &refused),
            ));
        }
        self.level = judged.iter().map(|(_, judged)| judged.level).max();
        self.judged = judged;
    }

    /// Whether anything came through at all.
    fn is_silent(&self) -> bool {
        self.round_trips.is_none() && self.there.ports_open.is_empty() && self.back.ports_open.is_empty()
    }
}

impl Report {
    /// Puts it together and finds the worst.
    pub(crate) fn new(settings: Settings, hosts: Vec<HostReport>, mut pairs: Vec<PairReport>) -> Self {
        for pair in &mut pairs {
            pair.judge(&settings, hosts[pair.b].udp_port);
            if pair.is_silent() {
                pair.level = Some(Level::Bad);
            }
        }
        // What was not measured, on purpose or not, is no reason to keep a fleet from starting: it is shown.
        let known = pairs.iter().filter_map(|pair| pair.level).filter(|level| *level != Level::Unknown);
        let verdict = known.max().unwrap_or(Level::Good);
        Self { verdict, settings, hosts, pairs }
    }

    /// What is not good, and what to do: pair, direction, verdict.
    pub fn findings(&self) -> impl Iterator<Item = (&PairReport, Direction, &Judged)> {
        self.pairs.iter().flat_map(|pair| {
            let bad = pair.judged.iter().filter(|(_, judged)| judged.level >= Level::Low);
            bad.map(move |(direction, judged)| (pair, *direction, judged))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { probes: 10, running: false, link_mbps: 100.0, most_mbps: 1e4 };

    fn good() -> PairReport {
        let way = Way {
            mbps: Some(2000.0),
            mtu: Some(1500),
            mtu_sendable: 1500,
            ports_tried: vec![7118],
            ports_open: vec![7118],
            ..Way::default()
        };
        let trips = RoundTrips { median_ms: 12.0, jitter_ms: Some(1.0), ..RoundTrips::default() };
        PairReport {
            b: 1,
            round_trips: Some(trips),
            loss_there: Some(0.0),
            loss_back: Some(0.0),
            there: way.clone(),
            back: way,
            ..PairReport::default()
        }
    }

    fn verdict(pair: PairReport, settings: Settings) -> Level {
        let hosts = vec![HostReport::default(), HostReport::default()];
        Report::new(settings, hosts, vec![pair]).verdict
    }

    #[test]
    fn the_worst_of_all_is_the_verdict() {
        assert_eq!(verdict(good(), SETTINGS), Level::Good);
        assert_eq!(verdict(PairReport { loss_back: Some(1.0), ..good() }, SETTINGS), Level::Low);
        assert_eq!(verdict(PairReport { loss_there: Some(7.0), ..good() }, SETTINGS), Level::Bad);
        let slow = PairReport { back: Way { mbps: Some(50.0), ..good().back }, ..good() };
        assert_eq!(verdict(slow.clone(), SETTINGS), Level::Bad);
        // Beside a fleet that moves little, nothing is known about the link.
        assert_eq!(verdict(slow, Settings { running: true, ..SETTINGS }), Level::Good);
    }

    #[test]
    fn silence_is_bad_although_nothing_was_measured() {
        assert_eq!(verdict(PairReport { b: 1, ..PairReport::default() }, SETTINGS), Level::Bad);
    }

    #[test]
    fn what_is_not_good_is_found_with_its_fix() {
        let hosts = vec![HostReport::default(), HostReport::default()];
        let pair = PairReport { loss_back: Some(1.0), ..good() };
        let report = Report::new(SETTINGS, hosts, vec![pair]);
        let found: Vec<_> =
            report.findings().map(|(_, direction, judged)| (direction, judged.what)).collect();
        assert_eq!(found, [(Direction::Back, What::Loss)]);
        assert!(report.findings().all(|(_, _, judged)| judged.fix.is_some()));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}
