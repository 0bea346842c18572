//! Services: found again, never doubled, ended with all that they started.

use std::thread;
use std::time::Instant;

use super::*;

const LONG: Duration = Duration::from_secs(60);

struct Place {
    folder: tempfile::TempDir,
    keeper: Keeper,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let keeper = Keeper::new(folder.path().join("services"));
        Self { folder, keeper }
    }

    fn start(&self, name: &str, script: &str) -> Service {
        let line = ["sh", "-c", script].map(str::to_owned).into();
        let program = Program { line, dir: self.folder.path().to_owned(), ..Program::default() };
        let log = self.folder.path().join("out.log");
        self.keeper.start(name, &program, "v1", &log).expect("it starts")
    }

    /// Waits for so many lines of output.
    fn lines(&self, count: usize) -> Vec<String> {
        until(|| {
            let text = fs::read_to_string(self.folder.path().join("out.log")).unwrap_or_default();
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            (text.ends_with('\n') && lines.len() >= count).then_some(lines)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in self.keeper.names().unwrap_or_default() {
            let _ = self.keeper.stop(&name, Duration::ZERO, || true);
        }
    }
}

fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "it does not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_service_is_found_by_who_did_not_start_it_and_stopped_gracefully() {
    let place = Place::new();
    let service =
        place.start("a/b", "trap 'echo bye; exit' TERM; echo here; while true; do sleep 0.02; done");
    place.lines(1);
    let other = Keeper::new(place.folder.path().join("services"));
    assert_eq!(other.names().unwrap(), ["a/b"]);
    let mut found = other.find("a/b").unwrap().expect("it runs");
    assert_eq!((found.pid(), found.definition()), (service.pid(), "v1"));
    assert_eq!((found.end(), found.tail().as_str()), (None, "here\n"));
    assert!(other.stop("a/b", LONG, || false).unwrap());
    let said = place.lines(2);
    assert_eq!(said.last().unwrap(), "bye", "{said:?}");
    assert!(found.end().is_some());
    assert!(other.find("a/b").unwrap().is_none() && other.names().unwrap().is_empty());
    assert!(!other.stop("a/b", LONG, || false).unwrap(), "there is nothing to stop");
}

#[test]
fn who_ignores_the_request_is_killed_with_all_that_it_started() {
    let place = Place::new();
    // One of its processes leaves the group.
    place.start("stubborn", "trap '' TERM; sleep 1000 & echo $!; setsid sleep 1000 & echo $!; wait; wait");
    let others: Vec<u32> = place.lines(2).iter().map(|line| line.parse().unwrap()).collect();
    assert!(place.keeper.stop("stubborn", Duration::from_millis(30), || false).unwrap());
    for pid in others {
        assert_eq!(identity::started(pid), None);
    }
}

#[test]
fn one_that_was_about_to_be_noted_is_known_by_its_mark() {
    let place = Place::new();
    let service = place.start("a", "echo here; sleep 1000 & wait");
    place.lines(1);
    // As if who started it had been killed before it could write the number down.
    place.keeper.write(&Note { process: None, ..service.note.clone() }).unwrap();
    assert_eq!(place.keeper.find("a").unwrap().unwrap().pid(), service.pid());
    // The number belongs to somebody else now.
    let ours = std::process::id();
    let stranger = Some((ours, identity::started(ours).unwrap() + 1));
    place.keeper.write(&Note { process: stranger, ..service.note.clone() }).unwrap();
    assert!(place.keeper.find("a").unwrap().is_none());
    // It is ended all the same before another one takes its place.
    let second = place.start("a", "sleep 1000");
    assert_eq!(identity::started(service.pid()), None);
    assert_ne!(second.pid(), service.pid());
}

#[test]
fn how_it_ended_is_told_with_its_last_words() {
    let place = Place::new();
    let mut service = place.start("short", "echo no such port; exit 3");
    assert_eq!(until(|| service.end()), "exit status 3");
    assert_eq!(service.tail(), "no such port\n");
    assert!(place.keeper.find("short").unwrap().is_none());
    let program = Program { line: vec!["no-such-program".to_owned()], ..Program::default() };
    let error = place.keeper.start("none", &program, "", &place.folder.path().join("log")).unwrap_err();
    assert!(error.to_string().contains("`no-such-program` on PATH"), "{error}");
    assert_eq!(place.keeper.names().unwrap(), ["short"]);
}
