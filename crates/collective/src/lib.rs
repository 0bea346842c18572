//! One collective op on one peer, without network: what it is called, who sends what to whom, and the memory it works on.
//!
//! * [`vocabulary`] names ops, element types and operators; [`schedule`] turns an op into steps, as data, and prices them.
//! * [`execute`] runs the steps of one attempt with real memory; whoever moves the bytes is asked and told.
#![forbid(unsafe_code)]

pub mod execute;
pub mod schedule;
pub mod seeded;
pub mod vocabulary;
