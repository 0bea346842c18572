//! The pure core of the collectives: no socket, clock, thread or entropy.

pub mod config;
