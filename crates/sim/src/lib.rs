//! The simulator: real protocol code over a seeded network, clock and store. Not shipped.
//!
//! A run is a function of its seed: masters and peers as they ship, connections that break and are cut to pieces,
//! datagrams that are lost, processes that crash and stand still, clocks that jump, a store that does not answer. Faults
//! come first; then everything heals, and progress is demanded. `check` says what must never be, `sync` what must not of
//! shared state.
#![forbid(unsafe_code)]

mod app;
mod check;
mod faults;
mod hostile;
mod memory;
mod net;
mod plan;
mod reference;
mod runs;
mod scenario;
mod state;
mod stats;
mod store;
mod sync;
mod trace;
mod world;

pub use hostile::hostile;
pub use memory::{Arithmetic, Memory};
pub use plan::Ending;
pub use runs::{Outcome, every_end, missed, one_end, run_seed};
pub use scenario::{Story, Unclear};
pub use state::{Shape, State};
pub use stats::Stats;
