//! Memory: of the machine, of control groups, of backups.

use super::{Said, Words, bytes, percent};
use crate::cause::Cause;
use crate::finding::Level;
use crate::observed::{Observations, ProcessSeen};
use crate::symptom::Symptom;

const MEMORY: &[Symptom] = &[Symptom::OutOfMemory];
/// What the alert `PcclBackupMemory` takes for much, where no limit is known.
const MUCH_BACKUP_BYTES: f64 = 16.0 * 1024.0 * 1024.0 * 1024.0;

pub(super) fn memory(seen: &Observations, said: &mut Said) {
    machine(seen, said);
    for process in &seen.processes {
        one(seen, process, said);
    }
    if seen.processes.is_empty() {
        said.unmeasured("memory of the fleet's processes", "no page of metrics could be read", MEMORY);
    }
}

fn machine(seen: &Observations, said: &mut Said) {
    let host = &seen.host;
    match (host.memory_bytes, host.available_bytes) {
        (Some(all), Some(left)) => {
            let share = left / all.max(1.0);
            let measured = format!("{} of {} can still be had ({})", bytes(left), bytes(all), percent(share));
            if share >= 0.1 {
                said.healthy(format!("memory of this machine: {measured}"));
            } else {
                let words = Words {
                    measured,
                    means: "below 10 % the kernel drops caches and swaps, below 5 % it soon ends processes".to_owned(),
                    fix: "stop what else runs here (`ps --sort=-rss`), or use a machine with more (docs/production.md: 1 to 16 GB for a master)"
                        .to_owned(),
                };
                let level = if share < 0.05 { Level::Bad } else { Level::Low };
                said.find(level, Cause::MemoryShort, "this machine", words);
            }
        }
        _ => said.unmeasured("memory of this machine", "/proc/meminfo cannot be read", MEMORY),
    }
    let place = "the control group of this process";
    if let Some((limit, used)) = host.group_memory {
        limited(limit, used, None, place, said);
    }
    if let Some(kills) = host.oom_kills.filter(|kills| *kills > 0.0) {
        killed(kills, host.group_memory.map(|(limit, _)| limit), place, said);
    }
}

fn one(seen: &Observations, process: &ProcessSeen, said: &mut Said) {
    let place = &process.place;
    if let Some(kills) = process.oom_kills.filter(|kills| *kills > 0.0) {
        killed(kills, process.memory_limit, place, said);
    }
    match (process.memory_limit, process.memory_used) {
        (Some(limit), Some(used)) => limited(limit, used, process.resident, place, said),
        _ if process.resident.is_none() => {
            said.unmeasured(format!("memory of {place}"), "its page does not show it", MEMORY);
        }
        _ => {
            let resident = process.resident.unwrap_or(0.0);
            said.healthy(format!("{place} has {} of memory, and no limit of its own", bytes(resident)));
        }
    }
    let room = process.memory_limit.or(seen.host.memory_bytes.filter(|_| process.is_here));
    let most = room.map_or(MUCH_BACKUP_BYTES, |room| room / 4.0);
    if process.backup_bytes > most {
        let words = Words {
            measured: format!("{} are kept to restore inputs, {:.0} ops in flight", bytes(process.backup_bytes), process.ops_in_flight),
            means: format!("more than {}: a quarter of what it may have, or the limit of the alert PcclBackupMemory", bytes(most)),
            fix: "call ops out of place or fewer at once; fault_tolerance.enable_buffer_backup: false gives up restoring inputs".to_owned(),
        };
        said.find(Level::Low, Cause::BackupMemory, place, words);
    }
}

fn killed(kills: f64, limit: Option<f64>, place: &str, said: &mut Said) {
    let limit = limit.map_or_else(
        || "no limit is set: the machine was full".to_owned(),
        |l| format!("its limit is {}", bytes(l)),
    );
    let words = Words {
        measured: format!("{kills:.0} processes ended by the kernel (oom_kill of the control group); {limit}"),
        means: "each was a peer or a helper that died without a word; the others recovered from it".to_owned(),
        fix: "raise the limit (memory.max; Kubernetes: resources.limits.memory; systemd: MemoryMax), or let it hold less: smaller buckets, fewer ops at once"
            .to_owned(),
    };
    said.find(Level::Bad, Cause::OomKilled, place, words);
}

fn limited(limit: f64, used: f64, resident: Option<f64>, place: &str, said: &mut Said) {
    let share = used.max(resident.unwrap_or(0.0)) / limit.max(1.0);
    let own = resident.map_or_else(String::new, |r| format!(", the process itself has {}", bytes(r)));
    let measured = format!("{} of {} ({}){own}", bytes(used), bytes(limit), percent(share));
    if share < 0.75 {
        return said.healthy(format!("memory of {place}: {measured}"));
    }
    let words = Words {
        measured,
        means: "above 75 % the next large op may not fit, above 90 % the kernel soon ends a process (caches count, too)".to_owned(),
        fix: "raise the limit (memory.max; Kubernetes: resources.limits.memory), or let it hold less: smaller buckets, ops out of place".to_owned(),
    };
    said.find(if share >= 0.9 { Level::Bad } else { Level::Low }, Cause::MemoryLimit, place, words);
}
