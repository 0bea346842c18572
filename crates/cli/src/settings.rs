//! Where the settings come from: flags, then `PCCL_*`, then the file, then the defaults.

use std::env;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use pccl::Security;
use pccl_config::{Config, Recovery as ConfigRecovery};
use pccl_observe::{LogHandle, LogSettings, Metrics, Serving, flight};
use pccl_proto::settings::{Expectations, Recovery, RunSettings};

use crate::error::CliError;
use crate::exit::Exit;

/// Read when `--config` names no other and it is there.
const DEFAULT_FILE: &str = "pccl_config.yaml";

/// Options of every program that reads a configuration.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    /// The configuration file [default: ./pccl_config.yaml if it is there]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads the file and the environment.
    pub(crate) fn load(&self) -> Result<Config, CliError> {
        let default = Path::new(DEFAULT_FILE);
        let path = self.config.as_deref().or_else(|| default.is_file().then_some(default));
        pccl_config::check_environment(env::vars_os())?;
        let variable = |name: &str| env::var(name).ok();
        match path {
            None => Ok(Config::from_env(&variable)?),
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
                Ok(Config::from_yaml(&text, &path.display().to_string(), &variable)?)
            }
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliError {
    let hint = if error.kind() == std::io::ErrorKind::InvalidData {
        "save the file as UTF-8"
    } else {
        "name another file by --config, or leave it out to use the defaults"
    };
    CliError::new(Exit::Config, format!("failed to read the configuration {}: {error}", path.display()))
        .hint(hint)
}

/// What guards connections and heartbeats, if the configuration asks for anything.
pub(crate) fn security(config: &Config) -> Result<Option<Security>, CliError> {
    pccl::security(config).map_err(|error| {
        CliError::new(Exit::Config, error.to_string()).hint(
            "`pccl cert init` and `pccl cert issue` make certificates; docs/security.md has the whole way",
        )
    })
}

/// Where others reach this process, if the configuration says so; with `port`, if it names none.
pub(crate) fn advertised(config: &Config, port: Option<u16>) -> Result<Option<SocketAddr>, CliError> {
    let Some(at) = &config.network.advertise_address else { return Ok(None) };
    match at.host.parse::<IpAddr>().ok().zip(at.port.or(port)) {
        Some((ip, port)) => Ok(Some(SocketAddr::new(ip, port))),
        None => Err(CliError::new(
            Exit::Config,
            format!(
                "failed to apply the configuration: {}: network.advertise_address is `{at}`, which is no IP address with a port",
                config.origin("network.advertise_address")
            ),
        )
        .hint("give an address, for instance 203.0.113.7, or 203.0.113.7:7118 where the port is mapped to another one")),
    }
}

/// The address to listen on: all of this machine's, unless `network.bind_address` names one.
pub(crate) fn bind_ip(config: &Config) -> Result<IpAddr, CliError> {
    let ip = pccl::bind_ip(config).map_err(|error| {
        CliError::new(Exit::Config, error.to_string())
            .hint("give an IP address or an interface of this machine; `ip address` shows both")
    })?;
    Ok(ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

/// What the master hands to every peer.
pub(crate) fn run_settings(config: &Config) -> RunSettings {
    let (network, faults) = (&config.network, &config.fault_tolerance);
    RunSettings {
        heartbeat_interval_ms: network.heartbeat_interval_ms,
        heartbeat_timeout_ms: network.heartbeat_timeout_ms,
        master_timeout_ms: network.master_timeout_ms,
        enable_buffer_backup: faults.enable_buffer_backup,
        max_recovery_attempts: faults.max_recovery_attempts,
        recovery: recovery(faults.recovery),
        ring_chunk_size: config.performance.ring_chunk_size,
        enable_compression: config.performance.enable_compression,
        op_timeout_ms: faults.op_timeout_ms,
        ..RunSettings::default()
    }
}

/// What a peer's own configuration says of them: only what somebody gave.
pub(crate) fn expectations(config: &Config) -> Expectations {
    let run = run_settings(config);
    let given = |key: &str| config.is_given(key);
    Expectations {
        heartbeat_interval_ms: given("network.heartbeat_interval_ms").then_some(run.heartbeat_interval_ms),
        heartbeat_timeout_ms: given("network.heartbeat_timeout_ms").then_some(run.heartbeat_timeout_ms),
        enable_buffer_backup: given("fault_tolerance.enable_buffer_backup")
            .then_some(run.enable_buffer_backup),
        max_recovery_attempts: given("fault_tolerance.max_recovery_attempts")
            .then_some(run.max_recovery_attempts),
        recovery: given("fault_tolerance.recovery").then_some(run.recovery),
        ring_chunk_size: given("performance.ring_chunk_size").then_some(run.ring_chunk_size),
        enable_compression: given("performance.enable_compression").then_some(run.enable_compression),
    }
}

fn recovery(recovery: ConfigRecovery) -> Recovery {
    match recovery {
        ConfigRecovery::InsideCall => Recovery::InsideCall,
        ConfigRecovery::ByCaller => Recovery::ByCaller,
    }
}

/// Serves metrics and health where the configuration wants them. A port that is taken must not keep a process from its
/// work: several of them may share a machine and a file.
pub(crate) fn start_metrics(config: &Config) -> Option<(Metrics, Serving)> {
    let address = config.metrics.address.for_program()?;
    let metrics = Metrics::new();
    match Serving::start(address.host.as_deref(), address.port, metrics.clone()) {
        Ok(serving) => {
            tracing::info!(target: "pccl::metrics", "metrics are served on http://{}/metrics", serving.addr());
            Some((metrics, serving))
        }
        Err(error) => {
            tracing::warn!(
                target: "pccl::metrics",
                "{error}; going on without: choose another port by metrics.address"
            );
            None
        }
    }
}

/// Starts the log of a process that was started by hand, and says where its flight record goes: beside the log, else
/// into a folder of temporary files.
pub(crate) fn start_log(role: &'static str, config: &Config) -> Result<LogHandle, CliError> {
    let logging = &config.logging;
    let beside = logging.file.as_ref().and_then(|file| Some(Path::new(file).parent()?.to_owned()));
    let folder = match (env::var_os(flight::FOLDER_VARIABLE), beside) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(folder)) => folder,
        (None, None) => env::temp_dir().join("pccl-flight"),
    };
    flight::set_folder(role, folder);
    flight::dump_on_panic();
    pccl_observe::init_changeable(&LogSettings {
        level: logging.directives(),
        file: logging.file.as_ref().map(PathBuf::from),
        max_size_mb: logging.max_size_mb,
    })
    .map_err(|error| CliError::new(Exit::Config, error.to_string()))
}

/// Starts the log of a process that another one started: what that one shows if we fail.
pub(crate) fn start_child_log() -> Result<(), CliError> {
    pccl_observe::init(&LogSettings { level: "warn".to_owned(), ..LogSettings::default() })
        .map_err(|error| CliError::new(Exit::Config, error.to_string()))
}
