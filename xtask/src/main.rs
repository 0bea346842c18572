//! The one door to everything a developer does.

fn main() {}
