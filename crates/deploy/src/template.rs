//! Templates: what `{{ … }}` stands for in one task. Strict: a name that stands for nothing is an error.

use std::collections::BTreeMap;
use std::fmt;

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, Value as Jinja, context};
use serde_json::Value;

use crate::file::{Action, Count, Deployment, Generated, Item, List, TARGETS, Target};

/// Why a template cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Where in what was rendered: keys and indexes with dots between; empty for a single text.
    pub path: String,
    /// What is wrong, in one line.
    pub reason: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)
    }
}

impl std::error::Error for TemplateError {}

/// All targets and lists of a deployment, lists that are generated written out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// The targets, in the order of the file.
    pub targets: Vec<Target>,
    /// The lists.
    pub lists: BTreeMap<String, Vec<Item>>,
}

/// What one task is about: an entry of a list, and the target that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject<'a> {
    /// Index of the target in [`Catalog::targets`].
    pub target: Option<usize>,
    /// List and index of the item.
    pub item: Option<(&'a str, usize)>,
}

/// Renders the templates of one deployment.
pub struct Renderer {
    environment: Environment<'static>,
    /// What all tasks share.
    shared: Jinja,
    targets: Vec<Jinja>,
    lists: BTreeMap<String, Vec<Jinja>>,
}

impl fmt::Debug for Renderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renderer").field("targets", &self.targets.len()).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Writes out the lists of a deployment.
    ///
    /// # Errors
    /// A template of a generated list that cannot be rendered; `path` is that of the file.
    pub fn new(deployment: &Deployment) -> Result<Self, TemplateError> {
        let environment = environment();
        let mut lists = BTreeMap::new();
        for (name, list) in &deployment.lists {
            let items = match list {
                List::Items(items) => items.clone(),
                List::Generated(rule) => generate(&environment, deployment, rule)
                    .map_err(|e| TemplateError { path: format!("lists.{name}.{}", e.path), ..e })?,
            };
            lists.insert(name.clone(), items);
        }
        Ok(Self { targets: deployment.targets.clone(), lists })
    }

    /// What a phase with this `for_each` is repeated for, in order.
    pub fn subjects<'a>(&self, for_each: Option<&'a str>) -> Vec<Subject<'a>> {
        match for_each {
            None => vec![Subject::default()],
            Some(TARGETS) => {
                (0..self.targets.len()).map(|at| Subject { target: Some(at), item: None }).collect()
            }
            Some(list) => {
                let index: BTreeMap<&str, usize> =
                    self.targets.iter().enumerate().map(|(at, target)| (target.name.as_str(), at)).collect();
                let items = self.lists.get(list).map_or(&[][..], Vec::as_slice);
                let target = |item: &Item| item.target.as_deref().and_then(|name| index.get(name).copied());
                let subject = |(at, item)| Subject { target: target(item), item: Some((list, at)) };
                items.iter().enumerate().map(subject).collect()
            }
        }
    }

    /// The name of what a task is about; empty for a phase that runs once.
    pub fn name(&self, subject: Subject<'_>) -> &str {
        match subject {
            Subject { item: Some((list, at)), .. } => {
                self.lists.get(list).and_then(|items| items.get(at)).map_or("", |item| &item.name)
            }
            Subject { target: Some(at), .. } => self.targets.get(at).map_or("", |target| &target.name),
            Subject { .. } => "",
        }
    }
}

/// Whether a task about `task` takes down `one`.
pub(crate) fn disrupts(task: Subject<'_>, one: Subject<'_>) -> bool {
    match (task.item, one.item) {
        (Some(a), Some(b)) if a.0 == b.0 => a.1 == b.1,
        _ => match (task.target, one.target) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        },
    }
}

fn jinja<T: serde::Serialize>(value: &T) -> Jinja {
    Jinja::from(Serde(value))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
}

fn generate(
    environment: &Environment<'_>,
    deployment: &Deployment,
    rule: &Generated,
) -> Result<Vec<Item>, TemplateError> {
    let mut items = Vec::new();
    for target in &deployment.targets {
        let count = count(environment, deployment, target, &rule.per_target)?;
        if items.len() + count as usize > MOST_ENTRIES {
            let reason = format!("a list of more than {MOST_ENTRIES} entries: nobody could deploy them");
            return Err(TemplateError { path: "per_target".to_owned(), reason });
        }
        for local in 1..=count {
            let values = context! {
                target => jinja(target), vars => jinja(&deployment.vars), index => items.len() + 1, local_index => local,
            };
            let text = |path: &str, template: &str| {
                render(environment, template, &values)
                    .map_err(|reason| TemplateError { path: path.to_owned(), reason })
            };
            let mut item = Item {
                name: text("name", &rule.name)?,
                target: Some(target.name.clone()),
                values: BTreeMap::new(),
            };
            for (key, template) in &rule.values {
                let value = text(&format!("values.{key}"), template)?;
                item.values.insert(key.clone(), Value::String(value));
            }
            items.push(item);
        }
    }
    Ok(items)
}

/// Most entries of a generated list: a wrong digit must not fill the memory.
const MOST_ENTRIES: usize = 1_000_000;

/// How many entries a target has.
fn count(
    environment: &Environment<'_>,
    deployment: &Deployment,
    target: &Target,
    count: &Count,
) -> Result<u32, TemplateError> {
    let template = match count {
        Count::Number(count) => return Ok(*count),
        Count::Template(template) => template,
    };
    let fail = |reason: String| TemplateError { path: "per_target".to_owned(), reason };
    let values = context! { target => jinja(target), vars => jinja(&deployment.vars) };
    let text = render(environment, template, &values).map_err(fail)?;
    text.trim().parse().map_err(|_| fail(format!("{} is no number of entries", crate::error::shown(&text))))
}

impl Renderer {
    /// For the tasks of `deployment`.
    pub fn new(deployment: &Deployment, catalog: &Catalog) -> Self {
        let targets: Vec<Jinja> = catalog.targets.iter().map(jinja).collect();
        let values = |items: &Vec<Item>| items.iter().map(jinja).collect();
        let lists: BTreeMap<String, Vec<Jinja>> =
            catalog.lists.iter().map(|(name, items)| (name.clone(), values(items))).collect();
        let shared = context! {
            deployment => context! { name => deployment.name.as_str() },
            vars => jinja(&deployment.vars),
            targets => targets.clone(),
            lists => lists.clone(),
        };
        Self { environment: environment(), shared, targets, lists }
    }

    /// What the templates of one task may name.
    pub fn context(&self, phase: &str, subject: Subject<'_>) -> Jinja {
        let mut values = BTreeMap::from([("phase", context! { name => phase })]);
        if let Some(target) = subject.target.and_then(|at| self.targets.get(at)) {
            values.insert("target", target.clone());
        }
        let item = subject.item.and_then(|(list, at)| self.lists.get(list)?.get(at));
        if let Some(item) = item.or(subject.target.and_then(|at| self.targets.get(at))) {
            values.insert("item", item.clone());
        }
        minijinja::value::merge_maps([Jinja::from(values), self.shared.clone()])
    }

    /// What the gates of a wave may name; waves count from 1.
    pub fn wave_context(&self, wave: usize) -> Jinja {
        minijinja::value::merge_maps([context! { wave => wave }, self.shared.clone()])
    }

    /// Renders one text.
    ///
    /// # Errors
    /// A syntax error, or a name that stands for nothing.
    pub fn text(&self, template: &str, context: &Jinja) -> Result<String, TemplateError> {
        render(&self.environment, template, context)
            .map_err(|reason| TemplateError { path: String::new(), reason })
    }

    /// Renders every text of an action.
    ///
    /// # Errors
    /// As [`text`](Self::text), with the path of the text in the action.
    pub fn action(&self, action: &Action, context: &Jinja) -> Result<Action, TemplateError> {
        let fail = |reason: String| TemplateError { path: String::new(), reason };
        let mut tree = serde_json::to_value(action).map_err(|e| fail(e.to_string()))?;
        self.tree(&mut tree, context, &mut Vec::new())?;
        serde_json::from_value(tree).map_err(|e| fail(format!("it does not fit its place: {e}")))
    }

    fn tree(&self, tree: &mut Value, context: &Jinja, path: &mut Vec<String>) -> Result<(), TemplateError> {
        match tree {
            Value::String(text) if ["{{", "{%", "{#"].iter().any(|sign| text.contains(sign)) => {
                *text = render(&self.environment, text, context)
                    .map_err(|reason| TemplateError { path: path.join("."), reason })?;
            }
            Value::Array(values) => {
                for (at, value) in values.iter_mut().enumerate() {
                    path.push(at.to_string());
                    self.tree(value, context, path)?;
                    path.pop();
                }
            }
            Value::Object(values) => {
                for (key, value) in values {
                    path.push(key.clone());
                    self.tree(value, context, path)?;
                    path.pop();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn render(environment: &Environment<'_>, template: &str, context: &Jinja) -> Result<String, String> {
    environment.render_str(template, context).map_err(|error| {
        let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        match error.kind() {
            minijinja::ErrorKind::UndefinedError => {
                format!("the template {} names something that is not there", crate::error::shown(template))
            }
            _ => format!("the template {} cannot be rendered: {reason}", crate::error::shown(template)),
        }
    })
}
