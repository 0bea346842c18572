//! What is wrong with a fleet that runs: each cause made for real.

mod common;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use common::{Running, causes, examined, finds, master, pccl, pccl_on, until, worker};
use pccl_doctor::observed::Setting;
use pccl_doctor::{Cause, ExamineOptions, Level, MasterName, Symptom, examine};
use pccl_link::{Network, NetworkOptions, Shape};
use pccl_observe::process::Roots;
use serde_json::Value;

#[test]
fn a_worker_that_is_killed_again_and_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_master, addr, metrics) = master(folder.path(), &[]);
    let steady = worker(folder.path(), &addr, "steady.log", &["--bytes", "4KiB"]);
    let (_steady, _) = Running::start(steady, "round ");
    let examine = |more: &[&str]| {
        let line =
            ["doctor", "frequent-recoveries", "--master", &addr, "--metrics", &metrics, "--watch-ms", "200"];
        examined(pccl(&[&line[..], more].concat()))
    };
    for turn in 0..4 {
        let name = format!("worker{turn}.log");
        let (killed, _) =
            Running::start(worker(folder.path(), &addr, &name, &["--bytes", "4KiB"]), "world  2");
        killed.signal("KILL");
        drop(killed);
    }
    let said = until("the fourth loss", || {
        let said = examine(&[]);
        said.1["findings"][0]["measured"].as_str()?.starts_with("4 peers lost").then_some(said)
    });
    finds(&said, "peers_lost", &["per minute", "127.0.0.1:2", "PcclFrequentRecoveries"]);
    // Without any page it is said that nothing is known of losses.
    let mut command = pccl(&["doctor", "frequent-recoveries", "--master", &addr, "--watch-ms", "100"]);
    command.env("PCCL_METRICS_ADDRESS", "off");
    let (_, said) = examined(command);
    assert!(said["unmeasured"].to_string().contains("metrics.address is off"), "{said:#}");
}

/// A fleet of three hosts, all of whose processes serve their metrics where the configuration says by default.
fn fleet(network: &Network, bytes: &str) -> Vec<Running> {
    let at = network.address(0).to_string();
    let mut command = pccl_on(network, 0, &["master", "--listen", &format!("{at}:7117")]);
    command.env("PCCL_STORE__KIND", "memory").env("PCCL_METRICS_ADDRESS", ":9091");
    command.env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
    let mut all = vec![Running::start(command, "listening on ").0];
    let start = |host: usize| {
        let mut command =
            pccl_on(network, host, &["worker", "--master", &at, "--bytes", bytes, "--workers", "3"]);
        command.env("PCCL_METRICS_ADDRESS", ":9090").stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        Running(command.spawn().expect("it starts"))
    };
    all.extend([1, 2].map(start));
    let mut last = pccl_on(network, 0, &["worker", "--master", &at, "--bytes", bytes, "--workers", "3"]);
    last.env("PCCL_METRICS_ADDRESS", ":9090");
    all.push(Running::start(last, "round    2").0);
    all
}

#[test]
fn one_slow_link_among_others() {
    let network = Network::new(&NetworkOptions { hosts: 3, shape: Shape::FREE, ..NetworkOptions::default() });
    let network = network.expect("a network");
    let slow = Shape { rate_bps: Some(20_000_000), delay: Duration::from_millis(60), ..Shape::FREE };
    network.set_both(1, 2, slow);
    // So few bytes that the others have nothing to queue for, also on a machine that is busy with other tests.
    let _fleet = fleet(&network, "64KiB");
    let at = network.address(0).to_string();
    let (one, other) = (network.address(1).to_string(), network.address(2).to_string());
    for symptom in ["low-throughput", "high-latency"] {
        let said =
            examined(pccl_on(&network, 0, &["doctor", symptom, "--master", &at, "--watch-ms", "3000"]));
        finds(&said, "slow_link", &[&one, &other, "the median of", "pccl check"]);
        // No other link is blamed.
        let blamed: Vec<Value> = said.1["findings"].as_array().cloned().unwrap_or_default();
        for finding in blamed.iter().filter(|finding| finding["cause"] == "slow_link") {
            let place = finding["place"].to_string();
            assert!(place.contains(&one) && place.contains(&other), "{:#}", said.1);
        }
    }
    // A peer's port that is closed to this host.
    let words = "rule add pref 5 ipproto tcp sport 7118 blackhole";
    let output = network.command(2, "ip").args(words.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = ["doctor", "cant-connect", "--master", &at, "--watch-ms", "200", "--timeout", "2"];
    let said = examined(pccl_on(&network, 0, &line));
    finds(&said, "peer_port_silent", &[&format!("{other}:7118"), "pccl firewall"]);
}

#[test]
fn ports_for_peers_that_are_all_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let mut command = pccl(&["doctor", "cant-connect", "--watch-ms", "100", "--master", "127.0.0.1:9"]);
    command.env("PCCL_NETWORK__P2P_PORTS", format!("{port}-{port}"));
    let (code, said) = examined(command);
    assert_eq!(code, 1);
    let findings = said["findings"].as_array().cloned().unwrap_or_default();
    let found = findings.iter().find(|finding| finding["cause"] == "ports_taken").expect("the cause");
    assert!(found["measured"].to_string().contains(&format!("(pid {})", std::process::id())), "{found:#}");
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, text).expect("a file");
}

fn options(master: &str, metrics: &str, roots: Roots) -> ExamineOptions {
    let (host, port) = master.rsplit_once(':').expect("a port");
    ExamineOptions {
        symptom: Some(Symptom::OutOfMemory),
        masters: vec![MasterName {
            text: master.to_owned(),
            host: host.to_owned(),
            port: port.parse().expect("a port"),
        }],
        metrics: vec![metrics.to_owned()],
        metrics_port: None,
        security: None,
        tls: None,
        setting: Setting::default(),
        p2p_ports: 7118..=7150,
        bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        timeout: Duration::from_secs(20),
        window: Duration::from_millis(100),
        roots,
    }
}

/// The limits of control groups are read from files: here, from files of the test.
#[test]
fn a_control_group_that_is_full_and_one_that_has_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_master, addr, metrics) = master(folder.path(), &[]);
    let root = folder.path();
    write(root, "proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 12000000 kB\n");
    write(root, "proc/self/cgroup", "0::/fleet\n");
    write(root, "cgroup/fleet/memory.max", "1000000000\n");
    write(root, "cgroup/fleet/memory.current", "400000000\n");
    write(root, "cgroup/fleet/memory.events", "oom 0\noom_kill 0\n");
    let roots = Roots { proc: root.join("proc"), cgroup: root.join("cgroup") };
    let look = || examine(&options(&addr, &metrics, roots.clone()));
    let said = look();
    assert_eq!(said.findings, [], "{said:?}");
    write(root, "cgroup/fleet/memory.current", "950000000\n");
    let said = look();
    assert_eq!(
        (said.findings[0].level, said.findings[0].cause),
        (Level::Bad, Cause::MemoryLimit),
        "{said:?}"
    );
    assert!(said.findings[0].measured.contains("95.0 %"), "{said:?}");
    write(root, "cgroup/fleet/memory.events", "oom 1\noom_kill 1\n");
    assert_eq!(look().findings[0].cause, Cause::OomKilled);
    std::fs::remove_file(root.join("proc/meminfo")).expect("a file");
    let unknown = look().unmeasured;
    assert!(unknown.iter().any(|one| one.what == "memory of this machine"), "{unknown:?}");
}

/// A limit that the process itself shows on its page, wherever it runs.
#[test]
fn a_process_that_has_nearly_no_descriptors_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, addr, metrics) = master(folder.path(), &[]);
    let files = std::fs::read_dir(format!("/proc/{}/fd", running.0.id())).expect("a process").count();
    let most = files + 3;
    let limit = [format!("--pid={}", running.0.id()), format!("--nofile={most}")];
    assert!(std::process::Command::new("prlimit").args(limit).status().expect("prlimit runs").success());
    let line = ["doctor", "cant-connect", "--master", &addr, "--metrics", &metrics, "--watch-ms", "100"];
    let (_, said) = examined(pccl(&line));
    assert_eq!(causes(&said).first().map(String::as_str), Some("files_short"), "{said:#}");
    assert!(
        said["findings"][0]["measured"].to_string().contains(&format!("of {most} open files")),
        "{said:#}"
    );
}
