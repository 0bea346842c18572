//! Services of a deployment, as real processes: one of each, whatever happens to the engine; and none when it is undone.

mod common;

use std::fs;
use std::process::Output;

use common::site::Site;
use common::{Running, lives, signal, succeeded, text, until};

const FAILED: i32 = 1;

/// A service that says who it is, is ready when `ready` is there, and does not end by itself.
const SERVE: &str = "echo $$ >> pids; echo \"serving $1\"; trap 'exit 0' TERM; sleep 1000 & wait";

/// A deployment whose services are stopped when the test ends, in whatever way.
struct Served(Site);

impl Served {
    fn new(phases: &str) -> Self {
        let site =
            Site::new(&format!("name: served\nvars: {{ n: 2, word: one }}\ntargets: [here]\n{phases}"));
        fs::write(site.path("serve.sh"), SERVE).expect("the script is written");
        Self(site)
    }

    /// So many services, as the variable `n` says.
    fn several(more: &str) -> Self {
        Self::new(&format!(
            "lists: {{ all: {{ per_target: '{{{{ vars.n }}}}', name: 's{{{{ index }}}}' }} }}\nphases:\n  - name: web\n    for_each: all\n    \
             run: {{ service: {{ run: [sh, serve.sh, '{{{{ vars.word }}}}'], every: 20ms, grace: 5s }} }}\n    \
             verify: {{ command: {{ run: [test, -e, ready] }} }}\n{more}"
        ))
    }

    fn pids(&self) -> Vec<u32> {
        self.0.lines("pids").iter().filter_map(|line| line.parse().ok()).collect()
    }

    fn ready(&self) {
        fs::write(self.0.path("ready"), "").expect("it is written");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.command(&["down", "--quiet"]).output();
        // If that did not work, the numbers are known.
        for pid in self.pids().into_iter().filter(|pid| lives(*pid)) {
            let _ = std::process::Command::new("kill").args(["-KILL", &format!("-{pid}")]).output();
        }
    }
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn services_stay_are_not_doubled_are_replaced_when_they_change_and_all_end_with_down() {
    let served = Served::several("");
    served.ready();
    succeeded(&served.0.run(&["up", "--var", "n=3"]));
    let first = served.pids();
    assert!(first.len() == 3 && first.iter().all(|pid| lives(*pid)), "{first:?}");
    // Again: they run already. Fewer: those that are left over stay until everything goes.
    succeeded(&served.0.run(&["up", "--var", "n=3"]));
    assert_eq!(served.pids(), first);
    let output = served.0.lines(".pccl-deploy/served/run-2/web__s1.1.log").join(" ");
    assert!(output.contains("runs already") && output.contains("run-1/web__s1.1.log"), "{output}");
    // They are started as something else now.
    succeeded(&served.0.run(&["up", "--var", "word=two"]));
    let second = served.pids().split_off(3);
    assert!(second.len() == 2 && second.iter().all(|pid| lives(*pid)), "{second:?}");
    assert_eq!(first.iter().filter(|pid| lives(**pid)).count(), 1, "the third is not named any more");
    let down = served.0.run(&["down"]);
    succeeded(&down);
    assert!(said(&down).contains("stopped the service of web/s3"), "{}", said(&down));
    assert!(served.pids().iter().all(|pid| !lives(*pid)), "{}", said(&down));
    succeeded(&served.0.run(&["down"]));
}

#[test]
fn a_service_that_ends_at_once_is_reported_with_its_last_words() {
    let served = Served::several("    retry: { attempts: 1 }\n");
    fs::write(served.0.path("serve.sh"), "echo starting; echo the port is taken >&2; exit 3").unwrap();
    let output = served.0.run(&["up", "--var", "n=1"]);
    assert_eq!(output.status.code(), Some(FAILED), "{}", said(&output));
    let why = "web/s1: it ended before it was ready: exit status 3: starting; the port is taken";
    assert!(said(&output).contains(why), "{}", said(&output));
}

#[test]
fn a_service_that_is_never_ready_is_stopped_and_so_is_one_that_is_interrupted() {
    let served = Served::several("    timeout: 3s\n    retry: { attempts: 1 }\n");
    let output = served.0.run(&["up", "--var", "n=1"]);
    assert_eq!(output.status.code(), Some(FAILED), "{}", said(&output));
    assert!(said(&output).contains("not ready within 3s: exit status 1"), "{}", said(&output));
    assert!(!served.pids().is_empty() && served.pids().iter().all(|pid| !lives(*pid)));

    let patient = Served::several("");
    let mut engine = Running::start(patient.0.command(&["up"]));
    until("both are started", || (patient.pids().len() == 2).then_some(()));
    signal(engine.pid(), "INT");
    let rest = engine.rest();
    assert_eq!(engine.child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(patient.pids().iter().all(|pid| !lives(*pid)), "{rest}");
    patient.ready();
    succeeded(&patient.0.run(&["resume"]));
    assert_eq!(patient.pids().iter().filter(|pid| lives(**pid)).count(), 2);
}

/// While all are starting, and at every record that it writes.
#[test]
fn an_engine_that_is_killed_while_they_start_doubles_none() {
    let served = Served::several("");
    let engine = Running::start(served.0.command(&["up", "--var", "n=4"]));
    until("all are started", || (served.pids().len() == 4).then_some(()));
    signal(engine.pid(), "KILL");
    drop(engine);
    served.ready();
    let resumed = served.0.run(&["resume"]);
    succeeded(&resumed);
    assert!(said(&resumed).contains("web/s4 was in flight and had finished"), "{}", said(&resumed));
    assert_eq!(served.pids().len(), 4, "none was started twice");
    succeeded(&served.0.run(&["down"]));
    assert!(served.pids().iter().all(|pid| !lives(*pid)));
    for records in ["1", "2", "3", "4", "5"] {
        let killed = served
            .0
            .command(&["up", "--quiet", "--var", "n=2"])
            .env("PCCL_FAULT_DEPLOY_RECORDS", records)
            .output()
            .unwrap();
        assert!(killed.status.code().is_none(), "{}", said(&killed));
        succeeded(&served.0.run(&["resume", "--quiet"]));
        let living = served.pids().into_iter().filter(|pid| lives(*pid)).count();
        assert_eq!(living, 2, "killed after {records} records");
        succeeded(&served.0.run(&["down", "--quiet"]));
    }
}

#[test]
fn a_service_that_died_is_seen_and_started_again() {
    let served = Served::several("");
    served.ready();
    succeeded(&served.0.run(&["up"]));
    for again in ["retry", "resume", "run"] {
        let living: Vec<u32> = served.pids().into_iter().filter(|pid| lives(*pid)).collect();
        signal(*living.last().unwrap(), "KILL");
        until("its end", || (!lives(*living.last().unwrap())).then_some(()));
        let output = served.0.run(&[again]);
        succeeded(&output);
        assert_eq!(served.pids().iter().filter(|pid| lives(**pid)).count(), 2, "{again}: {}", said(&output));
        if again != "run" {
            assert!(said(&output).contains("has ended: it is started again"), "{}", said(&output));
        }
    }
    assert_eq!(served.pids().len(), 5, "one was started again each time, and the other one left alone");
}

#[test]
fn an_undo_of_its_own_takes_the_place_of_the_stop() {
    let undo =
        "    undo: { command: { run: [sh, -c, 'touch asked; env kill -TERM -- -$(head -n 1 pids)'] } }\n";
    let served = Served::several(undo);
    served.ready();
    succeeded(&served.0.run(&["up", "--var", "n=1"]));
    succeeded(&served.0.run(&["down"]));
    assert!(served.0.path("asked").exists());
    until("its end", || served.pids().iter().all(|pid| !lives(*pid)).then_some(()));
}
