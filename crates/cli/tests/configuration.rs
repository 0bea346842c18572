//! `pccl config`, and what SIGHUP changes in a running process.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Running, pccl, refused, run, signal, succeeded, text, until};

const SECRET: &str = "0123456789abcdef0123";

#[test]
fn init_writes_a_sound_file_and_never_over_another() {
    let folder = tempfile::tempdir().unwrap();
    for role in ["master", "standby", "worker"] {
        let file = folder.path().join(format!("{role}.yaml"));
        let file = file.to_str().unwrap();
        succeeded(&run(&["config", "init", file, "--role", role]));
        let mut check = pccl(&["config", "check", "--config", file]);
        succeeded(&check.env("PCCL_AUTH_SECRET", SECRET).output().unwrap());
        let without = run(&["config", "check", "--config", file]);
        refused(&without, 3, &["PCCL_AUTH_SECRET", file]);
    }
    let file = folder.path().join("worker.yaml");
    let before = fs::read_to_string(&file).unwrap();
    refused(&run(&["config", "init", file.to_str().unwrap()]), 6, &["worker.yaml", "failed to write"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
}

#[test]
fn the_reference_is_what_the_documentation_has() {
    let output = run(&["config", "reference"]);
    succeeded(&output);
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
    assert_eq!(text(&output.stdout), fs::read_to_string(docs).unwrap());
}

/// What the log of a process has said since `from`, once it contains `words`.
fn says(log: &Path, from: usize, words: &str) -> usize {
    until(words, || {
        let text = fs::read_to_string(log).unwrap_or_default();
        let said = text.get(from..)?;
        said.contains(words).then_some(text.len())
    })
}

#[test]
fn sighup_changes_levels_and_networks_and_names_what_needs_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (file, log) = (folder.path().join("c.yaml"), folder.path().join("log"));
    let write = |level: &str, networks: &str, port: u16| {
        let text = format!(
            "network: {{ allowed_networks: [{networks}], master_port: {port} }}\nstore: {{ kind: memory }}\n\
             logging: {{ level: {level}, levels: {{ metrics: ERROR }}, file: {} }}\n",
            log.display()
        );
        fs::write(&file, text).unwrap();
    };
    write("WARN", "127.0.0.0/8", 7117);
    let config = file.to_str().unwrap();
    let mut master = Running::start(pccl(&["master", "--listen", "127.0.0.1:0", "--config", config]));
    let addr = master.listening();
    let status = || run(&["status", "--master", &addr, "--timeout", "60"]);
    succeeded(&status());
    assert!(!text(&fs::read(&log).unwrap()).contains("INFO"));

    write("DEBUG", "10.0.0.0/8", 7200);
    signal(master.pid(), "HUP");
    let end = says(&log, 0, "it takes a restart to change network.master_port");
    says(&log, 0, "from now on the new values hold of network.allowed_networks, logging.level");
    refused(&status(), 4, &[&addr]);
    let end = says(&log, end, "network.allowed_networks");

    fs::write(&file, "logging: { level: LOUD }\n").unwrap();
    signal(master.pid(), "HUP");
    let end = says(&log, end, "all settings stay as they were");
    refused(&status(), 4, &[&addr]);

    write("INFO", "127.0.0.0/8", 7200);
    signal(master.pid(), "HUP");
    says(&log, end, "from now on the new values hold of network.allowed_networks, logging.level");
    succeeded(&status());
    assert!(master.child.try_wait().unwrap().is_none());
}

#[test]
fn sighup_does_not_end_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = pccl(&["master", "--listen", "127.0.0.1:0"]);
    command.env("PCCL_STORE__KIND", "memory").env("PCCL_NETWORK__HEARTBEAT_TIMEOUT_MS", "5000");
    let mut master = Running::start(command);
    let addr = master.listening();
    let mut command = pccl(&["worker", "--master", &addr, "--bytes", "4KiB"]);
    command.env("PCCL_NETWORK__P2P_PORTS", "21000-23999").env("PCCL_LOGGING__FILE", &log);
    let mut worker = Running::start(command);
    worker.line_with("world  1");
    signal(worker.pid(), "HUP");
    says(&log, 0, "nothing in it has changed");
    worker.line_with("world  1");
    signal(worker.pid(), "TERM");
    assert!(worker.rest().contains("left after round"));
}

/// The one file of docs/production.md.
#[test]
fn the_file_in_the_guide_is_sound() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/production.md");
    let guide = fs::read_to_string(guide).unwrap();
    let yaml = guide.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pccl_config.yaml");
    let dir = folder.path().to_str().unwrap();
    // The certificates that it names are looked at too.
    fs::write(&file, yaml.replace("/etc/pccl/", &format!("{dir}/"))).unwrap();
    succeeded(&run(&["cert", "init", "--dir", dir]));
    succeeded(&run(&["cert", "issue", "server", "--dir", dir]));
    let mut check = pccl(&["config", "check", "--config", file.to_str().unwrap()]);
    check.env("PCCL_AUTH_SECRET", SECRET).env("PCCL_STORE_URL", "postgres://pccl@db.example.com/pccl");
    let output = check.output().unwrap();
    succeeded(&output);
    assert!(text(&output.stdout).contains("the configuration is sound"), "{}", text(&output.stdout));
}

#[test]
fn a_firewall_is_for_the_ports_and_networks_of_the_configuration() {
    let firewall = |arguments: &[&str]| {
        let mut pccl = Command::new(env!("CARGO_BIN_EXE_pccl"));
        pccl.arg("firewall").args(arguments).current_dir("/");
        pccl.env("PCCL_NETWORK__MASTER_PORT", "7200").env("PCCL_NETWORK__P2P_PORTS", "7300-7310");
        pccl.env("PCCL_NETWORK__ALLOWED_NETWORKS", "10.1.2.3/8").output().expect("pccl")
    };
    for dialect in ["--iptables", "--nftables", "--aws", "--azure", "--gcp"] {
        let output = firewall(&[dialect]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && output.stderr.is_empty(), "{dialect}: {output:?}");
        for word in ["7200", "7300", "7310", "10.0.0.0/8"] {
            assert!(text.contains(word), "{dialect}: `{word}` is not in {text}");
        }
    }
    let text = String::from_utf8(firewall(&["--gcp", "--allow", "fd00::/8", "--metrics"]).stdout).unwrap();
    assert!(text.contains("fd00::/8") && text.contains("9090") && !text.contains("10.0.0.0"), "{text}");
    assert_eq!(firewall(&[]).status.code(), Some(2));
}
