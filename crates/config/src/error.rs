//! What goes wrong when a configuration is read, and how it is shown to a person.

use std::fmt;

use super::snippet::Snippet;

/// The longest value that a message repeats, in characters.
const SHOWN: usize = 60;

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody gave it: the built-in default.
    Default,
    /// A place in the file; line and column count from 1, columns in characters.
    File {
        /// The file's name, as the caller gave it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// An environment variable.
    Env {
        /// Its name.
        variable: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Env { variable } => f.write_str(variable),
        }
    }
}

/// The kind of a [`ConfigError`], for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// The text is not the YAML that we accept.
    Syntax,
    /// A key that does not exist.
    UnknownKey,
    /// A key that stands twice in one section.
    DuplicateKey,
    /// A value of another type than the key has.
    WrongType,
    /// A value of the right type outside what is allowed.
    OutOfRange,
    /// A key that others make necessary is not given.
    Missing,
    /// Two settings, or two variables for one setting, contradict each other.
    Conflict,
    /// `${NAME}` names a variable that is not set.
    UnsetVariable,
}

/// Why a configuration was refused. Nothing is repaired or guessed, so the class is always *fatal*: a person changes
/// the file or the environment.
///
/// `Display` prints the whole report: place, reason, the line with the place marked, and the hint. No secret is ever
/// part of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConfigError(Box<Detail>);

#[derive(Clone, Debug)]
struct Detail {
    kind: ConfigErrorKind,
    key: Option<String>,
    origin: Origin,
    problem: Problem,
    snippet: Option<Snippet>,
}

/// A reason that does not know its place yet.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) kind: ConfigErrorKind,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Problem {
    pub(super) fn new(kind: ConfigErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl ConfigError {
    pub(super) fn new(problem: Problem, key: Option<&str>, origin: Origin, snippet: Option<Snippet>) -> Self {
        let key = key.map(str::to_owned);
        Self(Box::new(Detail { kind: problem.kind, key, origin, problem, snippet }))
    }

    /// The same error about another key.
    pub(super) fn about(mut self, key: &str) -> Self {
        self.0.key = Some(key.to_owned());
        self
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ConfigErrorKind {
        self.0.kind
    }

    /// The dotted path of the key concerned (`network.master_port`), where there is one.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    /// Where the refused setting stands.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// The reason alone, in one line, without place and hint.
    pub fn reason(&self) -> &str {
        &self.0.problem.message
    }

    /// What a person can do about it, where we know. `Display` prints it too.
    pub fn hint(&self) -> Option<&str> {
        self.0.problem.hint.as_deref()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let detail = &self.0;
        if detail.origin != Origin::Default {
            write!(f, "{}: ", detail.origin)?;
        }
        f.write_str(&detail.problem.message)?;
        if let Some(snippet) = &detail.snippet {
            write!(f, "\n{snippet}")?;
        }
        match (&detail.problem.hint, &detail.snippet) {
            (Some(hint), Some(snippet)) => write!(f, "\n{} = hint: {hint}", snippet.margin()),
            (Some(hint), None) => write!(f, "\n  = hint: {hint}"),
            (None, _) => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// A value as a message shows it: in quotes, on one line, without control characters, not too long.
pub(super) fn shown(value: &str) -> String {
    let mut out: String = value.chars().take(SHOWN).flat_map(printable).collect();
    if value.chars().count() > SHOWN {
        out.push('…');
    }
    format!("`{out}`")
}

fn printable(c: char) -> impl Iterator<Item = char> {
    let (plain, escaped) = if is_disguise(c) { (None, Some(c.escape_unicode())) } else { (Some(c), None) };
    plain.into_iter().chain(escaped.into_iter().flatten())
}

/// Characters that could change how a terminal shows the rest of the line.
pub(super) fn is_disguise(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
