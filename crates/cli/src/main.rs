//! The pccl program.

fn main() {}
