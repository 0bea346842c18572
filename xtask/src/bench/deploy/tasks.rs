//! What a task costs: many programs that do nothing, and a plan of very many tasks.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};

use super::report::Part;
use super::timing::{measure, median};
use super::{Bench, say};

/// Tasks that are run.
const RUN: usize = 1000;
/// Tasks that are planned.
const PLANNED: usize = 100_000;
/// Most at once.
const WIDTH: &str = "48";
const MIB: f64 = 1024.0 * 1024.0;

/// `true`, a thousand times, 48 at once: beside xargs, which writes nothing down.
pub(super) fn small(bench: &Bench<'_>) -> Result<Part> {
    let mut part = Part::new(format!("{RUN} tasks of `true`, {WIDTH} at once"));
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("deploy.yaml"), file(RUN))?;
    let (mut xargs, mut durable, mut not) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=bench.rounds {
        say(&format!("{RUN} tasks, round {round} of {}", bench.rounds));
        let mut command = Command::new("sh");
        command.args(["-c", &format!("seq {RUN} | xargs -P {WIDTH} -n 1 true")]);
        xargs.push(measure("xargs", &mut command, bench.limit, bench.stop)?.seconds);
        for (sync, times) in [("on", &mut durable), ("off", &mut not)] {
            let mut command = Command::new(&bench.pccl);
            command.args(["deploy", "run", "--quiet", "--width", WIDTH, "--journal-sync", sync]);
            command.current_dir(folder.path());
            let measured = measure("pccl deploy", &mut command, bench.limit, bench.stop)?;
            ensure!(measured.output.contains(&format!("{RUN} done, 0 failed")), "{}", measured.output);
            times.push(measured.seconds);
        }
    }
    let (xargs, durable, not) = (median(xargs), median(durable), median(not));
    part.row("xargs -P 48", xargs, "");
    part.row("pccl deploy, durable journal", durable, "");
    part.row("pccl deploy, --journal-sync=off", not, "");
    part.bar("durable journal / xargs", durable / xargs, 1.5, "x");
    part.bar("--journal-sync=off / xargs", not / xargs, 1.2, "x");
    Ok(part)
}

/// The plan of a hundred thousand tasks: reading, rendering, checking and ordering, and the forecast of every mode.
pub(super) fn plan(bench: &Bench<'_>) -> Result<Part> {
    let mut part = Part::new(format!("plan of {PLANNED} tasks"));
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("deploy.yaml"), file(PLANNED))?;
    for (name, args) in
        [("run --dry-run", &["deploy", "run", "--dry-run"][..]), ("plan", &["deploy", "plan"])]
    {
        let (mut seconds, mut mib) = (Vec::new(), Vec::new());
        for round in 1..=bench.rounds {
            say(&format!("{name} of {PLANNED} tasks, round {round} of {}", bench.rounds));
            let mut command = Command::new(&bench.pccl);
            command.args(args).current_dir(folder.path());
            let measured = measure(name, &mut command, bench.limit, bench.stop)?;
            seconds.push(measured.seconds);
            mib.push(measured.peak_bytes as f64 / MIB);
        }
        let (seconds, mib) = (median(seconds), median(mib));
        part.row(&format!("pccl deploy {name}"), seconds, &format!("{mib:.0} MiB"));
        part.bar(&format!("{name}: time"), seconds, 1.0, "s");
        part.bar(&format!("{name}: memory"), mib, 300.0, "MiB");
    }
    Ok(part)
}

/// So many tasks in phases of a hundred targets, each phase after the one before; or in one phase.
fn file(tasks: usize) -> String {
    let targets = tasks.min(1000);
    let names: Vec<String> = (0..targets).map(|n| format!("t{n:04}")).collect();
    let mut text = format!("name: many\ntargets: [{}]\nphases:\n", names.join(", "));
    for phase in 0..tasks / targets {
        let after = if phase == 0 { String::new() } else { format!("after: [p{}], ", phase - 1) };
        let line = format!(
            "  - {{ name: p{phase}, for_each: targets, {after}takes: 10s, run: {{ command: {{ run: ['true'] }} }} }}\n"
        );
        text.push_str(&line);
    }
    text
}
