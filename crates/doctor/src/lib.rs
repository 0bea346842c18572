//! A fleet from outside: what is wrong with it, by symptoms; and, in [`top`], what it is at.
//!
//! [`examine`] measures all that can be measured from this machine: names, connections and answers of the masters, their
//! certificates, datagrams, ports of the peers, pages of metrics and flight records of each process, this host itself.
//! [`diagnose`] is a pure function of what was [`observed`]: findings with figure, meaning, cause and fix, the most likely
//! cause first. What could not be measured is a part of the [`Diagnosis`], with the reason: it is never taken for healthy.
#![forbid(unsafe_code)]

mod cause;
mod diagnose;
mod finding;
mod measure;
pub mod observed;
mod status;
mod symptom;
pub mod top;

pub use cause::Cause;
pub use diagnose::diagnose;
pub use finding::{Diagnosis, Finding, Level, Unmeasured};
pub use measure::{ExamineOptions, MasterName, TlsFiles, examine, look};
pub use status::status_lines;
pub use symptom::Symptom;
