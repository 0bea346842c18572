//! `pccl top` on a fleet that runs.

mod common;

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use common::{Running, master, metrics_in, pccl, program, until, worker};
use serde_json::Value;

#[test]
fn members_links_and_masters_are_shown_once_as_lines_and_as_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_master, addr, _) = master(folder.path(), &[]);
    let start = |name: &str| {
        worker(folder.path(), &addr, name, &["--bytes", "64KiB", "--site", "here", "--workers", "2"])
    };
    let mut first = start("one.log");
    let _one = Running(first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
    let (_two, _) = Running::start(start("two.log"), "world  2");
    let pages = ["one.log", "two.log"].map(|log| metrics_in(&folder.path().join(log))).join(",");
    let line =
        ["top", "--master", &addr, "--metrics", &pages, "--once", "--interval", "300", "--timeout", "20"];
    let sample: Value = until("traffic on both pages", || {
        let output = pccl(&line).arg("--json").output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sample: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let members = sample["members"].as_array()?.clone();
        let moves =
            |member: &Value| member["mbps"].as_f64() > Some(0.0) && member["rtt_ms"].as_f64() > Some(0.0);
        (members.len() == 2 && members.iter().all(moves)).then_some(sample)
    });
    assert_eq!(sample["masters"][0]["role"], "Active".to_lowercase(), "{sample:#}");
    assert_eq!(sample["unread"], Value::Array(Vec::new()), "{sample:#}");
    for member in sample["members"].as_array().expect("members") {
        assert_eq!(
            (&member["site"], &member["state"]),
            (&Value::from("here"), &Value::from("member")),
            "{sample:#}"
        );
    }
    let output = pccl(&line).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    for word in ["2 members", "term 1", "waits for", "127.0.0.1:2", "here"] {
        assert!(said.contains(word), "`{word}` is not in {said}");
    }
    // Nobody there: said, and the exit code of a master that cannot be reached.
    let output =
        pccl(&["top", "--master", "127.0.0.1:9", "--once", "--interval", "100"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stdout).contains("no master answers"));
}

#[test]
fn on_a_terminal_it_sorts_and_quits() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_master, addr, _) = master(folder.path(), &[]);
    // `script` gives it a terminal.
    let line =
        format!("stty rows 30 cols 150; exec {} top --master {addr} --interval 100", program().display());
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(folder.path());
    command.env("TERM", "xterm-256color").env("PCCL_METRICS_ADDRESS", "off").env_remove("PCCL_MASTER");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script runs");
    let mut running = Running(child);
    let mut keys = running.0.stdin.take().expect("a pipe");
    let mut screen = running.0.stdout.take().expect("a pipe");
    let (send, seen) = channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = screen.read(&mut buffer) {
            let _ = send.send(String::from_utf8_lossy(&buffer[..n]).into_owned());
        }
    });
    // Only cells that change are drawn, so words are looked for, not lines; each time in what is drawn from then on.
    let until_shown = |word: &str| {
        let mut shown = String::new();
        until(word, || {
            shown.extend(seen.try_iter());
            shown.contains(word).then_some(())
        });
    };
    until_shown("trouble");
    keys.write_all(b"s").expect("a key");
    until_shown("heard");
    keys.write_all(b"q").expect("a key");
    let status = running.0.wait().expect("its end");
    assert!(status.success());
    // The terminal is given back.
    until_shown("\u{1b}[?1049l");
}
