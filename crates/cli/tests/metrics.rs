//! `/metrics`, `/healthz` and `/readyz` of a fleet as an operator's tools ask for them.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Running, pccl, signal, until};

/// A process of a fleet, with the address of its metrics.
struct Part {
    running: Running,
    metrics: String,
}

impl Part {
    fn start(mut command: Command, log: &Path) -> Self {
        command.env("PCCL_METRICS_ADDRESS", "127.0.0.1:0").env("PCCL_LOGGING__FILE", log);
        command.stderr(Stdio::null());
        let running = Running::start(command);
        let metrics = until("an address of metrics", || {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let rest = text.split("http://").nth(1)?;
            Some(rest.split('/').next()?.to_owned())
        });
        Self { running, metrics }
    }

    /// Status and body.
    fn ask(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.metrics).expect("metrics listen");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
    }

    /// All series and their values.
    fn series(&self) -> BTreeMap<String, f64> {
        let (status, body) = self.ask("/metrics");
        assert_eq!(status, 200, "{body}");
        let line = |line: &str| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name.to_owned(), value.parse().expect("a number"))
        };
        body.lines().filter(|l| !l.starts_with('#')).map(line).collect()
    }
}

fn master(folder: &Path) -> (Part, String) {
    let mut command = pccl(&["master", "--listen", "127.0.0.1:0"]);
    command.env("PCCL_STORE__KIND", "memory").env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
    let mut master = Part::start(command, &folder.join("master.log"));
    let addr = master.running.listening();
    (master, addr)
}

fn worker(folder: &Path, master: &str, number: u32) -> Part {
    let mut command = pccl(&["worker", "--master", master, "--bytes", "1MiB", "--workers", "3"]);
    command.env("PCCL_NETWORK__P2P_PORTS", "21000-23999");
    Part::start(command, &folder.join(format!("worker{number}.log")))
}

#[test]
fn a_fleet_shows_its_peers_links_and_ops_and_which_peer_hangs() {
    let folder = tempfile::tempdir().expect("a folder");
    let (master, addr) = master(folder.path());
    assert_eq!(master.ask("/healthz").0, 200);
    let workers: Vec<Part> = (0..3).map(|n| worker(folder.path(), &addr, n)).collect();
    rounds(&workers);
    for worker in &workers {
        assert_eq!(worker.ask("/healthz"), (200, "ok\n".to_owned()));
        let (status, body) = worker.ask("/readyz");
        assert_eq!(status, 200, "{body}");
    }
    let first = workers[0].series();
    assert!((first["pccl_peer_count"] - 3.0).abs() < f64::EPSILON, "{first:?}");
    assert!(first["pccl_throughput_gbps"] > 0.0, "{first:?}");
    let links: Vec<_> = first.keys().filter(|k| k.starts_with("pccl_link_sent_bytes_total{")).collect();
    assert_eq!(links.len(), 2, "{first:?}");
    for link in links {
        let labels = link.trim_start_matches("pccl_link_sent_bytes_total");
        assert!(first[&format!("pccl_link_rtt_seconds{labels}")] > 0.0, "{first:?}");
        assert!((first[&format!("pccl_link_up{labels}")] - 1.0).abs() < f64::EPSILON, "{first:?}");
        assert!(first.contains_key(&format!("pccl_link_retransmits_total{labels}")), "{first:?}");
    }
    let of_master = master.series();
    assert!((of_master["pccl_master_active"] - 1.0).abs() < f64::EPSILON, "{of_master:?}");
    assert!((of_master["pccl_peer_count"] - 3.0).abs() < f64::EPSILON, "{of_master:?}");
    let heard = |k: &&String| k.starts_with("pccl_master_heartbeat_age_seconds{");
    assert_eq!(of_master.keys().filter(heard).count(), 3);

    // One stops: the others show whom they wait for, before the timeout has decided anything.
    signal(workers[2].running.pid(), "STOP");
    let (hung, awaited) = until("the hanging peer is shown", || {
        let hung = peers_with(&master.series(), "pccl_master_heartbeat_age_seconds", 1.0);
        // It may have stopped when the others had its data and not its promise, or its vote: the master knows that.
        let awaited = peers_with(&master.series(), "pccl_master_awaited", 0.5);
        hung.first().is_some_and(|peer| awaited.contains(peer)).then_some((hung, awaited))
    });
    let silent = workers[0].series();
    signal(workers[2].running.pid(), "CONT");
    assert_eq!(hung.len(), 1, "{hung:?}");
    assert!(awaited.contains(&hung[0]), "{awaited:?}");
    let waited = silent.iter().filter(|(key, _)| key.starts_with("pccl_wait_seconds_total{"));
    assert!(waited.map(|(_, seconds)| seconds).sum::<f64>() > 0.5, "{silent:?}");
}

/// Waits until all have averaged models with each other: smaller ops are done by fewer, before.
fn rounds(workers: &[Part]) {
    for worker in workers {
        until("rounds", || {
            let series = worker.series();
            let sum = |name: &str| -> f64 {
                series.iter().filter(|(key, _)| key.starts_with(name)).map(|(_, value)| value).sum()
            };
            // In a ring, data come from one neighbour and go to the other.
            let both = sum("pccl_link_sent_bytes_total{").min(sum("pccl_link_received_bytes_total{"));
            (both > 3e6 && sum("pccl_world_size{") > 2.5).then_some(())
        });
    }
}

/// The peers whose series of this name are above a limit.
fn peers_with(series: &BTreeMap<String, f64>, name: &str, above: f64) -> Vec<String> {
    let peer = |key: &String| Some(key.split("peer=\"").nth(1)?.split('"').next()?.to_owned());
    let of_name = series.iter().filter(|(key, _)| key.starts_with(&format!("{name}{{")));
    of_name.filter(|(_, value)| **value > above).filter_map(|(key, _)| peer(key)).collect()
}

#[test]
fn a_taken_port_is_a_warning_and_the_fleet_works() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let log = folder.path().join("log");
    let mut command = pccl(&["master", "--listen", "127.0.0.1:0"]);
    command.env("PCCL_STORE__KIND", "memory").env("PCCL_METRICS_ADDRESS", &address);
    command.env("PCCL_LOGGING__FILE", &log);
    let mut master = Running::start(command);
    master.line_with("listening on ");
    let text = std::fs::read_to_string(&log).expect("a log");
    assert!(text.contains("WARN") && text.contains(&address) && text.contains("metrics.address"), "{text}");
}
