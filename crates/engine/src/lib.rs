//! The deployment engine: real processes, a journal and displays around the pure core in `pccl-deploy`.
//!
//! | module | what it does |
//! | --- | --- |
//! | `session` | begins a run, goes on after a crash, tries again what failed |
//! | `engine` | the loop between the scheduler, the processes and the journal |
//! | `attempt`, `runners` | one attempt of a task, and the tools that it runs; processes are `pccl-launch`'s |
//! | `store` | the journal: records in order, a lock, a fence |
//! | `display`, `outputs` | what the operator sees meanwhile |
//! | `status`, `view`, `watch`, `serve`, `metrics` | what others see of a run, from its journal |
//! | `setup`, `forecast` | from a file and the command line to a plan, and what is to be expected of it |
#![forbid(unsafe_code)]

mod attempt;
mod clock;
mod display;
mod engine;
mod failure;
mod forecast;
mod metrics;
mod outputs;
mod reconcile;
mod runners;
mod serve;
mod session;
mod setup;
pub mod status;
mod store;
mod view;
mod watch;
mod web;

pub use attempt::log_name;
pub use clock::{Stamp, now_ms};
pub use display::time;
pub use engine::Summary;
pub use failure::DeployError;
pub use forecast::Outlook;
pub use serve::serve;
pub use session::{Again, Manner, begin, go_back, go_on, last_vars};
pub use setup::{Choices, Source, undoing};
pub use store::{JournalUrl, Live, Place, Store, StoredRun};
pub use view::{Follower, RunState, RunView};
pub use watch::{Ending, watch};
pub use web::TcpAddress;
