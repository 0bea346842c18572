//! The line of the file that an error is about, with the place marked and secrets masked.

use std::fmt;

use super::error::is_disguise;
use super::schema;
use super::tree::Mark;

/// The widest line shown, in characters.
const WIDTH: usize = 110;

/// Words that make us hide what follows on their line.
const SENSITIVE: [&str; 5] = ["secret", "password", "passwd", "token", "://"];

/// One line of the file and the place in it.
#[derive(Clone, Debug)]
pub(super) struct Snippet {
    line: usize,
    text: String,
    start: usize,
    width: usize,
}

impl Snippet {
    /// The line of `text` at `mark`. `on_key` says that the mark covers a key, which is no secret.
    pub(super) fn new(text: &str, mark: Mark, on_key: bool) -> Option<Self> {
        let full: Vec<char> = text.lines().nth(mark.line.checked_sub(1)?)?.chars().collect();
        let mut line = if may_show(text, mark.line, &full) { full } else { masked(&full, mark, on_key) };
        let mut start = mark.column - 1;
        if line.len() > WIDTH {
            let from = start.saturating_sub(WIDTH / 2).min(line.len() - WIDTH);
            line = line[from..from + WIDTH].to_vec();
            start -= from;
        }
        let width = mark.length.max(1).min(line.len().saturating_sub(start));
        let text = line.iter().map(|&c| if is_disguise(c) { ' ' } else { c }).collect();
        Some(Self { line: mark.line, text, start, width })
    }

    /// Blanks as wide as the line number.
    pub(super) fn margin(&self) -> String {
        " ".repeat(self.line.to_string().len())
    }
}

impl fmt::Display for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let margin = self.margin();
        write!(f, "{margin} |\n{} | {}", self.line, self.text.trim_end())?;
        if self.width == 0 {
            return Ok(());
        }
        write!(f, "\n{margin} | {}{}", " ".repeat(self.start), "^".repeat(self.width))
    }
}

/// True if the line stands in a section that holds no secret and says nothing that looks like one.
fn may_show(text: &str, number: usize, line: &[char]) -> bool {
    let lower: String = line.iter().flat_map(|c| c.to_lowercase()).collect();
    if SENSITIVE.iter().any(|word| lower.contains(word)) {
        return false;
    }
    let lines: Vec<&str> = text.lines().take(number).collect();
    let section = lines.iter().rev().find(|l| l.starts_with(|c: char| !c.is_whitespace() && c != '#'));
    section.and_then(|l| l.split_once(':')).is_some_and(|(name, _)| schema::is_public_section(name.trim()))
}

/// The line up to its first value.
fn masked(line: &[char], mark: Mark, on_key: bool) -> Vec<char> {
    let colon = line.iter().position(|&c| c == ':').map_or(0, |at| at + 1);
    let start = (mark.column - 1).min(line.len());
    let end = (start + mark.length).min(line.len());
    let only_brackets = |part: &[char]| part.iter().all(|c| c.is_whitespace() || "{[".contains(*c));
    let keep = if on_key && end > colon && start >= colon && only_brackets(&line[colon..start]) {
        end
    } else {
        colon
    };
    let mut out = line[..keep].to_vec();
    out.extend(" ***".chars());
    out
}
