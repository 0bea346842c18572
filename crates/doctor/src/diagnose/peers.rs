//! The peers: attached, heard, reachable, and who waits for whom.

use pccl_proto::message::{GroupStatus, PeerStatus};

use super::{Said, Words, duration};
use crate::cause::Cause;
use crate::finding::Level;
use crate::observed::{Connect, Observations};
use crate::symptom::Symptom;

/// A caller that the others wait for so long is worth a word; hours may be as they should be.
const LONG_WAIT_MS: u64 = 10_000;

pub(super) fn peers(seen: &Observations, said: &mut Said) {
    let status =
        seen.masters.iter().filter_map(super::super::observed::MasterSeen::status).max_by_key(|s| s.term);
    for group in status.map_or(&[][..], |status| &status.groups) {
        heard(seen, group, said);
        waits(group, said);
    }
    attached(seen, said);
    ports(seen, said);
    own_ports(seen, said);
    refusals(seen, said);
}

fn name(peer: &PeerStatus) -> String {
    let rank = peer.rank.map_or_else(|| "a newcomer".to_owned(), |rank| format!("rank {rank}"));
    format!("peer {} ({rank})", peer.addr)
}

/// Silence, against the timeout of this machine's configuration.
fn heard(seen: &Observations, group: &GroupStatus, said: &mut Said) {
    let (timeout, interval) = (seen.setting.heartbeat_timeout_ms, seen.setting.heartbeat_interval_ms);
    let mut worst = 0;
    for peer in &group.peers {
        worst = worst.max(peer.heard_ms_ago);
        let is_late = peer.heard_ms_ago > u64::from(timeout / 2).max(u64::from(2 * interval));
        if !is_late && peer.state != "member, not attached" {
            continue;
        }
        let words = Words {
            measured: format!("heard {} ms ago, state: {}", peer.heard_ms_ago, peer.state),
            means: format!(
                "beats come every {interval} ms (network.heartbeat_interval_ms), and silence of {timeout} ms means death (network.heartbeat_timeout_ms, as configured here)"
            ),
            fix: "look at that host: is the process stopped (`ps -o stat`), starved of processor time, or its network gone?".to_owned(),
        };
        let level = if peer.heard_ms_ago >= u64::from(timeout) { Level::Bad } else { Level::Low };
        said.find(level, Cause::PeerHardlyHeard, name(peer), words);
    }
    if !group.peers.is_empty() && worst <= u64::from(timeout / 2) {
        said.healthy(format!(
            "group {}: {} peers, the most silent heard {worst} ms ago",
            group.group,
            group.peers.len()
        ));
    }
}

/// Ops that some have called and others have not, for long.
fn waits(group: &GroupStatus, said: &mut Said) {
    let Some(oldest) = group.ops.iter().filter(|op| op.age_ms >= LONG_WAIT_MS).max_by_key(|op| op.age_ms)
    else {
        return;
    };
    let waiting: Vec<&PeerStatus> = group.peers.iter().filter(|peer| peer.waits_for.is_some()).collect();
    // Who waits has called; who is missing and does not wait is who the others wait for.
    let idle = |peer: &&PeerStatus| {
        peer.rank.is_some() && peer.waits_for.is_none() && oldest.missing.contains(&peer.session)
    };
    let missing: Vec<&PeerStatus> = group.peers.iter().filter(idle).collect();
    for peer in &missing {
        let words = Words {
            measured: format!(
                "op {} ({}) waits for it for {}; {} peers wait",
                oldest.tag,
                oldest.call,
                duration(oldest.age_ms as f64 * 1e-3),
                waiting.len()
            ),
            means: "it lives and has not called: waiting for a living peer never ends by itself unless fault_tolerance.op_timeout_ms is set"
                .to_owned(),
            fix: "look at what its program does between two ops (input, checkpoints, another op's order); `pccl doctor collect` shows its last ops"
                .to_owned(),
        };
        said.find(Level::Low, Cause::PeerNotCalled, name(peer), words);
    }
}

fn attached(seen: &Observations, said: &mut Said) {
    for process in seen.processes.iter().filter(|process| process.attached == Some(false)) {
        let age = process.heartbeat_age_s.unwrap_or(0.0);
        let words = Words {
            measured: format!("it has heard no master for {}", duration(age)),
            means: "its ops wait, and it settles without a master after network.master_timeout_ms".to_owned(),
            fix: "run `pccl doctor master-unreachable` on its host".to_owned(),
        };
        said.find(Level::Bad, Cause::NotAttached, format!("worker {}", process.place), words);
    }
}

fn ports(seen: &Observations, said: &mut Said) {
    let mut open = 0;
    for port in &seen.ports {
        let addr = port.addr;
        let (cause, measured, means, fix) = match &port.connect {
            Connect::Open { .. } => {
                open += 1;
                continue;
            }
            Connect::Refused => (
                Cause::PeerPortRefused,
                format!("TCP connect to {addr}: refused"),
                "the host is up, and no peer listens where the master says it does: its advertised address or a mapped port is wrong, or it has just ended",
                "set network.advertise_address of that peer to where others reach it".to_owned(),
            ),
            Connect::Silent { ms } => (
                Cause::PeerPortSilent,
                format!("TCP connect to {addr}: no answer within {ms:.0} ms"),
                "peers that cannot reach each other cannot be in one epoch: both report the link, and one is expelled",
                format!(
                    "let TCP {} and the rest of network.p2p_ports through: `pccl firewall` prints the rules",
                    addr.port()
                ),
            ),
            Connect::Unreachable { why } => (
                Cause::PeerPortSilent,
                format!("TCP connect to {addr}: {why}"),
                "this machine has no way to the address that the peer gives out",
                "set network.advertise_address of that peer to an address that all others reach".to_owned(),
            ),
        };
        let words = Words { measured, means: means.to_owned(), fix };
        said.find(Level::Bad, cause, format!("peer {addr}"), words);
    }
    if open > 0 {
        said.healthy(format!("ports of {open} peers accept connections from here"));
    }
}

fn own_ports(seen: &Observations, said: &mut Said) {
    let Some(own) = &seen.own_ports else { return };
    let (first, last) = (own.ports.start(), own.ports.end());
    let all = usize::from(*last) - usize::from(*first) + 1;
    if own.free > 0 {
        return said.healthy(format!(
            "{} of {all} ports for peers ({first}-{last}) are free on this machine",
            own.free
        ));
    }
    let holders =
        if own.holders.is_empty() { "processes of other users".to_owned() } else { own.holders.join(", ") };
    let words = Words {
        measured: format!("none of {all} ports {first}-{last} on {} is free: {holders}", own.ip),
        means: "each peer process needs one of them".to_owned(),
        fix: "end who has them, or set network.p2p_ports to a wider range on all machines (and in firewalls)"
            .to_owned(),
    };
    said.find(Level::Bad, Cause::PortsTaken, "this machine", words);
}

/// Connections that processes have refused, by reason.
fn refusals(seen: &Observations, said: &mut Said) {
    for process in &seen.processes {
        let all: Vec<String> = process
            .refused
            .iter()
            .filter(|(_, count)| **count > 0.0)
            .map(|(reason, count)| format!("{reason}: {count:.0}"))
            .collect();
        if all.is_empty() {
            continue;
        }
        let words = Words {
            measured: format!("refused since it began: {}", all.join(", ")),
            means: "somebody tried to connect who does not belong to the fleet, or whose settings are wrong"
                .to_owned(),
            fix: "its log has a line `refused ADDRESS: …` for each address, with what is wrong there"
                .to_owned(),
        };
        said.find(Level::Low, Cause::Refusals, &process.place, words);
    }
    if seen.processes.is_empty() {
        let symptoms = &[
            Symptom::CantConnect,
            Symptom::FrequentRecoveries,
            Symptom::LowThroughput,
            Symptom::HighLatency,
        ];
        said.unmeasured(
            "links, waits and refusals of the processes",
            "no page of metrics could be read",
            symptoms,
        );
    }
}
