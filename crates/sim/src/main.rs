//! `pccl-sim [SEED] [--runs N]`: one run told in full, or many counted.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use pccl_sim::{Stats, run_seed};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut seed = 1u64;
    let mut runs = None;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--runs" => runs = words.next().and_then(|n| n.parse::<u64>().ok()),
            number => match number.parse() {
                Ok(n) => seed = n,
                Err(_) => {
                    eprintln!("usage: pccl-sim [SEED] [--runs N]");
                    return ExitCode::from(2);
                }
            },
        }
    }
    match runs {
        None => one(seed),
        Some(runs) => many(seed, runs),
    }
}

fn one(seed: u64) -> ExitCode {
    let outcome = run_seed(seed, true);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{}", outcome.stats);
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(wrong) => {
            println!("seed {seed}: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn many(first: u64, runs: u64) -> ExitCode {
    let (mut total, mut failed) = (Stats::default(), 0);
    for seed in first..first + runs {
        let outcome = run_seed(seed, false);
        total.add(&outcome.stats);
        if let Some(wrong) = outcome.violation {
            failed += 1;
            println!("seed {seed}: {wrong}");
            println!("  to see it: cargo xtask sim {seed}");
        }
    }
    println!("{total}");
    println!("{} passed, {failed} failed", runs - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
