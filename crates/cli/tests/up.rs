//! `pccl up`: real processes, struck for real.

mod common;

use common::{Running, children, lives, objects, pccl, run, signal, succeeded, text, until, write_model};

/// A busy machine must not end a peer here.
const PATIENT: [&str; 2] = ["--heartbeat-timeout-ms", "5000"];

#[test]
fn three_workers_end_identical() {
    let output =
        run(&[&["up", "--workers", "3", "--bytes", "64KiB", "--rounds", "5", "--json"], &PATIENT[..]]
            .concat());
    succeeded(&output);
    let objects = objects(&output);
    assert_eq!(objects.len(), 6);
    for (number, round) in objects[..5].iter().enumerate() {
        assert_eq!(round["round"], number + 1);
        assert_eq!((&round["world_size"], &round["reports"]), (&3.into(), &3.into()));
        assert_eq!((&round["identical"], &round["recoveries"]), (&true.into(), &0.into()));
        assert!(round["seconds"].as_f64().unwrap() > 0.0 && round["gbs"].as_f64().unwrap() > 0.0);
        assert_eq!(round["hash"].as_str().unwrap().len(), 32);
    }
    let last = &objects[5];
    assert_eq!((&last["verdict"], &last["rounds"]), (&"identical".into(), &5.into()));
    assert_eq!((&last["recoveries"], &last["world_size"]), (&0.into(), &3.into()));
}

#[test]
fn a_person_sees_rounds_a_table_and_a_verdict() {
    let output = run(&[&["up", "--workers", "2", "--bytes", "4KiB", "--rounds", "3"], &PATIENT[..]].concat());
    succeeded(&output);
    let text = text(&output.stdout);
    for line in
        ["2 workers average 9 tensors, 4KiB in all", "round    3  world  2", "undisturbed", "identical: "]
    {
        assert!(text.contains(line), "`{line}` is not in:\n{text}");
    }
}

/// The detection of death is part of this: half a second, as users have it.
#[test]
fn kill_freeze_and_join_are_survived_and_counted() {
    let args =
        ["up", "--workers", "3", "--bytes", "1MiB", "--rounds", "8", "--chaos", "kill,freeze,join", "--json"];
    let output = run(&args);
    succeeded(&output);
    let objects = objects(&output);
    let (last, rounds) = objects.split_last().unwrap();
    assert_eq!(last["verdict"], "identical");
    for kind in ["kill", "freeze", "join"] {
        assert!(last["chaos"][kind].as_u64().unwrap() >= 1, "{last}");
    }
    let recovered = rounds.iter().filter(|round| round["recoveries"].as_u64() > Some(0)).count();
    assert!(recovered >= 2, "a kill and a freeze each cut an op: {last}");
    assert_eq!(last["world_size"], 4, "one was replaced, one came back, one joined");
    assert!(rounds.iter().all(|round| round["identical"] == true));
}

#[test]
fn one_survivor_of_two_goes_on() {
    let args = ["up", "--workers", "2", "--bytes", "4KiB", "--rounds", "4", "--chaos", "kill", "--json"];
    let output = run(&[&args[..], &PATIENT[..]].concat());
    succeeded(&output);
    let last = objects(&output).pop().unwrap();
    assert_eq!((&last["verdict"], &last["chaos"]["kill"]), (&"identical".into(), &1.into()));
}

#[test]
fn a_model_comes_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("1.safetensors"), folder.path().join("2.safetensors"));
    write_model(&one, &["a", "b"], 500);
    write_model(&two, &["c"], 7);
    let files = [one.to_str().unwrap(), two.to_str().unwrap()];
    let args = [&["up", "--workers", "2", "--rounds", "2", "--input"], &files[..], &PATIENT[..]].concat();
    let output = run(&args);
    succeeded(&output);
    assert!(text(&output.stdout).contains("3 tensors, 4028B in all"), "{}", text(&output.stdout));
}

fn endless() -> Running {
    let args = ["up", "--workers", "3", "--bytes", "64KiB", "--rounds", "1000000000"];
    let mut up = Running::start(pccl(&[&args[..], &PATIENT[..]].concat()));
    up.line_with("round    2");
    up
}

#[test]
fn kill_9_leaves_no_process_not_even_a_frozen_one() {
    let up = endless();
    let children = children(up.pid());
    assert_eq!(children.len(), 4, "a master and three workers");
    signal(children[2], "STOP");
    signal(up.pid(), "KILL");
    until("the end of all children", || children.iter().all(|pid| !lives(*pid)).then_some(()));
}

#[test]
fn ctrl_c_ends_all_and_says_how_far_it_came() {
    let mut up = endless();
    let children = children(up.pid());
    signal(up.pid(), "INT");
    let text = up.rest();
    assert_eq!(up.child.wait().unwrap().code(), Some(130), "{text}");
    assert!(text.contains("interrupted"), "{text}");
    assert!(children.iter().all(|pid| !lives(*pid)), "they end before their parent");
}
