//! Deployments of a team: the journal in a real PostgreSQL, operators on several hosts, and everything killed.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};

use common::postgres::Postgres;
use common::site::{Site, file};
use common::{Running, objects, refused, signal, succeeded, text, until};
use pccl_deploy::journal::Record;
use pccl_engine::{Choices, DeployError, JournalUrl, Place, Store};

const LOCKED: i32 = 10;

fn killed(output: &Output) -> bool {
    output.status.code().is_none()
}

/// A command of a site whose journal is in the database.
fn at(site: &Site, postgres: &Postgres, args: &[&str]) -> Command {
    let mut command = site.command(args);
    command.env("PCCL_DEPLOY_JOURNAL", postgres.url());
    command
}

fn over(at_ms: u64) -> Record {
    Record::Over { at_ms, stopped: false }
}

/// What every journal must do.
fn journal_conformance(open: &dyn Fn() -> Result<Store, DeployError>) -> Result<(), DeployError> {
    let mut store = open()?;
    assert!(store.load(None)?.is_none());
    assert_eq!(store.runs(10)?, [0_i64; 0]);
    let fence = store.lock("ada@here", 7)?;
    let run = store.create("d.yaml", "name: d", &Choices::default(), 7)?;
    store.append(run, &[over(8), over(9)])?;
    store.append(run, &[over(10)])?;

    // A second operator is told who and since when, reads everything, and writes nothing.
    let mut second = open()?;
    match second.lock("bob@there", 10) {
        Err(DeployError::Locked { operator, since_ms }) => {
            assert_eq!((operator.as_str(), since_ms), ("ada@here", 7));
        }
        other => panic!("{other:?}"),
    }
    let loaded = second.load(None)?.expect("the run");
    assert_eq!((loaded.id, loaded.created_ms, loaded.file.as_str()), (run, 7, "d.yaml"));
    assert_eq!(loaded.history.over, Some((10, false)));
    assert!(matches!(second.append(run, &[over(11)]), Err(DeployError::Fenced)));
    let mut seen = Vec::new();
    assert_eq!(second.follow(run, 1, |record| seen.push(record))?, 3);
    assert_eq!(seen, [over(9), over(10)]);

    // The lock goes with its holder, the next one has a higher fence, and goes on where the first one was.
    drop(store);
    assert_eq!(until("the lock", || second.lock("bob@there", 12).ok()), fence + 1);
    second.load(Some(run))?;
    second.append(run, &[over(13)])?;
    let later = second.create("d.yaml", "name: d", &Choices::default(), 14)?;
    assert_eq!(second.runs(10)?, [later, run]);
    assert_eq!(second.load(Some(run))?.expect("the run").history.over, Some((13, false)));
    Ok(())
}

#[test]
fn a_journal_in_a_file_and_one_in_a_database_keep_the_same_promises() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, journal: Option<&str>| Place {
        folder: folder.path().join(name),
        deployment: "d".to_owned(),
        journal: journal.map(|url| JournalUrl::parse(url).unwrap()),
    };
    let in_file = place("file", None);
    journal_conformance(&|| Store::open(&in_file, true)).unwrap();
    let postgres = Postgres::start();
    let in_database = place("database", Some(&postgres.url()));
    journal_conformance(&|| Store::open(&in_database, true)).unwrap();
    // Another deployment in the same database is none of its business.
    let mut other = Place { deployment: "e".to_owned(), ..in_database };
    assert!(Store::open(&other, true).unwrap().load(None).unwrap().is_none());
    other.journal = Some(JournalUrl::parse("postgres://me:hidden@127.0.0.1:1/d?sslmode=disable").unwrap());
    let said = Store::open(&other, true).unwrap_err().to_string();
    assert!(said.contains("postgres://127.0.0.1:1/d") && !said.contains("hidden"), "{said}");
}

#[test]
fn an_engine_killed_at_every_record_loses_nothing_in_the_database() {
    let postgres = Postgres::start();
    let check = "    verify: { command: { run: [grep, -qx, '{{ phase.name }}/{{ target.name }}', ran] } }\n";
    let site = Site::new(&format!("{}width: 4\n", file(20, &["a", "b", "c"], check)));
    fs::write(site.path("task.sh"), "echo $1/$2 >> ran").unwrap();
    let first =
        at(&site, &postgres, &["run", "--quiet"]).env("PCCL_FAULT_DEPLOY_RECORDS", "1").output().unwrap();
    assert!(killed(&first), "{}", text(&first.stderr));
    let mut kills = 1;
    loop {
        let records = (kills % 24 + 1).to_string();
        // The server notices a moment later than we that a connection is gone, and gives the lock back.
        let output = until("the lock", || {
            let mut again = at(&site, &postgres, &["resume", "--quiet"]);
            let output = again.env("PCCL_FAULT_DEPLOY_RECORDS", &records).output().unwrap();
            (output.status.code() != Some(LOCKED)).then_some(output)
        });
        if !killed(&output) {
            succeeded(&output);
            break;
        }
        kills += 1;
        assert!(kills < 1000, "it does not come to an end");
    }
    assert!(kills > 15, "only {kills} sessions were killed");
    let mut ran: BTreeMap<String, u32> = BTreeMap::new();
    for line in site.lines("ran") {
        *ran.entry(line).or_default() += 1;
    }
    assert_eq!(ran.len(), 60, "tasks were lost");
    let twice: Vec<_> = ran.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?} ran twice");
}

/// Two operators with checkouts of their own; the database is killed and started again under the one who deploys.
#[test]
fn operators_share_a_journal_that_may_be_restarted() {
    let mut postgres = Postgres::start();
    let text_of = file(2, &["a", "b"], "");
    let (ada, bob) = (Site::new(&text_of), Site::new(&text_of));
    let script = "echo $1/$2 >> ran; while [ ! -e go-$1 ]; do sleep 0.02; done";
    for site in [&ada, &bob] {
        fs::write(site.path("task.sh"), script).unwrap();
    }
    let mut engine = Running::start(at(&ada, &postgres, &["run"]));
    until("both tasks run", || (ada.lines("ran").len() == 2).then_some(()));
    let refusal = at(&bob, &postgres, &["run"]).output().unwrap();
    refused(&refusal, LOCKED, &["failed to lock the deployment", "runs it since 20", "process"]);
    let seen = objects(&at(&bob, &postgres, &["runs", "--json"]).output().unwrap());
    assert_eq!(
        (&seen[0]["runs"][0]["running"], &seen[0]["runs"][0]["state"]),
        (&2.into(), &"running".into())
    );

    postgres.restart();
    fs::write(ada.path("go-a"), "").unwrap();
    until("the next phase runs", || (ada.lines("ran").len() == 4).then_some(()));
    // The lock has been taken again, too.
    refused(&at(&bob, &postgres, &["resume"]).output().unwrap(), LOCKED, &["failed to lock the deployment"]);
    fs::write(ada.path("go-b"), "").unwrap();
    let rest = engine.rest();
    assert!(rest.contains("run 1: 4 done, 0 failed"), "{rest}");

    // What one operator began and lost, the other one goes on with.
    for name in ["go-a", "go-b"] {
        fs::write(bob.path(name), "").unwrap();
    }
    let mut engine = Running::start(at(&bob, &postgres, &["run"]));
    let ended = engine.rest();
    assert!(ended.contains("run 2: 4 done"), "{ended}");
    fs::remove_file(ada.path("go-b")).unwrap();
    let lost = Running::start(at(&ada, &postgres, &["run"]));
    until("the second phase hangs", || (ada.lines("ran").len() == 8).then_some(()));
    signal(lost.pid(), "KILL");
    fs::write(ada.path("go-b"), "").unwrap();
    drop(lost);
    let resumed = until("the lock", || {
        let output = at(&bob, &postgres, &["resume"]).output().unwrap();
        (output.status.code() != Some(LOCKED)).then_some(output)
    });
    // Without a check, and with nobody to ask, what was in flight counts as failed: nothing runs twice.
    assert!(
        text(&resumed.stdout).contains("b/region01 was in flight and counts as failed"),
        "{}",
        text(&resumed.stdout)
    );
    succeeded(&at(&bob, &postgres, &["retry"]).output().unwrap());
    assert_eq!(bob.lines("ran").len(), 6);
}
