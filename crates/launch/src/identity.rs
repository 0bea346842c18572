//! Which process is which: numbers are given again, so a start time belongs to them; and who has lost the number finds a
//! process by the mark in its environment.

use std::collections::BTreeMap;
use std::fs;

/// Marks processes in their environment, so that a later session finds those that still run.
pub const MARK: &str = "PCCL_DEPLOY_ATTEMPT";

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

/// Marks that begin like this and whose processes still run, with their numbers.
pub fn survivors(prefix: &str) -> BTreeMap<String, Vec<u32>> {
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() || started(pid).is_none() {
            continue;
        }
        if let Some(mark) = mark(pid).filter(|mark| mark.starts_with(prefix)) {
            found.entry(mark).or_default().push(pid);
        }
    }
    found
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
        assert!(!boot().is_empty());
    }
}
