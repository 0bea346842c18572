//! `cargo xtask ci`: what a change must pass, the same here as on the build machine.

use std::process::ExitCode;

use crate::stage::{self, Stages};
use crate::test;

pub(crate) fn run() -> ExitCode {
    let mut stages = Stages::default();
    let mut format = stage::cargo();
    format.args(["fmt", "--all", "--check"]);
    stages.command("format", format);
    let mut lint = stage::cargo();
    lint.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    stages.command("lint", lint);
    test::all(&mut stages);
    stages.finish()
}
