//! Takes settings one by one out of the file and the environment, and checks each.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use super::Env;
use super::error::{ConfigError, ConfigErrorKind as Kind, Origin, Problem, shown};
use super::interpolate::interpolate;
use super::schema::{self, Key, KeyKind};
use super::tree::{self, Mark, Node, Source, Value};
use super::values::{LogLevel, LogLevels, LogModule, NamedGroups, certificate_name};

/// How a scalar was written, which decides what it may be read as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Quoted,
    /// From a variable: text by nature, read as what is needed.
    Variable,
}

/// Where a value stands.
#[derive(Clone)]
enum Place {
    File(Mark),
    Variable(String),
}

/// One scalar value.
#[derive(Clone)]
struct Item {
    text: String,
    style: Style,
    place: Place,
}

pub(super) struct Reader<'a> {
    source: Source<'a>,
    root: Option<Node>,
    env: Env<'a>,
    given: BTreeMap<&'static str, Place>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: Source<'a>, env: Env<'a>) -> Result<Self, ConfigError> {
        let root = tree::parse(source)?.filter(|root| !root.is_null());
        let reader = Self { source, root, env, given: BTreeMap::new() };
        if let Some(root) = &reader.root {
            reader.check_names(root, "")?;
        }
        Ok(reader)
    }

    /// Where each setting that somebody gave comes from.
    pub(super) fn origins(&self) -> BTreeMap<&'static str, Origin> {
        self.given.iter().map(|(&path, place)| (path, self.origin(place))).collect()
    }

    pub(super) fn is_given(&self, path: &str) -> bool {
        self.given.contains_key(path)
    }

    pub(super) fn number<T: TryFrom<u64>>(&mut self, path: &str, slot: &mut T) -> Result<(), ConfigError> {
        let key = schema::find(path);
        self.single(key, slot, |item| number(key, item))
    }

    pub(super) fn boolean(&mut self, path: &str, slot: &mut bool) -> Result<(), ConfigError> {
        let key = schema::find(path);
        self.single(key, slot, |item| boolean(key, item))
    }

    pub(super) fn choice<T>(
        &mut self,
        path: &str,
        slot: &mut T,
        named: fn(&str) -> Option<T>,
    ) -> Result<(), ConfigError> {
        let key = schema::find(path);
        self.single(key, slot, |item| named(item.text.trim()).ok_or_else(|| not_a_choice(key, item)))
    }

    /// Text that `parse` understands; its error completes the sentence "`key` …".
    pub(super) fn text<T>(
        &mut self,
        path: &str,
        slot: &mut T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<(), ConfigError> {
        let key = schema::find(path);
        self.single(key, slot, |item| parse(&item.text).map_err(|why| refused(key, item, &why)))
    }

    /// One value or a list of them; a comma separates too.
    pub(super) fn list<T>(
        &mut self,
        path: &str,
        slot: &mut Vec<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<(), ConfigError> {
        let key = schema::find(path);
        let Some((items, place)) = self.items(key)? else {
            return Ok(());
        };
        let mut out = Vec::new();
        for item in &items {
            for part in item.text.split(',') {
                let value = parse(part.trim()).map_err(|why| refused(key, item, &why));
                out.push(value.map_err(|problem| self.error_at(problem, key.path, &item.place))?);
            }
        }
        if out.is_empty() {
            let problem = Problem::new(Kind::OutOfRange, format!("{path} must not be empty"));
            return Err(self.error_at(problem, path, &place));
        }
        *slot = out;
        self.given.insert(key.path, place);
        Ok(())
    }

    /// A section of modules and their levels, or `module=level` with commas between.
    pub(super) fn levels(&mut self, path: &str, slot: &mut LogLevels) -> Result<(), ConfigError> {
        let key = schema::find(path);
        let mut out = BTreeMap::new();
        let place = match self.node(key)? {
            Some(Node { value: Value::Map(entries), mark }) if self.variable(key)?.is_none() => {
                for entry in entries {
                    let item = self.scalar(key, &entry.node)?;
                    let level = level_of(&entry.key, &item)
                        .map_err(|problem| self.error_at(problem, key.path, &Place::File(entry.mark)))?;
                    out.insert(level.0, level.1);
                }
                Place::File(*mark)
            }
            _ => {
                let Some(item) = self.item(key)? else { return Ok(()) };
                for part in item.text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                    let (module, level) = part.split_once('=').unwrap_or((part, ""));
                    let level = Item { text: level.trim().to_owned(), ..item.clone() };
                    let level = level_of(module.trim(), &level)
                        .map_err(|problem| self.error_at(problem, key.path, &item.place))?;
                    out.insert(level.0, level.1);
                }
                item.place
            }
        };
        *slot = LogLevels(out);
        self.given.insert(key.path, place);
        Ok(())
    }

    /// A section of certificates' names and their groups, or `name=0,1` with semicolons between.
    pub(super) fn groups(&mut self, path: &str, slot: &mut NamedGroups) -> Result<(), ConfigError> {
        let key = schema::find(path);
        let mut out = BTreeMap::new();
        let place = match self.node(key)? {
            Some(Node { value: Value::Map(entries), mark }) if self.variable(key)?.is_none() => {
                for entry in entries {
                    let nodes = match &entry.node.value {
                        Value::List(nodes) => &nodes[..],
                        _ => std::slice::from_ref(&entry.node),
                    };
                    let items = nodes.iter().map(|node| Ok(self.scalar(key, node)?.text));
                    let items = items.collect::<Result<Vec<_>, ConfigError>>()?;
                    groups_of(&mut out, &entry.key, items.iter().map(String::as_str))
                        .map_err(|problem| self.error_at(problem, key.path, &Place::File(entry.mark)))?;
                }
                Place::File(*mark)
            }
            _ => {
                let Some(item) = self.item(key)? else { return Ok(()) };
                for part in item.text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
                    let (name, groups) = part.split_once('=').unwrap_or((part, ""));
                    groups_of(&mut out, name.trim(), groups.split(',').filter(|g| !g.trim().is_empty()))
                        .map_err(|problem| self.error_at(problem, key.path, &item.place))?;
                }
                item.place
            }
        };
        if out.is_empty() {
            let problem = Problem::new(Kind::OutOfRange, format!("{path} must not be empty"))
                .hint("leave it out to let every certificate join every group");
            return Err(self.error_at(problem, path, &place));
        }
        *slot = NamedGroups(out);
        self.given.insert(key.path, place);
        Ok(())
    }

    /// An error about a setting that was read before, or about one that is missing.
    pub(super) fn fail(&self, path: &str, problem: Problem) -> ConfigError {
        match self.given.get(path) {
            Some(place) => self.error_at(problem, path, place),
            None => ConfigError::new(problem, Some(path), self.source_origin(), None),
        }
    }

    fn single<T>(
        &mut self,
        key: &'static Key,
        slot: &mut T,
        convert: impl FnOnce(&Item) -> Result<T, Problem>,
    ) -> Result<(), ConfigError> {
        let Some(item) = self.item(key)? else {
            return Ok(());
        };
        *slot = convert(&item).map_err(|problem| self.error_at(problem, key.path, &item.place))?;
        self.given.insert(key.path, item.place);
        Ok(())
    }

    fn item(&self, key: &'static Key) -> Result<Option<Item>, ConfigError> {
        if let Some(item) = self.variable(key)? {
            return Ok(Some(item));
        }
        let Some(node) = self.node(key)? else {
            return Ok(None);
        };
        let item = self.scalar(key, node)?;
        // An optional setting may come out empty: `ca_file: "${CA:-}"`.
        Ok((!item.text.is_empty() || !key.default.is_empty()).then_some(item))
    }

    fn items(&self, key: &'static Key) -> Result<Option<(Vec<Item>, Place)>, ConfigError> {
        if let Some(item) = self.variable(key)? {
            let place = item.place.clone();
            return Ok(Some((vec![item], place)));
        }
        let Some(node) = self.node(key)? else {
            return Ok(None);
        };
        let items = match &node.value {
            Value::List(nodes) => {
                nodes.iter().map(|node| self.scalar(key, node)).collect::<Result<_, _>>()?
            }
            _ => vec![self.scalar(key, node)?],
        };
        Ok(Some((items, Place::File(node.mark))))
    }

    /// The value of the variables for `key`; an empty one counts as not set.
    fn variable(&self, key: &'static Key) -> Result<Option<Item>, ConfigError> {
        let mut found: Option<(String, String)> = None;
        for name in key.variables() {
            let Some(text) = (self.env)(&name).filter(|text| !text.trim().is_empty()) else {
                continue;
            };
            match &found {
                Some((other, first)) if *first != text => {
                    let message = format!("{name} and {other} both set {} and differ", key.path);
                    let problem = Problem::new(Kind::Conflict, message).hint("set one of them only");
                    return Err(self.error_at(problem, key.path, &Place::Variable(name)));
                }
                _ => found = Some((name, text)),
            }
        }
        Ok(found.map(|(name, text)| {
            let text = if key.is_secret() { text } else { text.trim().to_owned() };
            Item { text, style: Style::Variable, place: Place::Variable(name) }
        }))
    }

    fn node(&self, key: &'static Key) -> Result<Option<&Node>, ConfigError> {
        let Some(node) = self.root.as_ref().and_then(|root| root.get(key.path)) else {
            return Ok(None);
        };
        if !node.is_null() {
            return Ok(Some(node));
        }
        if key.default.is_empty() {
            return Ok(None);
        }
        let message = format!("{} must be {}, found nothing", key.path, expected(key));
        let problem =
            Problem::new(Kind::WrongType, message).hint(format!("leave it out for {}", key.default));
        Err(self.source.error(problem, Some(key.path), node.mark, false))
    }

    fn scalar(&self, key: &'static Key, node: &Node) -> Result<Item, ConfigError> {
        let fail = |problem| self.source.error(problem, Some(key.path), node.mark, false);
        let (raw, plain) = match &node.value {
            Value::Scalar(raw, plain) => (raw, *plain),
            Value::List(_) => return Err(fail(wrong_type(key, "a list"))),
            Value::Map(_) => return Err(fail(wrong_type(key, "a section"))),
        };
        let text = interpolate(raw, self.env).map_err(fail)?;
        let style = match (&text, plain) {
            (Some(_), _) => Style::Variable,
            (None, true) => Style::Plain,
            (None, false) => Style::Quoted,
        };
        Ok(Item { text: text.unwrap_or_else(|| raw.clone()), style, place: Place::File(node.mark) })
    }

    /// Refuses keys that do not exist, and values where sections belong.
    fn check_names(&self, node: &Node, section: &str) -> Result<(), ConfigError> {
        let Value::Map(entries) = &node.value else {
            let what = if section.is_empty() { "the file".to_owned() } else { format!("`{section}`") };
            let problem =
                Problem::new(Kind::WrongType, format!("{what} must be a section of `key: value` lines"));
            return Err(self.source.error(problem, None, node.mark, false));
        };
        for entry in entries {
            let path =
                if section.is_empty() { entry.key.clone() } else { format!("{section}.{}", entry.key) };
            if schema::is_section(&path) {
                if !entry.node.is_null() {
                    self.check_names(&entry.node, &path)?;
                }
            } else if !schema::schema().iter().any(|key| key.path == path) {
                let place = if section.is_empty() { String::new() } else { format!(" in `{section}`") };
                let message = format!("unknown key {}{place}", shown(&entry.key));
                let hint = schema::suggestion(section, &entry.key);
                let problem = Problem::new(Kind::UnknownKey, message).hint(hint);
                return Err(self.source.error(problem, Some(&path), entry.mark, true));
            }
        }
        Ok(())
    }

    fn error_at(&self, problem: Problem, path: &str, place: &Place) -> ConfigError {
        match place {
            Place::File(mark) => self.source.error(problem, Some(path), *mark, false),
            Place::Variable(_) => ConfigError::new(problem, Some(path), self.origin(place), None),
        }
    }

    fn origin(&self, place: &Place) -> Origin {
        match place {
            Place::File(mark) => self.source.origin(*mark),
            Place::Variable(name) => Origin::Env { variable: name.clone() },
        }
    }

    /// The file as a whole, where there is one.
    fn source_origin(&self) -> Origin {
        match self.root {
            Some(_) => self.source.origin(Mark { line: 1, column: 1, length: 0 }),
            None => Origin::Default,
        }
    }
}

fn number<T: TryFrom<u64>>(key: &Key, item: &Item) -> Result<T, Problem> {
    let digits = item.text.strip_prefix('-').unwrap_or(&item.text);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number || item.style == Style::Quoted {
        let problem = wrong_type(key, &found(key, item));
        return Err(if is_number { problem.hint("write it without quotes") } else { problem });
    }
    let allowed = |value: &u64| match key.kind {
        KeyKind::Number { min, max } => (min..=max).contains(value),
        _ => true,
    };
    let value = u64::from_str(&item.text).ok().filter(allowed).and_then(|value| T::try_from(value).ok());
    value.ok_or_else(|| Problem { kind: Kind::OutOfRange, ..wrong_type(key, &found(key, item)) })
}

fn boolean(key: &Key, item: &Item) -> Result<bool, Problem> {
    match (item.text.as_str(), item.style) {
        ("true" | "True" | "TRUE", Style::Plain | Style::Variable) | ("1", Style::Variable) => Ok(true),
        ("false" | "False" | "FALSE", Style::Plain | Style::Variable) | ("0", Style::Variable) => Ok(false),
        ("true" | "false", Style::Quoted) => {
            Err(wrong_type(key, &found(key, item)).hint("write it without quotes"))
        }
        _ => Err(wrong_type(key, &found(key, item))),
    }
}

fn level_of(module: &str, level: &Item) -> Result<(&'static str, LogLevel), Problem> {
    let key = schema::find("logging.levels");
    let module = LogModule::find(module).map_err(|why| {
        Problem::new(Kind::UnknownKey, format!("{} {why}, found {}", key.path, shown(module)))
    })?;
    let found = LogLevel::from_name(level.text.trim()).ok_or_else(|| {
        let message = format!("{} of `{}` must be {}", key.path, module.name, expected(key));
        Problem::new(Kind::OutOfRange, format!("{message}, found {}", shown(&level.text)))
    })?;
    Ok((module.name, found))
}

/// Takes the groups of a certificate's name.
fn groups_of<'a>(
    out: &mut BTreeMap<String, BTreeSet<u32>>,
    name: &str,
    groups: impl Iterator<Item = &'a str>,
) -> Result<(), Problem> {
    let path = "network.tls.groups";
    let bad = |why: String| Problem::new(Kind::OutOfRange, format!("{path} {why}"));
    let known = certificate_name(name).map_err(|why| bad(format!("{why}, found {}", shown(name))))?;
    let mut of_name = BTreeSet::new();
    for group in groups.map(str::trim) {
        let digits = !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
        let group = group.parse().ok().filter(|_| digits).ok_or_else(|| {
            let most = u32::MAX;
            bad(format!("of `{known}` must be peer groups from 0 to {most}, found {}", shown(group)))
        })?;
        of_name.insert(group);
    }
    if of_name.is_empty() {
        return Err(bad(format!("of `{known}` must have a peer group or a list of them"))
            .hint("a name that may join none need not be there"));
    }
    if out.insert(known.clone(), of_name).is_some() {
        return Err(bad(format!("has `{known}` twice")).hint("one list for each name"));
    }
    Ok(())
}

fn not_a_choice(key: &Key, item: &Item) -> Problem {
    let problem = Problem { kind: Kind::OutOfRange, ..wrong_type(key, &found(key, item)) };
    let KeyKind::Choice(names) = key.kind else {
        return problem;
    };
    let lower = item.text.to_ascii_lowercase();
    let near =
        names.iter().map(|name| (strsim::osa_distance(&name.to_ascii_lowercase(), &lower), name)).min();
    match near.filter(|&(distance, name)| {
        distance <= (name.len() / 3).max(1) || lower.starts_with(&name.to_ascii_lowercase())
    }) {
        Some((_, name)) => problem.hint(format!("did you mean `{name}`?")),
        None => problem,
    }
}

fn refused(key: &Key, item: &Item, why: &str) -> Problem {
    let value = if item.text.is_empty() || key.is_secret() {
        String::new()
    } else {
        format!(", found {}", found(key, item))
    };
    Problem::new(Kind::OutOfRange, format!("{} {why}{value}", key.path))
}

fn wrong_type(key: &Key, found: &str) -> Problem {
    Problem::new(Kind::WrongType, format!("{} must be {}, found {found}", key.path, expected(key)))
}

fn found(key: &Key, item: &Item) -> String {
    match item.style {
        _ if key.is_secret() => "something else".to_owned(),
        Style::Quoted => format!("the text {}", shown(&item.text)),
        _ => shown(&item.text),
    }
}

fn expected(key: &Key) -> String {
    match key.kind {
        KeyKind::Number { min, max } => {
            let unit = key.unit.map(|unit| format!(" {unit}")).unwrap_or_default();
            format!("a whole number from {min} to {max}{unit}")
        }
        KeyKind::Bool => "true or false".to_owned(),
        KeyKind::Choice(names) | KeyKind::Levels(names) => format!("one of {}", names.join(", ")),
        KeyKind::Groups => "names of certificates, each with a peer group or a list of them".to_owned(),
        KeyKind::Hosts => "a host or a list of hosts".to_owned(),
        KeyKind::Networks => "a network or a list of networks".to_owned(),
        KeyKind::Host => "a host".to_owned(),
        KeyKind::Ports => "a range of ports such as \"7118-7150\"".to_owned(),
        KeyKind::Address => "an address such as \":9090\"".to_owned(),
        KeyKind::Text | KeyKind::Path | KeyKind::Secret => "text".to_owned(),
    }
}
