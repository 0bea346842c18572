//! `pccl doctor collect`: the story of a fleet that has lost a worker, from its processes and from files.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Running, master, metrics_in, pccl, until, worker};
use serde_json::Value;

/// The session of a worker, from its log.
fn session_of(log: &Path) -> String {
    until("a session", || {
        let text = fs::read_to_string(log).unwrap_or_default();
        Some(text.split("registered as peer ").nth(1)?.split(';').next()?.to_owned())
    })
}

/// What `collect` prints.
fn collected(sources: &[&str]) -> String {
    let output = pccl(&[&["doctor", "collect"], sources].concat()).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_doctor_points_at_the_peer_that_was_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (running, addr, metrics) = master(folder.path(), &[]);
    let start = |name: &str| {
        let more = ["--bytes", "1MiB", "--workers", "3"];
        let mut command = worker(folder.path(), &addr, name, &more);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        Running(command.spawn().expect("it starts"))
    };
    let workers = ["worker0.log", "worker1.log"].map(start);
    let last = worker(folder.path(), &addr, "worker2.log", &["--bytes", "1MiB", "--workers", "3"]);
    let (third, _) = Running::start(last, "world  3");
    let killed = session_of(&folder.path().join("worker2.log"));
    third.signal("KILL");
    let log = folder.path().join("worker0.log");
    let line = until("the epoch without it", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines().find(|line| line.contains("without peer")).map(str::to_owned)
    });
    let pages = ["worker0.log", "worker1.log"].map(|name| metrics_in(&folder.path().join(name)));
    let text = collected(&[&metrics, &pages[0], &pages[1]]);
    assert!(text.contains("first cause: "), "{text}");
    assert!(text.contains(&format!("most of the trouble is about peer {killed}\n")), "{killed}: {text}");

    // The same from the files that a signal has them write; the lines of the logs say whose they are.
    workers[0].signal("USR1");
    running.signal("USR1");
    let written = |role: &str| -> Option<PathBuf> {
        let name = format!("pccl-flight-{role}-");
        let names = fs::read_dir(folder.path()).expect("a folder").filter_map(Result::ok);
        let mut paths =
            names.filter(|e| e.file_name().to_string_lossy().starts_with(&name)).map(|e| e.path());
        paths.find(|path| fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n')))
    };
    until("two records", || written("worker").and(written("master")));
    let text = collected(&[folder.path().to_str().expect("UTF-8"), "--json"]);
    let story: Value = serde_json::from_str(text.trim()).expect("JSON");
    assert_eq!(story["first_cause"]["blamed"], *killed, "{story}");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert!(line["run"].as_str().is_some_and(|run| run.len() == 32), "{line}");
    assert!(
        line["epoch"].as_u64().is_some() && line["peer"] == *killed && line["session"].is_string(),
        "{line}"
    );
}
