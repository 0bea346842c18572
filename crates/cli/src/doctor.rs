//! `pccl doctor`: what is wrong with a fleet, by symptoms, and what happened, from its flight records.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use pccl_config::{Config, HostPort};
use pccl_doctor::observed::Setting;
use pccl_doctor::{ExamineOptions, Level, MasterName, Symptom, TlsFiles, examine};
use pccl_observe::story;
use serde::Serialize;

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;
use crate::settings::{self, ConfigArgs};

/// Options of `pccl doctor`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = exit::help(&[
    ("all that can be measured from here", "pccl doctor --config /etc/pccl/pccl_config.yaml"),
    ("why ops are slow, by the pages of two processes", "pccl doctor low-throughput --master 10.0.0.7 --metrics 10.0.0.8:9090 --metrics 10.0.0.9:9090"),
    ("what the processes of a fleet did last, by their metrics addresses", "pccl doctor collect 10.0.0.7:9090 10.0.0.8:9090"),
    ("from files that were written on an error, a panic or SIGUSR1", "pccl doctor collect /var/log/pccl"),
]))]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    examine: ExamineArgs,

    #[command(subcommand)]
    command: Option<DoctorCommand>,
}

/// Which fleet is looked at, and how it is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct FleetArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,

    /// The master, or all of them with commas between [default: network.master_host]
    #[arg(long, value_name = "HOST:PORT", env = "PCCL_MASTER", value_delimiter = ',')]
    master: Vec<String>,

    /// Where a master or worker serves its metrics; may be given again [default: the hosts of masters and peers, at the port of metrics.address]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) metrics: Vec<String>,

    /// Longest wait for one answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,

    /// One JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of an examination.
#[derive(Args, Clone, Debug)]
struct ExamineArgs {
    /// What you have noticed [default: everything is examined]
    #[arg(value_parser = PossibleValuesParser::new(Symptom::ALL.map(Symptom::name)))]
    symptom: Option<String>,

    #[command(flatten)]
    fleet: FleetArgs,

    /// For how long rates are watched, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    watch_ms: u64,

    /// Warnings, and what could not be measured, count as faults
    #[arg(long)]
    strict: bool,
}

/// What to look at.
#[derive(Subcommand, Clone, Debug)]
enum DoctorCommand {
    /// Merges flight records into one timeline and points at the first cause
    Collect(CollectArgs),
}

/// Options of `pccl doctor collect`.
#[derive(Args, Clone, Debug)]
struct CollectArgs {
    /// Processes by the address of their metrics (HOST:PORT), and files or folders of flight records
    #[arg(required = true, value_name = "HOST:PORT|FILE|FOLDER")]
    sources: Vec<String>,

    /// Every op, not only those that failed, began again or have not ended
    #[arg(long)]
    all: bool,

    /// Keep the records that were read in this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Examines, or collects and tells.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, CliError> {
    match &args.command {
        Some(DoctorCommand::Collect(args)) => collect(args),
        None => diagnose(&args.examine),
    }
}

/// Ends with 1 if there is a fault, or with --strict anything that is not known to be good.
fn diagnose(args: &ExamineArgs) -> Result<Exit, CliError> {
    let diagnosis = examine(&options(args, &args.fleet.config.load()?)?);
    args.fleet.print(&diagnosis, || diagnosis.lines())?;
    let clean = diagnosis.verdict == Level::Good && diagnosis.unmeasured.is_empty();
    let fault = if args.strict { !clean } else { diagnosis.verdict == Level::Bad };
    Ok(if fault { Exit::Failed } else { Exit::Success })
}

fn options(args: &ExamineArgs, config: &Config) -> Result<ExamineOptions, CliError> {
    let (network, tls) = (&config.network, &config.network.tls);
    let files = tls.cert_file.as_ref().filter(|_| tls.enabled);
    Ok(ExamineOptions {
        symptom: args.symptom.as_deref().and_then(Symptom::from_name),
        masters: args.fleet.masters(config)?,
        metrics: args.fleet.metrics.clone(),
        metrics_port: config.metrics.address.for_program().map(|at| at.port).filter(|port| *port != 0),
        security: settings::security(config)?,
        tls: files.map(|cert| TlsFiles { cert: cert.into(), ca: tls.ca_file.as_ref().map(PathBuf::from) }),
        setting: Setting {
            heartbeat_interval_ms: network.heartbeat_interval_ms,
            heartbeat_timeout_ms: network.heartbeat_timeout_ms,
            tls: files.is_some(),
            secret: config.auth.enabled,
        },
        p2p_ports: network.p2p_ports.first..=network.p2p_ports.last,
        bind: settings::bind_ip(config)?,
        timeout: Duration::from_secs(args.fleet.timeout),
        window: Duration::from_millis(args.watch_ms),
        roots: pccl_observe::process::Roots::default(),
    })
}

impl FleetArgs {
    /// The masters of the command line, else those of the configuration.
    pub(crate) fn masters(&self, config: &Config) -> Result<Vec<MasterName>, CliError> {
        let configured =
            |(host, port): (String, u16)| MasterName { text: format!("{host}:{port}"), host, port };
        if self.master.is_empty() {
            return Ok(config.network.masters().into_iter().map(configured).collect());
        }
        let named = |text: &String| {
            let at = HostPort::parse(text).map_err(|why| {
                CliError::new(Exit::Usage, format!("failed to read the master `{text}`: {why}"))
                    .hint("give a name or an address, with or without a port: 10.0.0.7:7117")
            })?;
            let port = at.port.unwrap_or(config.network.master_port);
            Ok(MasterName { text: text.clone(), host: at.host, port })
        };
        self.master.iter().map(named).collect()
    }

    /// As JSON if that was asked for, else as lines.
    pub(crate) fn print(
        &self,
        value: &impl Serialize,
        lines: impl FnOnce() -> Vec<String>,
    ) -> Result<(), CliError> {
        print(self.json, value, lines)
    }
}

fn print(json: bool, value: &impl Serialize, lines: impl FnOnce() -> Vec<String>) -> Result<(), CliError> {
    let text = |e: serde_json::Error| CliError::new(Exit::System, e.to_string());
    output::print(&if json { vec![serde_json::to_string(value).map_err(text)?] } else { lines() });
    Ok(())
}

/// Merges flight records.
fn collect(args: &CollectArgs) -> Result<Exit, CliError> {
    let (records, unread) = story::read(&args.sources);
    for why in &unread {
        output::complain(format_args!("warning: {why}"));
    }
    if records.is_empty() {
        return Err(CliError::new(Exit::Input, "failed to collect flight records: none could be read").hint(
            "name processes by their metrics addresses, or files that `kill -USR1` has made them write",
        ));
    }
    if let Some(folder) = &args.out {
        story::keep(folder, &records).map_err(|e| CliError::new(Exit::System, e.to_string()))?;
    }
    let story = story::tell(&records, args.all);
    print(args.json, &story, || story.lines())?;
    Ok(Exit::Success)
}
