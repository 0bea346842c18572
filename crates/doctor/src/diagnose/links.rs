//! The links between peers: up, near, without loss, equally fast, and what the kernel lets through.

use pccl_probe::verdict::{Level as Judgement, What, judge};

use super::{Said, Words, bytes, duration, median, percent};
use crate::cause::Cause;
use crate::finding::Level;
use crate::observed::{LinkSeen, Observations, ProcessSeen};
use crate::symptom::Symptom;

const SPEED: &[Symptom] = &[Symptom::LowThroughput, Symptom::HighLatency];
/// Payload of a full segment.
const SEGMENT_BYTES: f64 = 1448.0;
/// Segments below which a share of losses says nothing.
const FEW_SEGMENTS: f64 = 1000.0;
/// A link that is this many times as slow as the median is slow,
const TIMES: f64 = 4.0;
/// if it is also this much longer, seconds: on one machine all is quick.
const MARGIN_S: f64 = 0.005;
/// Share of the looks in which a link that is the bottleneck has frames waiting.
const MOSTLY: f64 = 0.5;
/// What a network should carry, Mbit/s.
const NEEDED_MBPS: f64 = 100.0;
const RECOMMENDED_MBPS: f64 = 1000.0;

struct End<'a> {
    process: &'a ProcessSeen,
    peer: &'a str,
    link: &'a LinkSeen,
}

impl End<'_> {
    fn place(&self) -> String {
        let own = self.process.addresses.first().unwrap_or(&self.process.place);
        format!("link {own} to {}", self.peer)
    }
}

pub(super) fn links(seen: &Observations, said: &mut Said) {
    let ends: Vec<End> = seen
        .processes
        .iter()
        .flat_map(|process| process.links.iter().map(move |(peer, link)| End { process, peer, link }))
        .collect();
    if ends.is_empty() {
        return said.unmeasured("links between peers", "no worker's page of metrics shows any", SPEED);
    }
    let before = said.findings.len();
    for end in &ends {
        one(end, said);
    }
    slow(&ends, said);
    buffers(seen, &ends, said);
    if said.findings.len() == before {
        let longest = ends.iter().map(|end| end.link.rtt_s).fold(0.0, f64::max);
        said.healthy(format!(
            "{} ends of links stand, the longest round trip is {}",
            ends.len(),
            duration(longest)
        ));
    }
}

/// What is wrong with a link by itself.
fn one(end: &End, said: &mut Said) {
    let link = end.link;
    if !link.up {
        let words = Words {
            measured: format!("{:.0} of its connections stand", link.connections),
            means: "after a heartbeat timeout both ends report it, and the master takes a topology without it or expels one".to_owned(),
            fix: "let the peers' ports through between the two hosts (`pccl check`, `pccl firewall`); see network.advertise_address".to_owned(),
        };
        said.find(Level::Bad, Cause::LinkDown, end.place(), words);
    }
    let segments = link.sent_bytes / SEGMENT_BYTES;
    let share = link.retransmits / segments.max(1.0);
    if segments < FEW_SEGMENTS {
        said.unmeasured(
            end.place() + ": loss",
            format!("only {segments:.0} segments were sent so far"),
            SPEED,
        );
    } else if let (Some(level), judged) = level_of(What::Loss, share * 100.0) {
        let words = Words {
            measured: format!(
                "{:.0} of about {segments:.0} segments were sent again: {}",
                link.retransmits,
                percent(share)
            ),
            means: judged.text,
            fix: judged.fix.unwrap_or_default(),
        };
        said.find(level, Cause::PacketsLost, end.place(), words);
    }
    if let (Some(level), judged) = level_of(What::RoundTrip, link.rtt_s * 1e3) {
        let words = Words {
            measured: format!("RTT {} (the kernel's, smoothed)", duration(link.rtt_s)),
            means: judged.text,
            fix: judged.fix.unwrap_or_default(),
        };
        said.find(level, Cause::LongRoundTrip, end.place(), words);
    }
}

fn level_of(what: What, value: f64) -> (Option<Level>, pccl_probe::verdict::Judged) {
    let judged = judge(what, Some(value));
    let level = match judged.level {
        Judgement::Low => Some(Level::Low),
        Judgement::Bad => Some(Level::Bad),
        Judgement::Good | Judgement::Unknown => None,
    };
    (level, judged)
}

/// A link that stands out among the others: in its round trip, or because frames wait there and nowhere else.
fn slow(ends: &[End], said: &mut Said) {
    for (at, end) in ends.iter().enumerate() {
        let link = end.link;
        let others =
            || ends.iter().enumerate().filter(move |(other, _)| *other != at).map(|(_, end)| end.link);
        let Some(usual_rtt) = median(others().map(|l| l.rtt_s)) else { continue };
        let usual_queue = median(others().map(|l| l.queued_share)).unwrap_or(0.0);
        let is_far = link.rtt_s > TIMES * usual_rtt && link.rtt_s - usual_rtt > MARGIN_S;
        let is_full = link.queued_share >= MOSTLY && link.queued_share >= 2.0 * usual_queue;
        if is_far || is_full {
            let words = Words {
                measured: format!(
                    "RTT {}, the median of the {} other ends {}; frames wait there in {} of the looks, elsewhere in {}; it carries {:.1} Mbit/s",
                    duration(link.rtt_s),
                    ends.len() - 1,
                    duration(usual_rtt),
                    percent(link.queued_share),
                    percent(usual_queue),
                    link.sent_mbps
                ),
                means: format!("every op that crosses it waits for it; {TIMES:.0} times the median, or a queue that never empties, is a bottleneck"),
                fix: "measure it alone with `pccl check` between the two hosts; look at its route and rate limits, move the peer nearer, or name sites (network.site)"
                    .to_owned(),
            };
            said.find(Level::Bad, Cause::SlowLink, end.place(), words);
        }
        if is_full && link.sent_mbps > 0.0 && link.sent_mbps < NEEDED_MBPS * 0.95 {
            let judged = judge(What::Bandwidth, Some(link.sent_mbps));
            let words = Words {
                measured: format!(
                    "{:.1} Mbit/s while frames wait to be sent in {} of the looks",
                    link.sent_mbps,
                    percent(link.queued_share)
                ),
                means: judged.text,
                fix: judged.fix.unwrap_or_default(),
            };
            said.find(Level::Bad, Cause::LittleBandwidth, end.place(), words);
        }
    }
}

/// A connection has at most a buffer full of bytes on its way: that and the round trip bound its rate.
fn buffers(seen: &Observations, ends: &[End], said: &mut Said) {
    let (Some(send), Some(receive)) = (seen.host.send_buffer_bytes, seen.host.receive_buffer_bytes) else {
        return said.unmeasured(
            "limits of socket buffers",
            "net.ipv4.tcp_wmem and tcp_rmem cannot be read here",
            SPEED,
        );
    };
    // The limits of other machines are not known here.
    let here = ends.iter().filter(|end| end.process.is_here && end.link.rtt_s > 0.0);
    let Some(end) = here.max_by(|a, b| a.link.rtt_s.total_cmp(&b.link.rtt_s)) else {
        let why = "no worker on this machine shows its links: run it there";
        return said.unmeasured("whether socket buffers suffice for the links", why, SPEED);
    };
    // Half of a receive buffer is the kernel's own (net.ipv4.tcp_adv_win_scale).
    let window = send.min(receive / 2.0);
    let connections = end.link.connections.max(1.0);
    let most_mbps = window * connections * 8e-6 / end.link.rtt_s;
    if most_mbps >= RECOMMENDED_MBPS {
        return said.healthy(format!("socket buffers let {most_mbps:.0} Mbit/s through to {}", end.peer));
    }
    let wanted = RECOMMENDED_MBPS / 8e-6 * end.link.rtt_s / connections;
    let words = Words {
        measured: format!(
            "net.ipv4.tcp_wmem up to {}, tcp_rmem up to {}, RTT {}, {connections:.0} connections",
            bytes(send),
            bytes(receive),
            duration(end.link.rtt_s)
        ),
        means: format!(
            "at most {most_mbps:.0} Mbit/s can be on their way (needed: {NEEDED_MBPS:.0}, recommended: {RECOMMENDED_MBPS:.0}); the bandwidth-delay product asks for {} a connection",
            bytes(wanted)
        ),
        fix: format!(
            "sysctl -w net.ipv4.tcp_wmem='4096 65536 {0:.0}' net.ipv4.tcp_rmem='4096 131072 {1:.0}' on both hosts",
            (wanted * 2.0).max(4_194_304.0),
            (wanted * 4.0).max(6_291_456.0)
        ),
    };
    let level = if most_mbps < NEEDED_MBPS { Level::Bad } else { Level::Low };
    said.find(level, Cause::SmallBuffers, end.place(), words);
}
