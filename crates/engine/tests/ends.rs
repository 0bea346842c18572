//! Ends that nobody wished for: processes that outlive their attempt, checks that hang, a journal that is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use pccl_deploy::file::Mode;
use pccl_deploy::journal::Record;
use pccl_engine::{Again, Choices, DeployError, Manner, Place, Source, Store, Summary, begin, go_on};
use tempfile::TempDir;

/// A deployment in a folder of its own.
struct Site(TempDir);

impl Site {
    fn new(phases: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!("name: site\nphases:\n{phases}");
        fs::write(folder.path().join("deploy.yaml"), text).expect("the file is written");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn source(&self) -> Source {
        Source::read(&self.path("deploy.yaml")).expect("the file is there")
    }

    fn run(&self) -> Result<Summary, DeployError> {
        begin(&self.source(), &Choices::default(), &manner()).map(|(summary, _)| summary)
    }

    fn again(&self, again: &Again) -> Result<Summary, DeployError> {
        go_on(&self.source(), None, &[], again, &manner()).map(|(summary, _)| summary)
    }

    /// A journal that ends in the middle of the first attempt of a task.
    fn in_flight(&self, task: &str) -> Store {
        let source = self.source();
        let place = Place::of(&source, "site", None, None);
        let mut store = Store::open(&place, true).expect("a journal");
        let fence = store.lock("ada@here (process 1)", 1000).expect("the lock");
        let run = store.create("deploy.yaml", &source.text, &Choices::default(), 1000).expect("a run");
        let begun = Record::Begun { at_ms: 1000, mode: Mode::Auto, operator: "ada".to_owned(), fence };
        let waited = std::collections::BTreeMap::new();
        let intent = Record::Intent { at_ms: 1000, task: task.to_owned(), attempt: 1, waited };
        store.append(run, &[begun, intent]).expect("the records are written");
        store
    }
}

fn manner() -> Manner {
    let (state, journal, metrics) = (None, None, None);
    Manner { state, durable: true, json: false, quiet: false, live: false, journal, metrics }
}

/// A process as a killed engine has left it.
fn left(mark: &str) -> Child {
    let mut command = Command::new("sleep");
    command.arg("1000").env("PCCL_DEPLOY_ATTEMPT", mark).spawn().expect("sleep starts")
}

fn until(what: impl Fn() -> bool) {
    while !what() {
        thread::sleep(Duration::from_millis(5));
    }
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn what_a_done_task_left_on_purpose_keeps_nobody_from_trying_again() {
    let site = Site::new(
        "  - name: daemon\n    run: { command: { run: [sh, -c, 'setsid sleep 1000 >&- 2>&- & echo $! > pid'] } }\n  \
         - name: late\n    retry: { attempts: 1 }\n    after: [daemon]\n    run: { command: { run: [test, -e, repaired] } }\n",
    );
    assert_eq!(site.run().unwrap().counts.failed, 1);
    fs::write(site.path("repaired"), "").unwrap();
    let pid: u32 = fs::read_to_string(site.path("pid")).unwrap().trim().parse().unwrap();
    let summary = site.again(&Again::Retry).unwrap();
    assert_eq!(summary.counts.done, 2);
    assert!(lives(pid), "what was left on purpose stays");
    Command::new("kill").arg(pid.to_string()).status().unwrap();
}

#[test]
fn a_process_that_outlived_the_engine_and_its_timeout_is_ended() {
    let site = Site::new(
        "  - name: one\n    timeout: 10ms\n    on_unknown: fail\n    run: { command: { run: ['true'] } }\n",
    );
    let store = site.in_flight("one");
    let mut process = left(&format!("{}/one#1", store.logs(1).display()));
    drop(store);
    let ended = thread::spawn(move || process.wait());
    assert_eq!(site.again(&Again::Resume).unwrap().counts.failed, 1);
    assert!(!ended.join().unwrap().unwrap().success());
}

#[test]
fn a_check_that_hangs_says_nothing_and_holds_up_nobody() {
    let hangs = "[ -e asked ] || { touch asked; sleep 1000; }";
    let site = Site::new(&format!(
        "  - name: one\n    timeout: 1s\n    retry: {{ base: 1ms }}\n    on_unknown: rerun\n    run: {{ command: {{ run: [touch, ran] }} }}\n    \
         verify: {{ command: {{ run: [sh, -c, '{hangs}'] }} }}\n"
    ));
    drop(site.in_flight("one"));
    assert_eq!(site.again(&Again::Resume).unwrap().counts.done, 1);
    assert!(site.path("ran").exists());
}

#[test]
fn an_operator_may_leave_while_a_check_runs_and_nothing_is_decided() {
    let hangs = "echo $$ > asked; exec sleep 1000";
    let site = Site::new(&format!(
        "  - name: one\n    run: {{ command: {{ run: [touch, ran] }} }}\n    \
         verify: {{ command: {{ run: [sh, -c, '{hangs}'] }} }}\n"
    ));
    drop(site.in_flight("one"));
    let asked = site.path("asked");
    let pid = || fs::read_to_string(&asked).ok()?.trim().parse::<u32>().ok();
    thread::scope(|scope| {
        let resumed = scope.spawn(|| site.again(&Again::Resume));
        until(|| pid().is_some());
        Command::new("kill").args(["-INT", &std::process::id().to_string()]).status().unwrap();
        assert!(matches!(resumed.join().unwrap(), Err(DeployError::Interrupted)));
    });
    assert!(!lives(pid().unwrap()), "the check is left running");
    fs::write(
        site.path("deploy.yaml"),
        "name: site\nphases: [{ name: x, run: { command: { run: [x] } } }]\n",
    )
    .unwrap();
    let place = Place::of(&site.source(), "site", None, None);
    let mut store = Store::look(&place).unwrap();
    assert!(store.load(None).unwrap().unwrap().history.tasks["one"].attempts[0].outcome.is_none());
}

#[test]
fn tasks_end_in_order_when_the_journal_cannot_be_written() {
    let slow = "trap 'sleep 0.1; touch graceful; exit' TERM; touch up; while :; do sleep 0.01; done";
    let site = Site::new(&format!(
        "  - name: slow\n    run: {{ command: {{ run: [sh, -c, \"{slow}\"] }} }}\n  \
         - name: quick\n    run: {{ command: {{ run: [sh, -c, 'while [ ! -e go ]; do sleep 0.01; done'] }} }}\n"
    ));
    thread::scope(|scope| {
        let run = scope.spawn(|| site.run());
        until(|| site.path("up").exists());
        let journal = rusqlite::Connection::open(site.path(".pccl-deploy/site/journal.db")).unwrap();
        journal.busy_timeout(Duration::from_secs(60)).unwrap();
        journal.execute("UPDATE session SET fence = fence + 1", []).unwrap();
        fs::write(site.path("go"), "").unwrap();
        assert!(matches!(run.join().unwrap(), Err(DeployError::Fenced)));
    });
    assert!(site.path("graceful").exists(), "it was killed");
}

#[test]
fn a_file_that_is_being_changed_keeps_nobody_from_going_on() {
    let site = Site::new(
        "  - name: one\n    retry: { attempts: 1 }\n    run: { command: { run: [test, -e, repaired] } }\n",
    );
    assert_eq!(site.run().unwrap().counts.failed, 1);
    fs::write(site.path("deploy.yaml"), "name: \"site\"   # half of it\nphases: [\n").unwrap();
    fs::write(site.path("repaired"), "").unwrap();
    assert_eq!(site.again(&Again::Retry).unwrap().counts.done, 1);
    assert!(matches!(site.run(), Err(DeployError::File(_))), "a new run needs a file that is right");
    fs::write(site.path("deploy.yaml"), "name: ../../else\nphases: [\n").unwrap();
    assert!(matches!(site.again(&Again::Retry), Err(DeployError::File(_))));
}
