//! The real Terraform, alone and as a phase: what the engine adds to it, and what regions that go on by themselves save.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::report::Part;
use super::timing::{measure, median};
use super::{Bench, say};

const REGIONS: usize = 24;

/// A region: three resources, each after the one before.
const REGION: &str = r#"
variable "seconds" { type = number }
resource "terraform_data" "network" {
  provisioner "local-exec" { command = "sleep ${var.seconds}" }
}
resource "terraform_data" "cluster" {
  depends_on = [terraform_data.network]
  provisioner "local-exec" { command = "sleep ${var.seconds}" }
}
resource "terraform_data" "nodes" {
  depends_on = [terraform_data.cluster]
  provisioner "local-exec" { command = "sleep ${var.seconds}" }
}
"#;

/// One `terraform apply` of 24 regions with three chained resources of a second, alone and through `pccl deploy`.
pub(super) fn apply(bench: &Bench<'_>) -> Result<Part> {
    let mut part = Part::new(format!("Terraform, {REGIONS} regions of 3 chained resources of 1 s"));
    let (mut alone, mut ours) = (Vec::new(), Vec::new());
    for round in 1..=bench.rounds {
        say(&format!("terraform, round {round} of {}", bench.rounds));
        let folder = tempfile::tempdir()?;
        site(folder.path(), |_| 1.0, bench)?;
        alone.push(terraform(folder.path(), bench)?);
        let folder = tempfile::tempdir()?;
        site(folder.path(), |_| 1.0, bench)?;
        ours.push(pccl(folder.path(), &phases(None), "auto", REGIONS, bench)?);
    }
    let (alone, ours) = (median(alone), median(ours));
    part.row("terraform apply -parallelism=128", alone, "after `terraform init`");
    part.row("pccl deploy", ours, "with its own `terraform init` and plan");
    part.bar("pccl deploy / terraform", ours / alone, 1.15, "x");
    Ok(part)
}

/// Regions that differ, and a second phase for each: a barrier between them, or none.
pub(super) fn pipelining(bench: &Bench<'_>) -> Result<Part> {
    let mut part = Part::new(format!(
        "{REGIONS} regions of 3 chained resources of 0.5 to 1.5 s, then 1 to 3 s of work in each region"
    ));
    let infrastructure = |region: usize| 0.5 + region as f64 / (REGIONS - 1) as f64;
    // Quick regions are not those with quick work.
    let work = |region: usize| 1.0 + 2.0 * ((region * 7) % REGIONS) as f64 / (REGIONS - 1) as f64;
    let bound = (0..REGIONS).map(|region| 3.0 * infrastructure(region) + work(region)).fold(0.0, f64::max);
    let (mut tools, mut barrier, mut pipelined) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=bench.rounds {
        say(&format!("regions, round {round} of {}", bench.rounds));
        let folder = tempfile::tempdir()?;
        site(folder.path(), infrastructure, bench)?;
        let first = terraform(folder.path(), bench)?;
        let times: Vec<String> = (0..REGIONS).map(|region| format!("{:.3}", work(region))).collect();
        let line = format!("printf '%s\\n' {} | xargs -P 24 -n 1 sleep", times.join(" "));
        let mut command = Command::new("sh");
        command.args(["-c", &line]);
        tools.push(first + measure("xargs", &mut command, bench.limit, bench.stop)?.seconds);
        for (mode, seconds) in [("max", &mut barrier), ("auto", &mut pipelined)] {
            let folder = tempfile::tempdir()?;
            site(folder.path(), infrastructure, bench)?;
            seconds.push(pccl(folder.path(), &phases(Some(&work)), mode, 2 * REGIONS, bench)?);
        }
    }
    let (tools, barrier, pipelined) = (median(tools), median(barrier), median(pipelined));
    part.row("terraform apply, then xargs -P 24", tools, "");
    part.row("pccl deploy --mode max", barrier, "a barrier between the phases");
    part.row("pccl deploy", pipelined, "each region goes on by itself");
    part.bar("pccl deploy / the same with a barrier", pipelined / barrier, 1.0, "x");
    part.bar("pccl deploy / terraform, then xargs", pipelined / tools, 1.0, "x");
    part.note(format!("the slowest region alone takes {bound:.2} s; pccl deploy {:.2} x", pipelined / bound));
    Ok(part)
}

fn name(region: usize) -> String {
    format!("region{:02}", region + 1)
}

/// A folder with the files of Terraform, where `terraform init` has run.
fn site(folder: &Path, seconds: impl Fn(usize) -> f64, bench: &Bench<'_>) -> Result<()> {
    let mut main = String::from("module \"region_deployment\" {\n  source = \"./region\"\n  for_each = {\n");
    for region in 0..REGIONS {
        writeln!(main, "    {} = {:.3}", name(region), seconds(region))?;
    }
    main.push_str("  }\n  seconds = each.value\n}\n");
    fs::create_dir(folder.join("region"))?;
    fs::write(folder.join("main.tf"), main)?;
    fs::write(folder.join("region/main.tf"), REGION)?;
    let mut init = Command::new("terraform");
    init.args(["init", "-input=false", "-no-color"]).current_dir(folder);
    measure("terraform init", &mut init, bench.limit, bench.stop).map(drop)
}

fn terraform(folder: &Path, bench: &Bench<'_>) -> Result<f64> {
    let mut command = Command::new("terraform");
    command.args(["apply", "-auto-approve", "-input=false", "-no-color", "-parallelism=128"]);
    let measured = measure("terraform", command.current_dir(folder), bench.limit, bench.stop)?;
    ensure!(measured.output.contains("Resources: 72 added"), "{}", measured.output);
    Ok(measured.seconds)
}

/// A deployment file: Terraform, and in each region a second phase that takes so long.
fn phases(work: Option<&dyn Fn(usize) -> f64>) -> String {
    let mut text = String::from("name: regions\ntargets:\n");
    for region in 0..REGIONS {
        let seconds = work.map_or(0.0, |work| work(region));
        let line = format!("  - {{ name: {}, vars: {{ seconds: \"{seconds:.3}\" }} }}\n", name(region));
        text.push_str(&line);
    }
    text.push_str(
        "phases:\n  - name: infrastructure\n    for_each: targets\n    run:\n      terraform: { dir: ., address: \
         'module.region_deployment[\"{{ target.name }}\"]', parallelism: 128 }\n",
    );
    if work.is_some() {
        text.push_str(
            "  - name: work\n    for_each: targets\n    after: [infrastructure]\n    \
             run: { command: { run: [sleep, '{{ target.vars.seconds }}'] } }\n",
        );
    }
    text
}

fn pccl(folder: &Path, file: &str, mode: &str, tasks: usize, bench: &Bench<'_>) -> Result<f64> {
    fs::write(folder.join("deploy.yaml"), file)?;
    let mut command = Command::new(&bench.pccl);
    command.args(["deploy", "run", "--quiet", "--mode", mode]).current_dir(folder);
    let measured = measure("pccl deploy", &mut command, bench.limit, bench.stop)?;
    ensure!(measured.output.contains(&format!("{tasks} done, 0 failed")), "{}", measured.output);
    Ok(measured.seconds)
}
