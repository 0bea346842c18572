//! The pods of `deployments/pccl-fleet/kubernetes`, run as processes by what kubectl renders: command lines, environment,
//! volumes, users, read-only roots, names of Services, probes and hooks are those of the manifests.

mod common;

use std::path::{Path, PathBuf};

use common::postgres::Postgres;
use common::{run, succeeded, text, until};
use pccl_cloud::pods::{Manifest, Node, unavailable};

const SECRET: &str = "5d1c7a90-the-secret-of-the-pods";
const SMALL: &[(&str, &str)] =
    &[("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000"), ("PCCL_NETWORK__HEARTBEAT_INTERVAL_MS", "100")];

fn overlay(name: &str) -> Manifest {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../deployments/pccl-fleet/kubernetes/overlays")
        .join(name);
    Manifest::rendered(&folder).unwrap_or_else(|error| panic!("{error}"))
}

/// A node with the Secrets of a fleet.
fn node(name: &str) -> Node {
    if let Some(why) = unavailable() {
        panic!("{why}: run this test as root");
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_pccl"));
    let mut node = Node::new(overlay(name), &program).unwrap_or_else(|error| panic!("{error}"));
    node.secret("pccl-auth", "secret", SECRET);
    node
}

fn start(node: &mut Node, workload: &str, count: usize) -> Vec<String> {
    let model: &[&str] = if workload == "pccl-worker" { &["--bytes", "64KiB"] } else { &[] };
    node.start(workload, count, model, SMALL).unwrap_or_else(|error| panic!("{error}"))
}

fn ready(node: &Node, pod: &str) {
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        until(&format!("{probe} of {pod}"), || {
            let answer = node.probe(pod, probe).unwrap_or_else(|error| panic!("{error}"));
            (answer == Ok(200)).then_some(())
        });
    }
}

/// A figure of a pod's page.
fn figure(node: &Node, pod: &str, name: &str) -> f64 {
    let page = node.get(pod, "metrics", "/metrics").unwrap_or_default();
    let line = page.lines().find(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

fn members(node: &Node, pod: &str, count: u32) {
    until(&format!("{count} members at {pod}"), || {
        ((figure(node, pod, "pccl_peer_count") - f64::from(count)).abs() < 0.5).then_some(())
    });
}

/// Some more rounds of all.
fn rounds(node: &Node, pods: &[String]) {
    for pod in pods {
        let done = || figure(node, pod, "pccl_collective_latency_count");
        let before = done();
        until(&format!("ops of {pod}: {}", node.log(pod)), || (done() > before + 3.0).then_some(()));
    }
}

#[test]
fn a_single_master_keeps_its_state_on_a_volume_and_a_worker_drains_before_it_stops() {
    let mut node = node("single");
    let master = start(&mut node, "pccl-master", 1).remove(0);
    ready(&node, &master);
    let workers = start(&mut node, "pccl-worker", 3);
    members(&node, &master, 3);
    for worker in &workers {
        ready(&node, worker);
    }
    rounds(&node, &workers);

    // As the security context says.
    let status = node.execute(&workers[0], &["/bin/cat", "/proc/1/status"]).expect("it runs");
    let status = text(&status.stdout);
    for line in ["Uid:\t65532\t65532\t65532\t65532", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
    for place in ["/x", "/etc/pccl/x", "/run/secrets/pccl/auth/secret"] {
        let written = node.execute(&workers[0], &["/usr/bin/touch", place]).expect("it runs");
        assert!(!written.status.success(), "{place} can be written");
    }

    // The hook and SIGTERM: it leaves between two rounds, and nobody needs a recovery.
    let recoveries = |node: &Node, pod: &str| figure(node, pod, "pccl_recovery_total");
    let before = recoveries(&node, &workers[0]);
    let (hook, status) = node.delete(&workers[2]).expect("it ends");
    succeeded(&hook.expect("a preStop hook"));
    assert!(status.success(), "{status}: {}", node.log(&workers[2]));
    members(&node, &master, 2);
    rounds(&node, &workers[..2]);
    let after = recoveries(&node, &workers[0]);
    assert!((after - before).abs() < 0.5, "{before} {after}");

    // Recreated, with another address: the volume has the run, and its Service leads to the new pod.
    let run = run_of(&node, &master);
    let (hook, status) = node.delete(&master).expect("it ends");
    assert!(hook.is_none() && status.success(), "{status}");
    let master = start(&mut node, "pccl-master", 1).remove(0);
    ready(&node, &master);
    members(&node, &master, 2);
    rounds(&node, &workers[..2]);
    assert_eq!(run_of(&node, &master), run);
}

/// The run that a master serves.
fn run_of(node: &Node, master: &str) -> String {
    let ask = ["/pccl", "status", "--config", "/etc/pccl/pccl_config.yaml", "--json", "--master"];
    let address = format!("{}:7117", node.ip(master).expect("a pod"));
    let output = node.execute(master, &[&ask[..], &[&address]].concat()).expect("it runs");
    succeeded(&output);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    status["run"].as_str().expect("a run").to_owned()
}

#[test]
fn a_standby_is_ready_sends_peers_to_the_active_one_and_takes_over() {
    let postgres = Postgres::start();
    let mut node = node("standby");
    let place = node.forward(postgres.port()).expect("a forwarded port");
    node.secret("pccl-store", "url", &format!("postgres://pccl@{place}/postgres?sslmode=disable"));
    let certs = tempfile::tempdir().expect("a folder");
    let folder = certs.path().to_str().expect("UTF-8");
    succeeded(&run(&["cert", "init", "--dir", folder]));
    succeeded(&run(&["cert", "issue", "--dir", folder, "pccl-master", "pccl-standby"]));
    for (key, file) in [("tls.crt", "pccl-master.crt"), ("tls.key", "pccl-master.key"), ("ca.crt", "ca.crt")]
    {
        node.secret("pccl-tls", key, &std::fs::read_to_string(certs.path().join(file)).expect("a file"));
    }

    let active = start(&mut node, "pccl-master", 1).remove(0);
    ready(&node, &active);
    until("it leads", || (figure(&node, &active, "pccl_master_active") > 0.5).then_some(()));
    let standby = start(&mut node, "pccl-standby", 1).remove(0);
    ready(&node, &standby);
    assert!(figure(&node, &standby, "pccl_master_active") < 0.5);

    // The standby says where the active one is, by its advertised address.
    let ask = ["/pccl", "status", "--config", "/etc/pccl/pccl_config.yaml", "--master", "pccl-standby"];
    let output = node.execute(&standby, &ask).expect("it runs");
    succeeded(&output);
    let active_at = format!("the active one is at {}:7117", node.ip(&active).expect("a pod"));
    until("the standby knows the active one", || {
        let output = node.execute(&standby, &ask).expect("it runs");
        text(&output.stdout).contains(&active_at).then_some(())
    });

    let workers = start(&mut node, "pccl-worker", 2);
    assert_eq!(node.environment(&workers[0]).expect("a pod")["PCCL_MASTER"], "pccl-master,pccl-standby");
    members(&node, &active, 2);
    rounds(&node, &workers);
    node.kill(&active).expect("it is killed");
    until("the standby leads", || (figure(&node, &standby, "pccl_master_active") > 0.5).then_some(()));
    members(&node, &standby, 2);
    rounds(&node, &workers);
    let recoveries = figure(&node, &workers[0], "pccl_recovery_total");
    assert!(recoveries < 0.5, "{recoveries}");
}
