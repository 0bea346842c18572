//! Shared state over real sockets: the rules, and processes that are frozen and killed.

#![expect(clippy::unwrap_used, reason = "a test ends where something that it needs is missing")]

mod faults;
mod harness;
mod rules;
