//! `terraform init` and `apply -json`: one process for one task, or for all tasks that share a state.
//!
//! What Terraform does is read from its events while it runs. A resource whose creation began and did not end, because
//! Terraform was killed, may be recorded in its state as done: with `replace_unfinished` it is made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use pccl_deploy::classify::classify;
use pccl_deploy::file::TerraformAction;
use pccl_deploy::schedule::Cause;
use serde_json::Value;

use super::Context;
use pccl_launch::{Finished, Program, run as process};

/// Pause between two looks at the events of a running Terraform.
const LOOK: Duration = Duration::from_millis(10);

/// One process for several tasks.
pub(crate) struct Batch<'a> {
    /// The rendered actions; they differ in their address only.
    pub(crate) actions: &'a [TerraformAction],
    /// Whether these are all tasks of the phase: then nothing is targeted.
    pub(crate) is_whole: bool,
    /// Outputs of earlier processes on this state, oldest first.
    pub(crate) earlier: &'a [PathBuf],
    /// Told as soon as all resources of a task are there.
    pub(crate) done: &'a dyn Fn(usize),
}

/// One task with a state of its own.
pub(crate) fn run_one(action: &TerraformAction, context: &Context<'_>) -> Result<(), Cause> {
    let earlier = earlier_of(context.log);
    let batch = Batch {
        actions: std::slice::from_ref(action),
        is_whole: action.address.is_none(),
        earlier: &earlier,
        done: &|_| {},
    };
    run(&batch, context).pop().unwrap_or(Ok(()))
}

/// Outputs of the attempts of the same task before this one: `NAME.1.log`, `NAME.2.log`, ….
fn earlier_of(log: &Path) -> Vec<PathBuf> {
    let name = log.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut parts = name.rsplitn(3, '.');
    let (Some("log"), Some(number), Some(stem)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let number: u32 = number.parse().unwrap_or(1);
    (1..number).map(|n| log.with_file_name(format!("{stem}.{n}.log"))).collect()
}

/// Runs `apply` for all tasks of a batch; one result for each.
pub(crate) fn run(batch: &Batch<'_>, context: &Context<'_>) -> Vec<Result<(), Cause>> {
    let all = |cause: &Cause| batch.actions.iter().map(|_| Err(cause.clone())).collect::<Vec<_>>();
    let Some(first) = batch.actions.first() else { return Vec::new() };
    if let Err(cause) = initialize(first, context, false) {
        return all(&cause);
    }
    let results = apply(batch, first, context);
    let wants_init = |result: &Result<(), Cause>| matches!(result, Err(Cause::Failed { what }) if what.contains("terraform init"));
    if results.iter().any(wants_init) {
        return match initialize(first, context, true) {
            Ok(()) => apply(batch, first, context),
            Err(cause) => all(&cause),
        };
    }
    results
}

/// `terraform init`, once for each folder and session, and not where it was done before.
fn initialize(action: &TerraformAction, context: &Context<'_>, again: bool) -> Result<(), Cause> {
    let dir = context.site.base.join(&action.dir);
    let mut initialized = context.site.initialized.lock().unwrap_or_else(PoisonError::into_inner);
    if !again && (initialized.contains(&dir) || dir.join(".terraform").is_dir()) {
        return Ok(());
    }
    let mut line = words(&["terraform", "init", "-input=false", "-no-color"]);
    line.extend(action.backend.iter().map(|(key, value)| format!("-backend-config={key}={value}")));
    context.execute(&program(action, line, context)?)?;
    initialized.insert(dir);
    Ok(())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn program(action: &TerraformAction, line: Vec<String>, context: &Context<'_>) -> Result<Program, Cause> {
    let mut program = context.program(line, Some(&action.dir), &action.env)?;
    program.stops_by_interrupt = true;
    program.env.insert("TF_IN_AUTOMATION".to_owned(), "1".to_owned());
    // No question to HashiCorp for newer versions in the middle of a deployment.
    program.env.entry("CHECKPOINT_DISABLE".to_owned()).or_insert_with(|| "1".to_owned());
    if let Some(workspace) = &action.workspace {
        program.env.insert("TF_WORKSPACE".to_owned(), workspace.clone());
    }
    Ok(program)
}

fn apply(batch: &Batch<'_>, action: &TerraformAction, context: &Context<'_>) -> Vec<Result<(), Cause>> {
    let all = |cause: Cause| batch.actions.iter().map(|_| Err(cause.clone())).collect::<Vec<_>>();
    let line = apply_line(batch, action, context);
    let program = match program(action, line, context) {
        Ok(program) => program,
        Err(cause) => return all(cause),
    };
    let begins_at = fs::metadata(context.log).map_or(0, |meta| meta.len());
    let mut running = match process::start(&program, context.mark, context.log, context.control) {
        Ok(running) => running,
        Err(error) => return all(super::cause(error)),
    };
    (context.started)(running.pid());
    let mut events = Events::new(batch, begins_at, context.log);
    loop {
        let ended = running.has_ended();
        events.read(context);
        if ended {
            break;
        }
        thread::sleep(LOOK);
    }
    match running.wait() {
        Ok(finished) => events.results(&finished, context),
        Err(error) => all(Cause::Server { what: format!("failed to wait for terraform: {error}") }),
    }
}

fn apply_line(batch: &Batch<'_>, action: &TerraformAction, context: &Context<'_>) -> Vec<String> {
    let mut line = words(&["terraform", "apply", "-json", "-auto-approve", "-input=false"]);
    let parallelism =
        context.parallelism.map_or(action.parallelism, |most| most.min(action.parallelism)).max(1);
    line.push(format!("-parallelism={parallelism}"));
    if action.destroy {
        line.push("-destroy".to_owned());
    }
    if let Some(state) = &action.state {
        line.push(format!("-state={}", context.site.base.join(state).display()));
    }
    for (name, value) in &action.vars {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line.push(format!("-var={name}={value}"));
    }
    line.extend(
        action.var_files.iter().map(|file| format!("-var-file={}", context.site.base.join(file).display())),
    );
    let addresses: Vec<&String> = batch.actions.iter().filter_map(|action| action.address.as_ref()).collect();
    if !batch.is_whole {
        line.extend(addresses.iter().map(|address| format!("-target={address}")));
    }
    if action.replace_unfinished && !action.destroy {
        let unfinished = unfinished(batch.earlier);
        let ours =
            |one: &&String| addresses.is_empty() || addresses.iter().any(|address| is_below(one, address));
        line.extend(unfinished.iter().filter(ours).map(|address| format!("-replace={address}")));
    }
    line
}

/// Addresses whose creation began and is not known to have ended.
fn unfinished(logs: &[PathBuf]) -> BTreeSet<String> {
    let mut open = BTreeSet::new();
    for log in logs {
        let Ok(file) = File::open(log) else { continue };
        for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
            let address = || event["hook"]["resource"]["addr"].as_str().unwrap_or_default().to_owned();
            match event["type"].as_str() {
                Some("apply_start") => drop(open.insert(address())),
                Some("apply_complete") => drop(open.remove(&address())),
                _ => {}
            }
        }
    }
    open
}

/// Whether a resource stands below an address.
fn is_below(resource: &str, address: &str) -> bool {
    resource.strip_prefix(address).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// What the events of one `apply` say.
struct Events<'a> {
    batch: &'a Batch<'a>,
    reader: Option<BufReader<File>>,
    partial: Vec<u8>,
    /// For each task, what is planned and has not ended.
    open: Vec<BTreeSet<String>>,
    done: Vec<bool>,
    errored: BTreeSet<String>,
    /// Errors, with the address that they are about where there is one.
    errors: Vec<(Option<String>, String)>,
    planned: bool,
    throttled_at: Option<Instant>,
}

impl<'a> Events<'a> {
    fn new(batch: &'a Batch<'a>, begins_at: u64, log: &Path) -> Self {
        let reader = File::open(log).ok().map(|mut file| {
            // Where this attempt begins; an error would show as events of an earlier one, which change nothing.
            let _ = file.seek(SeekFrom::Start(begins_at));
            BufReader::new(file)
        });
        let count = batch.actions.len();
        Self {
            batch,
            reader,
            partial: Vec::new(),
            open: vec![BTreeSet::new(); count],
            done: vec![false; count],
            errored: BTreeSet::new(),
            errors: Vec::new(),
            planned: false,
            throttled_at: None,
        }
    }

    /// Takes in what is new.
    fn read(&mut self, context: &Context<'_>) {
        let Some(mut reader) = self.reader.take() else { return };
        loop {
            match reader.read_until(b'\n', &mut self.partial) {
                Ok(0) | Err(_) => break,
                Ok(_) if self.partial.last() != Some(&b'\n') => break,
                Ok(_) => {
                    let line = std::mem::take(&mut self.partial);
                    self.line(&line, context);
                }
            }
        }
        self.reader = Some(reader);
    }

    fn line(&mut self, line: &[u8], context: &Context<'_>) {
        let Ok(event) = serde_json::from_slice::<Value>(line) else { return };
        let address =
            |event: &Value| event["hook"]["resource"]["addr"].as_str().unwrap_or_default().to_owned();
        match event["type"].as_str().unwrap_or_default() {
            "planned_change" => {
                let change = &event["change"];
                let resource = change["resource"]["addr"].as_str().unwrap_or_default();
                if !matches!(change["action"].as_str(), Some("noop" | "read" | "move")) {
                    for (task, action) in self.batch.actions.iter().enumerate() {
                        if action.address.as_ref().is_none_or(|address| is_below(resource, address)) {
                            self.open[task].insert(resource.to_owned());
                        }
                    }
                }
            }
            "change_summary" if event["changes"]["operation"] == "plan" => {
                self.planned = true;
                (0..self.open.len()).for_each(|task| self.check(task));
            }
            "apply_complete" if event["hook"]["action"] != "delete" || self.batch.actions[0].destroy => {
                let address = address(&event);
                for task in 0..self.open.len() {
                    if self.open[task].remove(&address) {
                        self.check(task);
                    }
                }
            }
            "apply_errored" => drop(self.errored.insert(address(&event))),
            "diagnostic" if event["@level"] == "error" => {
                let diagnostic = &event["diagnostic"];
                let text = |key: &str| diagnostic[key].as_str().unwrap_or_default();
                let what = format!("{}\n{}", text("detail"), text("summary"));
                self.errors.push((diagnostic["address"].as_str().map(str::to_owned), what));
            }
            _ => {}
        }
        self.notice_throttling(&event, context);
    }

    fn notice_throttling(&mut self, event: &Value, context: &Context<'_>) {
        let recently = self.throttled_at.is_some_and(|at| at.elapsed() < Duration::from_secs(5));
        let Some(message) = event["@message"].as_str().filter(|_| !recently) else { return };
        if let Cause::Throttled { retry_after } = classify(message, "") {
            self.throttled_at = Some(Instant::now());
            (context.throttled)(retry_after);
        }
    }

    fn check(&mut self, task: usize) {
        if self.planned && !self.done[task] && self.open[task].is_empty() {
            self.done[task] = true;
            (self.batch.done)(task);
        }
    }

    /// One result for each task.
    fn results(self, finished: &Finished, context: &Context<'_>) -> Vec<Result<(), Cause>> {
        if finished.success() {
            return self.batch.actions.iter().map(|_| Ok(())).collect();
        }
        let interrupted = context.interrupted().err();
        let everything: Vec<&str> = self.errors.iter().map(|(_, text)| text.as_str()).collect();
        let general = if everything.is_empty() {
            classify(&context.site.redacted(&finished.tail()), &finished.how())
        } else {
            classify(&context.site.redacted(&everything.join("\n")), &finished.how())
        };
        let result = |(task, action): (usize, &TerraformAction)| {
            if self.done[task] && action.address.is_some() {
                return Ok(());
            }
            if let Some(cause) = &interrupted {
                return Err(cause.clone());
            }
            let own: Vec<&str> = self
                .errors
                .iter()
                .filter(|(about, _)| {
                    let address = action.address.as_ref();
                    about.as_ref().zip(address).is_some_and(|(about, address)| is_below(about, address))
                })
                .map(|(_, text)| text.as_str())
                .collect();
            if own.is_empty() {
                Err(general.clone())
            } else {
                Err(classify(&context.site.redacted(&own.join("\n")), &finished.how()))
            }
        };
        self.batch.actions.iter().enumerate().map(result).collect()
    }
}

/// Tasks of an earlier process whose resources are all there, by what it wrote: for a session that goes on after the
/// engine was killed.
pub(crate) fn completed(log: &Path, addresses: &[String]) -> BTreeMap<String, bool> {
    let mut open: BTreeMap<String, BTreeSet<String>> =
        addresses.iter().map(|address| (address.clone(), BTreeSet::new())).collect();
    let mut planned = false;
    let Ok(file) = File::open(log) else { return BTreeMap::new() };
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        let Ok(event) = serde_json::from_slice::<Value>(&line) else { continue };
        match event["type"].as_str().unwrap_or_default() {
            "planned_change" => {
                let resource = event["change"]["resource"]["addr"].as_str().unwrap_or_default();
                for (address, set) in &mut open {
                    if is_below(resource, address) {
                        set.insert(resource.to_owned());
                    }
                }
            }
            "change_summary" if event["changes"]["operation"] == "plan" => planned = true,
            "apply_complete" => {
                let resource = event["hook"]["resource"]["addr"].as_str().unwrap_or_default();
                for set in open.values_mut() {
                    set.remove(resource);
                }
            }
            _ => {}
        }
    }
    open.into_iter().map(|(address, set)| (address, planned && set.is_empty())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path, lines: &[&str]) -> PathBuf {
        let path = folder.join("t.1.log");
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        path
    }

    #[test]
    fn what_began_and_did_not_end_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(
            folder.path(),
            &[
                r#"{"type":"apply_start","hook":{"resource":{"addr":"a.x"}}}"#,
                r#"{"type":"apply_start","hook":{"resource":{"addr":"a.y[\"k\"]"}}}"#,
                "no JSON",
                r#"{"type":"apply_complete","hook":{"resource":{"addr":"a.x"}}}"#,
            ],
        );
        assert_eq!(unfinished(&[log]), BTreeSet::from(["a.y[\"k\"]".to_owned()]));
    }

    #[test]
    fn addresses_contain_what_is_below_them() {
        let address = "module.region[\"a\"]";
        assert!(is_below("module.region[\"a\"].terraform_data.x", address));
        assert!(!is_below("module.region[\"ab\"].terraform_data.x", address));
        assert!(is_below("terraform_data.x[0]", "terraform_data.x"));
        assert!(!is_below("terraform_data.xy", "terraform_data.x"));
    }

    #[test]
    fn earlier_attempts_have_smaller_numbers() {
        let earlier = earlier_of(Path::new("run-1/infra__a.b.3.log"));
        assert_eq!(
            earlier,
            [PathBuf::from("run-1/infra__a.b.1.log"), PathBuf::from("run-1/infra__a.b.2.log")]
        );
    }
}
