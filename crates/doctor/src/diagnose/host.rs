//! This machine and the processes on it: processors, files, clocks.

use pccl_probe::verdict::{Level as Judgement, What, judge};

use super::{Said, Words, duration, percent};
use crate::cause::Cause;
use crate::finding::Level;
use crate::observed::Observations;
use crate::symptom::Symptom;

const CPU: &[Symptom] = &[Symptom::LowThroughput, Symptom::HighLatency, Symptom::FrequentRecoveries];
/// A worker of a large fleet has a few connections to each of its neighbours.
const FEW_FILES: f64 = 1024.0;

pub(super) fn host(seen: &Observations, said: &mut Said) {
    stolen(seen, said);
    crowded(seen, said);
    throttled(seen, said);
    files(seen, said);
    clocks(seen, said);
}

fn stolen(seen: &Observations, said: &mut Said) {
    let Some(share) = seen.host.steal_share else {
        return said.unmeasured("processor time that the host takes", "/proc/stat cannot be read", CPU);
    };
    if share < 0.1 {
        return said
            .healthy(format!("the host of this machine takes {} of the processor time", percent(share)));
    }
    let words = Words {
        measured: format!("{} of the time is stolen (/proc/stat)", percent(share)),
        means: "above 10 % beats and data wait; a burstable instance has used up its credits, or the host is overbooked".to_owned(),
        fix: "use an instance with processors of its own, or stop what else runs on that host".to_owned(),
    };
    said.find(if share >= 0.5 { Level::Bad } else { Level::Low }, Cause::CpuStolen, "this machine", words);
}

fn crowded(seen: &Observations, said: &mut Said) {
    let host = &seen.host;
    let (Some(cpus), Some(runnable)) = (host.cpus, host.runnable) else {
        return said.unmeasured(
            "tasks that wait for a processor",
            "/proc/loadavg or /proc/stat cannot be read",
            CPU,
        );
    };
    let pressure = host.pressure_share.unwrap_or(0.0);
    let known = host
        .pressure_share
        .map_or_else(String::new, |p| format!(", some waited in {} of the last 10 s", percent(p)));
    if runnable <= 2.0 * cpus && pressure < 0.25 {
        return said.healthy(format!("{runnable:.0} tasks want to run on {cpus:.0} processors{known}"));
    }
    let words = Words {
        measured: format!("{runnable:.0} tasks want to run on {cpus:.0} processors{known}"),
        means: "more than two for each processor, or a quarter of the time, make heartbeats late and links slow".to_owned(),
        fix: "give it more processors (docs/production.md: 1 to 8 for a master), or stop what else runs (`top`, `pidstat 1`)".to_owned(),
    };
    said.find(Level::Low, Cause::CpuShort, "this machine", words);
}

fn throttled(seen: &Observations, said: &mut Said) {
    for process in &seen.processes {
        let Some(share) = process.throttled_share else { continue };
        if share < 0.05 {
            continue;
        }
        let words = Words {
            measured: format!("kept from running in {} of the time (cpu.stat of its control group)", percent(share)),
            means: "whoever is kept from running for longer than the heartbeat timeout is taken for dead".to_owned(),
            fix: "raise the limit on processors (Kubernetes: resources.limits.cpu; systemd: CPUQuota), or leave it out and set a request".to_owned(),
        };
        let level = if share >= 0.25 { Level::Bad } else { Level::Low };
        said.find(level, Cause::CpuThrottled, &process.place, words);
    }
}

fn files(seen: &Observations, said: &mut Said) {
    for process in &seen.processes {
        let (Some(open), Some(most)) = (process.open_files, process.most_files) else { continue };
        if open < 0.8 * most {
            continue;
        }
        let words = Words {
            measured: format!("{open:.0} of {most:.0} open files"),
            means: "without a free descriptor no connection can be made or accepted".to_owned(),
            fix: "raise it: `ulimit -n 65536` in the shell, LimitNOFILE= of systemd, or the container's runtime".to_owned(),
        };
        let level = if open >= 0.95 * most { Level::Bad } else { Level::Low };
        said.find(level, Cause::FilesShort, &process.place, words);
    }
    match seen.host.most_files {
        None => said.unmeasured(
            "the limit on open files here",
            "/proc/self/limits cannot be read",
            &[Symptom::CantConnect],
        ),
        Some(most) if most < FEW_FILES => {
            let words = Words {
                measured: format!("ulimit -n is {most:.0} here"),
                means: format!(
                    "a peer has several connections to each of the others; less than {FEW_FILES:.0} end a large fleet"
                ),
                fix: "`ulimit -n 65536` before the program is started, or LimitNOFILE= of systemd".to_owned(),
            };
            said.find(Level::Low, Cause::FilesShort, "this machine", words);
        }
        Some(most) => said.healthy(format!("a process here may have {most:.0} files open")),
    }
}

fn clocks(seen: &Observations, said: &mut Said) {
    for process in &seen.processes {
        let Some((offset, error)) = process.clock_s else { continue };
        // What the way there and back may have added is not held against it.
        let least_ms = (offset.abs() - error).max(0.0) * 1e3;
        let judged = judge(What::Clock, Some(least_ms));
        let level = match judged.level {
            Judgement::Good | Judgement::Unknown => continue,
            Judgement::Low => Level::Low,
            Judgement::Bad => Level::Bad,
        };
        let way = if offset > 0.0 { "ahead of" } else { "behind" };
        let words = Words {
            measured: format!(
                "{} {way} this machine's clock, give or take {}",
                duration(offset.abs()),
                duration(error)
            ),
            means: judged.text,
            fix: judged.fix.unwrap_or_default(),
        };
        said.find(level, Cause::ClockOff, &process.place, words);
    }
}
