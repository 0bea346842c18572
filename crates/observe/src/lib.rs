//! Metrics and logs, used by every program.
//!
//! * [`Metrics`] is a cheap handle on the figures that operators watch. Parts of the program that know more about
//!   themselves are a [`Source`], asked at each scrape.
//! * [`Serving`] answers `/metrics`, `/healthz` and `/readyz` on a port, from a thread of its own.
//! * [`flight`] keeps what happened last, for a dump when something goes wrong; [`story`] makes one story of many dumps.
//! * [`init`] starts logging for the whole process, by [`LogSettings`] and `PCCL_LOG_LEVEL`. Libraries never call
//!   it; they only emit `tracing` events, and a program that embeds them keeps its own subscriber.
//!
//! Nothing here reads a configuration file, and nothing here decides anything about a run.
#![forbid(unsafe_code)]

pub mod flight;
mod level;
mod log;
mod metrics;
mod page;
pub mod process;
mod rotate;
mod serve;
mod source;
pub mod story;
pub mod table;
mod text;
mod throughput;

pub use level::{LevelError, Levels};
pub use log::{LEVEL_VARIABLE, LogError, LogHandle, LogSettings, init, init_changeable, subscriber};
pub use metrics::Metrics;
pub use rotate::RotatingFile;
pub use serve::{ADDRESS_VARIABLE, Address, ServeError, Serving, endpoint};
pub use source::{GroupSample, Health, LinkSample, MasterSample, PeerSample, Sample, Source};
