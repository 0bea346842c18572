//! Who measures what, and when: in rounds, so that no measurement of bandwidth meets another on a host.

use serde::{Deserialize, Serialize};

/// What is measured, the same for all hosts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Probes of each pair.
    pub probes: u32,
    /// Beside a running fleet: only round trips, jitter and loss are probed, and slowly.
    pub running: bool,
    /// The slowest link, of which probes beside a running fleet take a hundredth at most, in Mbit/s.
    pub link_mbps: f64,
    /// Where trains of datagrams end, in Mbit/s.
    pub most_mbps: f64,
}

/// Bits of a probe on the wire: code, header, UDP, IPv6, Ethernet with its gap.
const PROBE_BITS: f64 = (72 + 8 + 40 + 38) as f64 * 8.0;
/// Between two probes of a pair where nobody is disturbed.
const IDLE_GAP_US: f64 = 500.0;
/// All probes of one host together, where nobody is disturbed: 20,000 in a second.
const IDLE_LEAST_GAP_US: f64 = 50.0;

impl Settings {
    /// Between two probes of a pair, microseconds, when a host has so many others.
    ///
    /// Each host sends the probes of some pairs and the answers of the others: one datagram each way for each of them.
    pub fn gap_us(&self, others: usize) -> u64 {
        let others = others.max(1) as f64;
        let gap = if self.running {
            PROBE_BITS * others / (self.link_mbps * 0.01)
        } else {
            IDLE_GAP_US.max(IDLE_LEAST_GAP_US * others)
        };
        gap.ceil() as u64
    }
}

/// What a host does in a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Connect to the ports of these.
    Ports(Vec<usize>),
    /// Send probes to these.
    Probe(Vec<usize>),
    /// Find the longest datagrams that reach these.
    Mtu(Vec<usize>),
    /// Find what the link to this one carries.
    Bandwidth(usize),
}

/// The rounds: in each, who does what. Tasks of one round go on at the same time.
pub fn rounds(hosts: usize, settings: &Settings) -> Vec<Vec<(usize, Task)>> {
    let others = |host: usize| (0..hosts).filter(|other| *other != host).collect::<Vec<_>>();
    let mut rounds = Vec::new();
    if !settings.running {
        rounds.push((0..hosts).map(|host| (host, Task::Ports(others(host)))).collect());
    }
    // A probe and its answer measure both directions.
    let later = |host: usize| (host + 1..hosts).collect::<Vec<_>>();
    // Beside a fleet the last host has nobody left to probe, and counters to look at.
    let probing = if settings.running { hosts } else { hosts.saturating_sub(1) };
    rounds.push((0..probing).map(|host| (host, Task::Probe(later(host)))).collect());
    if !settings.running {
        rounds.push((0..hosts).map(|host| (host, Task::Mtu(others(host)))).collect());
        for pairs in pairings(hosts) {
            rounds.push(pairs.iter().map(|(a, b)| (*a, Task::Bandwidth(*b))).collect());
            rounds.push(pairs.iter().map(|(a, b)| (*b, Task::Bandwidth(*a))).collect());
        }
    }
    rounds.retain(|round: &Vec<_>| !round.is_empty());
    rounds
}

/// Every two hosts once, in as few rounds as there can be, no host twice in a round (the circle method of tournaments).
fn pairings(hosts: usize) -> Vec<Vec<(usize, usize)>> {
    let seats = hosts + hosts % 2;
    let round = |turn: usize| {
        let at = |seat: usize| if seat == 0 { 0 } else { (seat - 1 + turn) % (seats - 1) + 1 };
        (0..seats / 2)
            .map(|seat| (at(seat), at(seats - 1 - seat)))
            .map(|(a, b)| (a.min(b), a.max(b)))
            .filter(|(_, b)| *b < hosts)
            .collect::<Vec<_>>()
    };
    (0..seats.saturating_sub(1)).map(round).filter(|pairs| !pairs.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const IDLE: Settings = Settings { probes: 10_000, running: false, link_mbps: 100.0, most_mbps: 1e4 };

    proptest! {
        #[test]
        fn every_pair_meets_once_and_nobody_is_in_two_places(hosts in 0_usize..40) {
            let mut met = BTreeSet::new();
            for pairs in pairings(hosts) {
                let mut busy = BTreeSet::new();
                for (a, b) in pairs {
                    prop_assert!(a < b && b < hosts);
                    prop_assert!(busy.insert(a) && busy.insert(b), "twice in a round");
                    prop_assert!(met.insert((a, b)), "twice");
                }
            }
            prop_assert_eq!(met.len(), hosts * hosts.saturating_sub(1) / 2);
        }

        #[test]
        fn beside_a_fleet_probes_take_a_hundredth_at_most(others in 1_usize..100, mbps in 1.0_f64..100_000.0) {
            let settings = Settings { running: true, link_mbps: mbps, ..IDLE };
            let bits_per_second = others as f64 * PROBE_BITS * 1e6 / settings.gap_us(others) as f64;
            prop_assert!(bits_per_second <= mbps * 1e4, "{bits_per_second}");
        }
    }

    #[test]
    fn beside_a_fleet_nothing_is_done_but_probing() {
        let rounds = rounds(3, &Settings { running: true, ..IDLE });
        assert_eq!(
            rounds,
            [vec![(0, Task::Probe(vec![1, 2])), (1, Task::Probe(vec![2])), (2, Task::Probe(vec![]))]]
        );
    }

    #[test]
    fn two_hosts_measure_everything_both_ways() {
        let rounds = rounds(2, &IDLE);
        assert_eq!(rounds[1], [(0, Task::Probe(vec![1]))]);
        assert_eq!(rounds[3..], [vec![(0, Task::Bandwidth(1))], vec![(1, Task::Bandwidth(0))]]);
    }
}
