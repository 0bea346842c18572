//! `pccl besu init`: what it writes, for whose eyes, and that it never writes over anything.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{refused, run, succeeded, text};
use pccl_besu::{Address, NodeKey, qbft};
use serde_json::Value;

const USAGE: i32 = 2;
const INPUT: i32 = 6;

fn init(out: &Path, more: &[&str]) -> std::process::Output {
    let out = out.to_str().expect("UTF-8");
    run(&[&["besu", "init", "--out", out], more].concat())
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a file");
    serde_json::from_str(&text).expect("JSON")
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim_start_matches("0x");
    let byte = |at: usize| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).expect("hexadecimal");
    (0..digits.len() / 2).map(byte).collect()
}

fn key_of(folder: &Path, name: &str) -> NodeKey {
    let text = fs::read_to_string(folder.join(format!("validators/{name}/nodekey"))).expect("a key");
    NodeKey::from_bytes(&unhex(&text).try_into().expect("32 bytes")).expect("a key of the curve")
}

#[test]
fn forty_eight_validators_agree_in_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("network");
    succeeded(&init(&out, &[]));
    let list = json(&out.join("validators.json"));
    let validators = list["validators"].as_array().unwrap();
    assert_eq!((validators.len(), &list["quorum"], &list["chainId"]), (48, &32.into(), &138.into()));
    let genesis = json(&out.join("genesis.json"));
    let mut in_genesis = qbft::validators(&unhex(genesis["extraData"].as_str().unwrap())).unwrap();
    assert!(in_genesis.is_sorted());
    let static_nodes: BTreeSet<_> =
        json(&out.join("static-nodes.json")).as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(static_nodes.len(), 48);
    for validator in validators {
        let (name, host) = (validator["name"].as_str().unwrap(), validator["host"].as_str().unwrap());
        let key = key_of(&out, name);
        assert_eq!(validator["address"], key.address().to_string());
        assert!(static_nodes.contains(&format!("{:?}", key.enode(host, 30303))), "{name}");
        let at = in_genesis.binary_search(&key.address()).unwrap();
        in_genesis.remove(at);
        let region = validator["region"].as_str().unwrap();
        let secret = out.join(format!("kubernetes/{region}/{name}.secret.yaml"));
        assert!(fs::read_to_string(secret).unwrap().contains(key.to_file().as_str()));
    }
    assert_eq!(in_genesis, Vec::<Address>::new());
}

#[test]
fn keys_are_for_their_owner_only_and_in_no_other_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("network");
    let output = init(&out, &["--regions", "eu,us"]);
    succeeded(&output);
    let said = text(&output.stdout) + &text(&output.stderr);
    let keys: Vec<_> = ["eu-0", "eu-1", "us-0", "us-1"]
        .iter()
        .map(|name| key_of(&out, name).to_file()[2..].to_owned())
        .collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 4);
    let mut secret = 0;
    for path in files_below(&out) {
        let content = fs::read_to_string(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        let holds_a_key = keys.iter().any(|key| content.contains(key));
        assert_eq!(holds_a_key, mode == 0o600, "{} has mode {mode:o}", path.display());
        secret += usize::from(holds_a_key);
    }
    assert_eq!(secret, 8);
    assert!(!keys.iter().any(|key| said.contains(key)));
    // Nothing is left of the writing but the folder.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    // Another network has other keys.
    let other = folder.path().join("other");
    succeeded(&init(&other, &["--regions", "eu,us"]));
    assert_ne!(key_of(&other, "eu-0").to_file(), key_of(&out, "eu-0").to_file());
}

#[test]
fn what_is_there_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("network");
    fs::create_dir(&out).unwrap();
    succeeded(&init(&out, &["--regions", "eu,us"]));
    let before = fs::read_to_string(out.join("validators/eu-0/nodekey")).unwrap();
    refused(&init(&out, &["--regions", "eu,us"]), INPUT, &["failed to write", "not empty", "--out"]);
    assert_eq!(fs::read_to_string(out.join("validators/eu-0/nodekey")).unwrap(), before);
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    refused(&init(&file, &[]), INPUT, &["failed to write", "--out"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_network_that_is_there_is_kept_only_if_it_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("network");
    let keep = |more: &[&str]| init(&out, &[&["--keep", "--regions", "eu,us"], more].concat());
    succeeded(&keep(&[]));
    let before = fs::read_to_string(out.join("validators/eu-0/nodekey")).unwrap();
    succeeded(&keep(&[]));
    assert_eq!(fs::read_to_string(out.join("validators/eu-0/nodekey")).unwrap(), before);
    refused(&keep(&["--chain-id", "139"]), INPUT, &["failed to keep", "--out"]);
    refused(&keep(&["--validators-per-region", "3"]), INPUT, &["other validators"]);
}

#[test]
fn networks_that_could_not_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("network");
    for (options, word) in [
        (&["--regions", "eu"][..], "2 validators: QBFT needs 4"),
        (&["--regions", "eu,eu"], "`eu` is named twice"),
        (&["--regions", "North Europe,us"], "region `North Europe`"),
        (&["--block-period", "0"], "the block period in seconds is 0"),
    ] {
        refused(&init(&out, options), USAGE, &["failed to make the network", word]);
    }
    assert!(!out.exists());
}

/// The scripts are for people without Kubernetes: the shell must read them, and start `besu` with what they say.
#[test]
fn start_scripts_are_shell() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("network");
    succeeded(&init(&out, &["--regions", "eu,us"]));
    let script = out.join("validators/eu-0/start.sh");
    let status = Command::new("sh").arg("-n").arg(&script).status().unwrap();
    assert!(status.success());
    let text = fs::read_to_string(&script).unwrap();
    assert!(text.contains("exec besu") && text.contains("'--genesis-file=../../genesis.json'"), "{text}");
}

/// Against the schemas of Kubernetes 1.32, strictly: a key that Kubernetes does not know is an error too.
#[test]
fn manifests_obey_the_schemas_of_kubernetes() {
    let validate =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/venv/bin/kubernetes-validate");
    assert!(validate.exists(), "{} is not there: run `cargo xtask tools`", validate.display());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("network");
    succeeded(&init(&out, &["--regions", "eu,us"]));
    let manifests: Vec<_> = files_below(&out.join("kubernetes"));
    assert_eq!(manifests.len(), 2 + 4 * 2);
    let check = |files: &[PathBuf]| {
        Command::new(&validate).args(["-k", "1.32", "--strict"]).args(files).output().expect("it starts")
    };
    succeeded(&check(&manifests));
    // The check must be able to fail.
    let broken = folder.path().join("broken.yaml");
    let text = fs::read_to_string(out.join("kubernetes/eu/eu-0.yaml")).unwrap();
    fs::write(&broken, text.replace("serviceName:", "servicename:")).unwrap();
    assert!(!check(&[broken]).status.success());
}
