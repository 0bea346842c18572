//! `deployments/pccl-fleet` from nothing to verified, in two regions: the engine with the real Terraform and kubectl against
//! simulated clusters, whose pods are real processes on a real PostgreSQL, watched by a real Prometheus.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::postgres::Postgres;
use common::{Running, pccl, succeeded, text, until};
use pccl_cloud::{Background, kubernetes};
use serde_json::Value;

const REGIONS: [&str; 2] = ["northeurope", "uksouth"];
const SECRET: &str = "a secret of this test";
/// Where the manifests mount configuration and secret.
const MOUNTED_CONFIG: &str = "/etc/pccl/pccl_config.yaml";
const MOUNTED_SECRET: &str = "/run/secrets/pccl/auth/secret";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The deployment in a folder of its own, cut to the regions of this test.
fn deployment(folder: &Path, prometheus: &str) -> PathBuf {
    let copied = Command::new("cp").arg("-r").arg(root().join("deployments/pccl-fleet")).arg(folder).status();
    assert!(copied.expect("cp starts").success());
    let here = folder.join("pccl-fleet");
    // What somebody tried by hand in the repository is not for this test.
    for left in [".pccl-deploy", "terraform/.terraform", "terraform/terraform.tfstate"] {
        let left = here.join(left);
        let _ = if left.is_dir() { fs::remove_dir_all(left) } else { fs::remove_file(left) };
    }
    let file = here.join("deploy.yaml");
    let text = fs::read_to_string(&file).expect("a file");
    let is_other = |line: &&str| {
        let name = line.trim().strip_prefix("- { name: ").and_then(|rest| rest.split(',').next());
        name.is_some_and(|name| line.contains("labels:") && !REGIONS.contains(&name))
    };
    let lines: Vec<&str> = text.lines().filter(|line| !is_other(line)).collect();
    let url = "http://prometheus.{{ target.name }}.{{ vars.domain }}:9090";
    let mut text = lines.join("\n");
    for (theirs, ours) in [(url, prometheus), ("\"== 48\"", "\"== 4\"")] {
        assert!(text.contains(theirs), "`{theirs}` is not in the file");
        text = text.replace(theirs, ours);
    }
    fs::write(&file, text).expect("a writable file");
    file
}

/// A Prometheus that scrapes what the file says, looked at again and again.
struct Prometheus {
    child: Child,
    url: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(folder: &Path) -> Self {
        let program = root().join("target/tools/debian/usr/bin/prometheus");
        assert!(program.exists(), "{} is not there: run `cargo xtask tools`", program.display());
        let config = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: pccl\n    file_sd_configs:\n      \
             - {{ files: ['{}'], refresh_interval: 1s }}\n",
            folder.join("targets.json").display()
        );
        fs::write(folder.join("prometheus.yml"), config).expect("a configuration");
        let log = folder.join("prometheus.log");
        let child = Command::new(program)
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .args(["--web.listen-address=127.0.0.1:0", "--log.level=info"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("Prometheus starts");
        let mut prometheus = Self { child, url: String::new() };
        let address = until("Prometheus listens", || {
            let said = fs::read_to_string(&log).ok()?;
            let line = said.lines().find(|line| line.contains("Listening on"))?.to_owned();
            Some(line.split("address=").nth(1)?.split_whitespace().next()?.trim_matches('"').to_owned())
        });
        prometheus.url = format!("http://{address}");
        prometheus
    }
}

/// Runs the pods of all clusters as processes of this machine: what their containers say, with addresses of loopback.
struct Kubelet<'a> {
    folder: &'a Path,
    kubeconfig: &'a Path,
    running: BTreeMap<String, Running>,
    masters: BTreeMap<String, String>,
    metrics: BTreeSet<String>,
    /// Pods of jobs by name, and what they have said at their end.
    ended: BTreeMap<String, (bool, String)>,
}

impl Kubelet<'_> {
    fn get(&self, region: &str, what: &[&str]) -> String {
        let mut kubectl = Command::new("kubectl");
        kubectl.env("KUBECONFIG", self.kubeconfig).env("KUBECACHEDIR", self.folder.join("cache-of-kubelet"));
        kubectl.args(["--context", region, "--namespace", "pccl", "get"]).args(what);
        text(&kubectl.output().expect("kubectl starts").stdout)
    }

    /// Starts what is not there yet, until it is told to stop.
    fn work(&mut self, stop: &AtomicBool) {
        let mut is_last = false;
        while !is_last {
            // Once more after the end: what was wanted last is started, too.
            is_last = stop.load(Ordering::SeqCst);
            for region in REGIONS {
                let pods: Value = serde_json::from_str(&self.get(region, &["pods", "--output=json"]))
                    .unwrap_or(Value::Null);
                for pod in pods["items"].as_array().into_iter().flatten() {
                    let name = format!("{region}/{}", pod["metadata"]["name"].as_str().expect("a name"));
                    if !self.running.contains_key(&name) {
                        self.start(region, &name, &pod["spec"]);
                    }
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        for (name, pod) in &mut self.running {
            if name.contains("all-reduce") {
                let status = until("the peer ends", || pod.child.try_wait().expect("a child"));
                let said = pod.rest();
                self.ended.insert(name.clone(), (status.success(), said));
            }
        }
    }

    /// A variable of a container, as the cluster has it.
    fn value(&self, region: &str, variable: &Value) -> String {
        let from = &variable["valueFrom"];
        if from["fieldRef"]["fieldPath"] == "status.podIP" {
            return "127.0.0.1".to_owned();
        }
        for (kind, reference, filter) in
            [("secret", &from["secretKeyRef"], "| base64decode"), ("configmap", &from["configMapKeyRef"], "")]
        {
            if let (Some(name), Some(key)) = (reference["name"].as_str(), reference["key"].as_str()) {
                return self.data(region, kind, name, key, filter);
            }
        }
        variable["value"].as_str().expect("a value").to_owned()
    }

    fn data(&self, region: &str, kind: &str, name: &str, key: &str, filter: &str) -> String {
        let template = format!("--template={{{{ index .data \"{key}\" {filter} }}}}");
        self.get(region, &[kind, name, &template])
    }

    /// The configuration that is mounted, with the secret where it is here.
    fn configuration(&self, region: &str, spec: &Value) -> String {
        let volumes = spec["volumes"].as_array().expect("volumes");
        let config =
            volumes.iter().find_map(|volume| volume["configMap"]["name"].as_str()).expect("a config");
        let text = self.data(region, "configmap", config, "pccl_config.yaml", "");
        let secret = self.folder.join("secret");
        assert!(text.contains(MOUNTED_SECRET), "{text}");
        fs::write(&secret, self.data(region, "secret", "pccl-auth", "secret", "| base64decode"))
            .expect("a file");
        let here = self.folder.join("pccl_config.yaml");
        fs::write(&here, text.replace(MOUNTED_SECRET, &secret.display().to_string())).expect("a file");
        here.display().to_string()
    }

    fn start(&mut self, region: &str, name: &str, spec: &Value) {
        let container = &spec["containers"][0];
        let variables = container["env"].as_array().expect("variables");
        let named = |variable: &Value| variable["name"].as_str().expect("a name").to_owned();
        let mut environment: BTreeMap<String, String> =
            variables.iter().map(|variable| (named(variable), self.value(region, variable))).collect();
        if let Some(masters) = environment.get_mut("PCCL_MASTER") {
            assert_eq!(masters.split(',').count(), 2, "two masters are known: {masters}");
            if self.masters.len() < 2 {
                return;
            }
            *masters = self.masters.values().cloned().collect::<Vec<_>>().join(",");
        }
        let written = container["args"].as_array().into_iter().flatten();
        let mut args: Vec<String> = written.map(|arg| arg.as_str().expect("text").to_owned()).collect();
        for arg in &mut args {
            if arg == MOUNTED_CONFIG {
                *arg = self.configuration(region, spec);
            }
            for (name, value) in &environment {
                *arg = arg.replace(&format!("$({name})"), value);
            }
        }
        let role = environment.get("PCCL_ROLE").cloned();
        // What is too much for one small machine, and the addresses that a host has once.
        match role.as_deref() {
            Some("master" | "standby") => args.extend(["--listen", "127.0.0.1:0"].map(str::to_owned)),
            Some("worker") => args.extend(["--bytes", "256KiB"].map(str::to_owned)),
            _ => {}
        }
        let log = self.folder.join(format!("{}.log", name.replace('/', "-")));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = pccl(&args);
        command
            .envs(&environment)
            .env("PCCL_NETWORK__P2P_PORTS", "24000-26999")
            .env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000")
            .env("PCCL_FLIGHT_DIR", self.folder)
            .env("PCCL_LOGGING__FILE", &log);
        if role.is_some() {
            command.env("PCCL_METRICS_ADDRESS", "127.0.0.1:0");
        }
        let mut process = Running::start(command);
        if matches!(role.as_deref(), Some("master" | "standby")) {
            let line = process.line_with("listening on ");
            let address = line.trim_start_matches("listening on ").split(',').next().expect("an address");
            self.masters.insert(name.to_owned(), address.to_owned());
        }
        if role.is_some() {
            let address = until("an address of metrics", || {
                let text = fs::read_to_string(&log).unwrap_or_default();
                Some(text.split("http://").nth(1)?.split('/').next()?.to_owned())
            });
            self.metrics.insert(address);
            let targets = serde_json::json!([{ "targets": self.metrics }]);
            let (whole, part) = (self.folder.join("targets.json"), self.folder.join("targets.part"));
            fs::write(&part, targets.to_string()).and_then(|()| fs::rename(part, whole)).expect("a file");
        }
        self.running.insert(name.to_owned(), process);
    }
}

#[test]
fn a_fleet_is_deployed_and_verified_by_its_own_figures_and_sums() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let clusters = Background::start(&kubernetes::Options {
        clusters: REGIONS.map(str::to_owned).to_vec(),
        nodes: 3,
        pod_time: Duration::from_millis(50),
    })
    .expect("a free port");
    let kubeconfig = here.join("kubeconfig");
    fs::write(&kubeconfig, clusters.kubeconfig()).unwrap();
    let postgres = Postgres::start();
    let prometheus = Prometheus::start(here);
    let file = deployment(here, &prometheus.url).display().to_string();
    let stop = AtomicBool::new(false);
    let mut kubelet = Kubelet {
        folder: here,
        kubeconfig: &kubeconfig,
        running: BTreeMap::new(),
        masters: BTreeMap::new(),
        metrics: BTreeSet::new(),
        ended: BTreeMap::new(),
    };
    let output = thread::scope(|scope| {
        let kubelet = scope.spawn(|| kubelet.work(&stop));
        let mut run = pccl(&["deploy", "run", &file]);
        run.env("KUBECONFIG", &kubeconfig)
            .env("KUBECACHEDIR", here.join("cache"))
            .env("TF_VAR_regions", "{ northeurope = 1, uksouth = 2 }")
            .env("PCCL_AUTH_SECRET", SECRET)
            .env("PCCL_STORE_URL", postgres.url());
        let output = run.output().expect("pccl starts");
        stop.store(true, Ordering::SeqCst);
        kubelet.join().expect("the pods run");
        output
    });
    succeeded(&output);
    let said = text(&output.stdout);
    // Infrastructure, Kubernetes, settings, workers, monitoring, verification, all-reduce and result in each region; the masters.
    assert!(said.contains("17 done, 0 failed, 0 skipped"), "{said}");
    assert_eq!(kubelet.masters.len(), 2);
    let workers = kubelet.running.keys().filter(|name| name.contains("pccl-worker")).count();
    assert_eq!(workers, 4, "{:?}", kubelet.running.keys());
    assert_eq!(kubelet.ended.len(), REGIONS.len(), "{:?}", kubelet.ended);
    for (name, (good, said)) in &kubelet.ended {
        assert!(*good && said.contains("among 2 machines are right"), "{name}: {said}");
    }
    // The secrets are where they belong, and nowhere else.
    let journal = fs::read(here.join("pccl-fleet/.pccl-deploy/pccl-fleet/journal.db")).unwrap();
    assert!(!String::from_utf8_lossy(&journal).contains(SECRET));
}
