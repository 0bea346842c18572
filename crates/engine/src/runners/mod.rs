//! Runners: what an action means as processes.

mod http;
mod kubectl;
pub(crate) mod service;
pub(crate) mod terraform;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pccl_deploy::classify::classify;
use pccl_deploy::file::{Action, CommandAction, EnvValue, HelmAction, PcclAction, Time};
use pccl_deploy::schedule::Cause;
use pccl_launch::{Control, Finished, Keeper, Program, StartError, run as process};

/// What all attempts of a run share.
#[derive(Debug)]
pub(crate) struct Site {
    /// Folder of the deployment file: paths are relative to it.
    pub(crate) base: PathBuf,
    /// Values of the secrets that the file names.
    pub(crate) secrets: BTreeMap<String, String>,
    /// The services of the deployment.
    pub(crate) services: Keeper,
    /// Folders where `terraform init` has run in this session.
    pub(crate) initialized: std::sync::Mutex<std::collections::BTreeSet<PathBuf>>,
    /// What stands in no message, the longest first.
    hidden: Vec<String>,
}

/// A secret that is shorter is no secret, and would make messages unreadable.
const SHORTEST_SECRET: usize = 4;

impl Site {
    pub(crate) fn new(base: PathBuf, secrets: BTreeMap<String, String>, services: Keeper) -> Self {
        // Messages have one line, secrets may have more.
        let lines = secrets.values().flat_map(|value| std::iter::once(value.as_str()).chain(value.lines()));
        let lines = lines.map(str::trim).filter(|line| line.len() >= SHORTEST_SECRET);
        let mut hidden: Vec<String> = lines.map(str::to_owned).collect();
        hidden.sort_by_key(|line| std::cmp::Reverse(line.len()));
        Self { base, secrets, services, initialized: std::sync::Mutex::default(), hidden }
    }

    /// A text without the values of secrets: what a program prints of them stays in the file of its output.
    pub(crate) fn redacted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for secret in self.hidden.iter().filter(|secret| !secret.is_empty()) {
            if text.contains(secret.as_str()) {
                text = Cow::Owned(text.replace(secret.as_str(), "***"));
            }
        }
        text
    }

    /// A cause without the values of secrets.
    pub(crate) fn discreet(&self, cause: Cause) -> Cause {
        let clean = |what: String| self.redacted(&what).into_owned();
        match cause {
            Cause::Failed { what } => Cause::Failed { what: clean(what) },
            Cause::Impossible { what } => Cause::Impossible { what: clean(what) },
            Cause::Locked { what } => Cause::Locked { what: clean(what) },
            Cause::NotVerified { what } => Cause::NotVerified { what: clean(what) },
            Cause::Quota { what } => Cause::Quota { what: clean(what) },
            Cause::Server { what } => Cause::Server { what: clean(what) },
            other => other,
        }
    }

    /// The working directory of an action.
    fn dir(&self, dir: Option<&String>) -> PathBuf {
        dir.map_or_else(|| self.base.clone(), |dir| self.base.join(dir))
    }
}

/// Where one attempt runs.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) site: &'a Site,
    /// Name of the task.
    pub(crate) task: &'a str,
    pub(crate) control: &'a Control,
    /// File that its output goes to.
    pub(crate) log: &'a Path,
    /// Value of the mark in the environment of its processes.
    pub(crate) mark: &'a str,
    /// Longest time of one attempt.
    pub(crate) timeout: Duration,
    /// What Terraform may do at once.
    pub(crate) parallelism: Option<u32>,
    /// Told about every process that starts.
    pub(crate) started: &'a dyn Fn(u32),
    /// Told when the API throttles.
    pub(crate) throttled: &'a dyn Fn(Option<Duration>),
}

/// Runs an action whose templates have been rendered.
pub(crate) fn run(action: &Action, context: &Context<'_>) -> Result<(), Cause> {
    match action {
        Action::Command(action) => command(action, context),
        Action::Pccl(action) => pccl(action, context),
        Action::Helm(action) => context.execute(&helm(action, context)?).map(drop),
        Action::Kubectl(action) => kubectl::run(action, context),
        Action::Http(action) => {
            repeat(action.within, action.every, context, || http::request(action, context))
        }
        Action::Prometheus(action) => {
            repeat(action.within, action.every, context, || http::query(action, context))
        }
        Action::Terraform(action) => terraform::run_one(action, context),
        Action::Service(action) => service::run(action, context, &|_| Ok(())),
    }
}

impl Context<'_> {
    /// Runs a program to its end; anything but success is a cause.
    pub(crate) fn execute(&self, program: &Program) -> Result<Finished, Cause> {
        let running = process::start(program, self.mark, self.log, self.control).map_err(cause)?;
        (self.started)(running.pid());
        let finished = running
            .wait()
            .map_err(|e| Cause::Server { what: format!("failed to wait for a process: {e}") })?;
        self.judge(&finished)?;
        Ok(finished)
    }

    /// Why a finished process did not succeed.
    pub(crate) fn judge(&self, finished: &Finished) -> Result<(), Cause> {
        if finished.success() {
            return Ok(());
        }
        self.interrupted()?;
        // Hidden before it is cut to the length of a message: of a secret that is cut nobody knows what it is.
        Err(classify(&self.site.redacted(&finished.tail()), &finished.how()))
    }

    /// Whether the engine has ended the attempt.
    pub(crate) fn interrupted(&self) -> Result<(), Cause> {
        if self.control.is_timed_out() {
            Err(Cause::TimedOut)
        } else if self.control.is_stopped() {
            Err(Cause::Stopped)
        } else {
            Ok(())
        }
    }

    /// A program with the environment of an action.
    pub(crate) fn program(
        &self,
        line: Vec<String>,
        dir: Option<&String>,
        env: &BTreeMap<String, EnvValue>,
    ) -> Result<Program, Cause> {
        self.surrounded(Program { line, dir: self.site.dir(dir), ..Program::default() }, env)
    }

    /// The same program with the environment of an action.
    fn surrounded(&self, program: Program, env: &BTreeMap<String, EnvValue>) -> Result<Program, Cause> {
        Ok(Program { env: self.values(env)?, without: self.secret_variables(), ..program })
    }

    /// Variables that this process was given secrets in: a task gets those that it asks for, by the names it gives them.
    fn secret_variables(&self) -> Vec<OsString> {
        let is_secret = |value: &OsString| self.site.secrets.values().any(|secret| value == secret.as_str());
        std::env::vars_os().filter(|(_, value)| is_secret(value)).map(|(name, _)| name).collect()
    }

    /// Values of an environment or of headers.
    pub(crate) fn values(
        &self,
        values: &BTreeMap<String, EnvValue>,
    ) -> Result<BTreeMap<String, String>, Cause> {
        let value = |value: &EnvValue| match value {
            EnvValue::Text(text) => Ok(text.clone()),
            EnvValue::Secret { secret } => self.site.secrets.get(secret).cloned().ok_or_else(|| {
                Cause::Impossible { what: format!("there is no value for the secret `{secret}`") }
            }),
        };
        values.iter().map(|(name, v)| Ok((name.clone(), value(v)?))).collect()
    }
}

fn cause(error: StartError) -> Cause {
    match error {
        StartError::NotFound(what) => Cause::Impossible { what },
        other => Cause::Server { what: other.to_string() },
    }
}

fn command(action: &CommandAction, context: &Context<'_>) -> Result<(), Cause> {
    let program = Program::of_line(action.run.clone(), context.site.dir(action.dir.as_ref()));
    let program = context.surrounded(program, &action.env)?;
    repeat(action.within, action.every, context, || context.execute(&program).map(drop))
}

fn pccl(action: &PcclAction, context: &Context<'_>) -> Result<(), Cause> {
    let dir = context.site.dir(action.dir.as_ref());
    let program = Program { dir, ..Program::ourselves(action.args.iter().cloned()).map_err(cause)? };
    let program = context.surrounded(program, &action.env)?;
    repeat(action.within, action.every, context, || context.execute(&program).map(drop))
}

fn helm(action: &HelmAction, context: &Context<'_>) -> Result<Program, Cause> {
    let mut line = vec!["helm".to_owned()];
    let mut add = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
    if action.uninstall {
        add(&["uninstall", &action.release, "--ignore-not-found", "--wait"]);
    } else {
        let chart = action.chart.as_deref().unwrap_or_default();
        add(&["upgrade", "--install", &action.release, chart, "--wait", "--create-namespace"]);
        add(&["--timeout", &format!("{}s", context.timeout.as_secs().max(1))]);
    }
    let options = [
        ("--version", action.version.as_ref()),
        ("--namespace", action.namespace.as_ref()),
        ("--kube-context", action.context.as_ref()),
        ("--kubeconfig", action.kubeconfig.as_ref()),
    ];
    for (option, value) in options {
        if let Some(value) = value {
            add(&[option, value]);
        }
    }
    for file in &action.values {
        add(&["--values", file]);
    }
    for (key, value) in &action.set {
        add(&["--set-string", &format!("{key}={value}")]);
    }
    context.program(line, None, &action.env)
}

/// Runs something again until it succeeds, for so long.
fn repeat(
    within: Option<Time>,
    every: Time,
    context: &Context<'_>,
    mut once: impl FnMut() -> Result<(), Cause>,
) -> Result<(), Cause> {
    let Some(within) = within else { return once() };
    let until = Instant::now() + within.0;
    loop {
        let cause = match once() {
            Ok(()) => return Ok(()),
            Err(cause) => cause,
        };
        let final_word = matches!(cause, Cause::Impossible { .. } | Cause::Stopped | Cause::TimedOut);
        if final_word || Instant::now() + every.0 >= until {
            return Err(cause);
        }
        let wake = Instant::now() + every.0;
        while Instant::now() < wake {
            context.interrupted()?;
            thread::sleep((wake - Instant::now()).min(Duration::from_millis(50)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_no_secret() {
        let secrets = [
            ("a", "hunter2"),
            ("b", "-----BEGIN\nMIIEvQ==\n-----END\n"),
            ("c", ""),
            ("d", "no"),
            ("e", "hunter2-more"),
        ];
        let secrets = secrets.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let site = Site::new(PathBuf::new(), secrets, Keeper::new(PathBuf::new()));
        let text = site.redacted("no: hunter2-more, hunter2!, MIIEvQ==.");
        assert_eq!(text, "no: ***, ***!, ***.");
        let cause = site.discreet(Cause::NotVerified { what: "it said hunter2".to_owned() });
        assert_eq!(cause, Cause::NotVerified { what: "it said ***".to_owned() });
    }
}
