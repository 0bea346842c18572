//! Values of `vars` from the command line.

use std::collections::BTreeMap;

use serde_json::Value;

use super::check::{Check, fail_with};
use crate::error::{FileErrorKind as Kind, shown, suggestion};

/// Replaces values of a file's `vars`. A value is of the kind that the file's own has: text stays text (`1.10` too), a
/// number must be a number; a list or section is written as JSON.
pub(super) fn set(vars: &mut BTreeMap<String, Value>, given: &[(String, String)]) -> Check {
    for (name, text) in given {
        let Some(value) = vars.get(name) else {
            let message = format!("there is no variable {} in `vars`", shown(name));
            let names: Vec<&str> = vars.keys().map(String::as_str).collect();
            return fail_with("vars", Kind::UnknownName, message, suggestion(name, names));
        };
        let read = if value.is_string() {
            Some(Value::String(text.clone()))
        } else {
            serde_json::from_str(text).ok().filter(|read| value.is_null() || kind(read) == kind(value))
        };
        let Some(read) = read else {
            let message = format!("{} is no value for {}", shown(text), shown(name));
            let hint = format!("the file has a {} there: {value}", kind(value));
            return fail_with(format!("vars.{name}"), Kind::Value, message, hint);
        };
        vars.insert(name.clone(), read);
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "value of any kind",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "section",
    }
}
