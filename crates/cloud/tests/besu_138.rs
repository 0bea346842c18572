//! The parts of `deployments/besu-138` with the real tools: Terraform, kubectl and two EVM nodes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use pccl_besu::{Network, Visibility};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn deployment() -> PathBuf {
    root().join("deployments/besu-138")
}

/// A process that ends with the test, and the URL that it printed after `word`.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(command: &mut Command, word: &str) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        while !line.starts_with(word) {
            line.clear();
            assert!(out.read_line(&mut line).expect("a line") > 0, "it ended before it said `{word}`");
        }
        let address = line[word.len()..].trim().trim_start_matches("http://");
        let url = format!("http://{address}");
        // Nobody reads the rest, and it must not wait for a reader.
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        Self { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tools() -> PathBuf {
    let tools = root().join("target/tools/npm/node_modules");
    assert!(tools.join(".bin/cast").exists(), "{} is not there: run `cargo xtask tools`", tools.display());
    tools
}

/// An EVM node. Its program itself, not the wrapper of npm, which a kill would leave behind.
fn anvil(arguments: &[&str]) -> Server {
    let package = format!(
        "@foundry-rs/anvil-linux-{}/bin/anvil",
        match std::env::consts::ARCH {
            "aarch64" => "arm64",
            _ => "amd64",
        }
    );
    Server::start(Command::new(tools().join(package)).args(["--port", "0"]).args(arguments), "Listening on ")
}

/// A deployer, and two nodes: of chain 138, where gas is free, and of chain 1, where it is not.
struct Chains {
    nodes: [Server; 2],
    folder: TempDir,
    deployer: String,
}

impl Chains {
    fn start() -> Self {
        let free = ["--chain-id", "138", "--hardfork", "london", "--gas-price", "0", "--base-fee", "0"];
        let nodes = [anvil(&free), anvil(&["--chain-id", "1"])];
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("password"), "of a test").expect("a writable folder");
        fs::create_dir(folder.path().join("keys")).expect("a writable folder");
        let mut chains = Self { nodes, folder, deployer: String::new() };
        let keys = chains.folder.path().join("keys");
        let keys = keys.to_str().expect("UTF-8");
        Self::cast(&["wallet", "new", keys, "--unsafe-password", "of a test"]);
        let (store, password) = (chains.store(), chains.password());
        chains.deployer =
            Self::cast(&["wallet", "address", "--keystore", &store, "--password-file", &password]);
        chains
    }

    fn store(&self) -> String {
        let mut entries = fs::read_dir(self.folder.path().join("keys")).expect("a folder");
        entries.next().expect("a key").expect("an entry").path().display().to_string()
    }

    fn password(&self) -> String {
        self.folder.path().join("password").display().to_string()
    }

    fn cast(arguments: &[&str]) -> String {
        let output = Command::new(tools().join(".bin/cast")).args(arguments).output().expect("cast starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn script(&self, script: &str, chain: &str, contract: &str, node: usize) -> Output {
        let path =
            format!("{}:{}", tools().join(".bin").display(), std::env::var("PATH").unwrap_or_default());
        Command::new(deployment().join("contracts").join(script))
            .args([chain, contract])
            .env("PATH", path)
            .env(format!("CHAIN_{chain}_RPC"), &self.nodes[node].url)
            .env("ETH_KEYSTORE", self.store())
            .env("ETH_PASSWORD", self.password())
            // To open a key store takes a second by design; all but one of these calls need no more than the address.
            .env("ETH_FROM", if script == "deploy.sh" && chain == "1" { "" } else { &self.deployer })
            .output()
            .expect("bash starts")
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn contracts_are_deployed_once_to_their_own_chain_and_verified() {
    let chains = Chains::start();
    assert!(!chains.script("verify.sh", "138", "Registry", 0).status.success());
    for words in ["Registry is on chain 138: 0x", "Registry is on chain 138 already: 0x"] {
        let output = chains.script("deploy.sh", "138", "Registry", 0);
        assert!(output.status.success() && said(&output).contains(words), "{}", said(&output));
    }
    let verified = chains.script("verify.sh", "138", "Registry", 0);
    assert!(verified.status.success() && said(&verified).contains(&chains.deployer), "{}", said(&verified));
    // Gas costs money on chain 1.
    let rpc = chains.nodes[1].url.clone();
    Chains::cast(&["rpc", "--rpc-url", &rpc, "anvil_setBalance", &chains.deployer, "0xde0b6b3a7640000"]);
    let output = chains.script("deploy.sh", "1", "CheckpointAnchor", 1);
    assert!(output.status.success(), "{}", said(&output));
    assert!(chains.script("verify.sh", "1", "CheckpointAnchor", 1).status.success());
    // A node of another chain is never sent anything.
    let output = chains.script("deploy.sh", "1", "CheckpointAnchor", 0);
    assert!(
        !output.status.success() && said(&output).contains("is of chain 138, not 1"),
        "{}",
        said(&output)
    );
}

/// What the genesis of chain 138 holds from its first block on is what the public chains have.
#[test]
fn the_deployment_proxy_of_the_genesis_is_that_of_the_public_chains() {
    let node = anvil(&["--chain-id", "1"]);
    let genesis = pccl_besu::genesis::genesis(&Network::default(), &[]);
    let proxy = pccl_besu::genesis::DEPLOYMENT_PROXY;
    let cast = Command::new(tools().join(".bin/cast"))
        .args(["code", &format!("0x{proxy}"), "--rpc-url", &node.url])
        .output()
        .expect("cast starts");
    assert_eq!(genesis["alloc"][proxy]["code"], String::from_utf8_lossy(&cast.stdout).trim());
}

#[test]
fn terraform_deploys_regions_and_retries_one() {
    let folder = tempfile::tempdir().unwrap();
    let copied =
        Command::new("cp").arg("-r").arg(deployment().join("terraform")).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    let terraform = |arguments: &[&str]| {
        let output = Command::new("terraform")
            .args(arguments)
            .current_dir(folder.path().join("terraform"))
            .env("TF_IN_AUTOMATION", "1")
            .env("TF_VAR_regions", "{ ukwest = 3, uksouth = 2 }")
            .output()
            .expect("terraform must be on the PATH: install it, the tests of deployments need it");
        assert!(output.status.success(), "terraform {arguments:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    terraform(&["init", "-input=false", "-no-color"]);
    let one = ["apply", "-auto-approve", "-no-color", "-target=module.region_deployment[\"ukwest\"]"];
    assert!(terraform(&one).contains("Resources: 12 added, 0 changed, 0 destroyed"));
    let all = ["apply", "-auto-approve", "-no-color", "-parallelism=128"];
    let applied = terraform(&all);
    assert!(applied.contains("Resources: 12 added, 0 changed, 0 destroyed"), "{applied}");
    assert!(terraform(&all).contains("No changes."));
}

#[test]
fn kubectl_brings_up_validators_and_monitoring() {
    let folder = tempfile::tempdir().unwrap();
    let regions = ["ukwest", "uksouth"];
    let network = Network { regions: regions.map(str::to_owned).to_vec(), ..Network::default() };
    let mut number = 0;
    let mut entropy = |bytes: &mut [u8; 32]| {
        number += 1;
        bytes.fill(number);
        Ok::<_, std::convert::Infallible>(())
    };
    for file in pccl_besu::generate(&network, &mut entropy).unwrap() {
        let path = folder.path().join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, file.content.as_bytes()).unwrap();
        if file.visibility == Visibility::Secret {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    let config = folder.path().join("kubeconfig");
    let _server = Server::start(
        Command::new(env!("CARGO_BIN_EXE_pccl-cloud"))
            .args(["--kubernetes", "ukwest,uksouth", "--pod-ms", "50", "--kubeconfig"])
            .arg(&config),
        "listening on ",
    );
    let kubectl = |region: &str, arguments: &[&str]| {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&config).arg("--cache-dir").arg(folder.path().join("cache"));
        let output = kubectl.args(["--context", region]).args(arguments).output().expect("kubectl starts");
        assert!(output.status.success(), "kubectl {arguments:?}: {}", said(&output));
        said(&output)
    };
    let monitoring = deployment().join("kubernetes/monitoring.yaml").display().to_string();
    for region in regions {
        let file =
            |name: &str| folder.path().join("kubernetes").join(region).join(name).display().to_string();
        kubectl(region, &["apply", "--server-side", "-f", &file("region.yaml")]);
        let files: Vec<_> = (0..2)
            .flat_map(|n| [format!("{region}-{n}.secret.yaml"), format!("{region}-{n}.yaml")])
            .flat_map(|name| ["-f".to_owned(), file(&name)])
            .collect();
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        let applied = kubectl(region, &[&["apply", "--server-side"][..], &files].concat());
        assert_eq!(applied.matches("serverside-applied").count(), 2 * 5, "{applied}");
        kubectl(region, &["apply", "--server-side", "-f", &monitoring]);
        for workload in [format!("statefulset/besu-{region}-0"), format!("statefulset/besu-{region}-1")] {
            kubectl(region, &["rollout", "status", "--timeout=60s", "-n", "besu", &workload]);
            let ready = "--for=jsonpath={.status.readyReplicas}=1";
            kubectl(region, &["wait", "--timeout=60s", "-n", "besu", ready, &workload]);
        }
        kubectl(region, &["rollout", "status", "--timeout=60s", "-n", "monitoring", "deployment/prometheus"]);
    }
}
