//! What a communicator shows of itself in metrics and to health checks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pccl_net::{TcpInfo, TcpInfos};
use pccl_observe::{Health, LinkSample, Metrics, PeerSample, Sample, Source};
use pccl_proto::ids::ConnId;
use pccl_proto::peer::{Insight, LinkInsight, Phase};

use crate::engine::{Engine, State};

/// How long a scrape waits for the machine, which a thread may be driving.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(1);
/// After this, whoever drives the machine hangs.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);

/// A peer as a source of metrics.
pub(crate) struct PeerSource {
    engine: Arc<Engine>,
    group: u32,
    kernel: TcpInfos,
    traffic: Mutex<BTreeMap<SocketAddr, Traffic>>,
}

/// What a link has carried: connections that are gone, as they were last seen, and those that stand.
#[derive(Default)]
struct Traffic {
    gone: TcpInfo,
    conns: BTreeMap<ConnId, TcpInfo>,
}

/// What is looked at while the machine is locked.
struct View {
    insight: Insight,
    sample: PeerSample,
    ends: BTreeMap<ConnId, (SocketAddr, SocketAddr)>,
}

impl PeerSource {
    pub(crate) fn watch(engine: &Arc<Engine>, group: u32, metrics: &Metrics) -> Arc<Self> {
        let source = Arc::new(Self {
            engine: engine.clone(),
            group,
            kernel: TcpInfos::open(),
            traffic: Mutex::default(),
        });
        let weak: Weak<Self> = Arc::downgrade(&source);
        metrics.watch(weak);
        source
    }

    fn link(&self, traffic: &mut Traffic, link: &LinkInsight, view: &View) -> LinkSample {
        let mut before = std::mem::take(&mut traffic.conns);
        for conn in &link.conns {
            let known = before.remove(conn).unwrap_or_default();
            let now = view.ends.get(conn).and_then(|(local, remote)| self.kernel.of(*local, *remote));
            traffic.conns.insert(*conn, now.unwrap_or(known));
        }
        traffic.gone = before.into_values().fold(traffic.gone, add);
        let sum = traffic.conns.values().copied().fold(traffic.gone, add);
        let slowest = traffic.conns.values().map(|c| c.rtt).max().unwrap_or_default();
        let measured = Duration::from_micros(u64::from(link.rtt_us.unwrap_or(0)));
        LinkSample {
            up: link.up,
            connections: link.conns.len() as u64,
            sent_bytes: sum.acked_bytes,
            received_bytes: sum.received_bytes,
            retransmits: u64::from(sum.retransmits),
            rtt_seconds: if slowest.is_zero() { measured } else { slowest }.as_secs_f64(),
            queued_frames: link.queued_frames,
            no_credit: link.no_credit,
            awaited: link.awaited,
        }
    }
}

fn add(a: TcpInfo, b: TcpInfo) -> TcpInfo {
    TcpInfo {
        acked_bytes: a.acked_bytes + b.acked_bytes,
        received_bytes: a.received_bytes + b.received_bytes,
        retransmits: a.retransmits + b.retransmits,
        rtt: Duration::ZERO,
    }
}

fn look(state: &State, group: u32) -> View {
    let (peer, net) = (&state.peer, &state.net);
    let insight = peer.insight(net.now());
    let conns = insight.links.iter().flat_map(|l| &l.conns);
    let ends = conns.filter_map(|conn| Some((*conn, net.ends(*conn)?))).collect();
    let view = peer.view();
    let sample = PeerSample {
        group,
        address: view.and_then(|v| Some(v.members.get(peer.rank() as usize)?.addr.to_string())),
        rank: view.map(|_| peer.rank()),
        peers: view.map_or(0, |v| u64::from(v.sizes.global_world)),
        world_size: view.map_or(0, |v| v.members.len() as u64),
        epoch: view.map_or(0, |v| v.epoch.0),
        term: peer.term().0,
        ops_in_flight: peer.ops_in_flight() as u64,
        oldest_op_seconds: insight.oldest_op.unwrap_or_default().as_secs_f64(),
        backup_bytes: peer.backup_bytes() as u64,
        revision: insight.revision,
        attached: insight.attached,
        heartbeat_age_seconds: insight.master_heard.as_secs_f64(),
        waited: insight.waited.iter().map(|(why, time)| (why.name(), time.as_secs_f64())).collect(),
        links: BTreeMap::new(),
    };
    View { insight, sample, ends }
}

impl Source for PeerSource {
    fn sample(&self) -> Option<Sample> {
        let view = self.engine.look_within(SCRAPE_PATIENCE, |state| look(state, self.group))?;
        // The kernel is asked without the lock.
        let mut known = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|addr, _| view.insight.links.iter().any(|l| l.addr == *addr));
        let mut links = BTreeMap::new();
        for link in &view.insight.links {
            let traffic = known.entry(link.addr).or_default();
            links.insert(link.addr.to_string(), self.link(traffic, link, &view));
        }
        Some(Sample::Peer(PeerSample { links, ..view.sample }))
    }

    fn health(&self) -> Health {
        let looked = self.engine.look_within(HEALTH_PATIENCE, |state| {
            let insight = state.peer.insight(state.net.now());
            match state.peer.phase() {
                Phase::Member if insight.attached => {
                    let epoch = state.peer.view().map_or(0, |v| v.epoch.0);
                    Ok(format!("a member of epoch {epoch}"))
                }
                Phase::Ended(why) => Err(why.to_string()),
                Phase::Member => {
                    Err(format!("no master was heard for {:.1} s", insight.master_heard.as_secs_f64()))
                }
                _ => Err(format!("waiting for {}", state.peer.waits_for())),
            }
        });
        let Some(ready) = looked else {
            let why = format!("the library has not answered for {} s", HEALTH_PATIENCE.as_secs());
            return Health { alive: Err(why.clone()), ready: Err(why) };
        };
        Health { alive: Ok(()), ready }
    }
}
