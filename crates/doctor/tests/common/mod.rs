//! What the tests of the doctor share: the program, processes of a fleet, and what it says of them.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pccl_link::Network;
use serde_json::Value;

/// The program, beside which tests are built: `cargo build -p pccl-cli`.
pub(crate) fn program() -> PathBuf {
    let test = std::env::current_exe().expect("this test");
    let path = test.ancestors().nth(2).unwrap_or(&test).join("pccl");
    assert!(path.is_file(), "{} is not there: run `cargo build -p pccl-cli` first", path.display());
    path
}

/// Without what the caller's environment says, in a folder without a configuration.
fn alone(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PCCL_") {
            command.env_remove(name);
        }
    }
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// The program, on this machine.
pub(crate) fn pccl(args: &[&str]) -> Command {
    let mut command = alone(Command::new(program()));
    command.args(args);
    command
}

/// The program, on a host of a network.
pub(crate) fn pccl_on(network: &Network, host: usize, args: &[&str]) -> Command {
    let mut command = alone(network.command(host, program()));
    command.args(args);
    command
}

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A process that is stopped does not end by anything else.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts it, and waits until it says this: the line.
    pub(crate) fn start(mut command: Command, said: &str) -> (Self, String) {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut running = Self(child);
        let mut lines =
            BufReader::new(running.0.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let line =
            lines.find(|line| line.contains(said)).unwrap_or_else(|| panic!("it ends without `{said}`"));
        // Whoever writes on must not wait for a reader.
        thread::spawn(move || lines.for_each(drop));
        (running, line)
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }
}

/// Waits until `condition` gives something; a machine may be very busy.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} does not happen");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a process has said in its log where it serves metrics.
pub(crate) fn metrics_in(log: &Path) -> String {
    until("an address of metrics", || {
        let text = fs::read_to_string(log).unwrap_or_default();
        Some(text.split("http://").nth(1)?.split('/').next()?.to_owned())
    })
}

/// A master with its state in memory, its address, and where it serves metrics.
pub(crate) fn master(folder: &Path, set: &[(&str, &OsStr)]) -> (Running, String, String) {
    let log = folder.join("master.log");
    let mut command = pccl(&["master", "--listen", "127.0.0.1:0"]);
    command.env("PCCL_STORE__KIND", "memory").env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
    command.env("PCCL_METRICS_ADDRESS", "127.0.0.1:0").env("PCCL_LOGGING__FILE", &log);
    command.envs(set.iter().copied());
    let (running, line) = Running::start(command, "listening on ");
    let addr = line.trim_start_matches("listening on ").split(',').next().unwrap_or_default().to_owned();
    (running, addr, metrics_in(&log))
}

/// A worker that serves metrics.
pub(crate) fn worker(folder: &Path, master: &str, name: &str, more: &[&str]) -> Command {
    let mut command = pccl(&[&["worker", "--master", master], more].concat());
    command.env("PCCL_METRICS_ADDRESS", "127.0.0.1:0").env("PCCL_LOGGING__FILE", folder.join(name));
    command.env("PCCL_NETWORK__P2P_PORTS", "21000-23999");
    command
}

/// Runs the doctor: its exit code and what it says.
pub(crate) fn examined(mut command: Command) -> (i32, Value) {
    let output = command.arg("--json").output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said = serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{e}: `{out}` `{err}`"));
    (output.status.code().unwrap_or(-1), said)
}

/// The causes that it names, the first one first.
pub(crate) fn causes(said: &Value) -> Vec<String> {
    let findings = said["findings"].as_array().cloned().unwrap_or_default();
    findings.iter().filter_map(|finding| Some(finding["cause"].as_str()?.to_owned())).collect()
}

/// The first finding must be this, a fault, and have these words; and the exit code says so.
pub(crate) fn finds(examined: &(i32, Value), cause: &str, words: &[&str]) {
    let (code, said) = examined;
    let first = &said["findings"][0];
    assert_eq!(first["cause"], cause, "{said:#}");
    assert_eq!(
        (first["level"].as_str(), said["verdict"].as_str(), *code),
        (Some("bad"), Some("bad"), 1),
        "{said:#}"
    );
    for word in words {
        assert!(first.to_string().contains(word), "`{word}` is not in {first:#}");
    }
    assert!(first["fix"].as_str().is_some_and(|fix| fix.len() > 10), "{first:#}");
}
