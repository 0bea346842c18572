//! How long a command takes and how much memory it needs; nothing of it is left behind.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::bench::process::{Deadline, Stop};

/// How often its end is looked for.
const LOOK: Duration = Duration::from_millis(1);
/// How often its memory is looked at; the kernel keeps the peak.
const LOOKS_PER_MEMORY: u32 = 5;

/// What a command took.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// Wall time.
    pub(super) seconds: f64,
    /// Most memory of the process itself, as seen a few milliseconds before its end at the latest.
    pub(super) peak_bytes: u64,
    /// Its standard output.
    pub(super) output: String,
}

/// A child that ends with this value, with all that it has started.
pub(super) struct Guarded(pub(super) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // A group that is gone needs no signal.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Runs a command that must succeed.
pub(super) fn measure(what: &str, command: &mut Command, limit: Duration, stop: &Stop) -> Result<Measured> {
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?).process_group(0);
    let deadline = Deadline::after(limit, stop);
    let begun = Instant::now();
    let mut child = Guarded(command.spawn().with_context(|| format!("{what}: cannot start {command:?}"))?);
    let (mut peak_bytes, mut looks) = (0, 0);
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        deadline.check().with_context(|| what.to_owned())?;
        if looks % LOOKS_PER_MEMORY == 0 {
            peak_bytes = peak(child.0.id()).unwrap_or(peak_bytes);
        }
        looks += 1;
        thread::sleep(LOOK);
    };
    let seconds = begun.elapsed().as_secs_f64();
    let output = read(&mut out)?;
    let complaint = format!("{}{}", tail(&output), tail(&read(&mut err)?));
    ensure!(status.success(), "{what} ended with {status}: {}", complaint.trim());
    Ok(Measured { seconds, peak_bytes, output })
}

fn read(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// Most memory that a process has had, by the kernel's count.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

/// The middle one.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn time_memory_and_output_are_measured() {
        let limit = Duration::from_secs(60);
        let measured = measure("sleep", &mut shell("echo it; sleep 0.1"), limit, &Stop::default()).unwrap();
        assert!(measured.seconds >= 0.1);
        assert!(measured.peak_bytes > 100 << 10, "{}", measured.peak_bytes);
        assert_eq!(measured.output, "it\n");
    }

    #[test]
    fn a_failure_and_a_deadline_say_what_it_was() {
        let run = |script: &str, limit| measure("it", &mut shell(script), limit, &Stop::default());
        let error = run("echo no disk >&2; exit 3", Duration::from_secs(60)).unwrap_err().to_string();
        assert!(error.contains("it ended with") && error.contains("no disk"), "{error}");
        let error = format!("{:#}", run("sleep 600", Duration::ZERO).unwrap_err());
        assert!(error.contains("it: not finished"), "{error}");
    }
}
