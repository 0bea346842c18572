//! `pccl bench`: all-reduce, timed among real processes, for every world size and size asked for.

mod peer;
mod tls;

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pccl::{Algorithm, DataType, Quantization, ReduceOp};
use pccl_bench::{Measure, Row, Sample, Work};
use pccl_launch::{Crew, Happening, Id};

pub(crate) use peer::{PeerArgs, run_peer};
pub(crate) use tls::security;

use self::peer::PeerEvent;
use self::tls::TlsRow;
use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::local::{Local, Wishes};
use crate::output;
use crate::supervised;
use pccl_config::{ByteSize, ByteSizes};

/// A busy machine must not end a peer: what is measured here is not the detection of death.
const HEARTBEAT_TIMEOUT_MS: u32 = 5_000;
/// How long all peers together may say nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// How peers reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// TCP, also between processes of one host
    Tcp,
    /// What the library chooses
    Auto,
}

/// Options of `pccl bench`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("small and large, among 2, 4 and 8 peers", "pccl bench --bytes 4KiB,64MiB"),
    ("every doubling, as objects for a program", "pccl bench --peers 4 --bytes 4KiB..256MiB --json"),
    ("what TLS costs", "pccl bench --tls --peers 4 --bytes 64MiB"),
    ("what quantization saves", "pccl bench --quantize u8-min-max --peers 4 --bytes 64MiB"),
    ("another type, operator and algorithm", "pccl bench --dtype bf16 --op max --algorithm ring --in-place"),
]))]
pub(crate) struct BenchArgs {
    /// World sizes
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "2,4,8", value_parser = clap::value_parser!(u32).range(1..=256))]
    peers: Vec<u32>,

    /// Buffer sizes: a list, or a range of doublings
    #[arg(long, value_name = "SIZES", default_value = "4KiB,1MiB,64MiB")]
    bytes: ByteSizes,

    /// Operator: sum, avg, prod, max, min
    #[arg(long, value_name = "OP", default_value = "sum")]
    op: ReduceOp,

    /// Element type: u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: DataType,

    /// Algorithm [default: what the cost model chooses]
    #[arg(long, value_name = "NAME")]
    algorithm: Option<Algorithm>,

    /// How peers reach each other
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    transport: Transport,

    /// One buffer for input and result
    #[arg(long)]
    in_place: bool,

    /// Let floats travel as integers, for sum and avg: u8-min-max, u8-zero-point, u16-min-max, u16-zero-point
    #[arg(long, value_name = "HOW")]
    quantize: Option<Quantization>,

    /// Timed calls of each cell [default: as many as fit into 0.6 s]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    iters: Option<u64>,

    /// What TLS adds: each cell with and without it in turns, and the bare cipher for the same bytes
    #[arg(long)]
    tls: bool,

    /// One JSON object per row instead of a table
    #[arg(long)]
    json: bool,
}

impl BenchArgs {
    fn work(&self, peers: u32) -> Work {
        let Self { dtype, op, algorithm, in_place, quantize, .. } = *self;
        Work { peers, dtype, op, algorithm, in_place, quantize }
    }
}

/// Measures all cells, and fails if a result was wrong.
pub(crate) fn run(args: &BenchArgs) -> Result<Exit, CliError> {
    check_sizes(args)?;
    if args.tls {
        return compare_tls(args);
    }
    let mut rows = Vec::new();
    for &peers in &args.peers {
        let mut crew = PeerCrew::start(args, peers, None)?;
        for &bytes in &args.bytes.0 {
            let row = Row::new(&args.work(peers), bytes.0, &crew.measure(bytes, args.iters)?);
            show(args, &row);
            rows.push(row);
        }
    }
    if !args.json {
        clear_progress();
        output::print(&pccl_bench::table(&rows));
    }
    let wrong: u64 = rows.iter().map(|row| row.wrong).sum();
    if wrong > 0 {
        return Err(CliError::new(Exit::Failed, format!("failed to reduce: {wrong} elements are wrong")));
    }
    Ok(Exit::Success)
}

fn compare_tls(args: &BenchArgs) -> Result<Exit, CliError> {
    let folder = tempfile::tempdir().map_err(|e| CliError::system("make a folder for certificates", &e))?;
    tls::make(folder.path())?;
    let mut wrong = 0;
    for &peers in &args.peers {
        let mut plain = PeerCrew::start(args, peers, None)?;
        let mut guarded = PeerCrew::start(args, peers, Some(folder.path()))?;
        for &bytes in &args.bytes.0 {
            let (mut without, mut with) = (Vec::new(), Vec::new());
            for _ in 0..tls::TURNS {
                for (crew, times) in [(&mut plain, &mut without), (&mut guarded, &mut with)] {
                    let row = Row::new(&args.work(peers), bytes.0, &crew.measure(bytes, args.iters)?);
                    times.push(row.median_s);
                    wrong += row.wrong;
                }
            }
            let row = TlsRow::new(peers, bytes, without, with)?;
            if args.json {
                supervised::say(&row);
            } else {
                output::print(&[row.line()]);
            }
        }
    }
    if wrong > 0 {
        return Err(CliError::new(Exit::Failed, format!("failed to reduce: {wrong} elements are wrong")));
    }
    Ok(Exit::Success)
}

fn check_sizes(args: &BenchArgs) -> Result<(), CliError> {
    use {
        DataType::{BF16, F16, F32, F64},
        ReduceOp::{Avg, Sum},
    };
    let lossy = matches!((args.dtype, args.op), (F16 | BF16 | F32 | F64, Sum | Avg));
    if args.quantize.is_some() && !lossy {
        let what = format!("failed to plan: {} of {} is not measured with --quantize", args.op, args.dtype);
        return Err(CliError::new(Exit::Usage, what).hint("take sum or avg, and f16, bf16, f32 or f64"));
    }
    let element = args.dtype.size_bytes() as u64;
    let whole = |size: &&ByteSize| size.0 == 0 || !size.0.is_multiple_of(element);
    match args.bytes.0.iter().find(whole) {
        None => Ok(()),
        Some(size) => Err(CliError::new(
            Exit::Usage,
            format!("failed to plan: {size} is no positive number of {}", args.dtype),
        )
        .hint(format!("--bytes takes multiples of {element}"))),
    }
}

/// A program gets each row at once; a person sees that something goes on, and then the table.
fn show(args: &BenchArgs, row: &Row) {
    if args.json {
        supervised::say(row);
    } else if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{} peers, {}: {}",
            row.peers,
            ByteSize(row.bytes),
            pccl_observe::table::seconds(row.median_s)
        );
    }
}

fn clear_progress() {
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

/// The processes of one world size.
struct PeerCrew {
    crew: Crew,
    peers: Vec<Id>,
}

impl PeerCrew {
    /// Starts a master and the peers, and waits until all are members.
    fn start(args: &BenchArgs, peers: u32, certificates: Option<&Path>) -> Result<Self, CliError> {
        // The library has one way today: over TCP.
        let (Transport::Tcp | Transport::Auto) = args.transport;
        let mut crew = supervised::crew()?;
        let wishes = Wishes { workers: 0, heartbeat_timeout_ms: HEARTBEAT_TIMEOUT_MS, model: None };
        let secured = certificates.map(|folder| format!("--certificates={}", folder.display()));
        let (_, master) = Local::new(&wishes)?.start_master(&mut crew, secured)?;
        let mut line = PeerArgs::line(master, &args.work(peers));
        line.extend(certificates.map(|folder| format!("--certificates={}", folder.display())));
        let program = supervised::program(line)?;
        let peers = (0..peers).map(|number| {
            let name = format!("peer {number}");
            crew.spawn(&name, &program).map_err(|error| supervised::not_started(&name, &error))
        });
        let peers = peers.collect::<Result<Vec<Id>, CliError>>()?;
        let mut all = Self { crew, peers };
        for _ in 0..all.peers.len() {
            all.hear()?;
        }
        Ok(all)
    }

    /// One cell, from all peers.
    fn measure(&mut self, bytes: ByteSize, iters: Option<u64>) -> Result<Vec<Sample>, CliError> {
        let order = Measure { bytes: bytes.0, iters };
        for peer in &self.peers {
            self.crew.tell(*peer, &order);
        }
        let mut samples = Vec::new();
        while samples.len() < self.peers.len() {
            samples.extend(self.hear()?);
        }
        Ok(samples)
    }

    /// What the next peer says.
    fn hear(&mut self) -> Result<Option<Sample>, CliError> {
        let failed = |what: String| CliError::new(Exit::Collective, format!("failed to measure: {what}"));
        match self.crew.next(PATIENCE) {
            Some(Happening::Line(_, line)) => match serde_json::from_str(&line) {
                Ok(PeerEvent::Sample(sample)) => Ok(Some(sample)),
                Ok(PeerEvent::Ready) => Ok(None),
                Err(error) => Err(failed(format!("{error}: {line}"))),
            },
            Some(Happening::Ended(id, status)) => {
                let complaint = self.crew.complaint(id);
                Err(failed(format!("{} ended ({status}): {complaint}", self.crew.name(id))))
            }
            Some(Happening::Interrupted) => {
                Err(CliError::new(Exit::Interrupted, "failed to measure all: interrupted"))
            }
            None => Err(failed(format!("no peer has said anything for {} s", PATIENCE.as_secs()))),
        }
    }
}
