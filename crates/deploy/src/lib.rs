//! The deployment engine: a file becomes a plan, a plan becomes a schedule, a schedule becomes a report.
//!
//! Pure: no file, socket, clock, thread or entropy. Time and randomness come in as arguments, so that one piece of
//! code runs a real deployment, predicts one, and is tested over thousands of seeds.
//!
//! | module | what it answers |
//! | --- | --- |
//! | [`file`] | what the operator wrote, checked, with the place of every mistake |
//! | [`template`] | what `{{ … }}` stands for in one task |

#![forbid(unsafe_code)]

pub mod compare;
pub mod error;
pub mod file;
pub mod template;
mod yaml;

pub use error::{FileError, FileErrorKind};
pub use file::Deployment;
