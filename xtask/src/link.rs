//! `cargo xtask link`: hosts on this machine with shaped links between them, for a command or for a person.

use std::ffi::OsString;
use std::process::{Child, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use pccl_link::{Network, NetworkOptions, Shape};

#[derive(Args)]
pub(crate) struct LinkArgs {
    /// Hosts, each a network namespace with an address of its own
    #[arg(long, default_value_t = 2)]
    hosts: usize,
    /// Rate of each direction of each link, in Mbit/s; as fast as this machine if left out
    #[arg(long, value_name = "MBITS")]
    rate: Option<f64>,
    /// One-way delay, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    delay: f64,
    /// The one-way delay of each packet is drawn evenly from delay ± this, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    jitter: f64,
    /// Packets lost in each direction, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    loss: f64,
    /// What may wait in front of a link, in KiB; what it carries in 100 ms if left out
    #[arg(long, value_name = "KIB")]
    queue: Option<u64>,
    /// Jitter may let packets overtake each other
    #[arg(long)]
    reorder: bool,
    /// Longer packets vanish, in bytes with IP headers
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// The same seed: the same packets meet the same fates
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run on every host, with LINK_HOST, LINK_ADDRESS and LINK_ADDRESSES in its environment; without it, the network
    /// stays until this program is ended
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl LinkArgs {
    fn shape(&self) -> Result<Shape> {
        for (name, value) in [("delay", self.delay), ("jitter", self.jitter), ("loss", self.loss)] {
            ensure!(value.is_finite() && value >= 0.0, "--{name} must be 0 or more");
        }
        ensure!(self.loss <= 100.0, "--loss must be at most 100");
        ensure!(self.rate.is_none_or(|rate| rate > 0.0 && rate.is_finite()), "--rate must be more than 0");
        Ok(Shape {
            delay: Duration::from_secs_f64(self.delay * 1e-3),
            jitter: Duration::from_secs_f64(self.jitter * 1e-3),
            loss: self.loss / 100.0,
            rate_bps: self.rate.map(|mbits| (mbits * 1e6) as u64),
            queue_bytes: self.queue.map(|kib| kib << 10),
            reorder: self.reorder,
            mtu: self.mtu,
        })
    }
}

pub(crate) fn run(arguments: &LinkArgs) -> Result<ExitCode> {
    let shape = arguments.shape()?;
    let network = Network::new(&NetworkOptions {
        hosts: arguments.hosts,
        shape,
        seed: arguments.seed,
        ..NetworkOptions::default()
    })?;
    eprintln!("{} hosts, every link: {shape}", network.hosts());
    if let Some((program, rest)) = arguments.command.split_first() {
        return run_on_all(&network, program, rest);
    }
    for host in 0..network.hosts() {
        println!("{}: nsenter --net={} bash", network.address(host), network.namespace(host).display());
    }
    println!("until Ctrl-C");
    loop {
        std::thread::park();
    }
}

/// Runs the command on every host; fails with the first code that is not zero.
fn run_on_all(network: &Network, program: &OsString, arguments: &[OsString]) -> Result<ExitCode> {
    let addresses: Vec<String> = (0..network.hosts()).map(|host| network.address(host).to_string()).collect();
    let start = |host: usize| -> Result<Child> {
        let mut command = network.command(host, program);
        command
            .args(arguments)
            .env("LINK_HOST", host.to_string())
            .env("LINK_ADDRESS", &addresses[host])
            .env("LINK_ADDRESSES", addresses.join(","));
        command.spawn().with_context(|| format!("failed to start {}", program.display()))
    };
    let children: Vec<Child> = (0..network.hosts()).map(start).collect::<Result<_>>()?;
    let mut worst = 0;
    for (host, mut child) in children.into_iter().enumerate() {
        let status = child.wait().context("failed to wait")?;
        if !status.success() {
            eprintln!("{}: {} ended with {status}", addresses[host], program.display());
            worst = if worst == 0 { status.code().unwrap_or(1) } else { worst };
        }
    }
    for from in 0..network.hosts() {
        for to in (0..network.hosts()).filter(|to| *to != from) {
            let counted = network.counters(from, to);
            eprintln!(
                "{} → {}: {} packets, {} bytes; lost {}, queue full {}, too long {}",
                addresses[from],
                addresses[to],
                counted.packets,
                counted.bytes,
                counted.lost,
                counted.overflowed,
                counted.too_long,
            );
        }
    }
    Ok(ExitCode::from(u8::try_from(worst).unwrap_or(1)))
}
