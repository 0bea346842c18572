//! All-reduce, timed: what one peer of a benchmark does, and what becomes of the figures of all.
//!
//! [`BenchPeer`] measures with the communicator it is given, the same number of calls as all others, and looks at every
//! result: a benchmark whose sums are wrong measures nothing. [`Row`] is what a user reads. Processes and command lines are
//! the caller's business.
#![forbid(unsafe_code)]

mod pattern;
mod peer;
mod row;

pub use peer::{AGREE_TAG, BenchPeer, Measure, Work};
pub use row::{Row, Sample, median, table};
