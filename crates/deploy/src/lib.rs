//! The deployment engine: a file becomes a plan, a plan becomes a schedule, a schedule becomes a report.
//!
//! Pure: no file, socket, clock, thread or entropy. Time and randomness come in as arguments, so that one piece of
//! code runs a real deployment, predicts one, and is tested over thousands of seeds.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`file`] | what the operator wrote, checked, with the place of every mistake |
//! | [`template`] | what `{{ … }}` stands for in one task |
//! | [`plan`] | which tasks there are, and what each depends on |
//! | [`classify`] | why a tool failed, from what it printed |
//! | [`clouds`] | how clouds count calls and refuse them |
//! | [`predict`] | what a run will take, by running it in virtual time |
//! | [`progress`] | how far a run is |
//! | [`schedule`] | which task starts when, and why another does not |
//! | [`journal`] | what is written down, and what a later run learns from it |
//! | [`report`] | the picture of a run |

#![forbid(unsafe_code)]

pub mod classify;
pub mod clouds;
pub mod compare;
pub mod error;
pub mod file;
pub mod journal;
pub mod plan;
pub mod predict;
pub mod progress;
pub mod random;
pub mod report;
pub mod schedule;
pub mod template;
mod yaml;

pub use error::{FileError, FileErrorKind};
pub use file::Deployment;
