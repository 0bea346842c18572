//! `pccl deploy`: a deployment as parallel as its dependencies and the clouds' limits allow.
//!
//! What is decided is decided in `pccl-deploy`, what is run is run by `pccl-engine`; here are the commands.

mod failure;
mod follow;
mod forecast;
mod status;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output::print;
use pccl_engine::{Again, Choices, DeployError, JournalUrl, Manner, Place, Source, Summary, TcpAddress};

/// What `init` writes.
const EXAMPLE: &str = include_str!("example.yaml");

/// Options of `pccl deploy`.
#[derive(Args, Debug)]
#[command(after_help = exit::help(&[
    ("a file to start from, and whether it is sound", "pccl deploy init && pccl deploy validate"),
    ("what would happen, in every mode", "pccl deploy plan"),
    ("do it", "pccl deploy run"),
    ("go on after the engine was killed; try again what failed", "pccl deploy resume; pccl deploy retry"),
]))]
pub(crate) struct DeployArgs {
    #[command(subcommand)]
    command: Deploy,
}

#[derive(Subcommand, Debug)]
enum Deploy {
    /// Write a deployment file to start from
    #[command(after_help = exit::examples(&[("a file to start from, under another name", "pccl deploy init cluster.yaml")]))]
    Init(FileArgs),
    /// Read the file, render every template, and say what is wrong
    #[command(after_help = exit::examples(&[("with another value for a variable", "pccl deploy validate cluster.yaml --var region=uksouth")]))]
    Validate(ValidateArgs),
    /// Print the JSON schema of the file, for editors
    #[command(after_help = exit::examples(&[("for editors that complete YAML", "pccl deploy schema > deploy.schema.json")]))]
    Schema,
    /// Tasks, waves, and for every mode: time, lower bound, critical path, API use, risk
    #[command(after_help = exit::examples(&[("as the operators would run it", "pccl deploy plan cluster.yaml --mode max --only besu")]))]
    Plan(PlanArgs),
    /// Run the deployment
    #[command(visible_alias = "up")]
    #[command(after_help = exit::examples(&[("two waves, at most 3 targets may fail, and what tasks print", "pccl deploy run cluster.yaml --waves 8,16 --max-failures 3 --live")]))]
    Run(RunArgs),
    /// Go on with a run that was stopped or killed
    #[command(after_help = exit::examples(&[("the newest run, after a crash or Ctrl-C", "pccl deploy resume cluster.yaml")]))]
    Resume(AgainArgs),
    /// Run again what failed, and what waits for it
    #[command(after_help = exit::examples(&[("what failed in one target", "pccl deploy retry cluster.yaml --only uksouth")]))]
    Retry(AgainArgs),
    /// Undo it: the `undo` of each phase, in reverse order
    #[command(after_help = exit::examples(&[("what would be undone", "pccl deploy down cluster.yaml --dry-run")]))]
    Down(RunArgs),
    /// How far a run is, and what failed
    #[command(after_help = exit::examples(&[("an earlier run, for a program", "pccl deploy status cluster.yaml --run 3 --json")]))]
    Status(StatusArgs),
    /// All runs of the journal
    #[command(after_help = exit::examples(&[("all that a team has run", "pccl deploy runs cluster.yaml --journal postgres://me@db/deployments")]))]
    Runs(PlaceArgs),
    /// A run that another process drives, live
    #[command(after_help = exit::examples(&[("what a colleague runs", "pccl deploy watch cluster.yaml")]))]
    Watch(StatusArgs),
    /// A read-only page and JSON about all runs, live, and their metrics
    #[command(after_help = exit::examples(&[("on another port of this machine", "pccl deploy serve cluster.yaml --listen :9191")]))]
    Serve(ServeArgs),
    /// The whole deployment against simulated clouds, in virtual time
    #[command(after_help = exit::examples(&[("a bad day, with its picture", "pccl deploy rehearse cluster.yaml --failing 0.05 --html day.html")]))]
    Rehearse(RehearseArgs),
    /// One HTML page, or a trace for Perfetto
    #[command(after_help = exit::examples(&[("the page, and a trace for ui.perfetto.dev", "pccl deploy report cluster.yaml -o run.html --trace run.json")]))]
    Report(ReportArgs),
}

#[derive(Args, Clone, Debug)]
struct FileArgs {
    /// The deployment file
    #[arg(value_name = "FILE", default_value = "deploy.yaml")]
    file: PathBuf,
}

#[derive(Args, Debug)]
struct ValidateArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    choices: Choices,
}

#[derive(Args, Debug)]
struct PlanArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    choices: Choices,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Rehearsals for each mode [default: 20, fewer for more than 2,500 tasks, of one mode for more than 50,000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    #[command(flatten)]
    journal: JournalArgs,
}

#[derive(Args, Clone, Debug)]
struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    manner: MannerArgs,
    /// Show what would run, and stop
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
struct AgainArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Number of the run; default: the newest
    #[arg(long, value_name = "N")]
    run: Option<i64>,
    /// Only these phases, targets, entries or tasks
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    #[command(flatten)]
    manner: MannerArgs,
}

#[derive(Args, Clone, Debug)]
struct MannerArgs {
    #[command(flatten)]
    journal: JournalArgs,
    /// Serve metrics of the run for Prometheus there as long as it runs; `:PORT` is on loopback
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_address: Option<TcpAddress>,
    /// `off` trusts the operating system to write the journal: faster, and a power failure may cost the last seconds
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"])]
    journal_sync: String,
    /// The journal's records as JSON, one a line
    #[arg(long)]
    json: bool,
    /// Only the end
    #[arg(long, short)]
    quiet: bool,
    /// Also what tasks print, each line behind the name of its task
    #[arg(long, conflicts_with = "quiet")]
    live: bool,
}

/// Where the journal is.
#[derive(Args, Clone, Debug)]
struct JournalArgs {
    /// Folder of the journal and the outputs; default: .pccl-deploy beside the file
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The journal in PostgreSQL, for a team: postgres://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(long, value_name = "URL", env = "PCCL_DEPLOY_JOURNAL", hide_env_values = true, value_parser = JournalUrl::parse)]
    journal: Option<JournalUrl>,
}

impl JournalArgs {
    fn place(&self, file: &Path) -> Result<Place, CliError> {
        let source = Source::read(file)?;
        Ok(Place::of(&source, &source.name()?, self.state.as_deref(), self.journal.as_ref()))
    }
}

#[derive(Args, Debug)]
struct PlaceArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    journal: JournalArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ServeArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    journal: JournalArgs,
    /// Where to listen; port 0 takes a free one, `:PORT` is on loopback
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9091")]
    listen: TcpAddress,
}

#[derive(Args, Debug)]
struct StatusArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Number of the run; default: the newest
    #[arg(long, value_name = "N")]
    run: Option<i64>,
    #[command(flatten)]
    journal: JournalArgs,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct RehearseArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    choices: Choices,
    /// The same seed gives the same run
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Part of all attempts that fail, from 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    failing: f64,
    /// Write the picture of the rehearsal to this file
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct ReportArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Number of the run; default: the newest
    #[arg(long, value_name = "N")]
    run: Option<i64>,
    #[command(flatten)]
    journal: JournalArgs,
    /// Where the page goes
    #[arg(long, short, value_name = "FILE.html", default_value = "report.html")]
    output: PathBuf,
    /// Write a trace for Perfetto or chrome://tracing too
    #[arg(long, value_name = "FILE.json")]
    trace: Option<PathBuf>,
}

impl MannerArgs {
    fn manner(&self) -> Manner {
        let JournalArgs { state, journal } = self.journal.clone();
        let (durable, metrics) = (self.journal_sync == "on", self.metrics_address.clone());
        Manner { state, durable, json: self.json, quiet: self.quiet, live: self.live, journal, metrics }
    }
}

/// Runs a command of `pccl deploy`.
pub(crate) fn run(args: &DeployArgs) -> Result<Exit, CliError> {
    match &args.command {
        Deploy::Init(args) => init(&args.file),
        Deploy::Validate(args) => validate(args),
        Deploy::Schema => {
            print(&[format!("{:#}", pccl_deploy::file::schema())]);
            Ok(Exit::Success)
        }
        Deploy::Plan(args) => forecast::plan(args),
        Deploy::Run(args) => begin(&Source::read(&args.file.file)?, args, pccl_engine::begin),
        Deploy::Down(args) => down(args.clone()),
        Deploy::Resume(args) => again(args, &Again::Resume),
        Deploy::Retry(args) => again(args, &Again::Retry),
        Deploy::Status(args) => status::status(args),
        Deploy::Runs(args) => follow::runs(args),
        Deploy::Watch(args) => follow::watch(args),
        Deploy::Serve(args) => follow::serve(args),
        Deploy::Rehearse(args) => forecast::rehearse(args),
        Deploy::Report(args) => status::report(args),
    }
}

/// What begins a run.
type Begin = fn(&Source, &Choices, &Manner) -> Result<(Summary, i64), DeployError>;

fn begin(source: &Source, args: &RunArgs, begin: Begin) -> Result<Exit, CliError> {
    if args.dry_run {
        let plan = args.choices.plan(source)?;
        print(&forecast::tasks(&plan));
        return Ok(Exit::Success);
    }
    let manner = args.manner.manner();
    let (summary, run) = begin(source, &args.choices, &manner)?;
    Ok(conclude(&summary, run, &manner))
}

fn down(mut args: RunArgs) -> Result<Exit, CliError> {
    let source = Source::read(&args.file.file)?;
    let known = source.deployment()?.vars;
    let mut vars = pccl_engine::last_vars(&source, &args.manner.manner())?;
    vars.retain(|(name, _)| known.contains_key(name));
    vars.append(&mut args.choices.vars);
    args.choices.vars = vars;
    let back = pccl_engine::undoing(&source.deployment_with(&args.choices.vars)?);
    if back.phases.is_empty() {
        return Err(CliError::new(Exit::Usage, "failed to undo: no phase of this deployment has `undo`")
            .hint("add `undo: { … }` to the phases that can be undone"));
    }
    let text = serde_json::to_string(&back).map_err(|e| CliError::new(Exit::System, e.to_string()))?;
    begin(&Source { text, ..source }, &args, pccl_engine::go_back)
}

fn again(args: &AgainArgs, again: &Again) -> Result<Exit, CliError> {
    let source = Source::read(&args.file.file)?;
    let manner = args.manner.manner();
    let (summary, run) = pccl_engine::go_on(&source, args.run, &args.only, again, &manner)?;
    Ok(conclude(&summary, run, &manner))
}

/// Says how it ended.
fn conclude(summary: &Summary, run: i64, manner: &Manner) -> Exit {
    let counts = summary.counts;
    let bad = counts.failed + counts.skipped;
    if !manner.json {
        let took = pccl_engine::time(summary.took);
        let line = format!(
            "run {run}: {} done, {} failed, {} skipped in {took}",
            counts.done, counts.failed, counts.skipped
        );
        print(&[line]);
        if summary.stopped {
            print(&["go on with it: pccl deploy resume"]);
        } else if bad > 0 {
            print(&["what failed and why: pccl deploy status; once more: pccl deploy retry"]);
        }
    }
    exit_of(summary.stopped, bad, counts.done)
}

/// The exit code of a run, with so many tasks failed or skipped, and so many done.
fn exit_of(stopped: bool, bad: u32, done: u32) -> Exit {
    match (stopped, bad, done) {
        (true, ..) => Exit::Interrupted,
        (false, 0, _) => Exit::Success,
        (false, _, 0) => Exit::Failed,
        (false, ..) => Exit::Partial,
    }
}

fn init(path: &Path) -> Result<Exit, CliError> {
    let file = fs::OpenOptions::new().write(true).create_new(true).open(path);
    let written = file.and_then(|mut file| file.write_all(EXAMPLE.as_bytes()));
    written.map_err(|e| {
        CliError::new(Exit::Input, format!("failed to write {}: {e}", path.display()))
            .hint("an existing file is never overwritten; give another name")
    })?;
    print(&[format!("{} is there: `pccl deploy plan {0}`, then `pccl deploy run {0}`", path.display())]);
    Ok(Exit::Success)
}

fn validate(args: &ValidateArgs) -> Result<Exit, CliError> {
    let path = &args.file.file;
    let plan = args.choices.plan(&Source::read(path)?)?;
    let deployment = &plan.deployment;
    print(&[format!(
        "{}: {} targets, {} phases, {} tasks, {} waves, {} scopes: sound",
        path.display(),
        deployment.targets.len(),
        deployment.phases.len(),
        plan.tasks.len(),
        plan.waves.len(),
        plan.scopes.len()
    )]);
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_an_example_that_can_be_read() {
        #[derive(clap::Parser)]
        struct Top {
            #[command(subcommand)]
            deploy: Deploy,
        }
        let top = <Top as clap::CommandFactory>::command();
        for command in top.get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let line = help.lines().find_map(|line| line.trim().strip_prefix("pccl deploy ")).unwrap();
            let words = line.split(" > ").next().unwrap().split(' ');
            let read = <Top as clap::Parser>::try_parse_from(std::iter::once("pccl").chain(words));
            assert!(read.map(|top| top.deploy).is_ok(), "{line}");
        }
    }
}
