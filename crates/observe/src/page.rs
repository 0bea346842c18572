//! The page of figures that sources give: bounded, merged, and written for Prometheus.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::source::{GroupSample, LinkSample, MasterSample, PeerSample, Sample};

/// Most peers of a group that get series of their own, the first ones by address. A page for a thousand peers is as
/// large as one wants it; the rest is counted by `pccl_series_left_out`.
const MOST_PEERS: usize = 1024;

/// What all sources of this process said, one of a kind per group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Page {
    peers: BTreeMap<u32, PeerSample>,
    masters: Vec<MasterSample>,
}

impl Page {
    pub(crate) fn new(samples: impl IntoIterator<Item = Sample>) -> Self {
        let mut page = Self::default();
        for sample in samples {
            match sample {
                // Two peers of one process in one group have the same labels: the sums of both, the worse of both.
                Sample::Peer(peer) => match page.peers.remove(&peer.group) {
                    Some(other) => drop(page.peers.insert(peer.group, merge(other, peer))),
                    None => drop(page.peers.insert(peer.group, peer)),
                },
                Sample::Master(master) => page.masters.push(master),
            }
        }
        page
    }

    /// Active peers: of all groups, as far as anyone here knows.
    pub(crate) fn peer_count(&self) -> u64 {
        let as_master = |m: &MasterSample| m.groups.values().map(|g| g.members).sum::<u64>();
        let masters = self.masters.iter().map(as_master);
        self.peers.values().map(|p| p.peers).chain(masters).max().unwrap_or(0)
    }

    /// Bytes that all peers of this process keep.
    pub(crate) fn backup_bytes(&self) -> u64 {
        self.peers.values().map(|p| p.backup_bytes).sum()
    }
}

fn merge(a: PeerSample, b: PeerSample) -> PeerSample {
    let mut links = a.links;
    for (peer, link) in b.links {
        let sum = links.entry(peer).or_default();
        *sum = LinkSample {
            up: sum.connections == 0 || (sum.up && link.up),
            connections: sum.connections + link.connections,
            sent_bytes: sum.sent_bytes + link.sent_bytes,
            received_bytes: sum.received_bytes + link.received_bytes,
            retransmits: sum.retransmits + link.retransmits,
            rtt_seconds: sum.rtt_seconds.max(link.rtt_seconds),
            queued_frames: sum.queued_frames + link.queued_frames,
            no_credit: sum.no_credit || link.no_credit,
            awaited: sum.awaited || link.awaited,
        };
    }
    let waited = a.waited.iter().zip(&b.waited).map(|((reason, a), (_, b))| (*reason, a + b));
    PeerSample {
        group: a.group,
        address: a.address.or(b.address),
        rank: a.rank.or(b.rank),
        peers: a.peers.max(b.peers),
        world_size: a.world_size.max(b.world_size),
        epoch: a.epoch.max(b.epoch),
        term: a.term.max(b.term),
        ops_in_flight: a.ops_in_flight + b.ops_in_flight,
        oldest_op_seconds: a.oldest_op_seconds.max(b.oldest_op_seconds),
        backup_bytes: a.backup_bytes + b.backup_bytes,
        revision: a.revision.min(b.revision),
        attached: a.attached && b.attached,
        heartbeat_age_seconds: a.heartbeat_age_seconds.max(b.heartbeat_age_seconds),
        waited: waited.collect(),
        links,
    }
}

type Gauge<T> = (&'static str, &'static str, fn(&T) -> f64);

const PEER_GAUGES: &[Gauge<PeerSample>] = &[
    ("pccl_epoch", "Epoch that this peer is in", |p| p.epoch as f64),
    ("pccl_term", "Newest term of a master that this process knows", |p| p.term as f64),
    ("pccl_world_size", "Members of this peer's group", |p| p.world_size as f64),
    ("pccl_rank", "Rank in the epoch; -1 while it is no member", |p| p.rank.map_or(-1.0, f64::from)),
    ("pccl_ops_in_flight", "Ops that have been called and have not ended", |p| p.ops_in_flight as f64),
    ("pccl_oldest_op_age_seconds", "Age of the oldest op in flight", |p| p.oldest_op_seconds),
    ("pccl_shared_state_revision", "Revision of the shared state last agreed on", |p| p.revision as f64),
    ("pccl_attached", "Whether this peer is attached to a master", |p| f64::from(u8::from(p.attached))),
    ("pccl_heartbeat_age_seconds", "Time since a master was heard", |p| p.heartbeat_age_seconds),
];

const LINK_GAUGES: &[Gauge<LinkSample>] = &[
    ("pccl_link_up", "Whether all connections to this member stand", |l| f64::from(u8::from(l.up))),
    ("pccl_link_connections", "Connections to this member that stand", |l| l.connections as f64),
    ("pccl_link_rtt_seconds", "Round trip to this member as the kernel sees it", |l| l.rtt_seconds),
    ("pccl_link_queued_frames", "Frames that wait to be sent to this member", |l| l.queued_frames as f64),
    ("pccl_link_no_credit", "Whether data waits because this member has not called the op", |l| {
        f64::from(u8::from(l.no_credit))
    }),
    ("pccl_link_awaited", "Whether the oldest op waits for data of this member", |l| {
        f64::from(u8::from(l.awaited))
    }),
];

type Counter = (&'static str, &'static str, fn(&LinkSample) -> u64);

const LINK_COUNTERS: &[Counter] = &[
    ("pccl_link_sent_bytes", "Bytes that this member has acknowledged", |l| l.sent_bytes),
    ("pccl_link_received_bytes", "Bytes received from this member", |l| l.received_bytes),
    ("pccl_link_retransmits", "Segments sent again to this member", |l| l.retransmits),
];

const GROUP_GAUGES: &[Gauge<GroupSample>] = &[
    ("pccl_master_epoch", "Epoch of the group", |g| g.epoch as f64),
    ("pccl_master_members", "Members of the group", |g| g.members as f64),
    ("pccl_master_newcomers", "Registered peers that wait to be let in", |g| g.newcomers as f64),
    ("pccl_master_revision", "Revision of the group's shared state", |g| g.revision as f64),
    ("pccl_master_ops_in_flight", "Ops without a verdict", |g| g.ops_in_flight as f64),
    ("pccl_master_oldest_op_age_seconds", "Age of the oldest op without a verdict", |g| g.oldest_op_seconds),
];

/// Writes the page. Series of one name stand together, as the format wants it.
pub(crate) fn encode(page: &Page, encoder: &mut DescriptorEncoder) -> fmt::Result {
    for (name, help, value) in PEER_GAUGES {
        gauges(
            encoder,
            name,
            help,
            page.peers.iter().map(|(group, p)| ([("group", group.to_string())], value(p))),
        )?;
    }
    let addressed = page.peers.iter().filter_map(|(group, p)| {
        Some(([("group", group.to_string()), ("address", p.address.clone()?)], 1.0))
    });
    gauges(encoder, "pccl_peer_info", "Where other members reach this peer", addressed)?;
    let waited = page.peers.iter().flat_map(|(group, p)| {
        p.waited
            .iter()
            .map(|(reason, s)| ([("group", group.to_string()), ("reason", (*reason).to_owned())], *s))
    });
    counters(encoder, "pccl_wait_seconds", "Time that calls have waited, by reason", waited)?;
    for (name, help, value) in LINK_GAUGES {
        gauges(encoder, name, help, links(page).map(|(labels, link)| (labels, value(link))))?;
    }
    for (name, help, value) in LINK_COUNTERS {
        counters(encoder, name, help, links(page).map(|(labels, link)| (labels, value(link) as f64)))?;
    }
    encode_masters(page, encoder)?;
    let left_out = page.peers.values().map(|p| p.links.len().saturating_sub(MOST_PEERS)).sum::<usize>()
        + groups(page).map(|(_, g)| g.heard.len().saturating_sub(MOST_PEERS)).sum::<usize>();
    let help = "Peers without series of their own, for there are too many";
    gauges(encoder, "pccl_series_left_out", help, unlabelled(left_out as f64))
}

fn encode_masters(page: &Page, encoder: &mut DescriptorEncoder) -> fmt::Result {
    let of = |value: fn(&MasterSample) -> f64| {
        page.masters.iter().take(1).map(move |m| ([] as Labels<0>, value(m)))
    };
    let active = of(|m| f64::from(u8::from(m.active)));
    gauges(encoder, "pccl_master_active", "Whether this master is the one that decides", active)?;
    gauges(encoder, "pccl_master_term", "Term of this master", of(|m| m.term as f64))?;
    for (name, help, value) in GROUP_GAUGES {
        let all = groups(page).map(|(group, g)| ([("group", group.to_string())], value(g)));
        gauges(encoder, name, help, all)?;
    }
    let heard = groups(page).flat_map(|(group, g)| {
        let labels = move |peer: &String| [("group", group.to_string()), ("peer", peer.clone())];
        g.heard.iter().take(MOST_PEERS).map(move |(peer, age)| (labels(peer), *age))
    });
    gauges(encoder, "pccl_master_heartbeat_age_seconds", "Time since this peer was heard", heard)?;
    let awaited = groups(page).flat_map(|(group, g)| {
        let labels = move |peer: &String| [("group", group.to_string()), ("peer", peer.clone())];
        g.awaited.iter().take(MOST_PEERS).map(move |(peer, n)| (labels(peer), *n as f64))
    });
    let help = "Ops that this peer has not completed, and votes of others that it has not joined";
    gauges(encoder, "pccl_master_awaited", help, awaited)
}

/// Names and values.
type Labels<const N: usize> = [(&'static str, String); N];

fn unlabelled(value: f64) -> [(Labels<0>, f64); 1] {
    [([], value)]
}

fn links(page: &Page) -> impl Iterator<Item = (Labels<2>, &LinkSample)> {
    page.peers.iter().flat_map(|(group, p)| {
        let labels = move |peer: &String| [("group", group.to_string()), ("peer", peer.clone())];
        p.links.iter().take(MOST_PEERS).map(move |(peer, link)| (labels(peer), link))
    })
}

/// A process has one master; a test may have several, of which the first one speaks.
fn groups(page: &Page) -> impl Iterator<Item = (&u32, &GroupSample)> {
    page.masters.iter().take(1).flat_map(|m| &m.groups)
}

fn gauges<const N: usize>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels<N>, f64)>,
) -> fmt::Result {
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        if N == 0 {
            return family.encode_gauge(&value);
        }
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

fn counters<const N: usize>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = (Labels<N>, f64)>,
) -> fmt::Result {
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
    }
    Ok(())
}

/// A whole number without labels.
fn whole(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

/// The collector that the registry asks.
pub(crate) struct Sources(pub(crate) std::sync::Arc<crate::metrics::SourceList>);

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sources")
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let page = self.0.page();
        whole(&mut encoder, "pccl_peer_count", "Active peers", page.peer_count())?;
        let help = "Memory held for fault tolerance, in bytes";
        whole(&mut encoder, "pccl_buffer_backup_size", help, page.backup_bytes())?;
        encode(&page, &mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::metrics::Metrics;
    use crate::source::{Health, Source};

    struct Fixed(Sample);

    impl Source for Fixed {
        fn sample(&self) -> Option<Sample> {
            Some(self.0.clone())
        }

        fn health(&self) -> Health {
            Health { alive: Ok(()), ready: Ok(String::new()) }
        }
    }

    fn page_of(samples: Vec<Sample>) -> String {
        let metrics = Metrics::new();
        let sources: Vec<Arc<dyn Source>> =
            samples.into_iter().map(|s| Arc::new(Fixed(s)) as Arc<dyn Source>).collect();
        for source in &sources {
            metrics.watch(Arc::downgrade(source));
        }
        metrics.render()
    }

    fn peer(group: u32, links: u32) -> PeerSample {
        let link = |n: u32| {
            let link = LinkSample { up: true, sent_bytes: 5, connections: 1, ..LinkSample::default() };
            (format!("10.0.{}.{}:7118", n / 256, n % 256), link)
        };
        PeerSample {
            group,
            peers: u64::from(links) + 1,
            address: Some("10.0.0.1:7118".to_owned()),
            backup_bytes: 9,
            waited: vec![("data", 1.5), ("verdict", 0.0)],
            links: (0..links).map(link).collect(),
            ..PeerSample::default()
        }
    }

    fn series(page: &str) -> Vec<&str> {
        page.lines()
            .filter(|l| !l.starts_with('#'))
            .filter_map(|l| l.rsplit_once(' '))
            .map(|(n, _)| n)
            .collect()
    }

    #[test]
    fn two_peers_of_a_process_make_one_series_each_name() {
        let page =
            page_of(vec![Sample::Peer(peer(0, 2)), Sample::Peer(peer(0, 2)), Sample::Peer(peer(3, 1))]);
        let all = series(&page);
        let mut once = all.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), all.len(), "{page}");
        assert!(
            page.contains("pccl_link_sent_bytes_total{group=\"0\",peer=\"10.0.0.1:7118\"} 10.0\n"),
            "{page}"
        );
        assert!(page.contains("pccl_wait_seconds_total{group=\"0\",reason=\"data\"} 3.0\n"), "{page}");
        assert!(page.contains("pccl_peer_info{group=\"3\",address=\"10.0.0.1:7118\"} 1.0\n"), "{page}");
        assert!(
            page.contains("pccl_buffer_backup_size 27\n") && page.contains("pccl_peer_count 3\n"),
            "{page}"
        );
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let page = page_of(vec![Sample::Peer(peer(0, 5000))]);
        assert_eq!(page.matches("\npccl_link_up{").count(), MOST_PEERS);
        assert!(page.contains("pccl_series_left_out 3976.0\n"), "{page}");
    }

    /// The bar: a scrape takes at most 5 ms of processor time with 128 peers. Tests are built without optimization and
    /// share the machine, so only the order of magnitude is held here; `benches` has the figure.
    #[test]
    fn a_page_of_128_peers_is_made_quickly() {
        let metrics = Metrics::new();
        let source: Arc<dyn Source> = Arc::new(Fixed(Sample::Peer(peer(0, 127))));
        metrics.watch(Arc::downgrade(&source));
        let fastest = (0..20).map(|_| {
            let begun = Instant::now();
            assert!(metrics.render().len() > 10_000);
            begun.elapsed()
        });
        assert!(fastest.min().unwrap_or_default() < Duration::from_millis(100));
    }
}
