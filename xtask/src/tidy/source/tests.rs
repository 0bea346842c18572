//! Each rule on a few lines that break it and a few that only look like it.

use super::*;

fn source(path: &str, text: &str) -> Source {
    let file = TextFile { path: path.to_owned(), text: text.to_owned() };
    Source::parse(&file).unwrap_or_else(|violation| panic!("{violation}"))
}

fn said_at(path: &str, text: &str) -> Vec<(usize, &'static str)> {
    check(&[source(path, text)]).into_iter().map(|violation| (violation.line, violation.rule)).collect()
}

/// What is said about a file of a crate that is not pure.
fn said(text: &str) -> Vec<(usize, &'static str)> {
    said_at("crates/net/src/a.rs", text)
}

/// What is said about a file of the pure core.
fn said_of_core(text: &str) -> Vec<(usize, &'static str)> {
    said_at("crates/proto/src/a.rs", text)
}

#[test]
fn unfinished_code_is_found_also_in_macros() {
    assert_eq!(said("fn f() {\n    todo!()\n}\n"), [(2, "unfinished")]);
    assert_eq!(
        said("macro_rules! m {\n    () => {\n        unimplemented!()\n    };\n}\n"),
        [(3, "unfinished")]
    );
    assert_eq!(said("/// todo!() one day\nfn todo() -> &'static str { \"unimplemented!()\" }\n"), []);
}

#[test]
fn unsafe_has_its_places() {
    let text = "fn f() {\n    unsafe { g() }\n}\n";
    assert_eq!(said(text), [(2, "no-unsafe")]);
    assert_eq!(said_at("crates/comm/src/lib.rs", text), [(2, "no-unsafe")]);
    for path in ["crates/comm/src/buffer.rs", "crates/net/src/shm.rs", "crates/kernels/src/sum.rs"] {
        assert_eq!(said_at(path, text), [], "{path}");
    }
    assert_eq!(said("// unsafe { }\n#![forbid(unsafe_code)]\n"), []);
}

#[test]
fn an_ignored_test_is_found() {
    assert_eq!(said("#[test]\n#[ignore]\nfn f() {}\n"), [(2, "no-ignore")]);
    assert_eq!(said("#[ignore = \"slow\"]\nfn f() {}\n"), [(1, "no-ignore")]);
    assert_eq!(said("#[cfg_attr(miri, ignore)]\nfn f() {}\n"), [(1, "no-ignore")]);
    assert_eq!(said("#[cfg(feature = \"ignore\")]\nfn ignore() {}\n"), []);
}

#[test]
fn allow_needs_a_reason() {
    assert_eq!(said("#[allow(dead_code)]\nfn f() {}\n"), [(1, "allow-has-reason")]);
    assert_eq!(said("\n#![allow(\n    dead_code\n)]\n"), [(2, "allow-has-reason")]);
    assert_eq!(said("#[cfg_attr(test, allow(dead_code))]\nfn f() {}\n"), [(1, "allow-has-reason")]);
    assert_eq!(said("#[allow(dead_code, reason = \"called by C\")]\nfn f() {}\n"), []);
    assert_eq!(said("#[expect(dead_code, reason = \"soon\")]\nfn allow(reason: u8) {}\n"), []);
}

#[test]
fn the_core_knows_no_clock() {
    assert_eq!(said_of_core("fn f() { let t = std::time::Instant::now(); }\n"), [(1, "pure-source")]);
    assert_eq!(
        said_of_core("use std::time::SystemTime;\nfn f() { SystemTime::now(); }\n"),
        [(2, "pure-source")]
    );
    assert_eq!(said_of_core("fn f(t: Instant) {\n    t.elapsed();\n}\n"), [(2, "pure-source")]);
    assert_eq!(
        said_of_core("use std::time::{Duration, Instant};\nfn f(now: Instant) -> Instant { now }\n"),
        []
    );
    assert_eq!(said("fn f() { std::time::Instant::now(); }\n"), [], "other crates may");
}

#[test]
fn the_core_knows_no_thread_file_or_environment() {
    assert_eq!(said_of_core("use std::thread;\n"), [(1, "pure-source")]);
    assert_eq!(said_of_core("use std::{fmt, fs};\n"), [(1, "pure-source")]);
    assert_eq!(
        said_of_core("use std::{collections::{BTreeMap, BTreeSet}, fs::File};\n"),
        [(1, "pure-source")]
    );
    assert_eq!(said_of_core("fn f() {\n    std::env::var(\"X\");\n}\n"), [(2, "pure-source")]);
    assert_eq!(said_of_core("use std::{fmt, net::{IpAddr, SocketAddr}};\nfn fs(thread: u8) {}\n"), []);
}

#[test]
fn the_core_knows_no_socket_and_no_random_order() {
    assert_eq!(said_of_core("use std::net::{SocketAddr, TcpStream};\n"), [(1, "pure-source")]);
    assert_eq!(said_of_core("use std::net::UdpSocket;\n"), [(1, "pure-source")]);
    assert_eq!(said_of_core("use std::collections::HashMap;\n"), [(1, "pure-source")]);
    assert_eq!(said_of_core("use std::collections::BTreeMap; // not a HashMap\n"), []);
}

#[test]
fn tests_of_the_core_may_do_what_they_like() {
    let inside = "#[cfg(test)]\nmod tests {\n    use std::collections::HashSet;\n}\n";
    assert_eq!(said_of_core(inside), []);
    let after = format!("{inside}use std::collections::HashSet;\n");
    assert_eq!(said_of_core(&after), [(5, "pure-source")]);
    assert_eq!(said_at("crates/proto/tests/a.rs", "use std::fs;\n"), []);
}

#[test]
fn a_test_module_in_a_file_of_its_own_is_recognized() {
    let parent = source("crates/proto/src/peer.rs", "#[cfg(test)]\nmod tests;\nmod state;\n");
    let tests = source("crates/proto/src/peer/tests.rs", "use std::fs;\n");
    let deeper = source("crates/proto/src/peer/tests/story.rs", "use std::fs;\n");
    let state = source("crates/proto/src/peer/state.rs", "use std::fs;\n");
    let namesake = source("crates/proto/src/peer/tests_of_old.rs", "use std::fs;\n");
    let found = check(&[parent, tests, deeper, state, namesake]);
    let paths: Vec<_> = found.iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(paths, ["crates/proto/src/peer/state.rs", "crates/proto/src/peer/tests_of_old.rs"]);
}

#[test]
fn functions_are_measured_from_signature_to_brace() {
    let text = "\
/// Doc comments
/// do not count.
#[inline]
fn short() {}

impl<T> Display for Wrapper<T> {
    fn fmt(
        &self,
    ) {
    }
}

trait Story {
    fn told(&self);
    fn untold(&self) {
    }
}

mod inner {
    fn deep() {
        fn deeper() {
        }
    }
}
";
    let source = source("a.rs", text);
    let measured: Vec<_> = source.functions.iter().map(|f| (f.name.as_str(), f.line, f.length)).collect();
    assert_eq!(
        measured,
        [
            ("short", 4, 1),
            ("Wrapper::fmt", 7, 4),
            ("Story::untold", 15, 2),
            ("inner::deep", 20, 4),
            ("inner::deep::deeper", 21, 2),
        ]
    );
    assert_eq!(source.lines, 24);
}
