//! What is to be started, and the command that it becomes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// The name by which a program line calls this program.
const OURSELVES: &str = "pccl";

/// A program to start.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// The program and its arguments.
    pub line: Vec<String>,
    /// Where it works; empty: where we do.
    pub dir: PathBuf,
    /// Variables in addition to ours.
    pub env: BTreeMap<String, String>,
    /// Variables of ours that it does not get.
    pub without: Vec<OsString>,
    /// Written to its standard input, where that is a pipe to us.
    pub input: Option<String>,
    /// Asked to stop by SIGINT instead of SIGTERM.
    pub stops_by_interrupt: bool,
}

/// Why a program could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// There is no such program or folder, or it may not be run: trying again does not help.
    NotFound(String),
    /// The system refused.
    System(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(what) | Self::System(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

impl Program {
    /// This program again.
    pub fn ourselves(args: impl IntoIterator<Item = String>) -> Result<Self, StartError> {
        let program = std::env::current_exe()
            .map_err(|e| StartError::NotFound(format!("failed to find this program: {e}")))?;
        let name = program.to_string_lossy().into_owned();
        Ok(Self { line: std::iter::once(name).chain(args).collect(), ..Self::default() })
    }

    /// A line that works in `dir`. A program with a slash in its name is looked for there, as a shell does it.
    pub fn of_line(mut line: Vec<String>, dir: PathBuf) -> Self {
        if let Some(name) = line.first_mut().filter(|name| name.contains('/') && !name.starts_with('/')) {
            *name = dir.join(&*name).to_string_lossy().into_owned();
        }
        Self { line, dir, ..Self::default() }
    }

    /// The same, where `pccl` is this program.
    pub fn of_service(line: Vec<String>, dir: PathBuf) -> Result<Self, StartError> {
        if line.first().is_some_and(|name| name == OURSELVES) {
            return Ok(Self { dir, ..Self::ourselves(line.into_iter().skip(1))? });
        }
        Ok(Self::of_line(line, dir))
    }

    /// The command, in a process group of its own: a Ctrl-C at the terminal is for us, who end in order what we started.
    pub(crate) fn command(&self) -> Result<Command, StartError> {
        let Some((name, arguments)) = self.line.split_first().filter(|(name, _)| !name.is_empty()) else {
            return Err(StartError::NotFound("the program's name is empty".to_owned()));
        };
        let mut command = Command::new(name);
        for variable in &self.without {
            command.env_remove(variable);
        }
        command.args(arguments).envs(&self.env).process_group(0);
        if self.dir != Path::new("") {
            command.current_dir(&self.dir);
        }
        Ok(command)
    }

    /// Starts the command that [`Program::command`] made, with its streams set.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Child, StartError> {
        let name = self.line.first().map_or("", String::as_str);
        command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if self.dir != Path::new("") && !self.dir.is_dir() => {
                StartError::NotFound(format!("there is no folder {}", self.dir.display()))
            }
            io::ErrorKind::NotFound => StartError::NotFound(format!("there is no program `{name}` on PATH")),
            io::ErrorKind::PermissionDenied => {
                StartError::NotFound(format!("`{name}` may not be run: {error}"))
            }
            _ => StartError::System(format!("failed to start `{name}`: {error}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_this_program_a_path_or_a_program_on_path() {
        let of = |line: &[&str]| {
            let line = line.iter().map(|word| (*word).to_owned()).collect();
            Program::of_service(line, PathBuf::from("/there")).unwrap().line
        };
        assert_eq!(of(&["sh", "-c", "x"]), ["sh", "-c", "x"]);
        assert_eq!(of(&["bin/serve"]), ["/there/bin/serve"]);
        assert_eq!(of(&["/bin/serve"]), ["/bin/serve"]);
        let ourselves = of(&["pccl", "master"]);
        assert_eq!(ourselves[0], std::env::current_exe().unwrap().to_string_lossy());
        assert_eq!(ourselves[1..], ["master"]);
        assert_eq!(Program::of_line(vec!["pccl".to_owned()], PathBuf::from("/there")).line, ["pccl"]);
    }

    #[test]
    fn nothing_is_no_program() {
        let error = Program::default().command().unwrap_err();
        assert_eq!(error.to_string(), "the program's name is empty");
    }
}
