//! A process, watched by its page of metrics.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, SystemTime};

use pccl_observe::flight::{Line, What};
use pccl_observe::story;

use super::page::{Page, resolve};
use super::sockets;
use crate::diagnose::median;
use crate::observed::{LinkSeen, LossRecord, LostPeer, ProcessSeen};

/// Looks at a process several times within `window`.
pub(super) fn watch(
    address: &str,
    patience: Duration,
    window: Duration,
    looks: u32,
) -> Result<ProcessSeen, String> {
    let addr = resolve(address)?;
    let mut pages = vec![Page::fetch(addr, patience)?];
    for _ in 1..looks {
        thread::sleep(window / (looks - 1).max(1));
        // A page that is missed once is no reason to forget the others.
        pages.extend(Page::fetch(addr, patience));
    }
    let mut seen = told(address, addr, &pages);
    if seen.is_master {
        seen.lost = losses(address);
    }
    Ok(seen)
}

/// What the pages say together.
fn told(address: &str, addr: SocketAddr, pages: &[Page]) -> ProcessSeen {
    let (Some(first), Some(last)) = (pages.first(), pages.last()) else { return ProcessSeen::default() };
    let seconds = last.at.duration_since(first.at).as_secs_f64();
    let growth = |name: &str| Some((last.sum(name)? - first.sum(name)?).max(0.0));
    let waited_before = first.by("pccl_wait_seconds_total", "reason");
    let waited = last.by("pccl_wait_seconds_total", "reason").into_iter();
    let clock = pages.iter().min_by_key(|page| page.took);
    ProcessSeen {
        place: address.to_owned(),
        addresses: last.by("pccl_peer_info", "address").into_keys().collect(),
        is_here: sockets::is_here(addr.ip()),
        is_master: last.sum("pccl_master_active").is_some(),
        seconds,
        attached: last.min("pccl_attached").map(|attached| attached > 0.5),
        heartbeat_age_s: last.max("pccl_heartbeat_age_seconds"),
        ops_in_flight: last.sum("pccl_ops_in_flight").unwrap_or(0.0),
        oldest_op_s: last.max("pccl_oldest_op_age_seconds").unwrap_or(0.0),
        backup_bytes: pages.iter().filter_map(|page| page.sum("pccl_buffer_backup_size")).fold(0.0, f64::max),
        gbps: last.sum("pccl_throughput_gbps").unwrap_or(0.0),
        recoveries: last.sum("pccl_recovery_total").unwrap_or(0.0),
        waited: waited
            .map(|(reason, s)| {
                let before = waited_before.get(&reason).copied().unwrap_or(0.0);
                (reason, (s - before).max(0.0))
            })
            .collect(),
        refused: last.by("pccl_refused_total", "reason"),
        links: links(pages, seconds),
        resident: last.sum("process_resident_memory_bytes"),
        memory_limit: last.sum("pccl_memory_limit_bytes"),
        memory_used: last.sum("pccl_memory_group_bytes"),
        oom_kills: last.sum("pccl_oom_kills_total"),
        throttled_share: growth("pccl_cpu_throttled_seconds_total")
            .filter(|_| seconds > 0.0)
            .map(|s| s / seconds),
        open_files: last.sum("process_open_fds"),
        most_files: last.sum("process_max_fds"),
        clock_s: clock.and_then(|page| {
            Some((page.sum("pccl_time_seconds")? - page.middle_s, page.took.as_secs_f64() / 2.0))
        }),
        lost: None,
    }
}

fn links(pages: &[Page], seconds: f64) -> BTreeMap<String, LinkSeen> {
    let (Some(first), Some(last)) = (pages.first(), pages.last()) else { return BTreeMap::new() };
    let of = |page: &Page, name: &str, peer: &str| page.by(name, "peer").get(peer).copied();
    let mbps = |name: &str, peer: &str| {
        let grown = of(last, name, peer).unwrap_or(0.0) - of(first, name, peer).unwrap_or(0.0);
        if seconds > 0.0 { grown.max(0.0) * 8e-6 / seconds } else { 0.0 }
    };
    let share = |yes: &dyn Fn(&Page) -> bool| {
        pages.iter().filter(|page| yes(page)).count() as f64 / pages.len().max(1) as f64
    };
    let one = |peer: String, up: f64| {
        let value = |name: &str| of(last, name, &peer).unwrap_or(0.0);
        let above = |page: &Page, name: &str| of(page, name, &peer).unwrap_or(0.0) > 0.5;
        let rtts = pages.iter().filter_map(|page| of(page, "pccl_link_rtt_seconds", &peer));
        let seen = LinkSeen {
            up: up > 0.5,
            connections: value("pccl_link_connections"),
            rtt_s: median(rtts).unwrap_or(0.0),
            sent_mbps: mbps("pccl_link_sent_bytes_total", &peer),
            received_mbps: mbps("pccl_link_received_bytes_total", &peer),
            sent_bytes: value("pccl_link_sent_bytes_total"),
            retransmits: value("pccl_link_retransmits_total"),
            queued_share: share(&|p| above(p, "pccl_link_queued_frames") && !above(p, "pccl_link_no_credit")),
            awaited_share: share(&|p| above(p, "pccl_link_awaited")),
            no_credit_share: share(&|p| above(p, "pccl_link_no_credit")),
        };
        (peer, seen)
    };
    last.by("pccl_link_up", "peer").into_iter().map(|(peer, up)| one(peer, up)).collect()
}

/// Who was lost, from the flight record of a master.
fn losses(address: &str) -> Option<LossRecord> {
    let (records, _) = story::read(&[address.to_owned()]);
    let lines = &records.first()?.lines;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    Some(lost(lines, now))
}

fn lost(lines: &[Line], now_us: u64) -> LossRecord {
    let mut addresses: BTreeMap<&str, &str> = BTreeMap::new();
    let mut record = LossRecord::default();
    let ago = |at_us: u64| now_us.saturating_sub(at_us) as f64 * 1e-6;
    for line in lines {
        let What::Note { trouble, about, text, .. } = &line.what else { continue };
        record.seconds = record.seconds.max(ago(line.at_us));
        let Some(session) = about.as_deref() else { continue };
        let registered = text.split_once(" at ").and_then(|(_, rest)| rest.split_once(" registered"));
        if let Some((address, _)) = registered {
            addresses.insert(session, address);
        }
        if let (true, Some((_, why))) = (trouble, text.split_once(" is out: ")) {
            let who = addresses.get(session).map_or(session, |address| *address);
            record.lost.push(LostPeer { who: who.to_owned(), ago_s: ago(line.at_us), why: why.to_owned() });
        }
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_lost_is_named_by_address_and_who_left_is_not_lost() {
        let note = |at_s: u64, trouble: bool, text: &str| Line {
            at_us: at_s * 1_000_000,
            who: "master".to_owned(),
            what: What::Note { trouble, about: Some("7f".to_owned()), epoch: 1, text: text.to_owned() },
        };
        let lines = [
            note(10, false, "peer 7f at 10.0.0.7:7118 registered for group 0"),
            note(40, true, "peer 7f is out: its process is gone"),
            note(50, false, "peer 7f is out: it left"),
        ];
        let record = lost(&lines, 70_000_000);
        assert!((record.seconds - 60.0).abs() < 1e-6);
        assert_eq!(record.lost.len(), 1);
        assert_eq!(
            (record.lost[0].who.as_str(), record.lost[0].why.as_str()),
            ("10.0.0.7:7118", "its process is gone")
        );
        assert!((record.lost[0].ago_s - 30.0).abs() < 1e-6);
    }
}
