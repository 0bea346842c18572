//! `cargo xtask fuzz`: the targets of `fuzz` under libFuzzer.
//!
//! Built by the stable compiler: what libFuzzer needs to know of the code that an input reaches, LLVM's sanitizer coverage,
//! is a pass that every compiler has. Without the address sanitizer: the code it goes through forbids `unsafe`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::stage;

/// Flags of LLVM's pass, as `cargo fuzz` gives them.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table \
                        -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions=on -Ccodegen-units=1";

const TARGETS: [&str; 3] = ["fleet", "stranger", "text"];
/// No input needs more.
const RSS_LIMIT_MB: u32 = 2048;
const TIMEOUT_S: u32 = 20;

#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// Targets; all if none is named: fleet (a master and peers, with their bytes spoiled), stranger (handshakes and
    /// records), text (configurations and deployments)
    targets: Vec<String>,
    /// Seconds for each of them
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub(crate) fn run(arguments: &FuzzArgs) -> Result<ExitCode> {
    let targets: Vec<&str> = match &arguments.targets[..] {
        [] => TARGETS.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = targets.iter().find(|name| !TARGETS.contains(name)) {
        bail!("there is no target `{unknown}`: {}", TARGETS.join(", "));
    }
    let root = stage::root();
    let built = root.join("target/fuzz");
    let host = host()?;
    for target in targets {
        build(target, &built, &host)?;
        let corpus = built.join("corpus").join(target);
        std::fs::create_dir_all(&corpus).with_context(|| format!("failed to make {}", corpus.display()))?;
        let program = built.join(&host).join("release").join(target);
        println!("{target}: {} s; inputs are kept in {}", arguments.seconds, corpus.display());
        if !explore(&program, &corpus, &built, arguments.seconds)? {
            let found = root.join("fuzz/found").join(target);
            println!(
                "{target}: an input does harm; see it again with `cargo run -p pccl-fuzz --bin {target} FILE`, \
                 mend what it shows, and keep it in {}",
                found.display()
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn host() -> Result<String> {
    let output = std::process::Command::new("rustc").arg("-vV").output().context("failed to ask rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say what it builds for")?.to_owned())
}

/// With `--target`, so that build scripts and macros are built without the flags.
fn build(target: &str, built: &Path, host: &str) -> Result<()> {
    let status = stage::cargo()
        .args(["build", "--release", "--package", "pccl-fuzz", "--bin", target, "--target", host])
        .arg("--target-dir")
        .arg(built)
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .status()
        .context("failed to start cargo")?;
    if !status.success() {
        bail!("the target `{target}` does not build");
    }
    Ok(())
}

/// Whether all was well.
fn explore(program: &PathBuf, corpus: &Path, built: &Path, seconds: u32) -> Result<bool> {
    let mut command = std::process::Command::new(program);
    command.arg(corpus).arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-timeout={TIMEOUT_S}")).arg(format!("-rss_limit_mb={RSS_LIMIT_MB}"));
    command.arg(format!("-artifact_prefix={}/", built.display()));
    command.args(["-max_len=4096", "-use_value_profile=1", "-print_final_stats=1"]);
    let status = command.status().with_context(|| format!("failed to start {}", program.display()))?;
    Ok(status.success())
}
