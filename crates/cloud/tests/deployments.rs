//! The deployments of this repository: they are valid, and planned as operators expect.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pccl_deploy::Deployment;
use pccl_deploy::plan::{Plan, Selection};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn plan(file: &str) -> Plan {
    let text = fs::read_to_string(root().join("deployments").join(file)).expect("a file");
    let deployment = Deployment::from_yaml(&text, file).unwrap_or_else(|error| panic!("{error}"));
    Plan::new(deployment, &Selection::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Tasks of each phase.
fn tasks(plan: &Plan) -> BTreeMap<String, usize> {
    plan.ids().fold(BTreeMap::new(), |mut count, id| {
        *count.entry(plan.phase_of(id).name.clone()).or_default() += 1;
        count
    })
}

#[test]
fn besu_138_has_24_regions_48_validators_and_2_chains() {
    let plan = plan("besu-138/deploy.yaml");
    let expected = [
        ("network", 1),
        ("infrastructure", 24),
        ("kubernetes", 24),
        ("besu", 48),
        ("contracts", 2),
        ("monitoring", 24),
        ("verification", 24),
    ];
    assert_eq!(tasks(&plan), expected.map(|(name, count)| (name.to_owned(), count)).into());
    // The names of validators are those that `pccl besu init` gives.
    let names = plan.by_name();
    let regions: Vec<_> =
        pccl_besu::REGIONS.iter().flat_map(|region| [format!("{region}-0"), format!("{region}-1")]).collect();
    for name in regions {
        assert!(names.keys().any(|task| task.contains("besu") && task.contains(&name)), "{name}: {names:?}");
    }
}

#[test]
fn the_other_deployments_are_planned() {
    let upgrade = plan("besu-138/upgrade.yaml");
    assert_eq!(tasks(&upgrade), [("restart".to_owned(), 48)].into());
    assert_eq!(upgrade.waves.len(), 2);
    let fleet = tasks(&plan("pccl-fleet/deploy.yaml"));
    assert_eq!((fleet["master"], fleet["workers"], fleet["verification"]), (1, 24, 1));
    assert_eq!(tasks(&plan("local.yaml"))["all-reduce"], 2);
}

#[test]
fn scripts_are_one_line_over_pccl_deploy() {
    let names = [
        "deploy-max-parallel",
        "deploy-ultra-parallel",
        "configure-kubernetes-max-parallel",
        "deploy-besu-max-parallel",
        "verify-all-max-parallel",
    ];
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let script = root().join(format!("scripts/deployment/{name}.sh"));
        // A program that prints its arguments stands for pccl: what it is called with is all that a script decides.
        let output = Command::new(&script)
            .arg("--dry-run")
            .env("PCCL", "echo")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<_> = said.split_whitespace().collect();
        assert_eq!((words[0], words[1], words[3]), ("deploy", "run", "--mode"), "{said}");
        assert!(Path::new(words[2]).is_file(), "{said}");
        assert_eq!(words.last(), Some(&"--dry-run"));
        let phase = words.iter().position(|word| *word == "--only").map(|at| words[at + 1]);
        assert!(phase.is_none_or(|phase| tasks(&plan("besu-138/deploy.yaml")).contains_key(phase)), "{said}");
    }
}

/// Against the schemas of Kubernetes 1.32, strictly.
#[test]
fn manifests_obey_the_schemas_of_kubernetes() {
    let validate = root().join("target/tools/venv/bin/kubernetes-validate");
    assert!(validate.exists(), "{} is not there: run `cargo xtask tools`", validate.display());
    for folder in ["besu-138", "pccl-fleet"] {
        let folder = root().join("deployments").join(folder).join("kubernetes");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let manifests: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
        assert!(!manifests.is_empty());
        let output =
            Command::new(&validate).args(["-k", "1.32", "--strict"]).args(&manifests).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
