//! What strangers, peers, masters and files may say to us, explored by coverage. Not shipped.
//!
//! Each target is a function from bytes, which stand for what happens, to nothing: it may not panic, hang, or ask for
//! memory without end. `cargo xtask fuzz` builds them so that libFuzzer sees which code an input reaches; the tests here
//! run them with inputs by chance, and every input that once found something.
#![forbid(unsafe_code)]

mod fleet;
mod input;
mod stranger;
mod text;

use std::process::ExitCode;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[("fleet", fleet::run), ("stranger", stranger::run), ("text", text::run)];

/// Does what one target does.
///
/// # Panics
/// If the input does harm, or there is no such target.
pub fn run(target: &str, data: &[u8]) {
    let (_, run) =
        TARGETS.iter().find(|(name, _)| *name == target).expect("targets are named in this crate only");
    run(data);
}

/// Runs a target once for each file that the command line names.
pub fn replay(target: &str) -> ExitCode {
    for path in std::env::args_os().skip(1) {
        match std::fs::read(&path) {
            Ok(data) => run(target, &data),
            Err(why) => {
                eprintln!("error: failed to read {}: {why}", path.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pccl_proto::ids::Seeded;

    use super::*;

    #[test]
    fn inputs_by_chance_do_no_harm() {
        for (name, run) in TARGETS {
            for seed in 0..200 {
                let mut random = Seeded::new(seed);
                let len = random.below(600);
                let input: Vec<u8> = (0..len).map(|_| random.next_u64() as u8).collect();
                let ended = std::panic::catch_unwind(|| run(&input));
                assert!(ended.is_ok(), "target {name}, seed {seed}: {input:?}");
            }
        }
    }

    /// `fuzz/found/TARGET/*`: what once did harm.
    #[test]
    fn what_was_found_stays_harmless() {
        for (name, run) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("found").join(name);
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                let ended = std::panic::catch_unwind(|| run(&std::fs::read(&path).unwrap()));
                assert!(ended.is_ok(), "{}", path.display());
            }
        }
    }
}
