//! Peers are killed and started for a while, and the others go on.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use pccl_proto::ids::Seeded;

use super::{Fleet, HANG, Process, Setup};

/// What a process holds.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    rss_kib: u64,
    pub(crate) files: u64,
    pub(crate) threads: u64,
}

impl Held {
    fn by(process: &Process) -> Self {
        Self { rss_kib: process.rss_kib(), files: process.fds(), threads: process.threads() }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB, {} files, {} threads", self.rss_kib, self.files, self.threads)
    }
}

/// How it went: no hang and no divergence, or it would have panicked.
#[derive(Default)]
pub(crate) struct Churn {
    pub(crate) kills: u32,
    pub(crate) starts: u32,
    pub(crate) results: u64,
    pub(crate) recoveries: u64,
    /// Who took part, by epoch.
    masks: BTreeMap<u64, u64>,
    last_step: BTreeMap<String, Instant>,
    /// The master and the oldest peer, after a third of the time and at the end.
    pub(crate) held: Vec<(Held, Held)>,
    minutes: f64,
}

/// Ops of 256 KiB with a pause between them; after each of the `beats` (milliseconds) a peer is killed or started.
pub(crate) fn run(setup: Setup, time: Duration, beats: Range<u64>, pause_ms: u64) -> Churn {
    let mut random = Seeded::new(std::process::id().into());
    let mut fleet = Fleet::of(4, setup);
    let steps = format!("steps tag=1 bytes={} pause_ms={pause_ms} tell=1", 256 << 10);
    fleet.tell(&steps);
    let mut churn = Churn { minutes: time.as_secs_f64() / 60.0, ..Churn::default() };
    let (begun, mut next) = (Instant::now(), Instant::now());
    while begun.elapsed() < time {
        std::thread::sleep(Duration::from_millis(10));
        churn.listen(&mut fleet);
        if churn.held.is_empty() && begun.elapsed() > time / 3 {
            churn.weigh(&fleet);
        }
        if Instant::now() >= next {
            next =
                Instant::now() + Duration::from_millis(beats.start + random.below(beats.end - beats.start));
            churn.strike(&mut fleet, &mut random, &steps);
        }
    }
    churn.weigh(&fleet);
    churn
}

impl Churn {
    fn listen(&mut self, fleet: &mut Fleet) {
        for peer in &mut fleet.peers {
            let news = peer.news().unwrap_or_else(|reply| panic!("{reply:?}"));
            let seen = self.last_step.entry(peer.name.clone()).or_insert_with(Instant::now);
            for step in news.iter().filter_map(|n| n.strip_prefix("step ")) {
                let figures: Vec<u64> = step.split(' ').map(|w| w.parse().unwrap()).collect();
                let mask = *self.masks.entry(figures[0]).or_insert(figures[1]);
                assert_eq!(mask, figures[1], "{} diverges in epoch {}", peer.name, figures[0]);
                self.results += 1;
                self.recoveries += figures[2];
                *seen = Instant::now();
            }
            assert!(seen.elapsed() < HANG, "{} hangs", peer.name);
        }
    }

    fn strike(&mut self, fleet: &mut Fleet, random: &mut Seeded, steps: &str) {
        let members = fleet.peers.len() as u64;
        if members <= 2 || (members < 8 && random.below(2) == 0) {
            fleet.spawn("").send(&format!("{steps} newcomer=1"));
            self.starts += 1;
        } else {
            // The first one stays, to see what it gathers.
            fleet.take(1 + random.below(members - 1) as usize).kill();
            self.kills += 1;
        }
    }

    fn weigh(&mut self, fleet: &Fleet) {
        self.held.push((Held::by(&fleet.master), Held::by(&fleet.peers[0])));
    }
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} minutes, {} kills, {} starts, {} results, {} recoveries, {} epochs: no hang, no divergence",
            self.minutes,
            self.kills,
            self.starts,
            self.results,
            self.recoveries,
            self.masks.len()
        )?;
        for (master, peer) in &self.held {
            write!(f, "\n  master {master}; oldest peer {peer}")?;
        }
        Ok(())
    }
}
