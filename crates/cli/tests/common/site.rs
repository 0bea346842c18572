//! Deployments in folders of their own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::pccl;

/// A deployment in a folder of its own.
pub(crate) struct Site {
    pub(crate) folder: TempDir,
}

impl Site {
    pub(crate) fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("deploy.yaml"), file).expect("the file is written");
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = pccl(&["deploy"]);
        command.args(args).current_dir(self.folder.path());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("pccl starts")
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// `phases` over so many targets, each task appending its name to the file `ran`.
pub(crate) fn file(targets: usize, phases: &[&str], more: &str) -> String {
    let names: Vec<String> = (1..=targets).map(|n| format!("region{n:02}")).collect();
    let mut text = format!("name: site\ntargets: [{}]\nphases:\n", names.join(", "));
    for (at, phase) in phases.iter().enumerate() {
        let after = if at == 0 { String::new() } else { format!("    after: [{}]\n", phases[at - 1]) };
        text.push_str("  - name: ");
        text.push_str(phase);
        text.push_str("\n    for_each: targets\n");
        text.push_str(&after);
        text.push_str(
            "    run: { command: { run: [sh, task.sh, '{{ phase.name }}', '{{ target.name }}'] } }\n",
        );
        text.push_str(more);
    }
    text
}
