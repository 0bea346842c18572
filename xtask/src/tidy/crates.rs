//! Rules on a crate as a whole.

use super::Violation;
use super::source::Source;
use super::tree::Crate;

/// What one person can hold in the head, tests included.
const CRATE_LINES: usize = 12_000;

/// Rooms where `unsafe` has a place; `source` says which one.
const MAY_BE_UNSAFE: &[&str] = &["kernels", "comm", "net", "ffi", "python"];

pub(super) fn check(crates: &[Crate], sources: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for one in crates {
        found.extend(size(one, sources));
        let roots = sources.iter().filter(|source| one.roots.contains(&source.path));
        found.extend(roots.flat_map(|root| check_root(one, root)));
    }
    found
}

fn size(one: &Crate, sources: &[Source]) -> Option<Violation> {
    let folder = format!("{}/", one.folder);
    let lines: usize =
        sources.iter().filter(|source| source.path.starts_with(&folder)).map(|source| source.lines).sum();
    let advice =
        format!("{lines} lines, more than {CRATE_LINES}: cut the crate where the compiler can guard the cut");
    (lines > CRATE_LINES).then(|| Violation::new(&one.manifest, 1, "crate-size", advice))
}

fn check_root(one: &Crate, root: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    if !root.has_doc() {
        let advice = "start the file with `//!` and say what this crate is for";
        found.push(Violation::new(&root.path, 1, "crate-doc", advice));
    }
    if !MAY_BE_UNSAFE.contains(&one.room.as_str()) && !root.forbids_unsafe() {
        let advice = "write `#![forbid(unsafe_code)]` below the crate's doc comment";
        found.push(Violation::new(&root.path, 1, "forbid-unsafe", advice));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TextFile;

    fn said(room: &str, text: &str) -> Vec<&'static str> {
        let folder = format!("crates/{room}");
        let path = format!("{folder}/src/lib.rs");
        let one = Crate { room: room.to_owned(), folder, roots: vec![path.clone()], ..Crate::default() };
        let source = Source::parse(&TextFile { path, text: text.to_owned() }).unwrap();
        check(&[one], &[source]).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn a_root_has_a_doc_comment_and_forbids_unsafe() {
        assert_eq!(said("proto", "//! The core.\n#![forbid(unsafe_code)]\n"), [""; 0]);
        assert_eq!(said("proto", "// The core.\nfn f() {}\n"), ["crate-doc", "forbid-unsafe"]);
        assert_eq!(said("proto", "//! The core.\n#![deny(unsafe_code)]\n"), ["forbid-unsafe"]);
    }

    #[test]
    fn rooms_where_unsafe_has_a_place_need_not_forbid_it() {
        assert_eq!(said("kernels", "//! Sums.\n"), [""; 0]);
    }

    #[test]
    fn a_crate_that_nobody_can_hold_in_the_head_is_too_large() {
        let lines = "fn f() {}\n".repeat(CRATE_LINES);
        assert_eq!(said("kernels", &format!("//! Sums.\n{lines}")), ["crate-size"]);
        assert_eq!(said("kernels", &format!("//! Sums.\n{}", &lines[10..])), [""; 0]);
    }
}
