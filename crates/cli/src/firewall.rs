//! `pccl firewall`: the rules that let a fleet through, and nobody else.

use clap::Args;
use pccl_probe::firewall::{Dialect, Rules};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;
use crate::settings::ConfigArgs;

/// Options of `pccl firewall`. It prints, and changes nothing.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("see the rules, then run them", "pccl firewall --nftables --allow 10.0.0.0/8 | nft -f -"),
    ("a security group; networks from network.allowed_networks", "pccl firewall --aws --config /etc/pccl/pccl_config.yaml"),
]))]
pub(crate) struct FirewallArgs {
    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    dialect: DialectArgs,

    /// Who may connect, with commas between [default: network.allowed_networks, else everybody]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    allow: Vec<ipnet::IpNet>,

    /// Let metrics and health be read, too
    #[arg(long)]
    metrics: bool,
}

/// In whose words.
#[derive(Args, Clone, Copy, Debug)]
#[group(required = true, multiple = false)]
struct DialectArgs {
    /// A shell script with iptables and ip6tables
    #[arg(long)]
    iptables: bool,
    /// A table for `nft -f`
    #[arg(long)]
    nftables: bool,
    /// A shell script with the AWS command line
    #[arg(long)]
    aws: bool,
    /// A shell script with the Azure command line
    #[arg(long)]
    azure: bool,
    /// A shell script with the Google Cloud command line
    #[arg(long)]
    gcp: bool,
}

impl DialectArgs {
    fn dialect(self) -> Dialect {
        let asked = [
            (self.iptables, Dialect::Iptables),
            (self.nftables, Dialect::Nftables),
            (self.aws, Dialect::Aws),
            (self.azure, Dialect::Azure),
        ];
        asked.into_iter().find(|(asked, _)| *asked).map_or(Dialect::Gcp, |(_, dialect)| dialect)
    }
}

/// Prints them.
pub(crate) fn run(args: &FirewallArgs) -> Result<Exit, CliError> {
    let config = args.config.load()?;
    let network = &config.network;
    let networks = if args.allow.is_empty() { &network.allowed_networks } else { &args.allow };
    if networks.is_empty() {
        output::complain("warning: everybody may connect: give --allow, or network.allowed_networks");
    }
    let metrics_port = config.metrics.address.for_program().filter(|_| args.metrics).map(|at| at.port);
    let rules = Rules {
        master_port: network.master_port,
        p2p_ports: network.p2p_ports.first..=network.p2p_ports.last,
        metrics_port,
        networks: networks.iter().map(|network| network.trunc().to_string()).collect(),
    };
    output::print(&rules.lines(args.dialect.dialect()));
    Ok(Exit::Success)
}
