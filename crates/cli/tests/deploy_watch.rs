//! What others see of a run that somebody drives: the list, the live view, the page and the metrics.

mod common;

use std::fs;
use std::process::Command;

use common::site::{Site, file};
use common::{Running, objects, refused, signal, text, until};
use serde_json::Value;

const USAGE: i32 = 2;
const PORT: i32 = 5;
const PARTIAL: i32 = 9;

/// Three targets; tasks wait for the file `go-PHASE`; the first task of r2 fails.
fn site() -> Site {
    let site = Site::new(&format!("{}width: 2\n", file(3, &["a", "b"], "    retry: { attempts: 1 }\n")));
    let script = "echo $1/$2 >> ran; while [ ! -e go-$1 ]; do sleep 0.02; done; [ $1/$2 != a/region02 ]";
    fs::write(site.path("task.sh"), script).unwrap_or_else(|error| panic!("{error}"));
    site
}

fn get(url: &str) -> (u32, String) {
    let curl = Command::new("curl").args(["--silent", "--write-out", "\n%{http_code}", url]).output();
    let said = text(&curl.expect("curl starts").stdout);
    let (body, code) = said.rsplit_once('\n').expect("a code");
    (code.parse().expect("a number"), body.to_owned())
}

fn json(url: &str) -> Value {
    let (code, body) = get(url);
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[test]
fn a_run_is_seen_by_others_while_it_runs_after_a_kill_and_at_its_end() {
    let site = site();
    refused(&site.run(&["watch"]), USAGE, &["failed to find a run"]);
    let engine = Running::start(site.command(&["run", "--quiet"]));
    until("two tasks run", || (site.lines("ran").len() == 2).then_some(()));

    // The list, and a page on a free port.
    let mut page = Running::start(site.command(&["serve", "--listen", "127.0.0.1:0"]));
    let url = page.line_with("listening on ").trim_start_matches("listening on ").to_owned();
    let state = || json(&format!("{url}/api/runs/newest"));
    until("what is waited for", || (!state()["progress"]["waits"].as_array()?.is_empty()).then_some(()));
    let seen = state();
    assert_eq!((&seen["state"], &seen["running"], &seen["tasks"]), (&"running".into(), &2.into(), &6.into()));
    let waits = seen["progress"]["waits"].as_array().unwrap();
    let for_width = waits.iter().find(|wait| wait["kind"] == "width").unwrap();
    assert_eq!((&for_width["phase"], &for_width["what"]), (&"a".into(), &"one of 2 slots".into()));
    assert_eq!(seen["progress"]["targets"][2]["cells"], serde_json::json!(["waiting", "waiting"]));

    // A live view that sees the engine die and another one go on.
    let mut watch = Running::start(site.command(&["watch"]));
    watch.line_with("start    a/region01");
    signal(engine.pid(), "KILL");
    drop(engine);
    watch.line_with("no sign of life from ");
    assert_eq!(objects(&site.run(&["runs", "--json"]))[0]["runs"][0]["state"], "silent");
    fs::write(site.path("go-a"), "").unwrap();
    let mut again = Running::start(site.command(&["resume", "--quiet"]));
    fs::write(site.path("go-b"), "").unwrap();
    assert!(again.rest().contains("skipped"), "it ended");
    let rest = watch.rest();
    assert!(rest.contains("run 1: "), "{rest}");
    assert_eq!(watch.child.wait().unwrap().code(), again.child.wait().unwrap().code());

    let output = site.run(&["retry", "--only", "region01,region03"]);
    assert_eq!(output.status.code(), Some(PARTIAL), "{}", text(&output.stdout));
    let ended = state();
    assert_eq!(ended["state"], "ended");
    assert_eq!((&ended["done"], &ended["sessions"]), (&4.into(), &3.into()));
    let listed = text(&site.run(&["runs"]).stdout);
    assert!(listed.contains("ended") && listed.contains("4/6"), "{listed}");
    assert_eq!(get(&format!("{url}/api/runs/7")).0, 404);
    assert_eq!(get(&format!("{url}/api/runs/x")).0, 404);
    let (code, report) = get(&format!("{url}/api/runs/1/report"));
    assert!(code == 200 && report.contains("<svg"), "{report}");
    assert!(json(&format!("{url}/api/runs/1/trace"))["traceEvents"].is_array());
    assert!(get(&url).1.contains("<title>deployments</title>"));
    let metrics = get(&format!("{url}/metrics")).1;
    let done = r#"pccl_deploy_tasks{deployment="site",run="1",phase="a",state="done"} 2"#;
    assert!(metrics.contains(done), "{metrics}");
    let port = url.rsplit(':').next().unwrap();
    refused(
        &site.run(&["serve", "--listen", &format!(":{port}")]),
        PORT,
        &["failed to listen on 127.0.0.1:"],
    );
}

#[test]
fn a_run_serves_its_own_metrics() {
    let site = site();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let mut engine = Running::start(site.command(&["run", "--metrics-address", &address]));
    let metrics = || get(&format!("http://{address}/metrics")).1;
    let running = r#"pccl_deploy_tasks{deployment="site",run="1",phase="a",state="running"} 2"#;
    until("two tasks run", || metrics().contains(running).then_some(()));
    let waits = r#"pccl_deploy_waiting_tasks{deployment="site",run="1",phase="a",for="width"} 1"#;
    until("one waits", || metrics().contains(waits).then_some(()));
    fs::write(site.path("go-a"), "").unwrap();
    let failed = r#"pccl_deploy_attempts_total{deployment="site",run="1",phase="a",result="failed"} 1"#;
    until("one has failed", || metrics().contains(failed).then_some(()));
    assert!(metrics().trim_end().ends_with("# EOF"));
    fs::write(site.path("go-b"), "").unwrap();
    engine.rest();
    assert_eq!(engine.child.wait().unwrap().code(), Some(PARTIAL));
}
