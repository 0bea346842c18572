//! `pccl master`, `pccl worker` and `pccl status`, as on several machines.

mod common;

use std::process::Command;

use common::{Running, master, pccl, refused, run, signal, succeeded, text, until};
use serde_json::Value;

fn worker(master: &str, more: &[&str]) -> Command {
    let bytes = if more.contains(&"--bytes") { &[][..] } else { &["--bytes", "4KiB"] };
    let mut command = pccl(&[&["worker", "--master", master], bytes, more].concat());
    command.env("PCCL_NETWORK__P2P_PORTS", "21000-23999");
    command
}

fn status(master: &str) -> Value {
    let output = run(&["status", "--master", master, "--json"]);
    succeeded(&output);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn workers_started_by_hand_average_and_leave() {
    let (_master, addr) = master();
    let more = ["--workers", "2", "--rounds", "3"];
    let mut one = Running::start(worker(&addr, &more));
    let mut two = Running::start(worker(&addr, &[&more[..], &["--json"]].concat()));
    assert!(one.line_with("round    3").contains("world  2"));
    assert!(one.rest().contains("left after round 3"));
    let events = two.rest();
    assert!(events.contains(r#""event":"round","round":3"#), "{events}");
    assert!(one.child.wait().unwrap().success() && two.child.wait().unwrap().success());
}

#[test]
fn workers_of_a_run_with_compression_have_one_result_and_who_wants_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let yes = folder.path().join("compressed.yaml").display().to_string();
    std::fs::write(&yes, "performance: { enable_compression: true }\nstore: { kind: memory }").unwrap();
    let patient = ["master", "--listen=127.0.0.1:0", "--heartbeat-timeout-ms=5000", "--config", &yes];
    let mut master = Running::start(pccl(&patient));
    let addr = master.listening();
    let no = worker(&addr, &[]).env("PCCL_PERFORMANCE__ENABLE_COMPRESSION", "false").output().unwrap();
    refused(&no, 4, &["true at the master and false here"]);
    let more = ["--workers", "2", "--rounds", "3", "--json", "--config", &yes, "--bytes", "2MiB"];
    let hashes = [0; 2].map(|_| Running::start(worker(&addr, &more))).map(|mut one| one.rest());
    let [one, two] =
        hashes.map(|all| all.split(r#""hash":""#).map(|h| h[..32].to_owned()).collect::<Vec<_>>());
    assert!(one.len() == 4 && one[1..] == two[1..], "{one:?} {two:?}");
}

#[test]
fn ctrl_c_lets_a_worker_leave_and_the_others_go_on() {
    let (_master, addr) = master();
    let mut one = Running::start(worker(&addr, &["--workers", "2"]));
    let mut two = Running::start(worker(&addr, &["--workers", "2"]));
    one.line_with("world  2");
    two.line_with("world  2");
    signal(one.pid(), "INT");
    assert!(one.rest().contains("left after round"));
    assert!(one.child.wait().expect("its end").success());
    two.line_with("world  1");

    // The same for hooks, where there is no shell.
    succeeded(&run(&["worker", "leave", "--pid", &two.pid().to_string()]));
    assert!(two.rest().contains("left after round"));
    assert!(two.child.wait().expect("its end").success());
    let nobody = run(&["worker", "leave", "--pid", "2147483647"]);
    refused(&nobody, 6, &["failed to ask process 2147483647 to leave"]);
}

#[test]
fn status_shows_who_is_there_and_who_waits_for_whom() {
    let (_master, addr) = master();
    assert!(text(&run(&["status", "--master", &addr]).stdout).contains("no peers yet"));
    let _one = Running::start(worker(&addr, &["--site", "here"]));
    let _two = Running::start(worker(&addr, &["--site", "there"]));
    let group = until("two members", || {
        let group = status(&addr)["groups"][0].clone();
        let peers = group["peers"].as_array()?;
        let members = peers.iter().filter(|peer| peer["rank"].is_u64()).count();
        (members == 2).then_some(group)
    });
    assert!(group["epoch"].as_u64().unwrap() >= 2);
    let mut sites: Vec<&str> =
        group["peers"].as_array().unwrap().iter().filter_map(|p| p["site"].as_str()).collect();
    sites.sort_unstable();
    assert_eq!(sites, ["here", "there"]);
    let table = text(&run(&["status", "--master", &addr]).stdout);
    for word in ["epoch", "2 members", "here", "there", "127.0.0.1:2"] {
        assert!(table.contains(word), "`{word}` is not in:\n{table}");
    }
}

#[test]
fn the_role_comes_from_the_environment() {
    let mut command = pccl(&["--listen", "127.0.0.1:0"]);
    command.env("PCCL_ROLE", "master").env("PCCL_STORE__KIND", "memory");
    Running::start(command).line_with("listening on 127.0.0.1:");
}

#[test]
fn different_models_are_an_error_on_both_sides() {
    let (_master, addr) = master();
    let more = ["--workers", "2", "--rounds", "3"];
    let mut one = worker(&addr, &more);
    let one = one.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut two = pccl(&["worker", "--master", &addr, "--bytes", "8KiB", "--workers", "2", "--rounds", "3"]);
    let two = two.env("PCCL_NETWORK__P2P_PORTS", "21000-23999").output().unwrap();
    for output in [one.wait_with_output().unwrap(), two] {
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{stderr}");
        assert!(stderr.contains("the peers' models differ") && stderr.contains("hint: "), "{stderr}");
    }
}
