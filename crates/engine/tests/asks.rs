//! Checks over HTTP, by the real `curl` and a server of our own; and those behind a service that has died.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use pccl_engine::{Again, Choices, DeployError, Manner, Source, Summary, begin, go_back, go_on, undoing};
use tempfile::TempDir;

fn manner() -> Manner {
    let (state, journal, metrics) = (None, None, None);
    Manner { state, durable: true, json: false, quiet: false, live: false, journal, metrics }
}

fn site(text: &str) -> (TempDir, Source) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deploy.yaml");
    fs::write(&path, text).expect("the file is written");
    let source = Source::read(&path).expect("the file is there");
    (folder, source)
}

fn run(source: &Source) -> Summary {
    begin(source, &Choices::default(), &manner()).expect("the engine runs").0
}

fn retry(source: &Source, only: &[&str]) -> Result<Summary, DeployError> {
    let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
    go_on(source, None, &only, &Again::Retry, &manner()).map(|(summary, _)| summary)
}

/// Answers until the test ends: `/big` much, everything else what was asked for. Told is every request's first line.
fn server() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (said, heard) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(&stream, &said);
        }
    });
    (port, heard)
}

fn answer(stream: &TcpStream, said: &Sender<String>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let path = first.split(' ').nth(1).unwrap_or_default();
    let padding = "y".repeat(if path == "/big" { 200_000 } else { 0 });
    let body = serde_json::json!({ "a": padding, "path": path }).to_string();
    let _ = said.send(first.clone());
    let length = body.len();
    let body = if first.starts_with("HEAD") { "" } else { &body };
    let mut stream = stream;
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

#[test]
fn queries_are_sent_as_written_and_answers_are_read_to_their_beginning() {
    let (port, _heard) = server();
    let (_folder, source) = site(&format!(
        r#"
name: asks
phases:
  - {{ name: query, run: {{ http: {{ url: 'http://127.0.0.1:{port}/q?up{{job="x"}}[5m]&a[0-2]=b c', json: {{ /path: '/q?up{{job="x"}}[5m]&a[0-2]=b%20c' }} }} }} }}
  - {{ name: big, run: {{ http: {{ url: 'http://127.0.0.1:{port}/big', json: {{ /path: /big }} }} }} }}
  - {{ name: head, run: {{ http: {{ url: 'http://127.0.0.1:{port}/', method: HEAD }} }} }}
"#
    ));
    // A brace in a text is no template.
    assert_eq!(run(&source).counts.done, 3);
}

#[test]
fn who_does_not_answer_is_named_by_what_curl_says() {
    let (folder, source) = site(
        "name: asks\nphases:\n  - { name: one, retry: { attempts: 1 }, run: { http: { url: 'http://127.0.0.1:1/' } } }\n",
    );
    assert_eq!(run(&source).counts.failed, 1);
    let journal = rusqlite::Connection::open(folder.path().join(".pccl-deploy/asks/journal.db")).unwrap();
    let sql = "SELECT body FROM records WHERE body LIKE '%\"ended\"%'";
    let body: String = journal.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(body.contains("curl: (7)"), "{body}");
}

#[test]
fn retry_knows_the_names_that_it_is_given() {
    let (_folder, source) =
        site("name: asks\nphases: [{ name: migrate, run: { command: { run: ['true'] } } }]\n");
    run(&source);
    let error = retry(&source, &["migrat"]).unwrap_err();
    assert_eq!(error.to_string(), "there is no phase, target, entry or task `migrat` in this deployment");
}

#[test]
fn behind_a_service_that_died_checks_are_made_again_and_nothing_else_is() {
    let (port, heard) = server();
    let (folder, source) = site(&format!(
        r"
name: asks
phases:
  - {{ name: web, run: {{ service: {{ run: [sh, -c, 'echo $$ > pid; exec sleep 1000'] }} }}, verify: {{ command: {{ run: [test, -s, pid] }} }} }}
  - {{ name: once, after: [web], run: {{ command: {{ run: [sh, -c, 'echo once >> ran'] }} }} }}
  - {{ name: harmless, after: [once], on_unknown: rerun, run: {{ command: {{ run: [sh, -c, 'echo harmless >> ran'] }} }} }}
  - {{ name: check, after: [once], run: {{ http: {{ url: 'http://127.0.0.1:{port}/check' }} }} }}
  - {{ name: apart, run: {{ http: {{ url: 'http://127.0.0.1:{port}/apart' }} }} }}
"
    ));
    assert_eq!(run(&source).counts.done, 5);
    let requests = || heard.try_iter().filter(|line| line.contains("/check")).count();
    assert_eq!(requests(), 1);
    let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
    Command::new("kill").args(["-9", pid.trim()]).status().unwrap();
    assert_eq!(retry(&source, &[]).unwrap().counts.done, 5);
    assert_eq!(requests(), 1, "the check is made again");
    assert_eq!(fs::read_to_string(folder.path().join("ran")).unwrap(), "once\nharmless\nharmless\n");
    assert_eq!(retry(&source, &[]).unwrap().counts.done, 5);
    assert_eq!(requests(), 0, "nothing has died since");
    let text = serde_json::to_string(&undoing(&source.deployment().unwrap())).unwrap();
    go_back(&Source { text, ..source }, &Choices::default(), &manner()).unwrap();
}
