//! Services: programs that stay. Done is a task when its service is ready; one that runs already is not started again.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io::Write as _};

use pccl_deploy::file::ServiceAction;
use pccl_deploy::schedule::Cause;
use pccl_launch::{Program, Service, StopError};

use super::{Context, cause};

/// Longest pause in which nobody looks whether the attempt is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Lines at the end of an output that say why a service has ended, and their characters.
const LAST_LINES: usize = 3;
const LAST_CHARACTERS: usize = 300;

/// Has a service run until `check` holds, or stops it.
pub(crate) fn run(
    action: &ServiceAction,
    context: &Context<'_>,
    check: &dyn Fn(&Context<'_>) -> Result<(), Cause>,
) -> Result<(), Cause> {
    if action.stop {
        return stop(action.grace.0, context);
    }
    let mut service = running(action, context)?;
    (context.started)(service.pid());
    let ready = until_ready(&mut service, action, context, check);
    if ready.is_err() {
        // What is not ready is not left behind; why it is not ready is the news.
        let _ = stop(action.grace.0, context);
    }
    ready
}

/// A failure, unless the service of this task runs.
pub(crate) fn must_run(context: &Context<'_>) -> Result<(), Cause> {
    match context.site.services.find(context.task).map_err(|e| unusable(&e))? {
        Some(_) => Ok(()),
        None => Err(Cause::Failed { what: "it does not run".to_owned() }),
    }
}

fn stop(grace: Duration, context: &Context<'_>) -> Result<(), Cause> {
    context
        .site
        .services
        .stop(context.task, grace, || context.control.hurries())
        .map_err(|e| unusable(&e))?;
    Ok(())
}

fn unusable(error: &StopError) -> Cause {
    Cause::Server { what: error.to_string() }
}

/// The one that runs, if it is what the file says now, else a new one.
fn running(action: &ServiceAction, context: &Context<'_>) -> Result<Service, Cause> {
    let services = &context.site.services;
    let definition = serde_json::json!([action.run, action.dir, action.env]).to_string();
    if let Some(service) = services.find(context.task).map_err(|e| unusable(&e))? {
        if service.definition() == definition {
            let (pid, output) = (service.pid(), service.output().display());
            say(context.log, &format!("process {pid} runs already; its output goes to {output}"));
            return Ok(service);
        }
        say(context.log, &format!("process {} was started as something else: it is replaced", service.pid()));
        stop(action.grace.0, context)?;
    }
    context.interrupted()?;
    let program = Program::of_service(action.run.clone(), context.site.dir(action.dir.as_ref()));
    let program = context.surrounded(program.map_err(cause)?, &action.env)?;
    services.start(context.task, &program, &definition, context.log).map_err(cause)
}

/// A line of ours in the output of the attempt.
fn say(log: &Path, what: &str) {
    // It is for whoever looks, and decides nothing.
    let file = fs::OpenOptions::new().create(true).append(true).open(log);
    let _ = file.and_then(|mut file| writeln!(file, "{what}"));
}

fn until_ready(
    service: &mut Service,
    action: &ServiceAction,
    context: &Context<'_>,
    check: &dyn Fn(&Context<'_>) -> Result<(), Cause>,
) -> Result<(), Cause> {
    // The service writes to the log of the attempt all the time; of the looks the last one is kept.
    let log = context.log.with_extension("ready.log");
    let look = Context { log: &log, started: &|_| {}, ..*context };
    let mut not_yet = None;
    loop {
        let _ = fs::remove_file(&log);
        let answer = check(&look);
        if let Some(how) = service.end() {
            return Err(Cause::Failed {
                what: format!(
                    "it ended before it was ready: {}",
                    last_words(&how, &context.site.redacted(&service.tail()))
                ),
            });
        }
        match answer {
            Ok(()) => return Ok(()),
            Err(cause @ Cause::Impossible { .. }) => return Err(cause),
            // A check that was cut off has nothing to say.
            Err(Cause::TimedOut | Cause::Stopped) => {}
            Err(cause) => not_yet = Some(cause),
        }
        let wake = Instant::now() + action.every.0;
        loop {
            context.interrupted().map_err(|cause| overdue(cause, not_yet.as_ref(), context.timeout))?;
            let left = wake.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(LOOK));
        }
    }
}

/// Why an attempt ends whose service is not ready.
fn overdue(cause: Cause, not_yet: Option<&Cause>, timeout: Duration) -> Cause {
    match (cause, not_yet) {
        (Cause::TimedOut, Some(not_yet)) => {
            let what = match not_yet {
                Cause::NotVerified { what } => what.clone(),
                other => other.to_string(),
            };
            Cause::NotVerified { what: format!("not ready within {}: {what}", crate::display::time(timeout)) }
        }
        (cause, _) => cause,
    }
}

fn last_words(how: &str, tail: &str) -> String {
    let lines: Vec<&str> = tail.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("; ");
    let skipped = last.chars().count().saturating_sub(LAST_CHARACTERS);
    let last: String = last.chars().skip(skipped).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if last.is_empty() { how.to_owned() } else { format!("{how}: {last}") }
}
