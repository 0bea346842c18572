//! How near the schedules are to their bounds, over a hundred seeds of the simulated Azure: figures of the tests that
//! hold them.

use anyhow::{Result, ensure};

use crate::stage;

/// Runs those tests and shows their figures.
pub(super) fn show() -> Result<()> {
    let mut command = stage::cargo();
    command.args(["test", "--quiet", "--package", "pccl-deploy", "--lib", "predict::bars"]);
    command.args(["--", "--nocapture", "--test-threads", "1"]);
    println!("\n24 regions rehearsed on the simulated Azure, over 100 seeds");
    let (status, _) = stage::run_and_read(command)?;
    ensure!(status.success(), "a rehearsal misses its bar");
    Ok(())
}
