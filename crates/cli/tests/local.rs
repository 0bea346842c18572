//! `deployments/local.yaml`: a fleet on this machine that stays, survives its engine, heals, and goes.

mod common;

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};

use common::{lives, pccl, run, signal, succeeded, text, until};
use serde_json::Value;
use tempfile::TempDir;

/// The shipped file in a folder of its own, and ports that were free a moment ago.
struct Local {
    folder: TempDir,
    port: u16,
    vars: Vec<String>,
}

/// The first of so many ports in a row that nobody has, below those that the system gives out by itself.
fn free_ports(count: u16) -> u16 {
    let is_free =
        |port| TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
    until("free ports", || {
        let given = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let first = 10_000 + given % 1_500 * count;
        (first..first + count).all(is_free).then_some(first)
    })
}

impl Local {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deployments/local.yaml");
        fs::copy(file, folder.path().join("local.yaml")).expect("it is copied");
        let port = free_ports(8);
        let vars = [
            ("workers", "3".to_owned()),
            ("model", "--bytes=64KiB".to_owned()),
            ("pause", "0.05".to_owned()),
            ("port", port.to_string()),
            ("standby_port", (port + 1).to_string()),
            ("metrics_port", (port + 2).to_string()),
            ("p2p_ports", "24000-26999".to_owned()),
            ("heartbeat_timeout_ms", "5000".to_owned()),
        ];
        let vars = vars.into_iter().map(|(name, value)| format!("--var={name}={value}")).collect();
        Self { folder, port, vars }
    }

    fn command(&self, order: &str) -> Command {
        let mut command = pccl(&["deploy", order, "local.yaml"]);
        command.current_dir(self.folder.path());
        if order == "up" {
            command.args(&self.vars);
        }
        command
    }

    fn run(&self, order: &str) -> Output {
        self.command(order).output().expect("pccl starts")
    }

    /// Names of the services and their processes, by their notes.
    fn processes(&self) -> Vec<(String, u32)> {
        let notes = fs::read_dir(self.folder.path().join(".pccl-deploy/pccl-local/services"));
        let mut found: Vec<(String, u32)> = notes
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|note| {
                let note: Value = serde_json::from_str(&fs::read_to_string(note.path()).ok()?).ok()?;
                let pid = note["process"][0].as_u64()?;
                Some((note["name"].as_str()?.to_owned(), u32::try_from(pid).ok()?))
            })
            .collect();
        found.sort();
        found
    }

    fn peers(&self) -> usize {
        let output = run(&["status", "--json", "--master", &format!("127.0.0.1:{}", self.port)]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["groups"][0]["peers"].as_array().map_or(0, Vec::len)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let left = self.processes();
        let _ = self.run("down");
        for (_, pid) in left.into_iter().filter(|(_, pid)| lives(*pid)) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn a_fleet_that_stays_survives_its_engine_is_healed_and_goes() {
    let local = Local::new();
    // The engine dies while the fleet starts: whatever was started is found again.
    let killed = local.command("up").env("PCCL_FAULT_DEPLOY_RECORDS", "11").output().unwrap();
    assert!(killed.status.code().is_none(), "{}", said(&killed));
    let resumed = local.run("resume");
    succeeded(&resumed);
    assert!(said(&resumed).contains("done     all-reduce"), "{}", said(&resumed));
    let first = local.processes();
    let names: Vec<&str> = first.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["master", "standby", "workers/worker-1", "workers/worker-2", "workers/worker-3"]);
    assert_eq!(local.peers(), 3);
    let marked =
        format!("{}/.pccl-deploy/pccl-local/services/", fs::canonicalize(&local.folder).unwrap().display());
    assert_eq!(processes_marked(&marked).len(), 5, "nothing is there twice");

    // A worker dies: that is seen, and it is started again.
    let (_, victim) = first[4];
    signal(victim, "KILL");
    until("the others notice", || (local.peers() == 2).then_some(()));
    let healed = local.run("retry");
    succeeded(&healed);
    assert!(said(&healed).contains("the service of workers/worker-3 has ended"), "{}", said(&healed));
    until("it has come back", || (local.peers() == 3).then_some(()));
    let second = local.processes();
    assert_eq!(second[..4], first[..4], "the others were left alone");
    assert_ne!(second[4], first[4]);

    let down = local.run("down");
    succeeded(&down);
    let left: Vec<u32> = second.iter().map(|(_, pid)| *pid).filter(|pid| lives(*pid)).collect();
    assert!(left.is_empty() && processes_marked(&marked).is_empty(), "{left:?} {}", said(&down));
    assert!(!local.folder.path().join(".pccl-deploy/pccl-local/fleet").exists(), "{}", said(&down));
}

/// Numbers of the processes whose environment says that they belong there.
fn processes_marked(place: &str) -> Vec<u32> {
    let sign = format!("PCCL_DEPLOY_ATTEMPT={place}");
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        lives(*pid) && String::from_utf8_lossy(&environment).contains(&sign)
    })
    .collect()
}
