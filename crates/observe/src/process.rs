//! What the system says of a process and of the control group it is in: memory, files, processor time.
//!
//! Read from `/proc` and `/sys/fs/cgroup` (both versions); what is not there is not known, and nothing is made up for it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Where the system shows itself.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/proc`.
    pub proc: PathBuf,
    /// `/sys/fs/cgroup`.
    pub cgroup: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: PathBuf::from("/proc"), cgroup: PathBuf::from("/sys/fs/cgroup") }
    }
}

/// A process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessSample {
    /// Memory that it has, bytes.
    pub resident_bytes: Option<u64>,
    /// Files, sockets and so on that it has open.
    pub open_files: Option<u64>,
    /// Most that it may have open.
    pub most_files: Option<u64>,
    /// Its control group.
    pub group: GroupLimits,
}

/// The limits of a control group, the tightest of those above it, and what they have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupLimits {
    /// Most memory that all processes in it may have, bytes; none without a limit.
    pub memory_limit_bytes: Option<u64>,
    /// Memory that they have, bytes.
    pub memory_used_bytes: Option<u64>,
    /// Processes that the kernel has ended for want of memory.
    pub oom_kills: Option<u64>,
    /// Time that its processes were kept from running by a limit on processors, seconds.
    pub throttled_seconds: Option<f64>,
}

/// Looks at a process; `self` for this one.
pub fn look(roots: &Roots, pid: &str) -> ProcessSample {
    let folder = roots.proc.join(pid);
    let limits = read(&folder.join("limits"));
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    ProcessSample {
        resident_bytes: kib(&read(&folder.join("status")), "VmRSS:"),
        open_files: fs::read_dir(folder.join("fd")).ok().map(|fds| fds.count() as u64),
        most_files: most.and_then(|line| line.split_whitespace().next()?.parse().ok()),
        group: limits_of(roots, &read(&folder.join("cgroup"))),
    }
}

/// A line such as `VmRSS:  12 kB` of a file in `/proc`, in bytes.
pub fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &Path) -> Option<u64> {
    read(path).trim().parse().ok()
}

/// `name 12` in a file of such lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// `/proc/PID/cgroup` has a line `number:controllers:path` for each hierarchy; version 2 has no controllers there.
fn limits_of(roots: &Roots, cgroup: &str) -> GroupLimits {
    let mut limits = GroupLimits::default();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        match controllers {
            "" => {
                version_two(&mut limits, &roots.cgroup, path);
                // Beside hierarchies of version 1 it is mounted one below.
                version_two(&mut limits, &roots.cgroup.join("unified"), path);
            }
            _ => version_one(&mut limits, &roots.cgroup, controllers, path),
        }
    }
    limits
}

/// The group and those above it; in a container the path may be the host's, and only the root is there.
fn upwards(mount: &Path, path: &str) -> Vec<PathBuf> {
    let own = mount.join(path.trim_start_matches('/'));
    let mut all: Vec<PathBuf> =
        own.ancestors().take_while(|p| p.starts_with(mount)).map(Path::to_owned).collect();
    all.retain(|folder| folder.is_dir());
    all
}

fn tighter(limits: &mut GroupLimits, limit: Option<u64>, used: Option<u64>) {
    // Version 1 writes "no limit" as the largest number of pages.
    let Some(limit) = limit.filter(|limit| *limit < 1 << 60) else { return };
    if limits.memory_limit_bytes.is_none_or(|known| limit < known) {
        limits.memory_limit_bytes = Some(limit);
        limits.memory_used_bytes = used;
    }
}

fn version_two(limits: &mut GroupLimits, mount: &Path, path: &str) {
    for (height, folder) in upwards(mount, path).iter().enumerate() {
        tighter(limits, number(&folder.join("memory.max")), number(&folder.join("memory.current")));
        // Counts are of a group and all below it; the own one says most.
        if height == 0 {
            let kills = field(&read(&folder.join("memory.events")), "oom_kill ");
            limits.oom_kills = kills.or(limits.oom_kills);
            let throttled = field(&read(&folder.join("cpu.stat")), "throttled_usec ");
            limits.throttled_seconds = throttled.map(|us| us as f64 * 1e-6).or(limits.throttled_seconds);
        }
    }
}

fn version_one(limits: &mut GroupLimits, mount: &Path, controllers: &str, path: &str) {
    let has = |name: &str| controllers.split(',').any(|one| one == name);
    for name in ["memory", "cpu"].into_iter().filter(|name| has(name)) {
        let places = [mount.join(controllers), mount.join(name)];
        let Some(place) = places.iter().find(|place| place.is_dir()) else { continue };
        for (height, folder) in upwards(place, path).iter().enumerate() {
            if name == "memory" {
                let used = number(&folder.join("memory.usage_in_bytes"));
                tighter(limits, number(&folder.join("memory.limit_in_bytes")), used);
                if height == 0 {
                    limits.oom_kills = field(&read(&folder.join("memory.oom_control")), "oom_kill ");
                }
            } else if height == 0 {
                let throttled = field(&read(&folder.join("cpu.stat")), "throttled_time ");
                limits.throttled_seconds = throttled.map(|ns| ns as f64 * 1e-9);
            }
        }
    }
}

/// This process, for the page of metrics. The names of the first three are those that Prometheus gives every program.
#[derive(Debug)]
pub(crate) struct Own;

impl Collector for Own {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let sample = look(&Roots::default(), "self");
        let group = sample.group;
        let whole = |n: Option<u64>| n.map(|n| n as f64);
        let gauges = [
            ("process_resident_memory_bytes", "Memory that this process has", whole(sample.resident_bytes)),
            ("process_open_fds", "Files that this process has open", whole(sample.open_files)),
            ("process_max_fds", "Files that it may have open", whole(sample.most_files)),
            (
                "pccl_memory_limit_bytes",
                "Memory that its control group may have",
                whole(group.memory_limit_bytes),
            ),
            ("pccl_memory_group_bytes", "Memory that its control group has", whole(group.memory_used_bytes)),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        let counters = [
            (
                "pccl_oom_kills",
                "Processes of its control group that were ended for want of memory",
                whole(group.oom_kills),
            ),
            (
                "pccl_cpu_throttled_seconds",
                "Time without a processor by the control group's limit",
                group.throttled_seconds,
            ),
        ];
        for (name, help, value) in counters {
            let Some(value) = value else { continue };
            let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            counter.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(root: &Path, all: &[(&str, &str)]) {
        for (path, text) in all {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn roots(root: &Path) -> Roots {
        Roots { proc: root.join("proc"), cgroup: root.join("cgroup") }
    }

    #[test]
    fn the_tightest_limit_above_a_process_counts() {
        let root = tempfile::tempdir().unwrap();
        files(
            root.path(),
            &[
                ("proc/7/status", "Name:\tx\nVmRSS:\t   2048 kB\n"),
                (
                    "proc/7/limits",
                    "Max open files            1024                 4096                 files\n",
                ),
                ("proc/7/cgroup", "0::/pods/one\n"),
                ("cgroup/pods/memory.max", "1000000\n"),
                ("cgroup/pods/memory.current", "900000\n"),
                ("cgroup/pods/one/memory.max", "max\n"),
                ("cgroup/pods/one/memory.events", "low 0\noom 3\noom_kill 2\n"),
                ("cgroup/pods/one/cpu.stat", "nr_throttled 5\nthrottled_usec 1500000\n"),
            ],
        );
        let seen = look(&roots(root.path()), "7");
        assert_eq!((seen.resident_bytes, seen.most_files), (Some(2 << 20), Some(1024)));
        let group = GroupLimits {
            memory_limit_bytes: Some(1_000_000),
            memory_used_bytes: Some(900_000),
            oom_kills: Some(2),
            throttled_seconds: Some(1.5),
        };
        assert_eq!(seen.group, group);
    }

    #[test]
    fn version_one_and_a_host_that_hides_its_groups() {
        let root = tempfile::tempdir().unwrap();
        files(
            root.path(),
            &[
                ("proc/7/cgroup", "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n"),
                ("cgroup/memory/memory.limit_in_bytes", "5000000\n"),
                ("cgroup/memory/memory.usage_in_bytes", "4000000\n"),
                ("cgroup/memory/memory.oom_control", "under_oom 0\noom_kill 1\n"),
                ("cgroup/cpu,cpuacct/cpu.stat", "throttled_time 2500000000\n"),
            ],
        );
        let group = look(&roots(root.path()), "7").group;
        assert_eq!((group.memory_limit_bytes, group.memory_used_bytes), (Some(5_000_000), Some(4_000_000)));
        assert_eq!((group.oom_kills, group.throttled_seconds), (Some(1), Some(2.5)));
        let unlimited = "9223372036854771712\n";
        files(root.path(), &[("cgroup/memory/memory.limit_in_bytes", unlimited)]);
        assert_eq!(look(&roots(root.path()), "7").group.memory_limit_bytes, None);
        assert_eq!(look(&roots(root.path()), "8"), ProcessSample::default());
    }

    #[test]
    fn this_process_is_on_the_page() {
        let page = crate::Metrics::new().render();
        let line = page.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        assert!(line.is_some_and(|bytes| bytes.parse::<f64>().is_ok_and(|bytes| bytes > 1e6)), "{page}");
    }
}
