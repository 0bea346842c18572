//! `pccl worker --checkpoints`, `pccl checkpoint`, and going on after everybody has died.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Running, master, objects, pccl, refused, run, signal, succeeded, text, until};
use safetensors::SafeTensors;

fn worker(master: &str, place: &str, more: &[&str]) -> Command {
    let line = ["worker", "--master", master, "--bytes", "64KiB", "--workers", "2", "--checkpoints", place];
    let mut command = pccl(&[&line[..], more].concat());
    command.env("PCCL_NETWORK__P2P_PORTS", "24000-26999");
    command
}

#[test]
fn a_fleet_that_died_goes_on_from_its_newest_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("kept").display().to_string();
    let (_master, addr) = master();
    let more = ["--checkpoint-every", "2", "--rounds", "5"];
    let mut fleet: Vec<_> = (0..2).map(|_| Running::start(worker(&addr, &place, &more))).collect();
    for worker in &mut fleet {
        assert!(worker.rest().contains("left after round 5"));
    }
    let listed = run(&["checkpoint", "list", &place, "--json"]);
    succeeded(&listed);
    let revisions: Vec<_> = objects(&listed).iter().map(|c| c["revision"].as_u64().unwrap()).collect();
    assert_eq!(revisions, [4, 2]);
    assert!(text(&run(&["checkpoint", "list", &place]).stdout).contains(" s ago"));
    let verified = run(&["checkpoint", "verify", &place, "--all"]);
    succeeded(&verified);
    assert_eq!(text(&verified.stdout).matches("whole, 65536 bytes").count(), 2);

    let more = ["--checkpoint-every", "0", "--rounds", "6", "--resume"];
    let mut fleet: Vec<_> = (0..2).map(|_| Running::start(worker(&addr, &place, &more))).collect();
    for worker in &mut fleet {
        let said = worker.rest();
        assert!(said.contains("round    5") && said.contains("left after round 6"), "{said}");
        assert!(!said.contains("round    4"), "{said}");
    }
    let model = dir.path().join("model.safetensors");
    succeeded(&run(&["checkpoint", "restore", &place, "--output", &model.display().to_string()]));
    let bytes = std::fs::read(&model).unwrap();
    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), 9);
}

#[test]
fn sigusr2_asks_for_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display().to_string();
    let (_master, addr) = master();
    let more = ["--checkpoint-every", "0"];
    let mut fleet: Vec<_> = (0..2).map(|_| Running::start(worker(&addr, &place, &more))).collect();
    for worker in &mut fleet {
        worker.line_with("world  2");
    }
    assert_eq!(text(&run(&["checkpoint", "list", &place]).stdout), "no checkpoints\n");
    signal(fleet[1].pid(), "USR2");
    until("a checkpoint", || {
        let output = run(&["checkpoint", "verify", &place]);
        output.status.success().then_some(())
    });
}

#[test]
fn what_is_not_there_or_not_whole_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().display().to_string();
    refused(&run(&["checkpoint", "verify", &place]), 6, &["no complete one of group 0", &place]);
    refused(&run(&["checkpoint", "list"]), 2, &["no place is given", "checkpoint_url"]);
    refused(&run(&["checkpoint", "list", "ftp://x/y"]), 6, &["ftp://x/y"]);
    let (_master, addr) = master();
    let more = ["--checkpoint-every", "1", "--rounds", "1", "--workers", "1"];
    let output = pccl(&["worker", "--master", &addr, "--bytes", "64KiB", "--checkpoints", &place])
        .args(more)
        .env("PCCL_NETWORK__P2P_PORTS", "24000-26999")
        .output()
        .unwrap();
    succeeded(&output);
    spoil(dir.path());
    let output = run(&["checkpoint", "verify", &place]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stdout).contains("is damaged"), "{output:?}");
}

/// Changes the last byte of every shard.
fn spoil(dir: &Path) {
    for set in std::fs::read_dir(dir.join("group-0")).expect("a group").flatten() {
        for file in std::fs::read_dir(set.path()).expect("a set").flatten() {
            let path = file.path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                let mut bytes = std::fs::read(&path).expect("a shard");
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                std::fs::write(&path, bytes).expect("a shard that can be written");
            }
        }
    }
}
