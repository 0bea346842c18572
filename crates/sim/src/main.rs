//! `pccl-sim [SEED] [--runs N]`: one run told in full, or many counted.
//!
//! `--ends [STRIDE]`: every process of a small run ends at every step (or every STRIDEth).
//! `--story FILE`: what a script in `crates/sim/scenarios` tells.
//! `--prove [RULE]`: every rule of the protocol is missed when it is switched off, or this one.
//! `--hostile N`: N runs over a network that spoils bytes, in which nobody may panic.
//! `--hostile-seed SEED`: one of these, told in full.
//! `--end PEERS inside|caller|quantized PROCESS STEP`: one of these, told in full.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use pccl_proto::rules::Rule;
use pccl_sim::{Ending, Outcome, Stats, Story, every_end, hostile, missed, one_end, run_seed};

/// A missing rule must show within so many.
const MOST_SCHEDULES: u64 = 20_000;

const USAGE: &str = "usage: pccl-sim [SEED] [--runs N] | --ends [STRIDE] | --end PEERS inside|caller|quantized PROCESS STEP | --prove [RULE] | \
     --hostile N | --hostile-seed SEED | --story FILE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let code = match words[..] {
        [] => Some(tell("seed 1", &run_seed(1, true))),
        ["--ends"] => Some(ends(1)),
        ["--ends", stride] => stride.parse().ok().map(ends),
        ["--end", peers, ending, process, step] => one(peers, ending, process, step),
        ["--prove"] => Some(prove(Rule::ALL)),
        ["--prove", rule] => {
            let named = |r: &Rule| format!("{r:?}") == rule;
            [Rule::ALL, Rule::TOLD].concat().into_iter().find(named).map(|r| prove(&[r]))
        }
        ["--story", file] => Some(story(file)),
        ["--hostile", runs] => runs.parse().ok().map(|n| many(1, n, hostile, "--hostile-seed ")),
        ["--hostile-seed", seed] => seed.parse().ok().map(|n| tell(&format!("seed {n}"), &hostile(n, true))),
        ["--runs", runs] => runs.parse().ok().map(|n| many(1, n, run_seed, "")),
        [seed] => seed.parse().ok().map(|n| tell(&format!("seed {n}"), &run_seed(n, true))),
        [seed, "--runs", runs] | ["--runs", runs, seed] => {
            seed.parse().ok().zip(runs.parse().ok()).map(|(s, n)| many(s, n, run_seed, ""))
        }
        _ => None,
    };
    code.unwrap_or_else(|| {
        eprintln!("{USAGE}");
        ExitCode::from(2)
    })
}

fn one(peers: &str, ending: &str, process: &str, step: &str) -> Option<ExitCode> {
    let (peers, process, step) = (peers.parse().ok()?, process.parse().ok()?, step.parse().ok()?);
    Some(tell("this run", &one_end(peers, Ending::parse(ending)?, process, step)))
}

fn story(file: &str) -> ExitCode {
    let told = std::fs::read_to_string(file).map_err(|e| e.to_string());
    match told.and_then(|text| Story::parse(&text).map_err(|e| e.to_string())) {
        Ok(story) => {
            print!("{}", story.tell());
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("failed to read the story {file}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn tell(name: &str, outcome: &Outcome) -> ExitCode {
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{}", outcome.stats);
    match &outcome.violation {
        None => ExitCode::SUCCESS,
        Some(wrong) => {
            println!("{name}: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn many(first: u64, runs: u64, run: fn(u64, bool) -> Outcome, again: &str) -> ExitCode {
    let (mut total, mut failed) = (Stats::default(), 0);
    for seed in first..first + runs {
        let outcome = run(seed, false);
        total.add(&outcome.stats);
        if let Some(wrong) = outcome.violation {
            failed += 1;
            println!("seed {seed}: {wrong}");
            println!("  to see it: cargo xtask sim {again}{seed}");
        }
    }
    sum_up(&total, runs - failed, failed)
}

/// Every rule of the protocol is missed when it is not in force.
fn prove(rules: &[Rule]) -> ExitCode {
    let mut failed = 0;
    for rule in rules {
        let Some((seed, wrong)) = missed(*rule, MOST_SCHEDULES) else {
            failed += 1;
            println!("without {rule:?}: nothing went wrong in {MOST_SCHEDULES} schedules");
            continue;
        };
        println!("without {rule:?}: schedule {seed}: {wrong}");
    }
    println!("{} passed, {failed} failed", rules.len() as u64 - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ends(stride: u64) -> ExitCode {
    let (mut total, mut failed) = (Stats::default(), 0);
    for peers in [2, 3] {
        let (stats, wrong) = every_end(peers, stride.max(1));
        total.add(&stats);
        failed += wrong.len() as u64;
        for what in wrong {
            println!("{what}");
        }
    }
    sum_up(&total, total.runs - failed, failed)
}

fn sum_up(total: &Stats, passed: u64, failed: u64) -> ExitCode {
    println!("{total}");
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
