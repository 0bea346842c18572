//! A worker's checkpoints: where they are written, and going on from the newest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use pccl::{CheckpointOptions, Checkpoints, SharedState};
use pccl_config::Config;

use super::model::Model;
use crate::error::CliError;
use crate::exit::Exit;

/// The note in a checkpoint that says how many rounds its model has been through.
pub(crate) const ROUNDS: &str = "rounds";

/// Options about checkpoints.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CheckpointArgs {
    /// Write checkpoints of the model there: a directory that all workers see, s3://…, az://… or gs://… [default:
    /// fault_tolerance.checkpoint_url]
    #[arg(long, value_name = "PLACE")]
    checkpoints: Option<String>,

    /// Rounds between two checkpoints, 0 for none but those asked for by SIGUSR2 [default:
    /// fault_tolerance.checkpoint_interval_steps]
    #[arg(long, value_name = "N")]
    checkpoint_every: Option<u32>,

    /// Begin with the newest checkpoint, if there is one
    #[arg(long)]
    resume: bool,
}

impl CheckpointArgs {
    fn place(&self, config: &Config) -> Option<String> {
        self.checkpoints.clone().or_else(|| config.fault_tolerance.checkpoint_url.clone())
    }

    /// What is to be written.
    pub(crate) fn options(&self, config: &Config) -> Option<CheckpointOptions> {
        let faults = &config.fault_tolerance;
        let every = self.checkpoint_every.unwrap_or(faults.checkpoint_interval_steps);
        let options = CheckpointOptions::new(self.place(config)?);
        Some(options.interval_steps(every).keep(faults.checkpoint_keep))
    }

    /// Reads the newest checkpoint into the model. Returns the rounds it has been through, and its revision.
    pub(crate) fn resume(
        &self,
        config: &Config,
        group: u32,
        model: &mut Model,
    ) -> Result<Option<(u64, u64)>, CliError> {
        if !self.resume {
            return Ok(None);
        }
        let place = self.place(config).ok_or_else(|| {
            CliError::new(Exit::Usage, "failed to resume: no place of checkpoints is given")
                .hint("give --checkpoints, or fault_tolerance.checkpoint_url in pccl_config.yaml")
        })?;
        let checkpoints = Checkpoints::open(&place)?;
        let Some(info) = checkpoints.find(group, None)? else { return Ok(None) };
        let mut state = SharedState::new(0);
        for tensor in model.shared() {
            state.push(tensor);
        }
        let notes = checkpoints.restore(&info, &mut state)?;
        let rounds = notes.get(ROUNDS).and_then(|text| text.parse().ok()).ok_or_else(|| {
            CliError::new(Exit::Input, format!("failed to resume: {} does not say its rounds", info.name))
                .hint("it was not written by `pccl worker`")
        })?;
        Ok(Some((rounds, info.revision)))
    }
}

/// Somebody asks for a checkpoint between the regular ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand(Arc<AtomicBool>);

impl Demand {
    /// Asks.
    pub(crate) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asks.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It is being written.
    pub(crate) fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
