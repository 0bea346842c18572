//! `pccl worker`: a peer that holds a model, moves it, and averages it with the others', round by round.

mod agree;
mod load;
mod model;
mod pace;
mod report;
mod rounds;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use pccl::{Options, Ports};
use pccl_config::{Config, HostPort};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub(crate) use model::Source;
pub(crate) use pace::Order;
pub(crate) use report::{RoundReport, WorkerEvent, recoveries};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::master::bind_ip;
use crate::processes;
use crate::settings::{self, ConfigArgs};
use crate::size::ByteSize;
use pace::Pace;
use report::Audience;
use rounds::Worker;

/// Options of `pccl worker`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("on each of three machines", "pccl worker --master 10.0.0.7:7117 --workers 3 --rounds 100"),
    ("average a model of your own", "pccl worker --master 10.0.0.7 --input model.safetensors"),
]))]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The master, or several with commas between [default: network.master_host]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    master: Vec<String>,

    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Rounds to do [default: until Ctrl-C]
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,

    /// Workers to wait for before the first round
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: u32,

    /// The peers that reduce together [default: peer_group]
    #[arg(long, value_name = "N")]
    group: Option<u32>,

    /// Name of the place; peers of one site are near each other [default: network.site]
    #[arg(long, value_name = "NAME")]
    site: Option<String>,

    /// Where the others reach this peer, if not where the master sees it [default: network.advertise_address]
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Option<SocketAddr>,

    /// How long to look for a master
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    connect_timeout: u64,

    /// Events as lines of JSON
    #[arg(long)]
    json: bool,

    /// Started by another pccl: orders on standard input, events on standard output, any free port
    #[arg(long, hide = true)]
    supervised: bool,
}

/// Which model.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// Size of the made-up model
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = model_size)]
    pub(crate) bytes: ByteSize,

    /// The model in these safetensors files instead of a made-up one
    #[arg(long, value_name = "FILE", num_args = 1.., value_delimiter = ',', conflicts_with = "bytes")]
    pub(crate) input: Vec<PathBuf>,

    /// What the made-up model is made from; all workers of a run need the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

fn model_size(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    if size.0 > 0 && size.0.is_multiple_of(4) {
        Ok(size)
    } else {
        Err("a model of f32 values has a positive multiple of 4 bytes".to_owned())
    }
}

impl ModelArgs {
    /// Where it comes from.
    pub(crate) fn source(&self) -> Source {
        if self.input.is_empty() {
            Source::Seed(self.bytes, self.seed)
        } else {
            Source::Files(self.input.clone())
        }
    }

    /// The options again, for a child.
    pub(crate) fn to_args(&self) -> Vec<String> {
        if self.input.is_empty() {
            return vec![format!("--bytes={}", self.bytes.0), format!("--seed={}", self.seed)];
        }
        self.input.iter().flat_map(|path| ["--input".to_owned(), path.display().to_string()]).collect()
    }
}

/// The arguments of a worker that `up` starts.
pub(crate) fn supervised_args(
    master: SocketAddr,
    workers: u32,
    rounds: u64,
    model: &ModelArgs,
) -> Vec<String> {
    let mut args = ["worker", "--supervised", "--master"].map(str::to_owned).to_vec();
    args.push(master.to_string());
    args.push(format!("--workers={workers}"));
    args.push(format!("--rounds={rounds}"));
    args.extend(model.to_args());
    args
}

/// Runs until all rounds are done.
pub(crate) fn run(args: &WorkerArgs) -> Result<Exit, CliError> {
    let config = if args.supervised {
        processes::die_with_parent();
        settings::start_child_log()?;
        Config::default()
    } else {
        let config = args.config.load()?;
        settings::start_log(&config)?;
        config
    };
    let pace = Pace::new(args.rounds.unwrap_or(u64::MAX), args.supervised);
    if args.supervised {
        let pace = pace.clone();
        processes::follow(move |order: Order| pace.obey(order));
    } else {
        leave_on_signals(&pace)?;
    }
    let options = options(args, &config)?;
    let model = args.model.source().model()?;
    let audience = if args.supervised || args.json { Audience::Program } else { Audience::Person };
    Worker::connect(&options, model, args.workers, pace, audience)?.run()?;
    Ok(Exit::Success)
}

/// The first Ctrl-C (or SIGTERM) lets the worker leave after its round, the second one ends it at once.
fn leave_on_signals(pace: &Pace) -> Result<(), CliError> {
    let pace = pace.clone();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| CliError::system("watch for signals", &error))?;
    thread::spawn(move || {
        for _ in signals.forever() {
            if !pace.ask_to_leave() {
                std::process::exit(Exit::Interrupted.code().into());
            }
            eprintln!("leaving after this round; once more to end at once");
        }
    });
    Ok(())
}

fn options(args: &WorkerArgs, config: &Config) -> Result<Options, CliError> {
    let network = &config.network;
    let mut options = Options::masters(masters(args, config)?)
        .group(args.group.unwrap_or(config.peer_group))
        .expects(settings::expectations(config))
        .connect_timeout(Duration::from_secs(args.connect_timeout));
    if let Some(site) = args.site.as_ref().or(network.site.as_ref()) {
        options = options.site(site);
    }
    if network.bind_address.is_some() {
        options = options.bind(bind_ip(config)?);
    }
    if let Some(advertise) = advertised(args, config)? {
        options = options.advertise(advertise);
    }
    Ok(options.ports(if args.supervised {
        Ports::Any
    } else {
        Ports::Range(network.p2p_ports.first..=network.p2p_ports.last)
    }))
}

/// Where the others reach this peer, if somebody says so.
fn advertised(args: &WorkerArgs, config: &Config) -> Result<Option<SocketAddr>, CliError> {
    let Some(at) = &config.network.advertise_address else {
        return Ok(args.advertise);
    };
    let parsed = at.host.parse::<IpAddr>().ok().zip(at.port).map(SocketAddr::from);
    match args.advertise.or(parsed) {
        Some(addr) => Ok(Some(addr)),
        None => Err(CliError::new(
            Exit::Config,
            format!(
                "failed to apply the configuration: {}: network.advertise_address is `{at}`, which is no IP address with a port",
                config.origin("network.advertise_address")
            ),
        )
        .hint("give both, for instance 203.0.113.7:7118, and make network.p2p_ports that one port")),
    }
}

/// The masters with their ports.
fn masters(args: &WorkerArgs, config: &Config) -> Result<Vec<String>, CliError> {
    let default_port = config.network.master_port;
    let with_port = |text: &String| {
        HostPort::parse(text)
            .map(|at| HostPort { port: at.port.or(Some(default_port)), ..at }.to_string())
            .map_err(|why| {
                CliError::new(Exit::Usage, format!("failed to understand --master `{text}`: it {why}"))
                    .hint("give a name or an address, with or without a port: 10.0.0.7:7117")
            })
    };
    let configured = config
        .network
        .masters()
        .into_iter()
        .map(|(host, port)| HostPort { host, port: Some(port) }.to_string());
    let masters: Vec<String> = if args.master.is_empty() {
        configured.collect()
    } else {
        args.master.iter().map(with_port).collect::<Result<_, _>>()?
    };
    if masters.is_empty() {
        return Err(CliError::new(Exit::Usage, "failed to find a master: none is given")
            .hint("give --master HOST:PORT, PCCL_MASTER, or network.master_host in pccl_config.yaml"));
    }
    Ok(masters)
}
