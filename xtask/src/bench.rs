//! `cargo xtask bench`: our all-reduce beside the others that are installed, in one run.
//!
//! For each world size and each size, every system is measured once per round, one after the other, so
//! that a machine that drifts drifts for all of them alike; a cell is the median of its rounds. Only
//! ratios within one run mean anything.

mod anchors;
mod bars;
mod deploy;
mod loopback;
mod process;
mod report;
mod row;
mod systems;

use std::{fs, net::SocketAddr, path::PathBuf, thread, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use pccl_config::ByteSize;

use process::Stop;
use report::{Cell, Outcome, Report};
use systems::{Programs, System};

/// Compare all-reduce with Gloo, Open MPI and any libpccl.so on this machine.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    instead: Option<Instead>,

    /// World sizes.
    #[arg(long, value_delimiter = ',', default_value = "2,4,8")]
    peers: Vec<u32>,

    /// Buffer sizes of one peer.
    #[arg(long, value_delimiter = ',', default_value = "4KiB,64KiB,1MiB,16MiB,64MiB,256MiB")]
    bytes: Vec<ByteSize>,

    /// Times that each system is measured in each cell.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// A library with PCCL's C API to compare with.
    #[arg(long, value_name = "PATH")]
    libpccl: Option<PathBuf>,

    /// Measure only these.
    #[arg(long, value_delimiter = ',', value_name = "SYSTEM")]
    only: Vec<System>,

    /// Longest time of one measurement.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_s: u64,

    /// One JSON document instead of tables.
    #[arg(long)]
    json: bool,

    /// Send to this address until it has had enough: the other half of measuring loopback.
    #[arg(long, hide = true)]
    loopback_source: Option<SocketAddr>,
}

/// Another comparison.
#[derive(Clone, Debug, Subcommand)]
enum Instead {
    /// Compare `pccl deploy` with xargs, GNU parallel and Terraform
    Deploy(deploy::DeployArgs),
}

/// Measures, prints the report, and fails if that was cut short or a result was wrong.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if let Some(Instead::Deploy(args)) = &args.instead {
        return deploy::run(args);
    }
    if let Some(address) = args.loopback_source {
        return loopback::send_to(address);
    }
    for &peers in &args.peers {
        for bytes in &args.bytes {
            systems::check_cell(peers, bytes.0)?;
        }
    }
    let load_before = fs::read_to_string("/proc/loadavg").ok().and_then(|text| load(&text));
    let stop = Stop::on_signals()?;
    let wanted: Vec<System> =
        System::ALL.into_iter().filter(|system| args.only.is_empty() || args.only.contains(system)).collect();
    let (programs, ready, skipped) =
        systems::prepare(&wanted, args.libpccl.as_deref(), Duration::from_secs(args.timeout_s))?;
    ensure!(!ready.is_empty(), "nothing to measure: {}", skipped_text(&skipped));

    let mut report = Report {
        cores: thread::available_parallelism().map_or(1, usize::from),
        load_before,
        rounds: args.rounds,
        systems: ready,
        skipped,
        cells: Vec::new(),
    };
    for &peers in &args.peers {
        for &bytes in &args.bytes {
            if !stop.requested() {
                let cell = measure_cell(&programs, &report.systems, args.rounds, peers, bytes, &stop);
                report.cells.push(cell);
            }
        }
    }
    if args.json {
        println!("{}", report.json()?);
    } else {
        print!("{}", report.text());
    }
    if stop.requested() {
        bail!("interrupted: the report is incomplete");
    }
    let wrong: Vec<&str> = report.wrong().into_iter().map(System::title).collect();
    ensure!(wrong.is_empty(), "wrong results from: {}", wrong.join(", "));
    Ok(())
}

fn skipped_text(skipped: &[systems::Skipped]) -> String {
    let line = |s: &systems::Skipped| format!("{}: {} ({})", s.system.title(), s.why, s.fix);
    skipped.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// All rounds of one cell, round-robin. A system that failed once is not tried again in it.
fn measure_cell(
    programs: &Programs,
    systems: &[System],
    rounds: u32,
    peers: u32,
    bytes: ByteSize,
    stop: &Stop,
) -> Cell {
    let has_meaning = |system: &System| *system != System::Bound || bytes.0 >= loopback::LEAST_BYTES;
    let mut outcomes: Vec<Outcome> = systems.iter().copied().filter(has_meaning).map(Outcome::new).collect();
    let skipped = fs::read_to_string("/proc/meminfo").ok().and_then(|info| too_large(peers, bytes, &info));
    if skipped.is_none() {
        for round in 1..=rounds {
            for outcome in &mut outcomes {
                if outcome.failure.is_some() || stop.requested() {
                    continue;
                }
                eprintln!("{peers} peers, {bytes}, round {round} of {rounds}: {}", outcome.system.title());
                outcome.add(programs.measure(outcome.system, peers, bytes.0, stop));
            }
        }
    }
    Cell { peers, bytes: bytes.0, outcomes, skipped }
}

/// The average over one minute.
fn load(loadavg: &str) -> Option<f64> {
    loadavg.split(' ').next()?.parse().ok()
}

/// Why the cell does not fit into memory, if it does not: the hungriest library keeps four buffers a peer.
fn too_large(peers: u32, bytes: ByteSize, meminfo: &str) -> Option<String> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10;
    let needed = u64::from(peers).saturating_mul(bytes.0).saturating_mul(4);
    (needed > available)
        .then(|| format!("needs up to {} MiB of memory and {} MiB are free", needed >> 20, available >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parse(args: &[&str]) -> Result<BenchArgs, clap::Error> {
        <Line as clap::Parser>::try_parse_from([&["bench"], args].concat()).map(|line| line.args)
    }

    #[test]
    fn the_defaults_are_the_anchors_cells() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.peers, [2, 4, 8]);
        let bytes: Vec<u64> = args.bytes.iter().map(|bytes| bytes.0).collect();
        assert_eq!(bytes, [4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20, 256 << 20]);
        assert_eq!((args.rounds, args.timeout_s), (3, 60));
    }

    #[test]
    fn deployments_are_measured_by_a_command_of_their_own() {
        assert!(parse(&["deploy", "--only", "tasks,cloud"]).unwrap().instead.is_some());
        assert!(parse(&["deploy", "--peers", "2"]).is_err());
        assert!(parse(&["--peers", "2", "deploy"]).is_err());
    }

    #[test]
    fn systems_are_chosen_by_name() {
        assert_eq!(parse(&["--only", "ours,mpi-tcp"]).unwrap().only, [System::Ours, System::MpiTcp]);
        assert!(parse(&["--only", "nccl"]).unwrap_err().to_string().contains("gloo-ring"));
        assert!(parse(&["--rounds", "0"]).is_err());
    }

    #[test]
    fn reads_the_load() {
        assert_eq!(load("1.25 0.50 0.10 2/345 678\n"), Some(1.25));
        assert_eq!(load("nonsense"), None);
    }

    #[test]
    fn what_does_not_fit_into_memory_is_not_tried() {
        let info = "MemTotal:  9 kB\nMemAvailable:    4194304 kB\n";
        assert_eq!(too_large(4, ByteSize(256 << 20), info), None);
        assert!(too_large(8, ByteSize(256 << 20), info).unwrap().contains("8192 MiB"));
        assert_eq!(too_large(8, ByteSize(256 << 20), "nonsense"), None);
    }
}
