//! How to connect, and how to call.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use pccl_net::Security;
use pccl_observe::Metrics;
use pccl_proto::settings::Expectations;
use pccl_proto::vocabulary::{Algorithm, Quantization, ReduceOp};

#[cfg(feature = "checkpoint")]
use crate::checkpoint::CheckpointOptions;

/// Which port a peer listens on for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// The first free one of these.
    Range(RangeInclusive<u16>),
    /// Any free one.
    Any,
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) masters: Vec<String>,
    pub(crate) group: u32,
    pub(crate) site: String,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) advertise: Option<SocketAddr>,
    pub(crate) ports: Ports,
    pub(crate) connect_timeout: Duration,
    pub(crate) expects: Expectations,
    pub(crate) security: Option<Security>,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) metrics_address: Option<String>,
    pub(crate) cancelled: Arc<AtomicBool>,
    #[cfg(feature = "checkpoint")]
    pub(crate) checkpoints: Option<CheckpointOptions>,
}

impl Options {
    /// A master by `host:port`.
    pub fn new(master: impl Into<String>) -> Self {
        Self::masters(vec![master.into()])
    }

    /// Several masters, of which one is active.
    pub fn masters(masters: Vec<String>) -> Self {
        Self {
            masters,
            group: 0,
            site: String::new(),
            bind: None,
            advertise: None,
            ports: Ports::Range(7118..=7150),
            connect_timeout: Duration::from_secs(10),
            expects: Expectations::default(),
            security: None,
            metrics: None,
            metrics_address: None,
            cancelled: Arc::default(),
            #[cfg(feature = "checkpoint")]
            checkpoints: None,
        }
    }

    /// The peers with which this one reduces. Default 0.
    #[must_use]
    pub fn group(mut self, group: u32) -> Self {
        self.group = group;
        self
    }

    /// Label of the place this peer is in; peers near each other share one.
    #[must_use]
    pub fn site(mut self, site: &str) -> Self {
        site.clone_into(&mut self.site);
        self
    }

    /// The local address to listen on. Default: all.
    #[must_use]
    pub fn bind(mut self, ip: IpAddr) -> Self {
        self.bind = Some(ip);
        self
    }

    /// Where the others reach this peer, if not where the master sees it (NAT, port mapping, several interfaces). Port 0
    /// stands for the one that it listens on.
    #[must_use]
    pub fn advertise(mut self, addr: SocketAddr) -> Self {
        self.advertise = Some(addr);
        self
    }

    /// The port to listen on. Default: the first free one of 7118–7150.
    #[must_use]
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// How long to try to reach a master. Default 10 s. Being let in by the members may take any time.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// A connect that waits ends within a moment after this has become true, and the peer leaves.
    #[must_use]
    pub fn cancelled_by(mut self, cancelled: Arc<AtomicBool>) -> Self {
        self.cancelled = cancelled;
        self
    }

    /// What this peer's own configuration says of the run's settings; a contradiction is refused.
    #[must_use]
    pub fn expects(mut self, expects: Expectations) -> Self {
        self.expects = expects;
        self
    }

    /// What guards connections and heartbeats: TLS, the shared secret, or both. All processes of a run need the same.
    /// Default: nothing.
    #[must_use]
    pub fn security(mut self, security: Security) -> Self {
        self.security = Some(security);
        self
    }

    /// Where and when to write checkpoints of the shared state. Default: never.
    #[cfg(feature = "checkpoint")]
    #[must_use]
    pub fn checkpoints(mut self, checkpoints: CheckpointOptions) -> Self {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// Where to serve metrics and health: `:9090`, `127.0.0.1:9090`, or `off`. Default: what `PCCL_METRICS_ADDRESS`
    /// says, else nowhere. All communicators of a process share an address; a port that is taken is a warning in the
    /// log.
    #[must_use]
    pub fn metrics_address(mut self, address: &str) -> Self {
        self.metrics_address = Some(address.to_owned());
        self
    }

    /// Where to record metrics, instead of serving them.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }
}

/// How to call an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Names the op among those running at the same time; peers' calls meet by it.
    pub tag: u64,
    /// How elements are combined.
    pub op: ReduceOp,
    /// Instead of the one that the cost model chooses.
    pub algorithm: Option<Algorithm>,
    /// How the values of an all-reduce travel, if not as they are.
    pub quantization: Option<Quantization>,
    /// Whether the run's compression (`performance.enable_compression`) is for this op too.
    pub compress: bool,
}

impl Call {
    /// A sum, by this tag.
    pub fn new(tag: u64) -> Self {
        Self { tag, op: ReduceOp::Sum, algorithm: None, quantization: None, compress: true }
    }

    /// How elements are combined.
    #[must_use]
    pub fn op(mut self, op: ReduceOp) -> Self {
        self.op = op;
        self
    }

    /// The algorithm; all peers must ask for the same.
    #[must_use]
    pub fn algorithm(mut self, algorithm: impl Into<Option<Algorithm>>) -> Self {
        self.algorithm = algorithm.into();
        self
    }

    /// For an all-reduce of floating-point elements: the values travel as integers, in blocks with a scale of their own.
    /// That is lossy, a value is off by a step of its block's range at most for each of the two times it is quantized
    /// (as a contribution, and in the sum); all peers get the same bits, and must ask for the same.
    #[must_use]
    pub fn quantized(mut self, quantization: impl Into<Option<Quantization>>) -> Self {
        self.quantization = quantization.into();
        self
    }

    /// As it is, also in a run with compression. All peers must say so.
    ///
    /// Such a run (`performance.enable_compression`) quantizes what is large enough by itself: sums and averages of 1 MiB
    /// and more of floating-point elements, unless they are [`Call::quantized`] or ask for an algorithm other than direct
    /// and star. What that takes away is kept by the op's tag, and given back with the next op of the same tag, count and
    /// type: so call each tensor by a tag of its own.
    #[must_use]
    pub fn uncompressed(mut self) -> Self {
        self.compress = false;
        self
    }
}
