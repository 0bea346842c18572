//! `${NAME}` and `${NAME:-default}` in the values of the file.

use super::Env;
use super::error::{ConfigErrorKind, Problem, shown};

/// The text with its variables replaced, or nothing if there is none in it.
///
/// `${NAME}` must be set; `${NAME:-default}` takes the default if it is unset or empty; `$${` stands for `${`; any
/// other `$` is itself. What comes out of a variable is not looked at again, so it cannot add keys or variables.
pub(super) fn interpolate(raw: &str, env: Env<'_>) -> Result<Option<String>, Problem> {
    if !raw.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some((inside, after)) = rest[at + 2..].split_once('}') else {
            let message = "a variable begins with `${` and does not end with `}`";
            return Err(
                Problem::new(ConfigErrorKind::Syntax, message).hint("write `$${` where you mean `${` itself")
            );
        };
        out.push_str(&value_of(inside, env)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn value_of(inside: &str, env: Env<'_>) -> Result<String, Problem> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !name.starts_with(first) || !name.chars().all(|c| first(c) || c.is_ascii_digit()) {
        // The name only: a default may be a secret.
        let message = format!("{} is not the name of a variable", shown(name));
        return Err(
            Problem::new(ConfigErrorKind::Syntax, message).hint("write `${NAME}` or `${NAME:-default}`")
        );
    }
    if default.is_some_and(|default| default.contains("${")) {
        let message = format!("the default of `${{{name}}}` must not contain a variable");
        return Err(Problem::new(ConfigErrorKind::Syntax, message));
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let message = format!("the environment variable {name} is not set");
            Err(Problem::new(ConfigErrorKind::UnsetVariable, message)
                .hint(format!("set it, or give a default: `${{{name}:-…}}`")))
        }
    }
}
