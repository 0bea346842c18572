//! What is wrong with a deployment file, and how it is shown to a person.

use std::fmt;

/// The widest line shown, in characters.
const WIDTH: usize = 110;
/// The longest value that a message repeats, in characters.
const SHOWN: usize = 60;

/// The kind of a [`FileError`], for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FileErrorKind {
    /// The text is not the YAML that we accept.
    Syntax,
    /// A key that does not exist.
    UnknownKey,
    /// A value of another type than the key has, or outside what is allowed.
    Value,
    /// A key that must be there is not.
    Missing,
    /// A name that stands for nothing: a phase, a list, a scope, a secret.
    UnknownName,
    /// Two parts of the file contradict each other.
    Conflict,
    /// A template that cannot be rendered.
    Template,
}

/// Why a deployment file was refused: place, reason, the line with the place marked, and what to do.
///
/// Nothing is repaired or guessed: a person changes the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileError(Box<Detail>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Detail {
    kind: FileErrorKind,
    message: String,
    hint: Option<String>,
    file: String,
    mark: Mark,
    line: Option<String>,
}

/// A place in the text: line and column count from 1, length in characters on that line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) length: usize,
}

/// A file's name and text, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
}

/// A reason that does not know its place yet.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) kind: FileErrorKind,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(kind: FileErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl FileError {
    pub(crate) fn new(problem: Problem, source: Source<'_>, mark: Mark) -> Self {
        let line = source.text.lines().nth(mark.line.saturating_sub(1)).map(str::to_owned);
        let Problem { kind, message, hint } = problem;
        Self(Box::new(Detail { kind, message, hint, file: source.file.to_owned(), mark, line }))
    }

    /// What kind of error it is.
    pub fn kind(&self) -> FileErrorKind {
        self.0.kind
    }

    /// The reason alone, without place and hint.
    pub fn reason(&self) -> &str {
        &self.0.message
    }

    /// What a person can do about it, where we know.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Line and column, from 1, in characters.
    pub fn place(&self) -> (usize, usize) {
        (self.0.mark.line, self.0.mark.column)
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail { message, hint, file, mark, line, .. } = &*self.0;
        write!(f, "{file}:{}:{}: {message}", mark.line, mark.column)?;
        let margin = " ".repeat(mark.line.to_string().len());
        if let Some(line) = line {
            let (text, start) = window(line, mark.column.saturating_sub(1));
            let width = mark.length.clamp(1, text.chars().count().saturating_sub(start).max(1));
            write!(f, "\n{margin} |\n{} | {}", mark.line, text.trim_end())?;
            write!(f, "\n{margin} | {}{}", " ".repeat(start), "^".repeat(width))?;
        }
        match hint {
            Some(hint) => write!(f, "\n{margin} = hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for FileError {}

/// The part of a line around a place, and where the place is in it.
fn window(line: &str, start: usize) -> (String, usize) {
    let chars: Vec<char> = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if chars.len() <= WIDTH {
        return (chars.into_iter().collect(), start);
    }
    let from = start.saturating_sub(WIDTH / 2).min(chars.len() - WIDTH);
    (chars[from..from + WIDTH].iter().collect(), start - from)
}

/// A value as a message shows it: in quotes, on one line, not too long.
pub(crate) fn shown(value: &str) -> String {
    let mut out: String = value.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if value.chars().count() > SHOWN {
        out.push('…');
    }
    format!("`{out}`")
}

/// The name among `names` that was probably meant.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    let distance = |other: &str| strsim::osa_distance(&other.to_ascii_lowercase(), &lower);
    let best = names.into_iter().map(|other| (distance(other), other)).min()?;
    (best.0 <= (best.1.len().max(name.len()) / 3).max(1)).then_some(best.1)
}

/// "did you mean …?", else what there is.
pub(crate) fn suggestion<'a>(name: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = nearest(name, names.clone()) {
        return format!("did you mean `{near}`?");
    }
    let all: Vec<&str> = names.into_iter().take(20).collect();
    if all.is_empty() { "the file declares none".to_owned() } else { format!("known: {}", all.join(", ")) }
}
