//! `pccl master`: the coordination service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use pccl_config::{Config, StoreKind};
use pccl_launch::{Crew, Happening, Id};
use pccl_master::{Server, ServerError, ServerOptions, StoreChoice, StoreUrl, send_command};
use pccl_observe::flight;
use pccl_proto::message::Command;
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::bench;
use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;
use crate::reload::Reload;
use crate::settings::{self, ConfigArgs};
use crate::status;
use crate::supervised;

/// How long a master that another pccl starts may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of `pccl master`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = exit::help(&[
    ("port 7117 on all addresses, the state in ./pccl-master-7117.store", "pccl master"),
    ("from a file, on another port", "pccl master --config pccl_config.yaml --listen 10.0.0.7:7200"),
]))]
pub(crate) struct MasterArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Address and port (TCP and UDP) to listen on; port 0 takes a free one [default: all addresses, network.master_port]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,

    /// Keep the state in this file, so that a restart is a pause and not the end of the run
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,

    /// Stand by: share the store of another master, and lead when that one does not
    #[arg(long)]
    pub(crate) standby: bool,

    #[command(subcommand)]
    order: Option<MasterOrder>,

    /// Silence after which a peer is dead, in milliseconds [default: network.heartbeat_timeout_ms]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(20..=600_000))]
    heartbeat_timeout_ms: Option<u32>,

    /// Started by another pccl: orders on standard input, reports on standard output
    #[arg(long, hide = true)]
    supervised: bool,

    /// With the certificates in this folder, where another pccl has made them
    #[arg(long, hide = true)]
    certificates: Option<PathBuf>,
}

/// Who shall lead: for maintenance. Taken by a master from its own host only.
#[derive(Subcommand, Clone, Debug)]
enum MasterOrder {
    /// Let this master lead; the active one gives way
    Promote(OrderArgs),
    /// Let this master give way, and not lead again until it is promoted
    Demote(OrderArgs),
    /// Let this master give way; it may lead again
    StepDown(OrderArgs),
}

/// Whom.
#[derive(Args, Clone, Debug)]
struct OrderArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The master, on this host
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7117")]
    master: String,
}

fn give_order(order: &MasterOrder) -> Result<Exit, CliError> {
    let (command, args) = match order {
        MasterOrder::Promote(args) => (Command::Promote, args),
        MasterOrder::Demote(args) => (Command::Demote, args),
        MasterOrder::StepDown(args) => (Command::StepDown, args),
    };
    let addresses = status::resolve(&args.master)?;
    let addr = addresses.first().copied().ok_or_else(|| CliError::new(Exit::Connect, "no address"))?;
    let security = settings::security(&args.config.load()?)?;
    match send_command(addr, command, Duration::from_secs(5), security.as_ref()) {
        Ok(Ok(())) => {
            output::print(&[format!("{addr}: {command} begun; see `pccl status --master {addr}`")]);
            Ok(Exit::Success)
        }
        Ok(Err(why)) => Err(CliError::new(Exit::Failed, format!("failed to {command} {addr}: {why}"))
            .hint("give the order on the host of the master that it is for")),
        Err(error) => Err(status::not_asked(&error)),
    }
}

/// What a supervised master reports.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum MasterEvent {
    /// Peers may come.
    Listening {
        /// Here.
        addr: SocketAddr,
    },
}

/// No order but the end of them.
#[derive(Debug, Serialize, Deserialize)]
enum NoOrder {}

/// Waits until a master that this process has started listens.
pub(crate) fn hear_listening(crew: &mut Crew, master: Id) -> Result<SocketAddr, CliError> {
    let why = match crew.next(PATIENCE) {
        Some(Happening::Line(_, line)) => match serde_json::from_str(&line) {
            Ok(MasterEvent::Listening { addr }) => return Ok(addr),
            Err(error) => error.to_string(),
        },
        Some(Happening::Ended(_, status)) => format!("{status}: {}", crew.complaint(master)),
        Some(Happening::Interrupted) => {
            return Err(CliError::new(Exit::Interrupted, "failed to start the master: interrupted"));
        }
        None => format!("it said nothing for {} s", PATIENCE.as_secs()),
    };
    Err(CliError::new(Exit::System, format!("failed to start the master: {why}")))
}

/// Runs until a signal, or until its parent ends.
pub(crate) fn run(args: &MasterArgs) -> Result<Exit, CliError> {
    if let Some(order) = &args.order {
        return give_order(order);
    }
    let (config, metrics, log) = if args.supervised {
        pccl_launch::parent::die_with_parent();
        settings::start_child_log()?;
        (Config::default(), None, None)
    } else {
        let config = args.config.load()?;
        let log = settings::start_log("master", &config)?;
        let metrics = settings::start_metrics(&config);
        (config, metrics, Some(log))
    };
    let mut options = options(args, &config)?;
    options.security = match &args.certificates {
        Some(folder) => Some(bench::security(folder)?),
        None => settings::security(&config)?,
    };
    let security = options.security.clone();
    let reload = log.and_then(|log| Reload::new(&args.config, &config, log, security.as_ref()));
    options.metrics = metrics.as_ref().map(|(metrics, _)| metrics.clone());
    let server = Arc::new(Server::start(options).map_err(|error| start_error(&error))?);
    stop_on_signals(Arc::clone(&server), reload)?;
    if args.supervised {
        supervised::say(&MasterEvent::Listening { addr: server.addr() });
        supervised::follow(|_: NoOrder| {});
    } else {
        output::print(&[format!("listening on {}, TCP and UDP", server.addr())]);
    }
    match server.wait() {
        Ok(()) => Ok(Exit::Success),
        Err(error) => Err(CliError::new(Exit::Collective, format!("failed to go on: {error}"))),
    }
}

/// Ctrl-C and its like; SIGUSR1 asks for the flight record, SIGHUP for new settings.
fn stop_on_signals(server: Arc<Server>, mut reload: Option<Reload>) -> Result<(), CliError> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])
        .map_err(|error| CliError::system("watch for signals", &error))?;
    thread::spawn(move || {
        for signal in signals.forever() {
            match (signal, &mut reload) {
                (SIGUSR1, _) => flight::say(flight::dump("SIGUSR1")),
                (SIGHUP, Some(reload)) => reload.now(),
                _ => return server.stop(),
            }
        }
    });
    Ok(())
}

fn options(args: &MasterArgs, config: &Config) -> Result<ServerOptions, CliError> {
    let listen = match args.listen {
        Some(listen) => listen,
        None => SocketAddr::new(settings::bind_ip(config)?, config.network.master_port),
    };
    let mut options = ServerOptions::new(listen);
    options.settings = settings::run_settings(config);
    if let Some(timeout) = args.heartbeat_timeout_ms {
        let interval = options.settings.heartbeat_interval_ms;
        if timeout < interval.saturating_mul(2) {
            let what = format!(
                "failed to start the master: --heartbeat-timeout-ms {timeout} is less than two heartbeats ({interval} ms each)"
            );
            return Err(CliError::new(Exit::Usage, what).hint(
                "one lost heartbeat must not end a peer; network.heartbeat_interval_ms sets their distance",
            ));
        }
        options.settings.heartbeat_timeout_ms = timeout;
    }
    options.advertise = settings::advertised(config, (listen.port() != 0).then_some(listen.port()))?;
    options.store = store(args, config);
    options.lease_ms = u32::try_from(config.store.lease_ms).unwrap_or(u32::MAX);
    if args.standby && options.store == StoreChoice::Memory {
        return Err(CliError::new(Exit::Config, "failed to stand by: a store in memory cannot be shared")
            .hint("give the file of the other master by --store, or store.kind postgres or etcd"));
    }
    Ok(options)
}

/// In memory, unless somebody names a file.
fn store(args: &MasterArgs, config: &Config) -> StoreChoice {
    if args.store.is_none()
        && let Some(url) = &config.store.url
    {
        // The configuration has been checked: only these two kinds have a URL.
        let url = StoreUrl::new(url.expose());
        return if config.store.kind == StoreKind::Etcd {
            StoreChoice::Etcd(url)
        } else {
            StoreChoice::Postgres(url)
        };
    }
    let path = args.store.clone().or_else(|| config.store.path.as_ref().map(PathBuf::from));
    match path {
        Some(path) => StoreChoice::Embedded(path),
        None if args.supervised || config.store.kind == StoreKind::Memory => StoreChoice::Memory,
        None => StoreChoice::Embedded(PathBuf::from(format!(
            "pccl-master-{}.store",
            args.listen.map_or(config.network.master_port, |listen| listen.port())
        ))),
    }
}

fn start_error(error: &ServerError) -> CliError {
    let (exit, hint) = match error {
        ServerError::Listen(_) => (Exit::Port, "choose another port by --listen or network.master_port"),
        ServerError::Store(_) => (Exit::Input, "choose another file by --store or store.path"),
        _ => (Exit::System, "look at the limits of this process: `ulimit -a`"),
    };
    let text = error.to_string();
    let what =
        if text.starts_with("failed to ") { text } else { format!("failed to start the master: {text}") };
    CliError::new(exit, what).hint(hint)
}
