//! `deployments/besu-138` from nothing to verified: the engine with real Terraform, real kubectl against simulated
//! clusters, and contracts on two real EVM nodes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Running, pccl, succeeded, text};
use pccl_cloud::{Background, kubernetes};
use serde_json::Value;

const PARTIAL: i32 = 9;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn npm() -> PathBuf {
    let tools = root().join("target/tools/npm/node_modules");
    assert!(tools.join(".bin/cast").exists(), "{} is not there: run `cargo xtask tools`", tools.display());
    tools
}

fn cast(arguments: &[&str]) -> String {
    let output = Command::new(npm().join(".bin/cast")).args(arguments).output().expect("cast starts");
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// An EVM node and its URL. Its program itself, not the wrapper of npm, which a kill would leave behind.
fn anvil(arguments: &[&str]) -> (Running, String) {
    let machine = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let program = npm().join(format!("@foundry-rs/anvil-linux-{machine}/bin/anvil"));
    let mut command = Command::new(program);
    command.args(["--port", "0"]).args(arguments);
    let mut node = Running::start(command);
    let line = node.line_with("Listening on ");
    let url = format!("http://{}", line.trim().trim_start_matches("Listening on "));
    (node, url)
}

/// A place with the deployment, clusters, chains and a deployer, and the environment that names them.
struct Place {
    folder: tempfile::TempDir,
    clusters: Background,
    _nodes: [Running; 2],
    environment: Vec<(String, String)>,
}

impl Place {
    fn make(pod_time: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let here = folder.path();
        let copied = Command::new("cp").arg("-r").arg(root().join("deployments/besu-138")).arg(here).status();
        assert!(copied.expect("cp starts").success());
        // What somebody tried by hand in the repository is not for this test.
        for left in ["network", ".pccl-deploy", "terraform/.terraform", "terraform/terraform.tfstate"] {
            let left = here.join("besu-138").join(left);
            let _ = if left.is_dir() { fs::remove_dir_all(left) } else { fs::remove_file(left) };
        }
        let regions = pccl_besu::REGIONS.map(str::to_owned).to_vec();
        let options = kubernetes::Options { clusters: regions, nodes: 3, pod_time };
        let clusters = Background::start(&options).expect("a free port");
        let free = ["--chain-id", "138", "--hardfork", "london", "--gas-price", "0", "--base-fee", "0"];
        let ((first, chain_138), (second, chain_1)) = (anvil(&free), anvil(&["--chain-id", "1"]));
        let path = |name: &str| here.join(name).display().to_string();
        fs::write(path("kubeconfig"), clusters.kubeconfig()).expect("a writable folder");
        fs::write(path("password"), "of a test").expect("a writable folder");
        fs::create_dir(path("keys")).expect("a writable folder");
        cast(&["wallet", "new", &path("keys"), "--unsafe-password", "of a test"]);
        let key = fs::read_dir(path("keys")).expect("a folder").next().expect("a key").expect("an entry");
        let key = key.path().display().to_string();
        let deployer = cast(&["wallet", "address", "--keystore", &key, "--password-file", &path("password")]);
        cast(&["rpc", "--rpc-url", &chain_1, "anvil_setBalance", &deployer, "0xde0b6b3a7640000"]);
        let tools = format!("{}:{}", npm().join(".bin").display(), std::env::var("PATH").unwrap_or_default());
        let environment = [
            ("PATH", tools),
            ("KUBECONFIG", path("kubeconfig")),
            ("KUBECACHEDIR", path("cache")),
            ("ETH_KEYSTORE", key),
            ("ETH_PASSWORD", path("password")),
            ("CHAIN_138_RPC", chain_138),
            ("CHAIN_1_RPC", chain_1),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        Self { folder, clusters, _nodes: [first, second], environment }
    }

    fn deploy(&self, command: &str, more: &[&str]) -> std::process::Output {
        let file = self.folder.path().join("besu-138/deploy.yaml").display().to_string();
        let mut pccl = pccl(&[&["deploy", command, &file], more].concat());
        pccl.envs(self.environment.iter().cloned()).output().expect("pccl starts")
    }

    fn kubectl(&self, region: &str, arguments: &[&str]) -> String {
        let mut kubectl = Command::new("kubectl");
        kubectl.envs(self.environment.iter().cloned()).args(["--context", region]).args(arguments);
        let output = kubectl.output().expect("kubectl starts");
        assert!(output.status.success(), "kubectl {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn order(&self, region: &str, fault: &str) {
        let url = format!("{}/faults/{region}", self.clusters.url());
        let curl = Command::new("curl").args(["--silent", "--fail", "--json", fault, &url]).status();
        assert!(curl.expect("curl starts").success());
    }
}

/// In so many regions; with this variable in all 24 (about a minute): enough for every change, and for a release.
const REGIONS: usize = 4;
const ALL: &str = "PCCL_TEST_ALL_REGIONS";

/// One region's cluster refuses everything: the others complete, and `retry` finishes that region alone.
#[test]
fn chain_138_is_deployed_past_a_region_that_fails_and_retried_there() {
    let place = Place::make(Duration::from_millis(50));
    let (regions, others) =
        pccl_besu::REGIONS.split_at(if std::env::var_os(ALL).is_some() { 24 } else { REGIONS });
    place.order("ukwest", r#"{ "fault": "error", "requests": 1000000, "code": 500 }"#);
    let skip = [&["contracts"], others].concat().join(",");
    let output = place.deploy("run", &["--skip", &skip]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(PARTIAL), "{said}{}", text(&output.stderr));
    assert!(said.contains("FAILED   kubernetes/ukwest"), "{said}");
    // Keys and genesis, and in each region infrastructure, Kubernetes, two validators, monitoring and verification.
    let done = 1 + 6 * (regions.len() - 1) + 1;
    assert!(said.contains(&format!("{done} done, 1 failed, 4 skipped")), "{said}");
    for region in regions.iter().filter(|region| **region != "ukwest") {
        assert_eq!(place.ready_validators(region), 2, "{region}");
    }
    place.order("ukwest", r#"{ "fault": "heal" }"#);
    let before = place.counts();
    succeeded(&place.deploy("retry", &["--quiet"]));
    let after = place.counts();
    for region in pccl_besu::REGIONS {
        assert_eq!(before[region] != after[region], region == "ukwest", "{region}: {before} {after}");
    }
    assert_eq!(place.ready_validators("ukwest"), 2);
    // The contracts wait for all validators: now they are there.
    let output = place.deploy("run", &["--only", "contracts", "--quiet"]);
    succeeded(&output);
    assert!(text(&output.stdout).contains(": 2 done, 0 failed"), "{}", text(&output.stdout));
}

impl Place {
    /// What each cluster was asked, by region.
    fn counts(&self) -> Value {
        let url = format!("{}/counts", self.clusters.url());
        let curl = Command::new("curl").args(["--silent", "--fail", &url]).output();
        serde_json::from_slice(&curl.expect("curl starts").stdout).expect("JSON")
    }

    /// Validators of a region that are ready, as kubectl sees them.
    fn ready_validators(&self, region: &str) -> usize {
        let sets = self.kubectl(region, &["get", "statefulsets", "-n", "besu", "-o", "json"]);
        let sets: Value = serde_json::from_str(&sets).expect("JSON");
        let ready = |set: &&Value| set["status"]["readyReplicas"] == 1;
        sets["items"].as_array().expect("a list").iter().filter(ready).count()
    }
}
