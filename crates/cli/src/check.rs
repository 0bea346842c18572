//! `pccl check`: whether the network between the hosts of a fleet is good enough.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::Args;
use pccl_config::{Config, HostPort};
use pccl_probe::verdict::Level;
use pccl_probe::{CheckError, JoinOptions, Progress, ServeOptions, Settings, join, serve};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;
use crate::settings::{self, ConfigArgs};

/// Options of `pccl check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("on the host that will have the master: all hosts, this one included", "pccl check --serve --hosts 3"),
    ("on each of the others", "pccl check --master master.example.com"),
    ("beside a running fleet, on a port that its master does not have", "pccl check --serve --hosts 3 --running --port 7151"),
]))]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// The others come to this host
    #[arg(long, conflicts_with = "master", requires = "hosts")]
    serve: bool,

    /// How many hosts are checked, this one included
    #[arg(long, value_name = "N", requires = "serve", conflicts_with = "master", value_parser = clap::value_parser!(u16).range(2..=64))]
    hosts: Option<u16>,

    /// The host that has --serve; the port is --port unless it says another [default: the first of network.master_host]
    #[arg(long, value_name = "HOST:PORT")]
    master: Option<String>,

    /// TCP port to meet at and UDP port of probes [default: network.master_port, 7117]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// Beside a running fleet: only round trips, jitter and loss are probed, slowly; bandwidth is read from the counters of
    /// the workers on these hosts
    #[arg(long)]
    running: bool,

    /// Probes of each pair; 10,000 tell a loss of 1 % to 0.3 points, 20,000 one of 0.2 % to 0.1
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    probes: u32,

    /// Beside a running fleet: the slowest link, in Mbit/s; probes take a hundredth of it at most
    #[arg(long, value_name = "MBITS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    link_mbps: u32,

    /// Do not look for more bandwidth than this, in Mbit/s
    #[arg(long, value_name = "MBITS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    most_mbps: u32,

    /// What this host is called in the report [default: its host name]
    #[arg(long)]
    name: Option<String>,

    /// The address at which the others reach this host [default: network.advertise_address, else where its connection comes from]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,

    /// How long to wait for the others, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,

    /// Less than what is recommended counts as less than what is needed
    #[arg(long)]
    strict: bool,

    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// Measures and prints. All hosts end with the same code: 0 if everything is as good as needed, 1 if not.
pub(crate) fn run(args: &CheckArgs) -> Result<Exit, CliError> {
    let config = args.config.load()?;
    let port = args.port.unwrap_or(config.network.master_port);
    let own = own_options(args, &config, port)?;
    let report = if let Some(hosts) = args.hosts.filter(|_| args.serve) {
        let measured = Settings {
            probes: args.probes,
            running: args.running,
            link_mbps: f64::from(args.link_mbps),
            most_mbps: f64::from(args.most_mbps),
        };
        let listen = SocketAddr::new(settings::bind_ip(&config)?, port);
        let quiet = args.json && !std::io::stderr().is_terminal();
        let mut tell = |progress: Progress| {
            if !quiet {
                output::complain(progress);
            }
        };
        serve(&ServeOptions { listen, hosts: usize::from(hosts), settings: measured, own }, &mut tell)
    } else {
        join(&own, meeting_place(args, &config, port, &own)?)
    };
    let report = report.map_err(|error| failed(&error))?;
    if args.json {
        let text = serde_json::to_string(&report).map_err(|e| CliError::new(Exit::System, e.to_string()))?;
        output::print(&[text]);
    } else {
        output::print(&report.lines());
    }
    let enough = if args.strict { Level::Unknown } else { Level::Low };
    Ok(if report.verdict <= enough { Exit::Success } else { Exit::Failed })
}

fn failed(error: &CheckError) -> CliError {
    let exit = match error {
        CheckError::Listen { .. } => Exit::Port,
        CheckError::Hosts(_) => Exit::Usage,
        CheckError::System { .. } => Exit::System,
        _ => Exit::Connect,
    };
    CliError::new(exit, error.to_string()).hint(error.hint())
}

fn own_options(args: &CheckArgs, config: &Config, udp_port: u16) -> Result<JoinOptions, CliError> {
    let advertised = config.network.advertise_address.as_ref().and_then(|at| at.host.parse().ok());
    let named = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let metrics = config.metrics.address.for_program().and_then(|at| {
        let host = at.host.unwrap_or_else(|| "127.0.0.1".to_owned());
        (host.as_str(), at.port).to_socket_addrs().ok()?.next()
    });
    Ok(JoinOptions {
        name: args.name.clone().unwrap_or_else(named),
        address: args.address.or(advertised),
        udp_port,
        p2p_ports: config.network.p2p_ports.first..=config.network.p2p_ports.last,
        running: args.running,
        metrics: metrics.into_iter().collect(),
        security: settings::security(config)?,
        wait: Duration::from_secs(args.wait),
    })
}

/// Where the host with `--serve` is.
fn meeting_place(
    args: &CheckArgs,
    config: &Config,
    port: u16,
    own: &JoinOptions,
) -> Result<SocketAddr, CliError> {
    let configured = || config.network.masters().into_iter().next().map(|(host, _)| host);
    let Some(name) = args.master.clone().or_else(configured) else {
        return Err(CliError::new(Exit::Usage, "failed to begin: nothing says where the hosts meet")
            .hint("--serve --hosts N on one host, --master HOST on each of the others"));
    };
    let fail = |why: String| {
        CliError::new(Exit::Connect, format!("failed to find the host `{name}`: {why}"))
            .hint("give a name or an address, with or without a port: 10.0.0.7:7117")
    };
    let at = HostPort::parse(&name).map_err(fail)?;
    let found = (at.host.as_str(), at.port.unwrap_or(port)).to_socket_addrs();
    let mut addresses = found.map_err(|error| fail(error.to_string()))?;
    let addr = addresses.next().ok_or_else(|| fail("it has no address".to_owned()))?;
    if let Some(security) = &own.security {
        security.name_master(addr, &at.host);
    }
    Ok(addr)
}
