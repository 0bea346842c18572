//! From a file and the command line to a plan.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use pccl_deploy::Deployment;
use pccl_deploy::file::{Action, After, EnvValue, Mode, Phase, Secret, ServiceAction, Share, Waves};
use pccl_deploy::plan::{Plan, Selection};
use pccl_deploy::schedule::Options;
use serde::{Deserialize, Serialize};

use crate::failure::DeployError;

/// What the command line changes about a deployment. Kept with the run, for `resume` and `retry`.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
pub struct Choices {
    /// How much at once: sequential, standard, max, ultra or auto
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub mode: Option<Mode>,

    /// Only these phases, targets or entries of lists
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,

    /// Not these phases, targets or entries of lists
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub skip: Vec<String>,

    /// This phase and those below it
    #[arg(long, value_name = "PHASE")]
    pub from: Option<String>,

    /// Most slots in use at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub width: Option<u32>,

    /// Sizes of waves, such as 8,16; `off` for no waves
    #[arg(long, value_name = "SIZES", value_parser = parse_waves)]
    pub waves: Option<String>,

    /// Targets that may fail before nothing new begins, such as 3 or 10%
    #[arg(long, value_name = "N", value_parser = parse_share)]
    pub max_failures: Option<Share>,

    /// Another value for one of the file's `vars`; can be given several times
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse_var)]
    #[serde(default)]
    pub vars: Vec<(String, String)>,
}

fn parse_var(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_waves(text: &str) -> Result<String, String> {
    if text != "off" {
        wave_sizes(text)?;
    }
    Ok(text.to_owned())
}

fn wave_sizes(text: &str) -> Result<Vec<u32>, String> {
    let sizes: Result<Vec<u32>, _> = text.split(',').map(|size| size.trim().parse()).collect();
    let sound = sizes.ok().filter(|sizes| sizes.iter().all(|size| *size > 0));
    sound.ok_or_else(|| format!("expected sizes such as `8,16`, or `off`, found `{text}`"))
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    let names: Vec<&str> = Mode::ALL.iter().map(|mode| mode.name()).collect();
    Mode::from_name(text).ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

fn parse_share(text: &str) -> Result<Share, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|e| e.to_string())
}

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

impl Source {
    /// Reads it.
    pub fn read(path: &Path) -> Result<Self, DeployError> {
        let unreadable = |why: String| DeployError::Unreadable { path: path.display().to_string(), why };
        let text = fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        let path = fs::canonicalize(path).map_err(|e| unreadable(e.to_string()))?;
        Ok(Self { path, text })
    }

    /// Folder that the file's paths are relative to.
    pub fn base(&self) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).to_owned()
    }

    /// The deployment, checked.
    pub fn deployment(&self) -> Result<Deployment, DeployError> {
        self.deployment_with(&[])
    }

    /// The deployment's name, which says where its journal is: also that of a file that is being changed at the moment, for
    /// what has begun goes on as it was.
    pub fn name(&self) -> Result<String, DeployError> {
        self.deployment().map(|deployment| deployment.name).or_else(|error| {
            let line = self.text.lines().find_map(|line| line.strip_prefix("name:")).unwrap_or_default();
            let line = line.split(" #").next().unwrap_or_default();
            let name = line.trim().trim_matches(['"', '\'']);
            // It becomes a folder's.
            let is_sound = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
            if name.is_empty() || name.starts_with('.') || !is_sound {
                Err(error)
            } else {
                Ok(name.to_owned())
            }
        })
    }

    /// The same with other values for some of its variables.
    pub fn deployment_with(&self, vars: &[(String, String)]) -> Result<Deployment, DeployError> {
        let name = self.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        Deployment::from_yaml_with(&self.text, &name, vars).map_err(DeployError::File)
    }
}

impl Choices {
    /// The plan of a file with these choices.
    pub fn plan(&self, source: &Source) -> Result<Plan, DeployError> {
        let mut deployment = source.deployment_with(&self.vars)?;
        if let Some(mode) = self.mode {
            deployment.mode = mode;
        }
        if self.width.is_some() {
            deployment.width = self.width;
        }
        if self.max_failures.is_some() {
            deployment.failures.max = self.max_failures;
        }
        match self.waves.as_deref() {
            None => {}
            Some("off") => deployment.waves = None,
            Some(sizes) => {
                let sizes = wave_sizes(sizes).map_err(DeployError::System)?;
                let rest = deployment.waves.take().unwrap_or_default();
                deployment.waves = Some(Waves { sizes, fan_out: None, groups: Vec::new(), ..rest });
            }
        }
        let selection =
            Selection { only: self.only.clone(), skip: self.skip.clone(), from: self.from.clone() };
        Plan::new(deployment, &selection).map_err(DeployError::Plan)
    }

    /// How the plan is run.
    pub fn options(plan: &Plan, seed: u64) -> Options {
        let mut options = Options::new(plan);
        options.seed = seed;
        options
    }
}

/// The way back: the `undo` of every phase that has one, in reverse order; services without one are stopped. What came after
/// a phase is undone before it.
pub fn undoing(deployment: &Deployment) -> Deployment {
    let mut back = deployment.clone();
    back.invariants.clear();
    back.waves = None;
    back.phases.clear();
    for phase in deployment.phases.iter().rev() {
        let stop = |service: &ServiceAction| {
            Action::Service(ServiceAction { stop: true, grace: service.grace, ..ServiceAction::default() })
        };
        let undo = phase.undo.clone().or_else(|| phase.run.service().map(stop));
        let Some(undo) = undo else { continue };
        let later = back.phases.iter().filter(|other| comes_after(deployment, &other.name, &phase.name));
        let after = later.map(|other| After { phase: other.name.clone(), all: false }).collect();
        let undone = Phase { run: undo, verify: None, undo: None, after, ..phase.clone() };
        back.phases.push(undone);
    }
    back
}

/// Whether a phase waits for another, directly or not.
fn comes_after(deployment: &Deployment, later: &str, earlier: &str) -> bool {
    let Some((_, phase)) = deployment.phase(later) else { return false };
    phase.after.iter().any(|after| after.phase == earlier || comes_after(deployment, &after.phase, earlier))
}

/// Values of the secrets that the tasks of a plan need.
pub(crate) fn secrets(plan: &Plan) -> Result<BTreeMap<String, String>, DeployError> {
    let mut wanted: Vec<&str> = Vec::new();
    let gates = plan.deployment.waves.iter().flat_map(|waves| &waves.gates).map(|gate| &gate.run);
    let phases = plan.deployment.phases.iter().enumerate();
    let used = phases.filter(|(at, _)| plan.phases[*at].clone().any(|task| !plan.tasks[task].left_out));
    let actions = used.flat_map(|(_, phase)| [Some(&phase.run), phase.verify.as_ref(), phase.undo.as_ref()]);
    for action in actions.flatten().chain(gates) {
        wanted.extend(Action::references(action).into_iter().filter_map(|(_, value)| match value {
            EnvValue::Secret { secret } => Some(secret.as_str()),
            EnvValue::Text(_) => None,
        }));
    }
    wanted.sort_unstable();
    wanted.dedup();
    let value = |name: &str| {
        let fail = |why: String| DeployError::Secret { name: name.to_owned(), why };
        let rule = plan.deployment.secrets.get(name).ok_or_else(|| fail("it is not declared".to_owned()))?;
        secret(rule).map_err(fail)
    };
    wanted.into_iter().map(|name| Ok((name.to_owned(), value(name)?))).collect()
}

fn secret(rule: &Secret) -> Result<String, String> {
    match rule {
        Secret::Env(name) => std::env::var(name).map_err(|_| format!("the variable {name} is not set")),
        Secret::File(path) => fs::read_to_string(path)
            .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
            .map_err(|e| format!("{path}: {e}")),
        Secret::Command(line) => {
            let (program, arguments) = line.split_first().ok_or("its command is empty")?;
            let output =
                Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
            if !output.status.success() {
                return Err(format!("{program} ended with {}", output.status));
            }
            let text = String::from_utf8(output.stdout).map_err(|_| format!("{program} printed no text"))?;
            Ok(text.trim_end_matches(['\n', '\r']).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_is_the_way_there_reversed() {
        let run = "run: { command: { run: [x] } }";
        let undo = "undo: { command: { run: [y] } }";
        let text = format!(
            "name: d\ntargets: [a]\nphases:\n  - {{ name: one, {run}, {undo} }}\n  - {{ name: two, after: [one], {run} }}\n  \
             - {{ name: three, after: [two], {run}, {undo} }}\n"
        );
        let back = undoing(&Deployment::from_yaml(&text, "d.yaml").unwrap());
        let names: Vec<&str> = back.phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["three", "one"]);
        assert_eq!(back.phases[1].after, [After { phase: "three".to_owned(), all: false }]);
        let served = "name: d\nphases:\n  - { name: s, run: { service: { run: [x], grace: 2s } }, verify: { command: { run: [y] } } }\n";
        let stopped = undoing(&Deployment::from_yaml(served, "d.yaml").unwrap());
        assert!(matches!(&stopped.phases[0].run, Action::Service(s) if s.stop && s.grace.0.as_secs() == 2));
        let text_of = |file: &Deployment| serde_json::to_string(file).unwrap();
        assert_eq!(Deployment::from_yaml(&text_of(&stopped), "d.json").unwrap(), stopped);
        // It is kept in the journal as text, and JSON is YAML.
        let text = serde_json::to_string(&back).unwrap();
        assert_eq!(Deployment::from_yaml(&text, "d.json").unwrap(), back);
    }
}
