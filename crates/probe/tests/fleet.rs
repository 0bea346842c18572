//! `pccl check` beside a running fleet. The program is that of this workspace: `cargo build -p pccl-cli`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pccl_link::{Network, NetworkOptions, Shape};
use serde_json::Value;

type Failed = Box<dyn std::error::Error>;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// The program, beside which tests are built.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    let path = test.ancestors().nth(2).unwrap_or(&test).join("pccl");
    assert!(path.is_file(), "{} is not there: run `cargo build -p pccl-cli` first", path.display());
    path
}

/// A program that ends with the test, as soon as it has said this.
fn running(mut command: Command, said: &str) -> Child {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains(said))), "it ends without `{said}`");
    // Whoever writes on must not wait for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

/// `pccl check` on a host, in a folder without a configuration.
fn check(network: &Network, host: usize, arguments: &[&str]) -> Command {
    let mut command = network.command(host, program());
    command.arg("check").args(arguments).current_dir("/").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What one of them has said: exit code, report.
fn ended(child: Child) -> Result<(i32, Value), Failed> {
    let output = child.wait_with_output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report = serde_json::from_str(out.trim()).map_err(|e| format!("{e}: `{out}` `{err}`"))?;
    Ok((output.status.code().unwrap_or(-1), report))
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn level(report: &Value, what: &str) -> Vec<String> {
    let judged = report["pairs"][0]["judged"].as_array().cloned().unwrap_or_default();
    let of = judged.iter().map(|one| &one[1]).filter(|one| one["what"] == what);
    of.map(|one| one["level"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn beside_a_running_fleet_little_is_sent_and_its_counters_are_read() {
    let shape = Shape { delay: MS(5), rate_bps: Some(50_000_000), ..Shape::FREE };
    let network = Network::new(&NetworkOptions { hosts: 2, shape, ..NetworkOptions::default() }).unwrap();
    let (at, program) = (network.address(0).to_string(), program());
    let mut master = network.command(0, &program);
    master.args(["master", "--listen", &format!("{at}:7117")]);
    master.env("PCCL_STORE__KIND", "memory").env("PCCL_METRICS__ADDRESS", "off");
    master.env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
    let mut fleet = vec![running(master, "listening on ")];
    let worker = |host: usize| {
        let mut worker = network.command(host, &program);
        worker.args(["worker", "--master", &at, "--bytes", "1MiB", "--workers", "2"]);
        worker
    };
    // The first comes to its rounds when the second is there.
    let mut second = worker(1);
    fleet.push(second.stdout(Stdio::null()).spawn().unwrap());
    fleet.push(running(worker(0), "round    3"));
    let settings = ["--running", "--port", "7151", "--probes", "1200", "--link-mbps", "50"];
    let mut serve = vec!["--serve", "--hosts", "2", "--json", "--name", "h0"];
    serve.extend(settings);
    let serve = check(&network, 0, &serve).spawn().unwrap();
    let join =
        check(&network, 1, &["--master", &at, "--json", "--running", "--port", "7151"]).spawn().unwrap();
    let (one, other) = (ended(serve).unwrap(), ended(join).unwrap());
    assert_eq!(one, other);
    let report = one.1;
    assert!(number(&report, "/pairs/0/round_trips/min_ms") >= 10.0, "{report}");
    for way in ["there", "back"] {
        assert_eq!(
            report.pointer(&format!("/pairs/0/{way}/from_counters")),
            Some(&Value::from(true)),
            "{report}"
        );
        let mbps = number(&report, &format!("/pairs/0/{way}/mbps"));
        assert!(mbps > 1.0 && mbps < 60.0, "{mbps} Mbit/s on a link of 50");
    }
    // Busy seconds of a fleet do not condemn its link.
    assert_eq!(level(&report, "bandwidth"), ["unknown", "unknown"], "{report}");
    assert!(level(&report, "ports").is_empty(), "{report}");
    for mut process in fleet {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
