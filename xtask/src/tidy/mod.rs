//! `cargo xtask tidy`: the rules of the house that a machine can check.
//!
//! Every rule is a pure function from the tree, read once, to violations; `tree` alone reads files and asks cargo.
//! Where the tree does not obey yet, `ratchet` remembers by how much, and lets that only shrink.

mod arrows;
mod crates;
mod ratchet;
mod source;
mod text;
mod tree;

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use ratchet::Ratchet;
use source::Source;
use tree::Tree;

/// One place that breaks one rule, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    rule: &'static str,
    advice: String,
}

impl Violation {
    fn new(path: &str, line: usize, rule: &'static str, advice: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule, advice: advice.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.advice)
    }
}

/// `cargo xtask tidy`, with or without `--update`.
pub(crate) fn run(update: bool) -> Result<ExitCode> {
    if update {
        let tree = Tree::read()?;
        let ratchet = Ratchet::parse(&tree.ratchet)?;
        let lowered = ratchet.lowered(&ratchet::measure(&sources(&tree).0));
        tree::write_ratchet(&lowered.to_string())?;
        println!("tidy: {} now lists {} exceptions", tree::RATCHET, lowered.len());
    }
    Ok(if check()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks the tree, prints what breaks a rule, and tells whether nothing does.
pub(crate) fn check() -> Result<bool> {
    let tree = Tree::read()?;
    let violations = violations(&tree)?;
    for violation in &violations {
        println!("{violation}");
    }
    println!("tidy: {} files, {} crates: {}", tree.files.len(), tree.crates.len(), summary(violations.len()));
    Ok(violations.is_empty())
}

fn summary(violations: usize) -> String {
    match violations {
        0 => "no rule is broken".to_owned(),
        1 => "1 place breaks a rule".to_owned(),
        many => format!("{many} places break a rule"),
    }
}

/// Every violation of every rule, in the order of the files.
fn violations(tree: &Tree) -> Result<Vec<Violation>> {
    let (sources, mut found) = sources(tree);
    found.extend(arrows::check(&tree.crates));
    found.extend(crates::check(&tree.crates, &sources));
    found.extend(tree.files.iter().flat_map(text::check));
    found.extend(source::check(&sources));
    found.extend(Ratchet::parse(&tree.ratchet)?.check(&ratchet::measure(&sources)));
    found.sort();
    Ok(found)
}

/// All Rust files, parsed; one that does not parse is a violation.
fn sources(tree: &Tree) -> (Vec<Source>, Vec<Violation>) {
    let (mut sources, mut broken) = (Vec::new(), Vec::new());
    for file in tree.files.iter().filter(|file| file.is_rust()) {
        match Source::parse(file) {
            Ok(source) => sources.push(source),
            Err(violation) => broken.push(violation),
        }
    }
    (sources, broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test that makes every rule bind: nextest runs it with the others.
    #[test]
    fn this_repository_is_tidy() {
        let violations = violations(&Tree::read().unwrap()).unwrap();
        let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{} (`cargo xtask tidy`):\n{}", summary(lines.len()), lines.join("\n"));
    }

    #[test]
    fn a_violation_reads_like_a_compiler_error() {
        let violation = Violation::new("crates/a/src/lib.rs", 7, "no-unsafe", "write it without");
        assert_eq!(violation.to_string(), "crates/a/src/lib.rs:7: no-unsafe: write it without");
    }

    #[test]
    fn a_file_that_does_not_parse_is_reported_and_the_others_are_read() {
        let mut tree = Tree::default();
        tree.add("crates/net/src/a.rs", "fn f() {\n    let = 3;\n}\n");
        tree.add("crates/net/src/b.rs", "fn g() {}\n");
        let (sources, broken) = sources(&tree);
        assert_eq!(sources.len(), 1);
        assert_eq!(
            (broken[0].path.as_str(), broken[0].line, broken[0].rule),
            ("crates/net/src/a.rs", 2, "parses")
        );
    }
}
