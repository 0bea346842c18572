//! Several masters on one store: the active one is killed, stopped, told to give way; the workers go on.

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Running, pccl, refused, run, signal, succeeded, text, until};
use serde_json::Value;

/// A master that shares the file with others, and its address.
fn master(store: &Path, more: &[&str]) -> (Running, String) {
    let store = store.display().to_string();
    let listen = if more.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
    let mut command = pccl(&[&["master", "--store", &store], listen, more].concat());
    command.env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
    let mut master = Running::start(command);
    let addr = master.listening();
    (master, addr)
}

fn worker(masters: &[&str]) -> Command {
    let masters = masters.join(",");
    let mut command = pccl(&["worker", "--master", &masters, "--bytes", "64KiB", "--workers", "3"]);
    command.env("PCCL_NETWORK__P2P_PORTS", "27000-29999");
    command
}

fn status(master: &str) -> Value {
    let output = run(&["status", "--master", master, "--json"]);
    succeeded(&output);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn leads(master: &str) {
    until("it leads", || (status(master)["role"] == "Active").then_some(()));
}

/// Tells `from` to do as `command` says, and waits until `to` leads. An order that a machine which stood still has let
/// pass is given again.
fn orders(command: &str, from: &str, to: &str) {
    succeeded(&run(&["master", command, "--master", from]));
    let mut given = Instant::now();
    until("it leads", || {
        if given.elapsed() > Duration::from_secs(10) {
            given = Instant::now();
            run(&["master", command, "--master", from]);
        }
        (status(to)["role"] == "Active").then_some(())
    });
}

/// The number and the hash of a round that all three have done.
fn round(line: &str) -> u64 {
    let mut words = line.split_whitespace().skip_while(|word| *word != "round");
    words.nth(1).and_then(|n| n.trim_end_matches(':').parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

/// All workers do some more rounds, all three together.
fn go_on(workers: &mut [Running]) {
    for worker in &mut *workers {
        let first = round(&worker.line_with("world  3"));
        until("more rounds", || (round(&worker.line_with("world  3")) >= first + 5).then_some(()));
    }
}

#[test]
fn another_master_takes_over_and_no_worker_notices() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = dir.path().join("state");
    let (one, first) = master(&store, &[]);
    leads(&first);
    let (two, second) = master(&store, &["--standby"]);
    until("it stands by", || (status(&second)["role"] == "Standby").then_some(()));
    let said = text(&run(&["status", "--master", &second]).stdout);
    assert!(said.contains(&format!("not active, the active one is at {first}")), "{said}");

    let said = text(&run(&["status", "--master", &format!("{second},{first},127.0.0.1:1")]).stdout);
    for words in [["active", "answers"], ["standby", "-"], ["does not answer", "127.0.0.1:1"]] {
        assert!(said.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {said}");
    }

    let mut workers: Vec<_> = (0..3).map(|_| Running::start(worker(&[&first, &second]))).collect();
    go_on(&mut workers);
    drop(one);
    leads(&second);
    go_on(&mut workers);

    // It comes back, stands by, and takes over by appointment.
    let (third, back) = master(&store, &["--standby"]);
    until("it stands by", || (status(&back)["role"] == "Standby").then_some(()));
    orders("step-down", &second, &back);
    until("it stands by", || (status(&second)["role"] == "Standby").then_some(()));
    refused(&run(&["master", "step-down", "--master", &second]), 1, &["not the active one"]);
    orders("promote", &second, &second);
    go_on(&mut workers);

    // Frozen for longer than its lease, it wakes as a standby.
    signal(two.pid(), "STOP");
    leads(&back);
    signal(two.pid(), "CONT");
    until("it stands by", || (status(&second)["role"] == "Standby").then_some(()));
    leads(&back);

    // Told to end, it hands over.
    signal(third.pid(), "TERM");
    leads(&second);
    go_on(&mut workers);
    for worker in &workers {
        signal(worker.pid(), "INT");
    }
    for worker in &mut workers {
        assert!(worker.rest().contains("left after round"));
        assert!(worker.child.wait().expect("its end").success());
    }
}

/// A command that sees other names of hosts.
fn with_hosts(command: &Command, hosts: &Path) -> Command {
    let root = std::fs::metadata("/proc/self").expect("itself").uid() == 0;
    let mut outer = Command::new("unshare");
    outer.args(if root { &["--mount"][..] } else { &["--user", "--map-root-user", "--mount"] });
    outer.args(["sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(hosts);
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        outer.env(name, value.unwrap_or_default());
    }
    outer
}

#[test]
fn a_master_that_moves_is_found_by_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, hosts) = (dir.path().join("state"), dir.path().join("hosts"));
    let (one, first) = master(&store, &[]);
    let (_, port) = first.rsplit_once(':').expect("a port");
    let moved = format!("127.0.0.2:{port}");
    let name = |ip| std::fs::write(&hosts, format!("127.0.0.1 localhost\n{ip} master.pccl.test\n"));
    name("127.0.0.1").expect("a file");
    let start = |_| Running::start(with_hosts(&worker(&[&format!("master.pccl.test:{port}")]), &hosts));
    let mut workers: Vec<_> = (0..3).map(start).collect();
    go_on(&mut workers);

    drop(one);
    let (_two, second) = master(&store, &["--listen", &moved]);
    assert_eq!(second, moved);
    leads(&second);
    name("127.0.0.2").expect("a file");
    go_on(&mut workers);
}

#[test]
fn a_store_in_memory_cannot_be_shared() {
    let output = pccl(&["master", "--standby", "--listen", "127.0.0.1:0"])
        .env("PCCL_STORE__KIND", "memory")
        .output()
        .expect("it ends");
    refused(&output, 3, &["cannot be shared", "--store"]);
}
