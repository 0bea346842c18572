//! A fleet as it is now: a sample, and how it is shown.
//!
//! [`Sampler`] asks masters and pages of metrics; a [`Sample`] is a plain value; [`lines`] and [`draw`] are pure functions of it.

mod live;
mod sample;
mod view;

pub use live::live;
pub use sample::{Column, MasterRow, Member, OpRow, Sample, Sampler, TopOptions};
pub use view::{draw, lines};
