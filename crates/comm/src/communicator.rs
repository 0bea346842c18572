//! A member of a fleet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pccl_observe::Metrics;
use pccl_proto::ids::PeerGroup;
use pccl_proto::message::{Session, VoteKind, VoteOutcome};
use pccl_proto::peer::{EndReason, PeerConfig, Phase};

#[cfg(feature = "checkpoint")]
use crate::checkpoint::Checkpointer;
use crate::engine::{Engine, State, anywhere};
use crate::error::{ConnectError, VoteError};
use crate::insight::PeerSource;
use crate::masters::{Lookout, Masters};
use crate::options::{Options, Ports};

/// How long a graceful leave may take before the connection is just closed.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Another member, or this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its session: one life of a peer.
    pub session: String,
    /// Where it is reached.
    pub addr: SocketAddr,
    /// Its site.
    pub site: String,
}

/// The epoch that this peer is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// This peer's session.
    pub session: String,
    /// Its position among the members.
    pub rank: u32,
    /// Members of its group.
    pub world_size: u32,
    /// The epoch.
    pub epoch: u64,
    /// Members of all groups.
    pub global_world_size: u32,
    /// Groups with members.
    pub groups: u32,
    /// Members of the largest group.
    pub largest_group: u32,
    /// The members by rank.
    pub members: Vec<MemberInfo>,
}

/// What a communicator has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Ops that succeeded.
    pub ops: u64,
    /// Attempts that were cut and went on inside their calls.
    pub recoveries: u64,
    /// Tensor bytes sent.
    pub sent_bytes: u64,
    /// Tensor bytes received.
    pub received_bytes: u64,
    /// Bytes kept now to restore inputs.
    pub backup_bytes: u64,
    /// Bytes kept now of what compression has taken away, of ops that are not in flight.
    pub residual_bytes: u64,
    /// Ops in flight now.
    pub in_flight: usize,
    /// Open connections now.
    pub connections: usize,
}

/// A member of a fleet. All methods take `&self` and may be called from several threads.
pub struct Communicator {
    pub(crate) engine: Arc<Engine>,
    /// What metrics show of it, as long as it lives.
    _insight: Option<Arc<PeerSource>>,
    options: Options,
    listen: SocketAddr,
    masters: Arc<Masters>,
    _lookout: Option<Lookout>,
    /// The process that made it: a child after `fork` must not use our sockets.
    process: u32,
    leaving: Mutex<bool>,
    #[cfg(feature = "checkpoint")]
    pub(crate) checkpointer: Option<Checkpointer>,
}

impl Communicator {
    /// Connects to a master and waits until the members let this peer in (at once if there are none).
    pub fn connect(options: &Options) -> Result<Self, ConnectError> {
        let masters = Arc::new(Masters::find(options)?);
        #[cfg(feature = "checkpoint")]
        let checkpointer = options.checkpoints.as_ref().map(Checkpointer::start).transpose()?;
        let v6 = masters.known().first().is_some_and(SocketAddr::is_ipv6);
        let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let ip = options.bind.unwrap_or(any);
        let ports = match &options.ports {
            Ports::Range(range) => Some(range.clone()),
            Ports::Any => None,
        };
        let listener = pccl_net::listen_tcp(ip, ports)?;
        let listen = listener.local_addr()?;
        // Without datagrams heartbeats go over TCP.
        let udp = UdpSocket::bind(SocketAddr::new(ip, 0)).ok();
        let metrics = metrics(options);
        if let (Some(security), Some(metrics)) = (&options.security, &metrics) {
            security.set_metrics(metrics.clone());
        }
        let comm = |engine: Arc<Engine>, lookout| Self {
            _insight: metrics.as_ref().map(|m| PeerSource::watch(&engine, options.group, m)),
            engine,
            options: options.clone(),
            listen,
            masters: Arc::clone(&masters),
            _lookout: lookout,
            process: std::process::id(),
            leaving: Mutex::new(false),
            #[cfg(feature = "checkpoint")]
            checkpointer,
        };
        let config = peer_config(options, masters.known(), listen, None)?;
        let engine = Engine::start(listener, udp, config, metrics.clone(), options.security.clone())?;
        let lookout = Lookout::start(&masters, &engine)?;
        let comm = comm(engine, lookout);
        comm.wait_until_member()?;
        Ok(comm)
    }

    /// After this peer's membership has ended (expelled, master lost): joins again as a new peer.
    /// Its state must be synchronized before its next op.
    pub fn reconnect(&self) -> Result<(), ConnectError> {
        let ended = self.engine.session();
        self.masters.look_again();
        let config = peer_config(&self.options, self.masters.known(), self.listen, ended)?;
        self.engine.begin_again(config);
        self.wait_until_member()
    }

    fn wait_until_member(&self) -> Result<(), ConnectError> {
        let begun = Instant::now();
        let deadline = begun + self.options.connect_timeout;
        let cancelled = || self.options.cancelled.load(Ordering::Relaxed);
        let reached = self.engine.wait(Some(deadline), |state| match state.peer.phase() {
            _ if cancelled() => Some(Err(EndReason::Left)),
            Phase::Connecting => None,
            Phase::Ended(why) => Some(Err(why.clone())),
            _ => Some(Ok(())),
        });
        let Some(reached) = reached else {
            return Err(ConnectError::NoMaster {
                masters: self.options.masters.join(", "),
                waited: begun.elapsed(),
                why: self.engine.look(|s| s.last_trouble.clone()),
            });
        };
        let accepted = reached.and_then(|()| {
            let decided = self.engine.wait(None, |state| match state.peer.phase() {
                _ if cancelled() => Some(Err(EndReason::Left)),
                Phase::Member | Phase::Leaving => Some(Ok(())),
                Phase::Ended(why) => Some(Err(why.clone())),
                Phase::Connecting | Phase::Registered | Phase::Settling => None,
            });
            decided.unwrap_or(Ok(()))
        });
        self.engine.heed_settings();
        accepted.map_err(|why| match why {
            EndReason::Refused(why) => ConnectError::Refused(why),
            other => ConnectError::Ended(other),
        })
    }

    /// The epoch that this peer is in.
    pub fn membership(&self) -> Membership {
        self.engine.look(|state| {
            let peer = &state.peer;
            let session = peer.session().map_or_else(String::new, |s| s.id.to_string());
            let Some(view) = peer.view() else {
                return Membership {
                    session,
                    rank: 0,
                    world_size: 0,
                    epoch: 0,
                    global_world_size: 0,
                    groups: 0,
                    largest_group: 0,
                    members: Vec::new(),
                };
            };
            let info = |m: &pccl_proto::record::Member| MemberInfo {
                session: m.session.to_string(),
                addr: m.addr,
                site: m.site.clone(),
            };
            Membership {
                session,
                rank: peer.rank(),
                world_size: view.members.len() as u32,
                epoch: view.epoch.0,
                global_world_size: view.sizes.global_world,
                groups: view.sizes.groups,
                largest_group: view.sizes.largest_group,
                members: view.members.iter().map(info).collect(),
            }
        })
    }

    /// Members of this peer's group; 0 while it has none.
    pub fn world_size(&self) -> u32 {
        self.engine.look(|state| state.peer.view().map_or(0, |view| view.members.len() as u32))
    }

    /// Ops of this peer that are in flight.
    pub fn ops_in_flight(&self) -> usize {
        self.engine.look(|state| state.peer.ops_in_flight())
    }

    /// Whether newcomers wait to be let in. All members must ask; all get the same answer.
    pub fn peers_pending(&self) -> Result<bool, VoteError> {
        Ok(self.vote(VoteKind::PeersPending, "peers_pending")? > 0)
    }

    /// Lets the newcomers in that wait. All members must call it, with no op in flight; returns the new membership.
    pub fn update_topology(&self) -> Result<Membership, VoteError> {
        self.nothing_in_flight("update_topology")?;
        self.vote(VoteKind::UpdateTopology, "update_topology")?;
        Ok(self.membership())
    }

    /// Lets the cost model use what the members have measured of their links. All members must call it, with no op in
    /// flight.
    pub fn optimize_topology(&self) -> Result<(), VoteError> {
        self.nothing_in_flight("optimize_topology")?;
        self.vote(VoteKind::OptimizeTopology, "optimize_topology")?;
        Ok(())
    }

    fn nothing_in_flight(&self, vote: &'static str) -> Result<(), VoteError> {
        match self.engine.look(|s| s.peer.ops_in_flight()) {
            0 => Ok(()),
            in_flight => Err(VoteError::PendingOps { vote, in_flight }),
        }
    }

    fn vote(&self, kind: VoteKind, vote: &'static str) -> Result<u32, VoteError> {
        let begun = self.engine.with(|state| {
            if let Phase::Ended(why) = state.peer.phase() {
                return Err(VoteError::Ended { vote, why: why.clone() });
            }
            if std::mem::replace(&mut state.voting, true) {
                return Err(VoteError::Busy { vote });
            }
            state.vote = None;
            state.peer.vote(kind);
            Ok(())
        });
        begun?;
        let ended = self.engine.wait(None, |state: &mut State| {
            let result = match (state.vote.take(), state.peer.phase()) {
                (Some(VoteOutcome::Decided { pending, .. }), _) => Ok(pending),
                (Some(VoteOutcome::Mismatch { waits }), _) => {
                    let waits: Vec<_> = waits.iter().map(|(s, what)| format!("peer {s} in {what}")).collect();
                    Err(VoteError::Mismatch { vote, waits: waits.join(", ") })
                }
                (None, Phase::Ended(why)) => Err(VoteError::Ended { vote, why: why.clone() }),
                (None, _) => return None,
            };
            state.voting = false;
            Some(result)
        });
        ended.unwrap_or(Ok(0))
    }

    /// Sums so far.
    pub fn stats(&self) -> Stats {
        self.engine.look(|state| Stats {
            ops: state.totals.ops,
            recoveries: state.totals.recoveries,
            sent_bytes: state.totals.sent_bytes,
            received_bytes: state.totals.received_bytes,
            backup_bytes: state.peer.backup_bytes() as u64,
            residual_bytes: self.engine.residuals.bytes() as u64,
            in_flight: state.peer.ops_in_flight(),
            connections: state.net.connections(),
        })
    }

    /// Why this peer's membership has ended, if it has.
    pub fn ended(&self) -> Option<EndReason> {
        self.engine.look(|state| match state.peer.phase() {
            Phase::Ended(why) => Some(why.clone()),
            _ => None,
        })
    }

    /// Whether this peer has left by [`Communicator::leave`] or [`Communicator::abort`].
    pub fn has_left(&self) -> bool {
        *self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves: waits for the ops of this peer that are in flight and for its part of a checkpoint, then tells the master,
    /// so that the others go on at once. This communicator can do nothing more.
    pub fn leave(&self) {
        self.engine.wait(Some(Instant::now() + Duration::from_secs(60)), |state| {
            (state.peer.ops_in_flight() == 0).then_some(())
        });
        self.say_goodbye();
    }

    /// Leaves at once: ops and votes that other threads wait for end with an error, their inputs as they were. This
    /// communicator can do nothing more.
    pub fn abort(&self) {
        self.say_goodbye();
    }

    fn say_goodbye(&self) {
        if !self.is_ours() {
            // Another thread of the parent may have held any lock at the moment of the fork.
            return;
        }
        let mut left = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *left, true) {
            return;
        }
        #[cfg(feature = "checkpoint")]
        if let Some(checkpointer) = &self.checkpointer {
            checkpointer.finish();
        }
        self.engine.with(|state| state.peer.leave());
        self.engine.wait(Some(Instant::now() + LEAVE_TIMEOUT), |state| {
            matches!(state.peer.phase(), Phase::Ended(_)).then_some(())
        });
        self.engine.stop();
    }

    #[cfg(feature = "checkpoint")]
    pub(crate) fn group(&self) -> u32 {
        self.options.group
    }

    /// Whether this is the process that connected.
    pub fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}

/// Where to record metrics: where the program says, else where it or the environment wants them served, else nowhere.
/// A port that cannot be had is no reason not to take part.
fn metrics(options: &Options) -> Option<Metrics> {
    if let Some(metrics) = &options.metrics {
        return Some(metrics.clone());
    }
    let address = match &options.metrics_address {
        Some(address) => address.clone(),
        None => std::env::var(pccl_observe::ADDRESS_VARIABLE).ok()?,
    };
    let address = match pccl_observe::Address::parse(&address) {
        Ok(address) => address?,
        Err(why) => {
            tracing::warn!(target: "pccl::peer", "no metrics are served: {why}");
            return None;
        }
    };
    match pccl_observe::endpoint(address.host.as_deref(), address.port) {
        Ok((metrics, addr, socket)) => {
            pccl_net::not_for_children(socket);
            tracing::info!(target: "pccl::peer", "metrics are served on http://{addr}/metrics");
            Some(metrics)
        }
        Err(error) => {
            tracing::warn!(target: "pccl::peer", "{error}");
            None
        }
    }
}

fn peer_config(
    options: &Options,
    masters: Vec<SocketAddr>,
    listen: SocketAddr,
    ended: Option<Session>,
) -> Result<PeerConfig, ConnectError> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(|e| ConnectError::System(std::io::Error::other(e.to_string())))?;
    let advertised = match options.advertise {
        Some(addr) if addr.port() == 0 => SocketAddr::new(addr.ip(), listen.port()),
        Some(addr) => addr,
        None if listen.ip().is_unspecified() => anywhere(listen.port(), listen.is_ipv6()),
        None => listen,
    };
    Ok(PeerConfig {
        group: PeerGroup(options.group),
        advertised,
        site: options.site.clone(),
        masters,
        expects: options.expects.clone(),
        ended,
        seed: u64::from_le_bytes(seed),
    })
}
