//! Metrics and logs, used by every program.
//!
//! * [`Metrics`] is a cheap handle on the five figures that operators watch. It opens no port: whoever serves
//!   `/metrics` calls [`Metrics::render`].
//! * [`init`] starts logging for the whole process, by [`LogSettings`] and `PCCL_LOG_LEVEL`. Libraries never call
//!   it; they only emit `tracing` events, and a program that embeds them keeps its own subscriber.
//!
//! Nothing here reads a configuration file, and nothing here decides anything about a run.
#![forbid(unsafe_code)]

mod level;
mod log;
mod metrics;
mod rotate;
mod throughput;

pub use level::{LevelError, Levels};
pub use log::{LEVEL_VARIABLE, LogError, LogSettings, init, subscriber};
pub use metrics::Metrics;
pub use rotate::RotatingFile;
