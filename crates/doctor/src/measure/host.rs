//! This machine, from `/proc`.

use std::fs;
use std::thread;
use std::time::Duration;

use pccl_observe::process::{self, Roots};

use crate::diagnose::median;
use crate::observed::HostSeen;

/// The first line of `/proc/stat`: which of its numbers is the stolen time.
const STEAL: usize = 7;
/// Guests' time is counted with users' already.
const COUNTED: usize = 8;

/// Looks at this machine several times within `window`.
pub(super) fn watch(roots: &Roots, window: Duration, looks: u32) -> HostSeen {
    let stat = || fs::read_to_string(roots.proc.join("stat")).unwrap_or_default();
    let first = stat();
    let mut running = vec![runnable(&first)];
    let mut last = first.clone();
    for _ in 1..looks {
        thread::sleep(window / (looks - 1).max(1));
        last = stat();
        running.push(runnable(&last));
    }
    let read = |name: &str| fs::read_to_string(roots.proc.join(name)).unwrap_or_default();
    let memory = read("meminfo");
    let kib = |name: &str| process::kib(&memory, name).map(|bytes| bytes as f64);
    let largest = |name: &str| read(name).split_whitespace().nth(2)?.parse().ok();
    let own = process::look(roots, "self");
    let group = own.group;
    HostSeen {
        cpus: Some(last.lines().filter(|line| is_cpu(line)).count() as f64).filter(|cpus| *cpus > 0.0),
        steal_share: steal(&first, &last),
        runnable: median(running.into_iter().flatten()),
        pressure_share: pressure(&read("pressure/cpu")),
        memory_bytes: kib("MemTotal:"),
        available_bytes: kib("MemAvailable:"),
        oom_kills: group.oom_kills.map(|kills| kills as f64),
        group_memory: group
            .memory_limit_bytes
            .zip(group.memory_used_bytes)
            .map(|(l, u)| (l as f64, u as f64)),
        most_files: own.most_files.map(|files| files as f64),
        send_buffer_bytes: largest("sys/net/ipv4/tcp_wmem"),
        receive_buffer_bytes: largest("sys/net/ipv4/tcp_rmem"),
    }
}

/// `cpu0` and so on; the line `cpu` is the sum.
fn is_cpu(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Tasks that run or want to, without this one.
fn runnable(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("procs_running "))?;
    Some((line.trim().parse::<f64>().ok()? - 1.0).max(0.0))
}

fn steal(first: &str, last: &str) -> Option<f64> {
    let times = |stat: &str| -> Option<Vec<f64>> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        line.split_whitespace().take(COUNTED).map(|n| n.parse().ok()).collect()
    };
    let (first, last) = (times(first)?, times(last)?);
    let grown: Vec<f64> = last.iter().zip(&first).map(|(l, f)| (l - f).max(0.0)).collect();
    let all: f64 = grown.iter().sum();
    Some(if all > 0.0 { grown.get(STEAL)? / all } else { 0.0 })
}

/// `some avg10=12.34 avg60=…`.
fn pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some avg10="))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all() {
        let stat = |idle: u32, steal: u32| {
            format!("cpu  10 0 10 {idle} 0 0 0 {steal} 0 0\ncpu0 1\ncpu1 1\nprocs_running 4\n")
        };
        let share = steal(&stat(100, 0), &stat(160, 40)).unwrap();
        assert!((share - 0.4).abs() < 1e-9);
        assert_eq!(runnable(&stat(1, 1)), Some(3.0));
        assert_eq!(stat(1, 1).lines().filter(|line| is_cpu(line)).count(), 2);
        assert_eq!((steal("", ""), runnable("")), (None, None));
        assert!((pressure("some avg10=12.50 avg60=1.00 avg300=0.1 total=5\n").unwrap() - 0.125).abs() < 1e-9);
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let seen = watch(&Roots::default(), Duration::from_millis(20), 2);
        assert!(
            seen.cpus >= Some(1.0) && seen.available_bytes > Some(0.0) && seen.send_buffer_bytes > Some(0.0),
            "{seen:?}"
        );
    }
}
