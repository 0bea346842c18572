//! The tree and its parser.

use std::collections::BTreeSet;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use crate::error::{FileError, FileErrorKind as Kind, Mark, Problem, Source, shown};

/// The longest text that is read, in bytes: enough for lists of a hundred thousand items.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The deepest nesting that is read.
const MAX_DEPTH: usize = 32;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) mark: Mark,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Text and whether it stands without quotes.
    Scalar(String, bool),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) mark: Mark,
    pub(crate) node: Node,
}

impl Node {
    /// True for an empty value, `~` and `null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(text, true) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The place of what stands under a dotted path; numbers count in lists. The deepest that exists.
    pub(crate) fn find(&self, path: &str) -> Mark {
        let mut node = self;
        for name in path.split('.').filter(|name| !name.is_empty()) {
            let next = match &node.value {
                Value::Map(entries) => entries.iter().find(|e| e.key == name).map(|e| &e.node),
                Value::List(nodes) => name.parse::<usize>().ok().and_then(|at| nodes.get(at)),
                Value::Scalar(..) => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.mark
    }
}

/// Reads the one document in `source`.
pub(crate) fn parse(source: Source<'_>) -> Result<Node, FileError> {
    let start = Mark { line: 1, column: 1, length: 1 };
    if source.text.len() > MAX_BYTES {
        let message =
            format!("the file has {} bytes, more than the {MAX_BYTES} that are read", source.text.len());
        return Err(FileError::new(Problem::new(Kind::Syntax, message), source, start));
    }
    let mut builder = Builder { source, parser: Parser::new_from_str(source.text) };
    let mut root = None;
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            _ if root.is_some() => {
                return Err(builder.refuse(span, "a second YAML document begins here; only one is read"));
            }
            event => root = Some(builder.node(event, span, MAX_DEPTH)?),
        }
    }
    root.ok_or_else(|| {
        let problem = Problem::new(Kind::Missing, "the file is empty");
        FileError::new(problem.hint("`pccl deploy init` writes one to start from"), source, start)
    })
}

struct Builder<'a> {
    source: Source<'a>,
    parser: Parser<'a, StrInput<'a>>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), FileError> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, FileError> {
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
        if anchor != 0 || tagged {
            return Err(self.refuse(span, "YAML anchors and tags are not read here"));
        }
        let value = match event {
            Event::Scalar(text, style, ..) => Value::Scalar(text.into_owned(), style == ScalarStyle::Plain),
            Event::SequenceStart(..) => Value::List(self.list(depth - 1)?),
            _ => Value::Map(self.map(depth - 1)?),
        };
        Ok(Node { value, mark: mark(span) })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, FileError> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(nodes),
                (event, span) => nodes.push(self.node(event, span, depth)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, FileError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let Node { value: Value::Scalar(key, _), mark } = self.node(event, span, depth)? else {
                let error = Problem::new(Kind::Syntax, "a key must be one word")
                    .hint("put quotes around a value that begins with a template: \"{{ … }}\"");
                return Err(FileError::new(error, self.source, self::mark(span)));
            };
            if !seen.insert(key.clone()) {
                let message = format!("the key {} stands twice in one section", shown(&key));
                let problem = Problem::new(Kind::Conflict, message).hint("keep one of them");
                return Err(FileError::new(problem, self.source, mark));
            }
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth)?;
            entries.push(Entry { key, mark, node });
        }
    }

    fn refuse(&self, span: Span, message: &str) -> FileError {
        FileError::new(Problem::new(Kind::Syntax, message), self.source, mark(span))
    }

    fn syntax(&self, error: &ScanError) -> FileError {
        let at = mark_at(*error.marker(), 1);
        let mut problem = Problem::new(Kind::Syntax, format!("not valid YAML: {}", error.info()));
        if self.source.text.lines().nth(at.line - 1).is_some_and(|line| line.contains("{{")) {
            problem = problem.hint("put quotes around a value that begins with a template: \"{{ … }}\"");
        }
        FileError::new(problem, self.source, at)
    }
}

fn mark(span: Span) -> Mark {
    let one_line = span.start.line() == span.end.line();
    mark_at(span.start, if one_line { span.end.col().saturating_sub(span.start.col()) } else { 1 })
}

fn mark_at(marker: Marker, length: usize) -> Mark {
    Mark { line: marker.line().max(1), column: marker.col() + 1, length }
}
