//! How a peer that is started by hand finds its master: options of `pccl worker` and `pccl average`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use pccl::{Options, Ports, Security};
use pccl_config::{Config, HostPort, ListenAddress};

use crate::error::CliError;
use crate::exit::Exit;
use crate::settings::{self, ConfigArgs};

/// Options of every peer.
#[derive(Args, Clone, Debug)]
pub(crate) struct PeerArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,

    /// The master, or several with commas between [default: network.master_host]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    master: Vec<String>,

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
}

impl PeerArgs {
    /// The peers that reduce together.
    pub(crate) fn group(&self, config: &Config) -> u32 {
        self.group.unwrap_or(config.peer_group)
    }
}

/// How to connect.
pub(crate) fn options(
    args: &PeerArgs,
    config: &Config,
    security: Option<&Security>,
) -> Result<Options, CliError> {
    let network = &config.network;
    let mut options = Options::masters(masters(&args.master, config)?)
        .group(args.group(config))
        .expects(settings::expectations(config))
        .connect_timeout(Duration::from_secs(args.connect_timeout));
    if let Some(site) = args.site.as_ref().or(network.site.as_ref()) {
        options = options.site(site);
    }
    if network.bind_address.is_some() {
        options = options.bind(settings::bind_ip(config)?);
    }
    if let Some(advertise) = advertised(args.advertise, config)? {
        options = options.advertise(advertise);
    }
    if let Some(security) = security {
        options = options.security(security.clone());
    }
    if let Some(ListenAddress { host, port }) = config.metrics.address.for_library() {
        options = options.metrics_address(&format!("{}:{port}", host.unwrap_or_default()));
    }
    Ok(options.ports(Ports::Range(network.p2p_ports.first..=network.p2p_ports.last)))
}

/// Where the others reach this peer, if somebody says so; without a port, at the one that it listens on.
fn advertised(flag: Option<SocketAddr>, config: &Config) -> Result<Option<SocketAddr>, CliError> {
    match flag {
        Some(addr) => Ok(Some(addr)),
        None => settings::advertised(config, Some(0)),
    }
}

/// The masters with their ports: those of the command line, else those of the configuration.
pub(crate) fn masters(given: &[String], config: &Config) -> Result<Vec<String>, CliError> {
    let default_port = config.network.master_port;
    let with_port = |text: &String| {
        HostPort::parse(text)
            .map(|at| HostPort { port: at.port.or(Some(default_port)), ..at }.to_string())
            .map_err(|why| {
                CliError::new(Exit::Usage, format!("failed to understand --master `{text}`: it {why}"))
                    .hint("give a name or an address, with or without a port: 10.0.0.7:7117")
            })
    };
    let configured = |(host, port)| HostPort { host, port: Some(port) }.to_string();
    let masters: Vec<String> = if given.is_empty() {
        config.network.masters().into_iter().map(configured).collect()
    } else {
        given.iter().map(with_port).collect::<Result<_, _>>()?
    };
    if masters.is_empty() {
        return Err(CliError::new(Exit::Usage, "failed to find a master: none is given")
            .hint("give --master HOST:PORT, PCCL_MASTER, or network.master_host in pccl_config.yaml"));
    }
    Ok(masters)
}
