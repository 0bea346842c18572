//! `pccl verify`: several processes find out that their sums are right, or why they cannot know.

mod common;

use std::process::{Child, Output, Stdio};

use common::{Running, master, pccl, refused, succeeded, text};
use serde_json::Value;

const USAGE: i32 = 2;

fn start(master: &str, peers: &str, more: &[&str]) -> Child {
    let mut command = pccl(&["verify", "--master", master, "--peers", peers, "--bytes", "256KiB"]);
    command.args(more).env("PCCL_NETWORK__P2P_PORTS", "24000-26999");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pccl starts")
}

fn outputs(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(|child| child.wait_with_output().expect("its end")).collect()
}

#[test]
fn three_machines_know_that_their_sums_are_right() {
    let (_master, addr) = master();
    let more: [&[&str]; 3] = [&["--json"], &["--json"], &[]];
    let outputs = outputs(more.iter().map(|more| start(&addr, "3", more)).collect());
    outputs.iter().for_each(succeeded);
    let found: Value = serde_json::from_slice(&outputs[0].stdout).unwrap();
    assert_eq!((&found["peers"], &found["rounds"], &found["bytes"]), (&3.into(), &5.into(), &262_144.into()));
    assert!(found["median_seconds"].as_f64().unwrap() > 0.0);
    let said = text(&outputs[2].stdout);
    assert!(said.contains("5 all-reduces of 256KiB among 3 machines are right"), "{said}");
}

/// A group that somebody works in is no place to verify in; whoever verifies may have one of its own beside it.
#[test]
fn a_group_that_others_work_in_is_left_alone() {
    let (_master, addr) = master();
    let worker = || {
        let mut worker = pccl(&["worker", "--master", &addr, "--workers", "2", "--bytes", "4KiB", "--json"]);
        worker.env("PCCL_NETWORK__P2P_PORTS", "24000-26999");
        Running::start(worker)
    };
    let mut workers = [worker(), worker()];
    workers[0].line_with("\"round\"");
    let output = start(&addr, "1", &[]).wait_with_output().unwrap();
    refused(&output, USAGE, &["peers are in the group, not 1", "--group"]);
    succeeded(&start(&addr, "1", &["--group", "1000"]).wait_with_output().unwrap());
}
