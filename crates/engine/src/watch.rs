//! `pccl deploy watch`: a run that another process drives, live.

use std::thread;
use std::time::Duration;

use pccl_deploy::progress::PhaseProgress;

use crate::clock::Stamp;
use crate::display::Display;
use crate::failure::DeployError;
use crate::store::Place;
use crate::view::{Follower, RunState};

/// Between two looks at the journal.
const PAUSE: Duration = Duration::from_millis(250);

/// How a run ended while somebody watched.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Its number.
    pub run: i64,
    /// All its tasks.
    pub total: PhaseProgress,
    /// Whether the operator stopped it.
    pub stopped: bool,
}

/// Shows a run until it ends. Its driver may die and another go on with it meanwhile.
///
/// # Errors
/// There is no such run, or its journal cannot be read.
pub fn watch(place: &Place, run: Option<i64>, json: bool, quiet: bool) -> Result<Ending, DeployError> {
    let mut follower = Follower::new(place)?;
    let mut display = Display::new(json, quiet);
    let mut run = run;
    let mut was_silent = false;
    loop {
        let view = follower.follow(run, |record| display.record(record))?;
        run = Some(view.id);
        let progress = view.progress();
        display.standing(&progress);
        match view.state() {
            RunState::Ended | RunState::Stopped => {
                display.finish();
                let stopped = view.state() == RunState::Stopped;
                return Ok(Ending { run: view.id, total: progress.total(), stopped });
            }
            RunState::Silent if !was_silent => {
                let who = view.history.sessions.last().map_or_else(
                    || "nobody has begun it".to_owned(),
                    |(at, operator, _)| format!("no sign of life from {operator}, who began {}", Stamp(*at)),
                );
                display.note(&format!("{who}; if nobody runs it: pccl deploy resume"));
                was_silent = true;
            }
            RunState::Running => was_silent = false,
            RunState::Silent => {}
        }
        thread::sleep(PAUSE);
    }
}
