//! What a fleet is at: from the status of its master, and from the page of each worker that has one.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use pccl_master::query_status;
use pccl_net::Security;
use pccl_proto::message::{GroupStatus, PeerStatus, Role, Status};
use serde::Serialize;

use crate::measure::MasterName;
use crate::measure::page::{Page, resolve};

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct TopOptions {
    /// The masters.
    pub masters: Vec<MasterName>,
    /// Pages of metrics by address; empty: the hosts of the peers at `metrics_port`.
    pub metrics: Vec<String>,
    /// Where workers serve their metrics unless somebody says otherwise; none: they do not.
    pub metrics_port: Option<u16>,
    /// What guards connections.
    pub security: Option<Security>,
    /// Longest wait for one answer.
    pub timeout: Duration,
}

/// A fleet at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// The run, hexadecimal; empty if no master answers.
    pub run: String,
    /// The masters, as they were named.
    pub masters: Vec<MasterRow>,
    /// Members and newcomers.
    pub members: Vec<Member>,
    /// Ops without a verdict.
    pub ops: Vec<OpRow>,
    /// What the groups wait for, if anything.
    pub activities: Vec<String>,
    /// Pages that could not be read, and why.
    pub unread: Vec<String>,
}

/// A master.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MasterRow {
    /// As it was named.
    pub name: String,
    /// Whether it leads; or why it does not answer.
    pub role: String,
    /// Its term.
    pub term: Option<u64>,
    /// How long its lease is valid, milliseconds.
    pub lease_left_ms: Option<u64>,
    /// What is wrong with its store.
    pub store_trouble: Option<String>,
}

/// A member or newcomer. What only its own page tells is absent without one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Member {
    /// Its group.
    pub group: u32,
    /// The group's epoch.
    pub epoch: u64,
    /// Its rank; absent for newcomers.
    pub rank: Option<u32>,
    /// Its session.
    pub session: String,
    /// Where others reach it.
    pub address: String,
    /// Its site.
    pub site: String,
    /// Member, newcomer, not attached.
    pub state: String,
    /// Since the master heard it, milliseconds.
    pub heard_ms: u64,
    /// Ops and votes of others that wait for it.
    pub awaited_by: usize,
    /// What its caller waits for, and for how long.
    pub waits_for: String,
    /// The longest round trip of its links, milliseconds.
    pub rtt_ms: Option<f64>,
    /// What it sends and receives since the last sample, Mbit/s.
    pub mbps: Option<f64>,
    /// Segments sent again since the last sample, in a second.
    pub retransmits_per_s: Option<f64>,
    /// Ops that it has called and that have not ended.
    pub ops_in_flight: Option<u64>,
    /// Recoveries since it began.
    pub recoveries: Option<u64>,
}

/// An op without a verdict.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct OpRow {
    /// Its group.
    pub group: u32,
    /// Its tag.
    pub tag: u64,
    /// What was called.
    pub call: String,
    /// Its age, milliseconds.
    pub age_ms: u64,
    /// Addresses of the members that it waits for.
    pub waits_for: Vec<String>,
}

/// By what members are sorted; the worst first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Column {
    /// Whoever is in trouble: not attached, waited for, silent.
    #[default]
    Trouble,
    /// Silence.
    Heard,
    /// Round trip.
    RoundTrip,
    /// Throughput, the least first.
    Throughput,
    /// Segments sent again.
    Retransmits,
    /// Group and rank.
    Rank,
}

impl Column {
    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Trouble => Self::Heard,
            Self::Heard => Self::RoundTrip,
            Self::RoundTrip => Self::Throughput,
            Self::Throughput => Self::Retransmits,
            Self::Retransmits => Self::Rank,
            Self::Rank => Self::Trouble,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trouble => "trouble",
            Self::Heard => "heard",
            Self::RoundTrip => "RTT",
            Self::Throughput => "throughput",
            Self::Retransmits => "retransmits",
            Self::Rank => "rank",
        }
    }
}

impl Sample {
    /// The members, the worst first.
    pub fn sorted(&self, by: Column) -> Vec<&Member> {
        let mut all: Vec<&Member> = self.members.iter().collect();
        let rank = |m: &Member| (m.group, m.rank.unwrap_or(u32::MAX), m.address.clone());
        // Who has no figure comes after those who have.
        let most = |a: Option<f64>, b: Option<f64>| {
            b.unwrap_or(f64::NEG_INFINITY).total_cmp(&a.unwrap_or(f64::NEG_INFINITY))
        };
        let least = |a: Option<f64>, b: Option<f64>| {
            a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY))
        };
        let detached = |m: &Member| m.state != "member";
        all.sort_by(|a, b| {
            let first = match by {
                Column::Trouble => (detached(b), b.awaited_by, b.heard_ms / 250).cmp(&(
                    detached(a),
                    a.awaited_by,
                    a.heard_ms / 250,
                )),
                Column::Heard => b.heard_ms.cmp(&a.heard_ms),
                Column::RoundTrip => most(a.rtt_ms, b.rtt_ms),
                Column::Throughput => least(a.mbps, b.mbps),
                Column::Retransmits => most(a.retransmits_per_s, b.retransmits_per_s),
                Column::Rank => Ordering::Equal,
            };
            first.then_with(|| rank(a).cmp(&rank(b)))
        });
        all
    }
}

/// Takes samples; rates are those since the one before.
#[derive(Debug)]
pub struct Sampler {
    options: TopOptions,
    before: BTreeMap<String, Page>,
}

impl Sampler {
    /// Of this fleet.
    pub fn new(options: TopOptions) -> Self {
        Self { options, before: BTreeMap::new() }
    }

    /// Asks all. Blocks as long as the slowest of them takes, twice the timeout at most.
    pub fn sample(&mut self) -> Sample {
        let options = &self.options;
        let asked = together(&options.masters, |master| (master.text.clone(), ask(master, options)));
        let mut sample = Sample { masters: asked.iter().map(master_row).collect(), ..Sample::default() };
        let weight = |s: &&Status| (s.term, s.role != Role::Standby, s.role == Role::Active);
        if let Some(status) = asked.iter().filter_map(|(_, answer)| answer.as_ref().ok()).max_by_key(weight) {
            sample.run.clone_from(&status.run);
            for group in &status.groups {
                tell(group, &mut sample);
            }
        }
        self.read_pages(&mut sample);
        sample
    }

    fn read_pages(&mut self, sample: &mut Sample) {
        let addresses = self.addresses(sample);
        let timeout = self.options.timeout;
        let pages = together(&addresses, |address| {
            (address.clone(), resolve(address).and_then(|addr| Page::fetch(addr, timeout)))
        });
        for (address, page) in pages {
            match page {
                Ok(page) => {
                    self.add(&address, &page, sample);
                    self.before.insert(address, page);
                }
                Err(why) => sample.unread.push(format!("{address}: {why}")),
            }
        }
    }

    fn addresses(&self, sample: &Sample) -> Vec<String> {
        if !self.options.metrics.is_empty() {
            return self.options.metrics.clone();
        }
        let Some(port) = self.options.metrics_port else { return Vec::new() };
        let peers = sample.members.iter().filter_map(|m| m.address.parse::<SocketAddr>().ok());
        let hosts: BTreeSet<IpAddr> = peers.map(|addr| addr.ip()).collect();
        hosts.into_iter().map(|ip| SocketAddr::new(ip, port).to_string()).collect()
    }

    /// What a page tells of the members that are in its process.
    fn add(&self, address: &str, page: &Page, sample: &mut Sample) {
        let own = page.by("pccl_peer_info", "address");
        let before = self.before.get(address);
        let rate = |names: &[&str]| {
            let before = before?;
            let seconds = page.at.duration_since(before.at).as_secs_f64();
            let grown =
                |name: &&str| (page.sum(name).unwrap_or(0.0) - before.sum(name).unwrap_or(0.0)).max(0.0);
            (seconds > 0.0).then(|| names.iter().map(grown).sum::<f64>() / seconds)
        };
        for member in sample.members.iter_mut().filter(|member| own.contains_key(&member.address)) {
            member.rtt_ms = page.max("pccl_link_rtt_seconds").map(|s| s * 1e3);
            member.mbps = rate(&["pccl_link_sent_bytes_total", "pccl_link_received_bytes_total"])
                .map(|bytes| bytes * 8e-6);
            member.retransmits_per_s = rate(&["pccl_link_retransmits_total"]);
            member.ops_in_flight = page.sum("pccl_ops_in_flight").map(|n| n as u64);
            member.recoveries = page.sum("pccl_recovery_total").map(|n| n as u64);
        }
    }
}

/// Asks all at once.
fn together<T: Sync, R: Send>(all: &[T], ask: impl Fn(&T) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let threads: Vec<_> = all.iter().map(|one| scope.spawn(|| ask(one))).collect();
        // A thread that panicked has said so; its row is missing.
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// The status that the first address of a master gives.
fn ask(master: &MasterName, options: &TopOptions) -> Result<Status, String> {
    let addresses =
        (master.host.as_str(), master.port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut why = "the name has no address".to_owned();
    for addr in addresses {
        if let Some(security) = &options.security {
            security.name_master(addr, &master.host);
        }
        match query_status(addr, options.timeout, options.security.as_ref()) {
            Ok(status) => return Ok(status),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

fn master_row((name, answer): &(String, Result<Status, String>)) -> MasterRow {
    match answer {
        Ok(status) => MasterRow {
            name: name.clone(),
            role: status.role.to_string(),
            term: Some(status.term),
            lease_left_ms: status.lease_left_ms,
            store_trouble: status.store_trouble.as_ref().map(|(why, _)| why.clone()),
        },
        Err(why) => MasterRow { name: name.clone(), role: why.clone(), ..MasterRow::default() },
    }
}

/// Adds a group.
fn tell(group: &GroupStatus, sample: &mut Sample) {
    if !group.activity.is_empty() {
        sample.activities.push(format!("group {}: {}", group.group, group.activity));
    }
    let address = |session: &String| {
        let peer = group.peers.iter().find(|peer| peer.session == *session);
        peer.map_or_else(|| session.clone(), |peer| peer.addr.clone())
    };
    for op in &group.ops {
        sample.ops.push(OpRow {
            group: group.group,
            tag: op.tag,
            call: op.call.clone(),
            age_ms: op.age_ms,
            waits_for: op.missing.iter().map(address).collect(),
        });
    }
    sample.ops.sort_by_key(|op| std::cmp::Reverse(op.age_ms));
    let member = |peer: &PeerStatus| Member {
        group: group.group,
        epoch: group.epoch,
        rank: peer.rank,
        session: peer.session.clone(),
        address: peer.addr.clone(),
        site: peer.site.clone(),
        state: peer.state.clone(),
        heard_ms: peer.heard_ms_ago,
        awaited_by: group.ops.iter().filter(|op| op.missing.contains(&peer.session)).count(),
        waits_for: peer.waits_for.clone().unwrap_or_default(),
        ..Member::default()
    };
    sample.members.extend(group.peers.iter().map(member));
}
