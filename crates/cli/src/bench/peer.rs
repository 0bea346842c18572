//! One peer of a benchmark, as a process: joins, and measures what it is told to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::Args;
use pccl::{Algorithm, Call, Communicator, DataType, Options, Ports, Quantization, ReduceOp};
use pccl_bench::{AGREE_TAG, BenchPeer, Measure, Sample, Work};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::exit::Exit;
use crate::settings;
use crate::supervised;

/// Between two looks for peers that have not come yet.
const IDLE: Duration = Duration::from_millis(2);

/// Options of the hidden `pccl bench-peer`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PeerArgs {
    #[arg(long)]
    master: SocketAddr,
    #[arg(long)]
    peers: u32,
    #[arg(long)]
    op: ReduceOp,
    #[arg(long)]
    dtype: DataType,
    #[arg(long)]
    algorithm: Option<Algorithm>,
    #[arg(long)]
    in_place: bool,
    #[arg(long)]
    quantize: Option<Quantization>,
    #[arg(long)]
    certificates: Option<PathBuf>,
}

impl PeerArgs {
    /// The command line of a peer.
    pub(super) fn line(master: SocketAddr, work: &Work) -> Vec<String> {
        let Work { peers, dtype, op, algorithm, in_place, quantize } = *work;
        let mut line = vec![
            "bench-peer".to_owned(),
            format!("--master={master}"),
            format!("--peers={peers}"),
            format!("--op={op}"),
            format!("--dtype={dtype}"),
        ];
        line.extend(algorithm.map(|algorithm| format!("--algorithm={algorithm}")));
        line.extend(in_place.then(|| "--in-place".to_owned()));
        line.extend(quantize.map(|how| format!("--quantize={how}")));
        line
    }

    fn work(&self) -> Work {
        let Self { peers, dtype, op, algorithm, in_place, quantize, .. } = *self;
        Work { peers, dtype, op, algorithm, in_place, quantize }
    }
}

/// What a peer says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum PeerEvent {
    /// All peers are there.
    Ready,
    /// A cell is measured.
    Sample(Sample),
}

/// Joins, then measures until the orders end, and this process with them.
pub(crate) fn run_peer(args: &PeerArgs) -> Result<Exit, CliError> {
    pccl_launch::parent::die_with_parent();
    settings::start_child_log()?;
    let (sender, orders) = mpsc::channel();
    supervised::follow(move |order: Measure| {
        let _ = sender.send(order);
    });
    let mut options = Options::new(args.master.to_string()).ports(Ports::Any);
    if let Some(folder) = &args.certificates {
        options = options.security(super::security(folder)?);
    }
    let comm = Communicator::connect(&options)?;
    gather(&comm, args.peers)?;
    let peer = BenchPeer::new(comm, args.work());
    supervised::say(&PeerEvent::Ready);
    for order in orders {
        supervised::say(&PeerEvent::Sample(peer.measure(order)?));
    }
    Ok(Exit::Success)
}

/// Waits until all are members. All peers decide by the world of the same op.
fn gather(comm: &Communicator, peers: u32) -> Result<(), CliError> {
    loop {
        let info = comm.all_reduce_in_place(&mut [0_u64], &Call::new(AGREE_TAG))?;
        if info.world >= peers {
            return Ok(());
        }
        thread::sleep(IDLE);
        comm.update_topology()?;
    }
}
