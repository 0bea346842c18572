//! Deployments with real processes: partial failure, retries, a second operator, and the engine killed at any instant.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use common::site::{Site, file};
use common::{Running, objects, refused, signal, succeeded, text, until};

const USAGE: i32 = 2;
const CONFIG: i32 = 3;
const PARTIAL: i32 = 9;
const LOCKED: i32 = 10;
const INTERRUPTED: i32 = 130;

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn one_target_that_fails_stops_its_own_chain_and_retry_touches_nothing_else() {
    let site = Site::new(&file(24, &["infra", "besu"], "    retry: { attempts: 1 }\n"));
    let script = "echo $1/$2 >> ran; if [ $1/$2 = infra/region07 ] && [ ! -e repaired ]; then echo out of cores; exit 4; fi";
    fs::write(site.path("task.sh"), script).unwrap();
    let output = site.run(&["run"]);
    assert_eq!(code(&output), Some(PARTIAL), "{}{}", text(&output.stdout), text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("FAILED   infra/region07: exit status 4: out of cores"), "{said}");
    assert!(said.contains("skip     besu/region07: infra/region07 did not succeed"), "{said}");
    assert!(said.contains("46 done, 1 failed, 1 skipped"), "{said}");
    assert_eq!(site.lines("ran").len(), 47);

    let status = text(&site.run(&["status"]).stdout);
    assert!(status.contains("infra                23/24 done, 1 failed"), "{status}");
    assert!(status.contains("infra__region07.1.log"), "{status}");

    fs::write(site.path("repaired"), "").unwrap();
    succeeded(&site.run(&["retry"]));
    assert_eq!(site.lines("ran")[47..], ["infra/region07", "besu/region07"]);
    succeeded(&site.run(&["report", "-o", "r.html", "--trace", "t.json"]));
    let page = fs::read_to_string(site.path("r.html")).unwrap();
    assert!(page.contains("exit status 4: out of cores"));
}

#[test]
fn an_engine_killed_at_every_record_loses_nothing_and_runs_nothing_twice() {
    let check = "    verify: { command: { run: [grep, -qx, '{{ phase.name }}/{{ target.name }}', ran] } }\n";
    let site = Site::new(&format!("{}width: 4\n", file(40, &["a", "b", "c", "d", "e"], check)));
    fs::write(site.path("task.sh"), "echo $1/$2 >> ran").unwrap();
    let killed = |output: &Output| code(output).is_none();
    let first = site.command(&["run", "--quiet"]).env("PCCL_FAULT_DEPLOY_RECORDS", "1").output().unwrap();
    assert!(killed(&first), "{}", text(&first.stderr));
    let mut kills = 1;
    loop {
        // Each session ends one record later than the one before, so that every place in the journal is met.
        let records = (kills % 24 + 1).to_string();
        let mut again = site.command(&["resume", "--quiet"]);
        let output = again.env("PCCL_FAULT_DEPLOY_RECORDS", &records).output().unwrap();
        if !killed(&output) {
            succeeded(&output);
            break;
        }
        kills += 1;
        assert!(kills < 1000, "it does not come to an end");
    }
    assert!(kills > 50, "only {kills} sessions were killed");
    let mut ran: BTreeMap<String, u32> = BTreeMap::new();
    for line in site.lines("ran") {
        *ran.entry(line).or_default() += 1;
    }
    assert_eq!(ran.len(), 200, "tasks were lost");
    let twice: Vec<_> = ran.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?} ran twice");
}

#[test]
fn a_process_that_outlived_the_engine_is_waited_for_and_not_doubled() {
    let check = "    verify: { command: { run: [test, -e, 'done-{{ target.name }}'] } }\n";
    let site = Site::new(&file(1, &["a"], check));
    fs::write(
        site.path("task.sh"),
        "echo start >> ran; while [ ! -e go ]; do sleep 0.02; done; touch done-$2; echo end >> ran",
    )
    .unwrap();
    let engine = Running::start(site.command(&["run"]));
    until("the task starts", || (site.lines("ran") == ["start"]).then_some(()));
    signal(engine.pid(), "KILL");
    drop(engine);
    let mut resumed = Running::start(site.command(&["resume"]));
    resumed.line_with("which still runs");
    fs::write(site.path("go"), "").unwrap();
    let rest = resumed.rest();
    assert!(rest.contains("a/region01 was in flight and had finished"), "{rest}");
    assert_eq!(site.lines("ran"), ["start", "end"]);
}

#[test]
fn without_a_check_the_file_says_what_happens_to_a_task_in_flight() {
    for (rule, done) in [("rerun", true), ("fail", false), ("ask", false)] {
        let site = Site::new(&file(1, &["a"], &format!("    on_unknown: {rule}\n")));
        fs::write(site.path("task.sh"), "echo start >> ran").unwrap();
        let mut first = site.command(&["run", "--quiet"]);
        first.env("PCCL_FAULT_DEPLOY_RECORDS", "2").output().unwrap();
        let output = site.run(&["resume"]);
        assert_eq!(output.status.success(), done, "{rule}: {}", text(&output.stdout));
        assert_eq!(site.lines("ran").len(), usize::from(done), "{rule}");
    }
}

#[test]
fn a_second_operator_is_told_who_and_since_when() {
    let site = Site::new(&file(1, &["a"], ""));
    fs::write(site.path("task.sh"), "echo start >> ran; while [ ! -e go ]; do sleep 0.02; done").unwrap();
    let mut engine = Running::start(site.command(&["run"]));
    until("the task starts", || (!site.lines("ran").is_empty()).then_some(()));
    refused(&site.run(&["run"]), LOCKED, &["failed to lock the deployment", "runs it since 20", "process"]);
    fs::write(site.path("go"), "").unwrap();
    assert!(engine.rest().contains("1 done"));
}

#[test]
fn ctrl_c_stops_gracefully_leaves_nothing_behind_and_resume_goes_on() {
    let site = Site::new(&file(3, &["a", "b"], "    on_unknown: rerun\n"));
    fs::write(
        site.path("task.sh"),
        "[ -e go ] && echo $1/$2 >> ran && exit; sleep 1000 & echo $! >> pids; wait",
    )
    .unwrap();
    let mut engine = Running::start(site.command(&["run"]));
    until("three tasks run", || (site.lines("pids").len() == 3).then_some(()));
    signal(engine.pid(), "INT");
    let rest = engine.rest();
    assert!(rest.contains("pccl deploy resume"), "{rest}");
    assert_eq!(engine.child.wait().unwrap().code(), Some(INTERRUPTED));
    for pid in site.lines("pids") {
        until("the processes are gone", || {
            let stat = fs::read_to_string(Path::new("/proc").join(&pid).join("stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z")).then_some(())
        });
    }
    fs::write(site.path("go"), "").unwrap();
    succeeded(&site.run(&["resume"]));
    assert_eq!(site.lines("ran").len(), 6);
}

#[test]
fn a_task_that_takes_too_long_is_ended_with_all_it_started() {
    let site = Site::new(&file(1, &["a"], "    timeout: 1s\n    retry: { attempts: 2, base: 1ms }\n"));
    fs::write(site.path("task.sh"), "sleep 1000 & echo $! >> pids; wait").unwrap();
    let output = site.run(&["run"]);
    assert_eq!(code(&output), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("a/region01: it ran longer than its timeout"));
    assert!(site.path(".pccl-deploy/site/run-1/a__region01.2.log").exists(), "two attempts");
    assert!(!site.lines("pids").is_empty(), "no attempt came so far as to start anything");
    for pid in site.lines("pids") {
        until("the processes are gone", || {
            let stat = fs::read_to_string(Path::new("/proc").join(&pid).join("stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z")).then_some(())
        });
    }
}

#[test]
fn outputs_are_shown_live_line_by_line_behind_the_names_of_their_tasks() {
    let site = Site::new(&file(4, &["a"], ""));
    fs::write(
        site.path("task.sh"),
        "printf half-; while [ ! -e go ]; do sleep 0.02; done; echo $2; printf end",
    )
    .unwrap();
    let mut engine = Running::start(site.command(&["up", "--live"]));
    until("the tasks run", || {
        (site.lines(".pccl-deploy/site/run-1/a__region04.1.log") == ["half-"]).then_some(())
    });
    fs::write(site.path("go"), "").unwrap();
    let said = engine.rest();
    for n in 1..=4 {
        for line in [format!("a/region0{n} | half-region0{n}"), format!("a/region0{n} | end")] {
            assert_eq!(said.lines().filter(|said| *said == line).count(), 1, "`{line}`: {said}");
        }
    }
    assert!(!text(&site.run(&["run"]).stdout).contains(" | "), "outputs are shown on demand");
}

#[test]
fn a_gate_that_stays_shut_stops_the_rollout() {
    let waves =
        "waves: { sizes: [2], gates: [{ name: healthy, run: { command: { run: [test, -e, healthy] } } }] }\n";
    let site = Site::new(&format!("{}{waves}", file(4, &["a"], "")));
    fs::write(site.path("task.sh"), "echo $2 >> ran").unwrap();
    let output = site.run(&["run"]);
    assert_eq!(code(&output), Some(PARTIAL));
    assert!(text(&output.stdout).contains("gate `healthy` did not open"), "{}", text(&output.stdout));
    assert_eq!(site.lines("ran").len(), 2);
    fs::write(site.path("healthy"), "").unwrap();
    succeeded(&site.run(&["resume"]));
    assert_eq!(site.lines("ran").len(), 4);
}

#[test]
fn down_undoes_in_reverse_order() {
    let undo =
        "    undo: { command: { run: [sh, task.sh, 'undo-{{ phase.name }}', '{{ target.name }}'] } }\n";
    let site = Site::new(&file(2, &["a", "b"], undo));
    fs::write(site.path("task.sh"), "echo $1 >> ran").unwrap();
    // With barriers: without them a region may be ahead of the other.
    succeeded(&site.run(&["run", "--mode", "max"]));
    succeeded(&site.run(&["down", "--mode", "max"]));
    assert_eq!(site.lines("ran"), ["a", "a", "b", "b", "undo-b", "undo-b", "undo-a", "undo-a"]);
}

#[test]
fn secrets_reach_tasks_and_nothing_else() {
    let text_of = file(1, &["a"], "")
        .replace("run: [sh, task.sh", "env: { TOKEN: { secret: token } }, run: [sh, task.sh");
    let site = Site::new(&format!("{text_of}secrets: {{ token: {{ env: MY_TOKEN }} }}\n"));
    fs::write(site.path("task.sh"), "[ \"$TOKEN\" = s3cr3t-value ] && [ -z \"$MY_TOKEN\" ]").unwrap();
    refused(&site.run(&["run"]), CONFIG, &["failed to find the secret `token`", "MY_TOKEN is not set"]);
    let output = site.command(&["run", "--json"]).env("MY_TOKEN", "s3cr3t-value").output().unwrap();
    succeeded(&output);
    assert!(!text(&output.stdout).contains("s3cr3t-value"));
    fs::write(site.path("task.sh"), "echo refused: $TOKEN; exit 3").unwrap();
    let output = site.command(&["run", "--json", "--live"]).env("MY_TOKEN", "s3cr3t-value").output().unwrap();
    assert_eq!(code(&output), Some(1));
    assert!(text(&output.stdout).contains("exit status 3: refused: ***"), "{}", text(&output.stdout));
    succeeded(&site.run(&["report"]));
    let mut told =
        vec![output.stdout, site.run(&["status"]).stdout, fs::read(site.path("report.html")).unwrap()];
    for name in ["journal.db", "journal.db-wal"] {
        told.extend(fs::read(site.path(".pccl-deploy/site").join(name)));
    }
    assert!(told.iter().all(|bytes| !text(bytes).contains("s3cr3t-value")));
}

#[test]
fn plans_and_records_are_json_and_what_is_wrong_is_told_with_its_place() {
    let site = Site::new(&file(3, &["a", "b"], "    takes: 1m\n"));
    fs::write(site.path("task.sh"), "true").unwrap();
    let plan = objects(&site.run(&["plan", "--json"]));
    assert_eq!(plan[0]["tasks"], 6);
    assert_eq!(plan[0]["modes"].as_array().unwrap().len(), 5);
    let records = objects(&site.run(&["run", "--json", "--only", "region02"]));
    assert_eq!(records.iter().filter(|record| record["record"] == "ended").count(), 2);
    refused(&site.run(&["run", "--only", "region2"]), USAGE, &["`region2`", "did you mean `region02`?"]);
    fs::write(site.path("deploy.yaml"), file(3, &["a"], "    timeot: 5s\n")).unwrap();
    let output = site.run(&["validate"]);
    refused(&output, CONFIG, &["deploy.yaml:7:5", "unknown key `timeot`", "did you mean `timeout`?"]);
    let example = site.run(&["init", "new.yaml"]);
    succeeded(&example);
    succeeded(&site.run(&["run", "new.yaml"]));
}
