//! `pccl verify`: whether machines that are far apart can all-reduce, and whether the sums are right.

use std::thread;
use std::time::Instant;

use clap::Args;
use pccl::{Call, Communicator, Options, ReduceOp};
use serde::Serialize;

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output::print;
use crate::peer::{self, PeerArgs};
use crate::settings;
use pccl_config::ByteSize;

/// The tag of its ops.
const TAG: u64 = 1;

/// Options of `pccl verify`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("on each of three machines, at about the same time, beside a fleet that works",
     "pccl verify --master 10.0.0.7:7117 --group 1000 --peers 3"),
    ("on one machine, beside a fleet that works there", "pccl verify --master 127.0.0.1:7117 --group 1000 --peers 3 --here 3"),
]))]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    peer: PeerArgs,

    /// Machines that take part: nothing begins before all are there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    peers: u32,

    /// So many of them are here: peers of this process
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    here: u32,

    /// Bytes that each of them contributes
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = size)]
    bytes: ByteSize,

    /// All-reduces, each of which must be right
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What came out.
#[derive(Debug, Serialize)]
struct Finding {
    peers: u32,
    bytes: u64,
    rounds: u32,
    /// All-reduces that lost somebody on the way.
    recoveries: u32,
    median_seconds: f64,
}

fn size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    let fits = size.0 > 0 && size.0.is_multiple_of(4);
    fits.then_some(size).ok_or_else(|| "values of u32 have a positive multiple of 4 bytes".to_owned())
}

/// What the peer of this rank contributes at this place. Whole numbers: no setting of a fleet makes their sums lossy.
fn contribution(rank: u32, round: u32, place: usize) -> u32 {
    (rank % 7 + 1) * (place as u32 % 65_521 + round % 2)
}

/// What the sum at a place is, from what rank 0 contributes there.
struct Expected {
    shares: u32,
    round: u32,
}

impl Expected {
    fn new(peers: u32, round: u32) -> Self {
        Self { shares: (0..peers).map(|rank| rank % 7 + 1).sum(), round }
    }

    fn at(&self, place: usize) -> u32 {
        contribution(0, self.round, place) * self.shares
    }
}

/// Runs on this machine.
pub(crate) fn run(args: &VerifyArgs) -> Result<Exit, CliError> {
    let config = args.peer.config.load()?;
    let _log = settings::start_log("verify", &config)?;
    let security = settings::security(&config)?;
    let options = peer::options(&args.peer, &config, security.as_ref())?;
    let findings: Vec<Result<Finding, CliError>> = thread::scope(|scope| {
        let all: Vec<_> = (0..args.here).map(|_| scope.spawn(|| take_part(args, &options))).collect();
        let panicked = |_| Err(CliError::new(Exit::System, "failed to verify: a thread panicked"));
        all.into_iter().map(|peer| peer.join().unwrap_or_else(panicked)).collect()
    });
    // All have found the same; if not, whoever has trouble counts.
    let finding = findings.into_iter().reduce(Result::and);
    show(&finding.unwrap_or_else(|| Err(CliError::new(Exit::Usage, "nobody is here")))?, args.json);
    Ok(Exit::Success)
}

/// One peer, from its connection to its leave.
fn take_part(args: &VerifyArgs, options: &Options) -> Result<Finding, CliError> {
    let comm = Communicator::connect(options)?;
    while comm.membership().world_size < args.peers {
        comm.update_topology()?;
    }
    let members = comm.membership();
    if members.world_size > args.peers {
        return Err(CliError::new(
            Exit::Usage,
            format!("failed to verify: {} peers are in the group, not {}", members.world_size, args.peers),
        )
        .hint("give --group a number that nobody else uses"));
    }
    let count = (args.bytes.0 / 4) as usize;
    let (mut seconds, mut recoveries) = (Vec::new(), 0);
    for round in 0..args.rounds {
        let mut values: Vec<u32> = (0..count).map(|place| contribution(members.rank, round, place)).collect();
        let begun = Instant::now();
        let op = comm.all_reduce_in_place(&mut values, &Call::new(TAG).op(ReduceOp::Sum))?;
        seconds.push(begun.elapsed().as_secs_f64());
        recoveries += op.recoveries;
        if op.world < args.peers {
            return Err(lost(args.peers - op.world, args.peers));
        }
        let expected = Expected::new(args.peers, round);
        let wrong = values.iter().enumerate().find(|(at, value)| **value != expected.at(*at));
        if let Some((at, value)) = wrong {
            let right = expected.at(at);
            let what = format!("the sum of round {} is wrong: {value} at {at}, not {right}", round + 1);
            return Err(CliError::new(Exit::Failed, what)
                .hint("this must never happen: please report it, with the versions of all peers"));
        }
    }
    comm.leave();
    seconds.sort_by(f64::total_cmp);
    let median_seconds = seconds[seconds.len() / 2];
    let (peers, rounds, bytes) = (args.peers, args.rounds, args.bytes.0);
    Ok(Finding { peers, bytes, rounds, recoveries, median_seconds })
}

fn lost(lost: u32, of: u32) -> CliError {
    CliError::new(Exit::Failed, format!("failed to verify: {lost} of {of} machines were lost on the way"))
        .hint("see the logs of those that are missing; `pccl status` says who is in the run")
}

fn show(finding: &Finding, as_json: bool) {
    if as_json {
        print(&[serde_json::json!(finding).to_string()]);
        return;
    }
    let Finding { peers, bytes, rounds, median_seconds, .. } = finding;
    print(&[format!(
        "{rounds} all-reduces of {} among {peers} machines are right; median {:.1} ms",
        ByteSize(*bytes),
        median_seconds * 1000.0
    )]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_a_thousand_peers_are_known_and_fit() {
        for (round, place) in [(0, 0), (1, 65_520), (0, 1_000_000)] {
            let sum: u32 = (0..1000).map(|rank| contribution(rank, round, place)).sum();
            assert_eq!(sum, Expected::new(1000, round).at(place));
        }
        assert_ne!(contribution(0, 0, 7), contribution(1, 0, 7), "peers contribute differently");
        assert_ne!(contribution(0, 0, 7), contribution(0, 1, 7), "and in each round");
    }
}
