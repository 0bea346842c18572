//! `pccl besu init`: draws keys and writes the network to a new folder.

use std::path::PathBuf;

use clap::Args;
use pccl_besu::files::GenerateError;
use pccl_besu::{Network, Visibility};

use super::folder;
use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output;

/// Options of `pccl besu init`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("chain 138: 2 validators in each of 24 regions", "pccl besu init --out network"),
    ("four validators of another chain", "pccl besu init --out net --chain-id 1337 --regions eu,us --domain net.example.org"),
]))]
pub(super) struct InitArgs {
    /// A folder that is not there yet, or is empty
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,

    /// Keep a network that is there already, if it is the same chain with the same validators
    #[arg(long)]
    keep: bool,

    /// The chain's number
    #[arg(long, value_name = "NUMBER", default_value_t = Network::default().chain_id)]
    chain_id: u64,

    /// The regions, one Kubernetes cluster each [default: the 24 of deployments/besu-138]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    regions: Vec<String>,

    /// Validators in each region
    #[arg(long, value_name = "NUMBER", default_value_t = Network::default().validators_per_region)]
    validators_per_region: usize,

    /// Validators reach each other at <validator>.<domain>
    #[arg(long, value_name = "NAME", default_value_t = Network::default().domain)]
    domain: String,

    /// Kubernetes namespace
    #[arg(long, value_name = "NAME", default_value_t = Network::default().namespace)]
    namespace: String,

    /// Container image of Besu
    #[arg(long, value_name = "IMAGE", default_value_t = Network::default().image)]
    image: String,

    /// Least time between blocks, in seconds; a consensus round may take twice as long
    #[arg(long, value_name = "SECONDS", default_value_t = Network::default().block_period_s)]
    block_period: u64,

    /// Gas that one block may use
    #[arg(long, value_name = "GAS", default_value_t = Network::default().gas_limit)]
    gas_limit: u64,

    /// Disk of each validator, in GiB
    #[arg(long, value_name = "GIB", default_value_t = Network::default().storage_gib)]
    storage: u32,
}

impl InitArgs {
    fn network(&self) -> Network {
        let defaults = Network::default();
        Network {
            chain_id: self.chain_id,
            regions: if self.regions.is_empty() { defaults.regions } else { self.regions.clone() },
            validators_per_region: self.validators_per_region,
            domain: self.domain.clone(),
            namespace: self.namespace.clone(),
            image: self.image.clone(),
            block_period_s: self.block_period,
            request_timeout_s: self.block_period.saturating_mul(2),
            gas_limit: self.gas_limit,
            storage_gib: self.storage,
            ..defaults
        }
    }
}

/// Draws, writes, and tells what there is now.
pub(super) fn run(args: &InitArgs) -> Result<Exit, CliError> {
    let network = args.network();
    if args.keep && folder::holds(&args.out, &network)? {
        output::print(&[format!("{} is kept: chain {}", args.out.display(), network.chain_id)]);
        return Ok(Exit::Success);
    }
    folder::refuse_if_used(&args.out)?;
    let mut entropy = |bytes: &mut [u8; 32]| getrandom::fill(bytes);
    let files = pccl_besu::generate(&network, &mut entropy).map_err(|error| refused(&error))?;
    folder::write(&args.out, &files)?;
    let secrets = files.iter().filter(|file| file.visibility == Visibility::Secret).count();
    let (out, validators) = (args.out.display(), network.validators());
    output::print(&[
        format!(
            "{validators} validators in {} regions, chain {}: {} files in {out}",
            network.regions.len(),
            network.chain_id,
            files.len()
        ),
        format!("{} of {validators} must be up for blocks to be made", network.quorum()),
        format!(
            "{secrets} files hold private keys, and only you can read them: keep them out of version control"
        ),
    ]);
    Ok(Exit::Success)
}

fn refused(error: &GenerateError<getrandom::Error>) -> CliError {
    match error {
        GenerateError::Network(_) => {
            CliError::new(Exit::Usage, error.to_string()).hint("see `pccl besu init --help`")
        }
        _ => CliError::new(Exit::System, error.to_string()).hint("nothing was written: try again"),
    }
}
