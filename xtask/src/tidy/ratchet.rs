//! Lengths above the limit, remembered so that they can only shrink.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};

use super::Violation;
use super::source::Source;
use super::tree::RATCHET;

/// What a reader scrolls through before giving up.
const FILE_LINES: usize = 800;
/// A function fits a screen.
const FUNCTION_LINES: usize = 80;

const HEADER: &str = "\
# Files and functions longer than the house allows, with their length in lines. A ratchet: no figure may grow.
# `cargo xtask tidy --update` lowers them to what the tree has reached; nothing raises them but an edit here,
# which a reviewer sees.
";

/// What is measured: a file, or a function in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    File(String),
    Function(String, String),
}

impl Key {
    fn limit(&self) -> usize {
        match self {
            Key::File(_) => FILE_LINES,
            Key::Function(..) => FUNCTION_LINES,
        }
    }

    fn path(&self) -> &str {
        match self {
            Key::File(path) | Key::Function(path, _) => path,
        }
    }

    fn rule(&self) -> &'static str {
        match self {
            Key::File(_) => "file-length",
            Key::Function(..) => "function-length",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::File(path) => write!(f, "file {path}"),
            Key::Function(path, name) => write!(f, "function {path} {name}"),
        }
    }
}

/// A measured length and the line to point at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    length: usize,
    line: usize,
}

pub(super) type Measures = BTreeMap<Key, Measured>;

/// The length of every file and function. Of functions that share a name (in two `impl`s), the longest counts.
pub(super) fn measure(sources: &[Source]) -> Measures {
    let mut measures = Measures::new();
    for source in sources {
        measures
            .insert(Key::File(source.path.clone()), Measured { length: source.lines, line: FILE_LINES + 1 });
        for function in &source.functions {
            let here = Measured { length: function.length, line: function.line };
            let key = Key::Function(source.path.clone(), function.name.clone());
            let kept = measures.entry(key).or_insert(here);
            if kept.length < here.length {
                *kept = here;
            }
        }
    }
    measures
}

/// The exceptions, with the length that each was last seen at.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ratchet {
    known: BTreeMap<Key, usize>,
}

impl Ratchet {
    /// Reads lines like `file PATH LENGTH` and `function PATH NAME LENGTH`; `#` starts a comment.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut known = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, length) =
                parse_line(line).with_context(|| format!("{RATCHET}:{}: `{line}`", index + 1))?;
            if known.insert(key, length).is_some() {
                bail!("{RATCHET}:{}: `{line}`: listed twice", index + 1);
            }
        }
        Ok(Self { known })
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn check(&self, measures: &Measures) -> Vec<Violation> {
        let mut found = Vec::new();
        for (key, measured) in measures {
            let (length, limit) = (measured.length, key.limit());
            let advice = match self.known.get(key) {
                None if length > limit => {
                    format!("{key} has {length} lines, more than {limit}: cut it where it says two things")
                }
                Some(known) if length > *known => {
                    format!(
                        "{key} grew from {known} to {length} lines; it is too long already and may only shrink"
                    )
                }
                _ => continue,
            };
            found.push(Violation::new(key.path(), measured.line, key.rule(), advice));
        }
        for (index, (key, known)) in self.known.iter().enumerate() {
            if self.lower(key, measures) != Some(*known) {
                let advice =
                    format!("{key} is shorter than {known} lines now: run `cargo xtask tidy --update`");
                let line = HEADER.lines().count() + index + 1;
                found.push(Violation::new(RATCHET, line, "ratchet-turned", advice));
            }
        }
        found
    }

    /// The ratchet turned: what became shorter counts as it is now, what obeys or is gone is no longer listed.
    pub(super) fn lowered(&self, measures: &Measures) -> Self {
        let lower = |key: &Key| Some((key.clone(), self.lower(key, measures)?));
        Self { known: self.known.keys().filter_map(lower).collect() }
    }

    fn lower(&self, key: &Key, measures: &Measures) -> Option<usize> {
        let known = *self.known.get(key)?;
        let length = measures.get(key)?.length;
        (length > key.limit()).then_some(length.min(known))
    }
}

fn parse_line(line: &str) -> Result<(Key, usize)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (key, length) = match words[..] {
        ["file", path, length] => (Key::File(path.to_owned()), length),
        ["function", path, name, length] => (Key::Function(path.to_owned(), name.to_owned()), length),
        _ => bail!("write `file PATH LENGTH` or `function PATH NAME LENGTH`"),
    };
    Ok((key, length.parse().with_context(|| format!("`{length}` is not a number of lines"))?))
}

impl fmt::Display for Ratchet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADER)?;
        self.known.iter().try_for_each(|(key, length)| writeln!(f, "{key} {length}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::TextFile;

    /// A tree of one file with as many lines, in one function.
    fn tree(lines: usize) -> Measures {
        let text = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2));
        let file = TextFile { path: "a.rs".to_owned(), text };
        measure(&[Source::parse(&file).unwrap()])
    }

    fn said(ratchet: &str, lines: usize) -> Vec<&'static str> {
        Ratchet::parse(ratchet)
            .unwrap()
            .check(&tree(lines))
            .into_iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn limits_hold_without_an_exception() {
        assert_eq!(said("", 80), [""; 0]);
        assert_eq!(said("", 81), ["function-length"]);
        assert_eq!(said("", 801), ["file-length", "function-length"]);
        assert_eq!(said("function a.rs f 800\n", 800), [""; 0]);
    }

    #[test]
    fn an_exception_may_stay_but_not_grow() {
        assert_eq!(said("function a.rs f 90\n", 90), [""; 0]);
        assert_eq!(said("function a.rs f 90\n", 91), ["function-length"]);
    }

    #[test]
    fn an_exception_that_shrank_must_be_lowered() {
        assert_eq!(said("function a.rs f 90\n", 85), ["ratchet-turned"]);
        assert_eq!(said("function a.rs f 90\n", 80), ["ratchet-turned"]);
        assert_eq!(said("function a.rs gone 90\n", 10), ["ratchet-turned"]);
    }

    #[test]
    fn an_update_only_lowers() {
        let ratchet = Ratchet::parse("file b.rs 900\nfunction a.rs f 90\nfunction a.rs gone 99\n").unwrap();
        let lowered = |lines| ratchet.lowered(&tree(lines)).to_string().replace(HEADER, "");
        assert_eq!(lowered(85), "function a.rs f 85\n");
        assert_eq!(
            lowered(95),
            "function a.rs f 90\n",
            "it grew: the old figure stays, and the check complains"
        );
        assert_eq!(lowered(80), "");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let ratchet = Ratchet::parse("# why\n\nfunction a.rs T::f 90\nfile a.rs 900\n").unwrap();
        assert_eq!(ratchet.len(), 2);
        assert_eq!(Ratchet::parse(&ratchet.to_string()).unwrap(), ratchet);
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error_with_its_place() {
        for text in ["\nfile a.rs\n", "\nfile a.rs many\n", "file a.rs 900\nfile a.rs 901\n"] {
            let error = format!("{:#}", Ratchet::parse(text).unwrap_err());
            assert!(error.contains("tidy-ratchet.txt:2"), "{error}");
        }
    }
}
