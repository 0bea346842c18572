//! Deployments with the real Terraform: one state for all regions, retries by target, and Terraform killed.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::site::Site;
use common::{Running, signal, succeeded, text, until};

const PARTIAL: i32 = 9;

/// A deployment with these files beside it.
fn site(files: &[(&str, &str)]) -> Site {
    let site = Site::new("");
    for (name, text) in files {
        let path = site.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("the file is written");
    }
    site
}

const ROOT: &str = r#"
variable "regions" { type = list(string) }
module "region_deployment" {
  source   = "./region"
  for_each = toset(var.regions)
  region   = each.key
}
"#;

/// Three resources, one after the other; the last of r2 fails until it is repaired. The instances of a module share the
/// edges of its graph, so Terraform begins no `nodes` before every region has its `cluster`.
const REGION: &str = r#"
variable "region" { type = string }
resource "terraform_data" "network" {
  provisioner "local-exec" { command = "echo network/${var.region} >> ../ran" }
}
resource "terraform_data" "cluster" {
  depends_on = [terraform_data.network]
  provisioner "local-exec" {
    command = "echo cluster/${var.region} >> ../ran"
  }
}
resource "terraform_data" "nodes" {
  depends_on = [terraform_data.cluster]
  provisioner "local-exec" {
    command = "if [ ${var.region} = r2 ] && [ ! -e ../repaired ]; then echo quota; exit 1; fi; if [ ${var.region} = r4 ]; then while [ ! -e ../r1-configured ]; do sleep 0.05; done; fi; echo nodes/${var.region} >> ../ran"
  }
}
"#;

const SHARED: &str = r#"
name: regions
targets: [r1, r2, r3, r4]
phases:
  - name: infrastructure
    for_each: targets
    retry: { attempts: 1 }
    run:
      terraform:
        dir: terraform
        address: 'module.region_deployment["{{ target.name }}"]'
        vars: { regions: "{{ targets | map(attribute='name') | list | tojson }}" }
  - name: kubernetes
    for_each: targets
    after: [infrastructure]
    run: { command: { run: [sh, -c, "echo configured/{{ target.name }} >> ran; touch {{ target.name }}-configured"] } }
"#;

#[test]
fn regions_share_one_apply_go_on_one_by_one_and_are_retried_by_target() {
    let site =
        site(&[("terraform/main.tf", ROOT), ("terraform/region/main.tf", REGION), ("deploy.yaml", SHARED)]);
    // r4 ends only when the next phase of r1 has run: with a barrier between the phases this would never end.
    let output = site.run(&["run"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(PARTIAL), "{said}{}", text(&output.stderr));
    assert!(said.contains("FAILED   infrastructure/r2"), "{said}");
    assert!(said.contains("6 done, 1 failed, 1 skipped"), "{said}");
    let before = site.lines("ran");
    assert_eq!(before.iter().filter(|line| line.starts_with("configured/")).count(), 3);

    fs::write(site.path("repaired"), "").unwrap();
    let output = site.run(&["retry"]);
    succeeded(&output);
    let after: Vec<String> = site.lines("ran").split_off(before.len());
    assert_eq!(after, ["nodes/r2", "configured/r2"], "only r2 was touched");
    let second =
        fs::read_to_string(site.path(".pccl-deploy/regions/run-1/infrastructure.batch-00002.log")).unwrap();
    assert!(!second.contains("[\\\"r1\\\"]"), "the retry has r2 as its target");
}

const FORTY: &str = r#"
resource "terraform_data" "unit" {
  count = 40
  provisioner "local-exec" { command = "sleep 0.2; touch ../done-${count.index}" }
}
"#;

const KILLED: &str = r"
name: killed
phases:
  - name: infrastructure
    run: { terraform: { dir: terraform, parallelism: 10, replace_unfinished: true } }
";

/// The first child of a process.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(
        Path::new("/proc").join(pid.to_string()).join("task").join(pid.to_string()).join("children"),
    )
    .ok();
    let of_threads = || {
        let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).ok()?;
        let read = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
        tasks.flatten().filter_map(read).find(|text| !text.trim().is_empty())
    };
    let text = children.filter(|text| !text.trim().is_empty()).or_else(of_threads)?;
    text.split_whitespace().next()?.parse().ok()
}

#[test]
fn what_a_killed_terraform_believes_to_have_made_is_made() {
    let site = site(&[("terraform/main.tf", FORTY), ("deploy.yaml", KILLED)]);
    let done = || (0..40).filter(|n| site.path(&format!("done-{n}")).exists()).count();
    let engine = Running::start(site.command(&["run"]));
    until("some are made", || (done() >= 10).then_some(()));
    let terraform = until("terraform runs", || child_of(engine.pid()));
    signal(engine.pid(), "KILL");
    let group = Command::new("kill").args(["-KILL", "--", &format!("-{terraform}")]).status().unwrap();
    assert!(group.success());
    drop(engine);
    let made = done();
    assert!(made < 40, "it was killed too late to prove anything");
    let output = site.run(&["resume"]);
    succeeded(&output);
    assert_eq!(done(), 40, "{}", text(&output.stdout));
}
