//! The deployments of this repository: they are valid, and planned as operators expect.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pccl_cloud::pods::Manifest;
use pccl_deploy::Deployment;
use pccl_deploy::plan::{Plan, Selection};
use serde_json::Value;

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
    assert_eq!((fleet["master"], fleet["workers"], fleet["monitoring"]), (1, 24, 24));
    assert_eq!((fleet["verification"], fleet["all-reduce"], fleet["result"]), (24, 24, 24));
    let local = tasks(&plan("local.yaml"));
    assert_eq!((local["master"], local["standby"], local["workers"], local["all-reduce"]), (1, 1, 4, 1));
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

/// Three versions of Kubernetes that are in use.
const VERSIONS: [&str; 3] = ["1.30", "1.33", "1.36"];

/// Against the schemas of Kubernetes, strictly.
fn obeys_the_schemas(files: &[PathBuf]) {
    let validate = root().join("target/tools/venv/bin/kubernetes-validate");
    assert!(validate.exists(), "{} is not there: run `cargo xtask tools`", validate.display());
    assert!(!files.is_empty());
    for version in VERSIONS {
        let output = Command::new(&validate)
            .args(["-k", version, "--strict"])
            .args(files)
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{version}: {said}");
    }
}

#[test]
fn manifests_obey_the_schemas_of_kubernetes() {
    let folders = ["deployments/besu-138/kubernetes", "deployments/pccl-fleet/kubernetes"];
    let files = folders.iter().flat_map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let paths = files.map(|entry| entry.unwrap().path());
    let manifests: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
    obeys_the_schemas(&manifests);
}

const OVERLAYS: [&str; 4] = ["single", "standby", "region-masters", "region-workers"];

fn overlay(name: &str) -> Manifest {
    let folder = root().join("deployments/pccl-fleet/kubernetes/overlays").join(name);
    Manifest::rendered(&folder).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn overlays_of_the_fleet_obey_the_schemas_of_kubernetes() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for name in OVERLAYS {
        // Kubernetes itself has no schema of a ServiceMonitor.
        let rendered = overlay(name);
        let known: Vec<_> = rendered
            .text()
            .split("\n---\n")
            .filter(|object| !object.contains("\nkind: ServiceMonitor\n"))
            .collect();
        let monitors = rendered.of_kind("ServiceMonitor").count();
        assert_eq!(known.len() + monitors, rendered.objects().len(), "{name}");
        let file = folder.path().join(format!("{name}.yaml"));
        fs::write(&file, known.join("\n---\n")).unwrap();
        files.push(file);
    }
    obeys_the_schemas(&files);
}

fn has(labels: &Value, key: &str, values: &Value) -> bool {
    values.as_array().is_some_and(|values| values.contains(&labels[key]))
}

/// What no schema says: names that must be the same in several objects.
#[test]
fn objects_of_the_fleet_fit_together() {
    for name in OVERLAYS {
        let rendered = overlay(name);
        let pods: Vec<(&Value, &Value)> = ["Deployment", "StatefulSet"]
            .into_iter()
            .flat_map(|kind| rendered.of_kind(kind))
            .map(|one| (&one["spec"]["template"]["metadata"]["labels"], &one["spec"]["template"]["spec"]))
            .collect();
        for service in rendered.of_kind("Service") {
            let selector = &service["spec"]["selector"];
            let chosen: Vec<_> = pods.iter().filter(|(labels, _)| *labels == selector).collect();
            assert_eq!(chosen.len(), 1, "{name}: {service}");
            for port in service["spec"]["ports"].as_array().unwrap() {
                let mut ports = chosen[0].1["containers"][0]["ports"].as_array().unwrap().iter();
                let same = |one: &Value| {
                    one["name"] == port["targetPort"]
                        && one["containerPort"] == port["port"]
                        && one["protocol"] == port["protocol"]
                };
                assert!(ports.any(same), "{name}: {port}");
            }
        }
        for policy in rendered.of_kind("NetworkPolicy") {
            let wanted = &policy["spec"]["podSelector"]["matchLabels"];
            assert_eq!(pods.iter().filter(|(labels, _)| *labels == wanted).count(), 1, "{name}: {policy}");
        }
        for monitor in rendered.of_kind("ServiceMonitor") {
            assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
            let chosen = rendered.of_kind("Service").filter(|service| {
                let mut wanted = monitor["spec"]["selector"]["matchExpressions"].as_array().unwrap().iter();
                wanted.all(|one| {
                    has(&service["metadata"]["labels"], one["key"].as_str().unwrap(), &one["values"])
                })
            });
            let mut count = 0;
            for service in chosen {
                count += 1;
                let mut ports = service["spec"]["ports"].as_array().unwrap().iter();
                assert!(ports.any(|port| port["name"] == monitor["spec"]["endpoints"][0]["port"]));
            }
            // The master's and the standby's; the workers'.
            let expected = if monitor["metadata"]["name"] == "pccl-master" { 2 } else { 1 };
            assert_eq!(count, expected, "{name}: {monitor}");
        }
        for (labels, pod) in &pods {
            let image = pod["containers"][0]["image"].as_str().unwrap();
            let is_worker = labels["app.kubernetes.io/component"] == "worker";
            assert_eq!(image, if is_worker { "pccl/worker:latest" } else { "pccl/master:latest" });
            let role = &pod["containers"][0]["env"][0];
            assert_eq!(
                (&role["name"], &role["value"]),
                (&"PCCL_ROLE".into(), &labels["app.kubernetes.io/component"])
            );
            // Secrets are referred to, never written down.
            assert!(rendered.of_kind("Secret").next().is_none(), "{name}");
        }
    }
    // Which monitoring/prometheus/kubernetes.yml looks for.
    let labels =
        &overlay("standby").object("StatefulSet", "pccl-worker").unwrap()["metadata"]["labels"].clone();
    assert_eq!(labels["app.kubernetes.io/name"], "pccl");
}

#[test]
fn sizes_of_flat_fleets_are_those_that_users_rely_on() {
    for (name, workers, cpu, memory) in [("single", 8, "1", "1Gi"), ("standby", 32, "2", "4Gi")] {
        let rendered = overlay(name);
        assert_eq!(rendered.object("StatefulSet", "pccl-worker").unwrap()["spec"]["replicas"], workers);
        for master in rendered.of_kind("Deployment") {
            let resources = &master["spec"]["template"]["spec"]["containers"][0]["resources"];
            assert_eq!(
                (&resources["requests"]["cpu"], &resources["requests"]["memory"]),
                (&cpu.into(), &memory.into())
            );
            assert_eq!(master["spec"]["strategy"]["type"], "Recreate");
        }
    }
}
