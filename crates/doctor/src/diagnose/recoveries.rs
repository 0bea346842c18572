//! Peers that are lost: how often, who, why; and whether the timeout fits to the network.

use std::collections::BTreeMap;

use super::{Said, Words, duration};
use crate::cause::Cause;
use crate::finding::Level;
use crate::observed::{LostPeer, Observations, Udp};
use crate::symptom::Symptom;

/// What the alert `PcclFrequentRecoveries` counts in: more in so long are too many.
const WINDOW_S: f64 = 300.0;
const MOST: usize = 3;

pub(super) fn recoveries(seen: &Observations, said: &mut Said) {
    let mut known = false;
    for process in &seen.processes {
        let Some(record) = &process.lost else { continue };
        known = true;
        let recent: Vec<&LostPeer> = record.lost.iter().filter(|lost| lost.ago_s <= WINDOW_S).collect();
        if recent.is_empty() {
            let span = duration(record.seconds.min(WINDOW_S));
            said.healthy(format!(
                "no peer was lost in the last {span}, says the record of {}",
                process.place
            ));
            continue;
        }
        lost(&recent, record.seconds, &process.place, said);
    }
    if !known {
        let why = "no flight record of a master could be read (--metrics HOST:PORT of the master)";
        said.unmeasured("who was lost, and why", why, &[Symptom::FrequentRecoveries]);
    }
    timeout(seen, said);
}

fn lost(recent: &[&LostPeer], seconds: f64, place: &str, said: &mut Said) {
    let mut whys: BTreeMap<&str, Vec<&LostPeer>> = BTreeMap::new();
    for one in recent {
        whys.entry(kind(&one.why)).or_default().push(one);
    }
    let span = seconds.clamp(1.0, WINDOW_S);
    let rate = recent.len() as f64 * 60.0 / span.max(60.0);
    let mut by_count: Vec<_> = whys.into_iter().collect();
    by_count.sort_by_key(|(_, all)| std::cmp::Reverse(all.len()));
    let Some((why, most)) = by_count.first() else { return };
    let mut names: Vec<&str> = most.iter().map(|one| one.who.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let last = most.last().map_or("", |one| one.why.as_str());
    let counts: Vec<String> = by_count.iter().map(|(why, all)| format!("{why}: {}", all.len())).collect();
    let words = Words {
        measured: format!(
            "{} peers lost in the last {} ({rate:.1} per minute; {}), mostly {}; the last one: {last}",
            recent.len(),
            duration(span),
            counts.join(", "),
            names.join(", ")
        ),
        means: format!(
            "more than {MOST} in five minutes are too many (alert PcclFrequentRecoveries); each costs the ops in flight another try"
        ),
        fix: advice(why).to_owned(),
    };
    let level = if recent.len() > MOST { Level::Bad } else { Level::Low };
    said.find(level, Cause::PeersLost, format!("master {place}"), words);
}

/// The kind of what a master says.
fn kind(why: &str) -> &'static str {
    let has = |word: &str| why.contains(word);
    if has("nothing was heard") || has("silen") {
        "silent"
    } else if has("link") || has("reach each other") {
        "broken link"
    } else if has("process") || has("gone") || has("refused") {
        "process gone"
    } else {
        "other"
    }
}

fn advice(kind: &str) -> &'static str {
    match kind {
        "silent" => {
            "if their processes live: raise network.heartbeat_timeout_ms, and look for stopped or starved hosts; if not: look at those machines"
        }
        "broken link" => {
            "let the peers' ports through to each other: `pccl check` between their hosts, `pccl firewall` for the rules"
        }
        "process gone" => {
            "look at why their processes end: their logs and flight records (`pccl doctor collect`), the kernel's log for OOM (`dmesg`), the scheduler's evictions"
        }
        _ => {
            "`pccl doctor collect HOST:9090 …` merges the flight records of master and workers and points at the first cause"
        }
    }
}

/// Between two beats that arrive lie the interval and, if the first was lost, a round trip more.
fn timeout(seen: &Observations, said: &mut Said) {
    let links =
        seen.processes.iter().flat_map(|p| p.links.iter().map(|(peer, l)| (peer.clone(), l.rtt_s * 1e3)));
    let masters = seen.masters.iter().flat_map(|m| &m.addresses).filter_map(|a| match a.udp {
        Udp::Answers { ms } => Some((a.addr.to_string(), ms)),
        _ => None,
    });
    let Some((place, rtt_ms)) = masters.chain(links).max_by(|a, b| a.1.total_cmp(&b.1)) else { return };
    let (interval, timeout) = (seen.setting.heartbeat_interval_ms, seen.setting.heartbeat_timeout_ms);
    let needed = f64::from(interval) * 2.0 + rtt_ms * 2.0;
    if f64::from(timeout) >= needed {
        return said.healthy(format!(
            "the heartbeat timeout of {timeout} ms leaves room for the longest round trip, {rtt_ms:.1} ms to {place}"
        ));
    }
    let enough = (needed * 1.5 / 100.0).ceil() * 100.0;
    let words = Words {
        measured: format!(
            "a round trip of {rtt_ms:.1} ms, beats every {interval} ms, a timeout of {timeout} ms"
        ),
        means: format!(
            "two intervals and two round trips, {needed:.0} ms, must fit in it, else one lost packet looks like a death"
        ),
        fix: format!("set network.heartbeat_timeout_ms to {enough:.0} or more at the master, and restart it"),
    };
    let level = if f64::from(timeout) <= f64::from(interval) + rtt_ms { Level::Bad } else { Level::Low };
    said.find(level, Cause::TimeoutShort, place, words);
}
