//! What is shipped in `monitoring/`, by a real Prometheus that scrapes a real fleet.
//!
//! `cargo xtask tools` gets Prometheus; `cargo xtask test` does that by itself.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Running, pccl, signal, until};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn shipped(file: &str) -> PathBuf {
    root().join("monitoring").join(file)
}

/// A program that `cargo xtask tools` has unpacked, else the one on PATH.
fn tool(name: &str) -> Command {
    let unpacked = root().join("target/tools/debian/usr/bin").join(name);
    Command::new(if unpacked.exists() { unpacked } else { PathBuf::from(name) })
}

fn promtool(args: &[&str]) {
    let output = tool("promtool").args(args).current_dir(shipped("prometheus")).output();
    let output = output.unwrap_or_else(|e| panic!("promtool: {e}; `cargo xtask tools` gets it"));
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {text}");
}

#[test]
fn the_alert_rules_fire_when_they_should_and_only_then() {
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);
}

#[test]
fn the_scrape_configurations_are_valid() {
    promtool(&["check", "config", "prometheus.yml"]);
    // Debian's Prometheus is built without Kubernetes: everything but the discovery itself is checked.
    let text = fs::read_to_string(shipped("prometheus/kubernetes.yml")).expect("a file");
    let discovery = "kubernetes_sd_configs:\n      - role: pod\n";
    assert_eq!(text.matches(discovery).count(), 2);
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("kubernetes.yml");
    let text = text.replace(discovery, "static_configs:\n      - targets: [\"10.0.0.1:9090\"]\n");
    fs::write(&copy, text.replace("- alerts.yml", "- /dev/null")).expect("a copy");
    promtool(&["check", "config", copy.to_str().expect("UTF-8")]);
}

/// A process with the address of its metrics.
fn part(mut command: Command, log: &Path) -> (Running, String) {
    command.env("PCCL_METRICS_ADDRESS", "127.0.0.1:0").env("PCCL_LOGGING__FILE", log);
    let running = Running::start(command);
    let address = until("an address of metrics", || {
        let text = fs::read_to_string(log).unwrap_or_default();
        Some(text.split("http://").nth(1)?.split('/').next()?.to_owned())
    });
    (running, address)
}

struct Prometheus {
    child: Child,
    address: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// The shipped configuration, with other targets and without patience.
    fn start(folder: &Path, master: &str, workers: &[&str]) -> Self {
        let text = fs::read_to_string(shipped("prometheus/prometheus.yml")).expect("a file");
        let quoted: Vec<String> = workers.iter().map(|w| format!("\"{w}\"")).collect();
        let changed = text
            .replace("\"master.example.com:9090\"", &format!("\"{master}\""))
            .replace("\"worker-1.example.com:9090\", \"worker-2.example.com:9090\"", &quoted.join(", "))
            .replace("15s", "1s");
        assert!(changed.contains(master) && quoted.iter().all(|w| changed.contains(w)), "{changed}");
        fs::write(folder.join("prometheus.yml"), changed).expect("a configuration");
        fs::copy(shipped("prometheus/alerts.yml"), folder.join("alerts.yml")).expect("rules");
        let log = folder.join("prometheus.log");
        let child = tool("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .unwrap_or_else(|e| panic!("prometheus: {e}; `cargo xtask tools` gets it"));
        let mut prometheus = Self { child, address: String::new() };
        prometheus.address = until("Prometheus listens", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let line = text.lines().find(|line| line.contains("Listening on"))?;
            Some(line.split("address=").nth(1)?.split_whitespace().next()?.to_owned())
        });
        prometheus
    }

    /// The answer to a query: its series, or an error.
    fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded = expression.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"));
        let mut stream = TcpStream::connect(&self.address).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(|e| e.to_string())?;
        write!(stream, "GET /api/v1/query?query={encoded} HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        let value: Value = serde_json::from_str(body).map_err(|e| format!("{e}: {answer}"))?;
        if value["status"] != "success" {
            return Err(value["error"].to_string());
        }
        Ok(value["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    fn some(&self, expression: &str) -> Vec<Value> {
        until(expression, || {
            let result = self.query(expression).unwrap_or_default();
            (!result.is_empty() && result.iter().all(|r| r["value"][1] != "NaN")).then_some(result)
        })
    }
}

/// All expressions of the dashboard.
fn dashboard() -> Vec<String> {
    let text = fs::read_to_string(shipped("grafana/pccl.json")).expect("a file");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let panels = value["panels"].as_array().expect("panels").clone();
    let targets = panels.iter().flat_map(|p| p["targets"].as_array().cloned().unwrap_or_default());
    let annotations = value["annotations"]["list"].as_array().cloned().unwrap_or_default();
    let expression = |v: Value| v["expr"].as_str().map(str::to_owned);
    let all: Vec<String> = targets.chain(annotations).filter_map(expression).collect();
    let plain = |e: &String| e.replace("$__rate_interval", "5m").replace("$fleet", ".*");
    all.iter().map(plain).collect()
}

#[test]
fn a_real_prometheus_scrapes_a_fleet_and_tells_when_a_peer_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = pccl(&["master", "--listen", "127.0.0.1:0"]);
    command.env("PCCL_STORE__KIND", "memory").env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
    let (mut master, master_metrics) = part(command, &folder.path().join("master.log"));
    let addr = master.listening();
    let workers: Vec<(Running, String)> = (0..3)
        .map(|n| {
            let mut command = pccl(&["worker", "--master", &addr, "--bytes", "64KiB", "--workers", "3"]);
            command.env("PCCL_NETWORK__P2P_PORTS", "21000-23999");
            part(command, &folder.path().join(format!("worker{n}.log")))
        })
        .collect();
    let addresses: Vec<&str> = workers.iter().map(|(_, address)| address.as_str()).collect();
    let prometheus = Prometheus::start(folder.path(), &master_metrics, &addresses);

    // What dashboards and runbooks ask for.
    prometheus.some("histogram_quantile(0.99, rate(pccl_collective_latency_bucket[5m])) > 0");
    prometheus.some("count(rate(pccl_recovery_total[5m])) == 3");
    prometheus.some("pccl_master_members == 3");
    prometheus.some("sum(rate(pccl_collective_latency_count[5m])) > 0");
    let mut with_data = 0;
    let expressions = dashboard();
    for expression in &expressions {
        let result = prometheus.query(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        with_data += usize::from(!result.is_empty());
    }
    // Some show only what is wrong.
    assert!(expressions.len() > 20 && with_data * 10 >= expressions.len() * 7, "{with_data} {expressions:?}");
    let firing = "ALERTS{alertstate=\"firing\", alertname=~\"Pccl.*\"}";
    assert_eq!(prometheus.query(firing), Ok(Vec::new()));

    signal(workers[2].0.pid(), "KILL");
    prometheus.some("ALERTS{alertname=\"PcclPeersDropped\", alertstate=\"firing\"}");
    prometheus.some("pccl_master_members == 2");
}
