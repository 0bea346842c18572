//! YAML text as a tree of nodes that know their places.
//!
//! Only what a configuration needs: one document of mappings, lists and scalars. Anchors, aliases and tags are
//! refused, and size and depth are bounded, so that no text can make us use more memory than a few times its length.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::error::{ConfigError, ConfigErrorKind, Origin, Problem, shown};
use super::snippet::Snippet;

/// The longest text that is read, in bytes.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// The deepest nesting that is read; the schema needs four levels.
const MAX_DEPTH: usize = 16;

/// A place in the text: line and column count from 1, length in characters on that line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) length: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) mark: Mark,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Text and whether it stands without quotes.
    Scalar(String, bool),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) node: Node,
}

impl Node {
    /// True for an empty value, `~` and `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(text, true) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The node under a dotted path.
    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self, |node, name| match &node.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == name).map(|e| &e.node),
            _ => None,
        })
    }
}

/// A file's name and text, for messages.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    pub(super) fn origin(&self, mark: Mark) -> Origin {
        Origin::File { file: self.file.to_owned(), line: mark.line, column: mark.column }
    }

    pub(super) fn error(&self, problem: Problem, key: Option<&str>, mark: Mark, on_key: bool) -> ConfigError {
        ConfigError::new(problem, key, self.origin(mark), Snippet::new(self.text, mark, on_key))
    }
}

/// Reads the one document in `source`; none if it is empty.
pub(super) fn parse(source: Source<'_>) -> Result<Option<Node>, ConfigError> {
    let start = Mark { line: 1, column: 1, length: 0 };
    if source.text.len() > MAX_BYTES {
        let message =
            format!("the file has {} bytes, more than the {MAX_BYTES} that are read", source.text.len());
        let origin = source.origin(start);
        return Err(ConfigError::new(Problem::new(ConfigErrorKind::Syntax, message), None, origin, None));
    }
    let mut builder = Builder { source, parser: Parser::new_from_str(source.text) };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => return Ok(root),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            _ if root.is_some() => {
                return Err(builder.refuse(span, "a second YAML document begins here; only one is read"));
            }
            event => root = Some(builder.node(event, span, MAX_DEPTH)?),
        }
    }
}

struct Builder<'a> {
    source: Source<'a>,
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ConfigError> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, ConfigError> {
        if depth == 0 {
            return Err(self.refuse(span, "nested too deeply"));
        }
        let (anchor, tagged) = match &event {
            Event::Alias(_) => return Err(self.refuse(span, "YAML aliases are not read here")),
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(anchor, tag)
            | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            _ => return Err(self.refuse(span, "expected a value here")),
        };
        if anchor != 0 {
            return Err(self.refuse(span, "YAML anchors are not read here"));
        }
        if tagged {
            return Err(self.refuse(span, "YAML tags are not read here"));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => Value::Scalar(text.into_owned(), style == ScalarStyle::Plain),
            Event::SequenceStart(..) => Value::List(self.list(depth - 1)?),
            _ => Value::Map(self.map(depth - 1)?),
        };
        Ok(Node { value, mark: mark(span) })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, ConfigError> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(nodes),
                (event, span) => nodes.push(self.node(event, span, depth)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, ConfigError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let Node { value: Value::Scalar(key, _), mark } = self.node(event, span, depth)? else {
                return Err(self.refuse(span, "a key must be one word"));
            };
            if !seen.insert(key.clone()) {
                let message = format!("the key {} stands twice in one section", shown(&key));
                let problem = Problem::new(ConfigErrorKind::DuplicateKey, message).hint("keep one of them");
                return Err(self.source.error(problem, Some(&key), mark, true));
            }
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth)?;
            entries.push(Entry { key, mark, node });
        }
    }

    fn refuse(&self, span: Span, message: &str) -> ConfigError {
        self.source.error(Problem::new(ConfigErrorKind::Syntax, message), None, mark(span), false)
    }

    fn syntax(&self, error: &ScanError) -> ConfigError {
        let at = mark_at(*error.marker(), 1);
        let mut problem = Problem::new(ConfigErrorKind::Syntax, format!("not valid YAML: {}", error.info()));
        if self.source.text.lines().nth(at.line - 1).is_some_and(|line| line.contains("${")) {
            problem = problem.hint("put quotes around a value with a variable: \"${NAME}\"");
        }
        self.source.error(problem, None, at, false)
    }
}

fn mark(span: Span) -> Mark {
    let one_line = span.start.line() == span.end.line();
    mark_at(span.start, if one_line { span.end.col().saturating_sub(span.start.col()) } else { 1 })
}

fn mark_at(marker: Marker, length: usize) -> Mark {
    Mark { line: marker.line().max(1), column: marker.col() + 1, length }
}
