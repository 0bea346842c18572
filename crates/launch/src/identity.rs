//! Which process is which: numbers are given again, so a start time belongs to them; and who has lost the number finds a
//! process by the mark in its environment.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Marks processes in their environment, so that a later session finds those that still run.
pub const MARK: &str = "PCCL_DEPLOY_ATTEMPT";

/// Ticks in a second as the kernel shows them to programs, whatever its own clock does (`USER_HZ`).
const TICKS: f64 = 100.0;

/// When a process started, in the kernel's ticks since it booted; none if it has ended.
pub fn started(pid: u32) -> Option<u64> {
    stat(pid).map(|(_, started)| started)
}

/// Whether a process leads its process group.
pub(crate) fn leads(pid: u32) -> bool {
    stat(pid).is_some_and(|(group, _)| group == pid)
}

/// Group and start time of a process.
fn stat(pid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may contain anything; behind it the group is the 3rd field, the start time the 20th.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let group = fields.nth(1)?.parse().ok()?;
    Some((group, fields.nth(16)?.parse().ok()?))
}

/// The mark of a process; none where it has none, or does not let us look.
pub(crate) fn mark(pid: u32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let text = String::from_utf8_lossy(variable);
        text.strip_prefix(MARK)?.strip_prefix('=').map(str::to_owned)
    })
}

/// Numbers of all processes but ours.
fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    entries.filter_map(number).filter(|pid| *pid != std::process::id())
}

/// Marks that begin like this and whose processes still run, with their numbers.
pub fn survivors(prefix: &str) -> BTreeMap<String, Vec<u32>> {
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for pid in pids().filter(|pid| started(*pid).is_some()) {
        if let Some(mark) = mark(pid).filter(|mark| mark.starts_with(prefix)) {
            found.entry(mark).or_default().push(pid);
        }
    }
    found
}

/// Processes of a group, whoever they say they are, and those with a mark wherever they are; each with its group.
pub(crate) fn rest(group: u32, mark: &str) -> Vec<(u32, u32)> {
    let belongs = |pid: u32| {
        let (own, _) = stat(pid)?;
        (own == group || self::mark(pid).is_some_and(|found| found == mark)).then_some((pid, own))
    };
    pids().filter_map(belongs).collect()
}

/// How long ago a process started, by the clock of the kernel; none if it has ended.
pub fn age(pid: u32) -> Option<Duration> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split(' ').next()?.parse().ok()?;
    let ticks = started(pid)? as f64 / TICKS;
    Some(Duration::try_from_secs_f64(uptime - ticks).unwrap_or_default())
}

/// Names this life of the kernel: numbers and start times begin anew with each.
pub(crate) fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known_and_one_that_never_was_is_not() {
        assert!(started(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(started(u32::MAX), None);
        assert!(age(std::process::id()).is_some_and(|age| age < Duration::from_secs(3600)));
        assert!(!boot().is_empty());
    }
}
