//! Which objects a list or a watch is about: namespace, label selector, field selector.

use std::collections::BTreeMap;

use serde_json::Value;

use super::answer::Refusal;

/// What a list or watch asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Only in this namespace.
    pub(crate) namespace: Option<String>,
    labels: Vec<Requirement>,
    fields: Vec<(Vec<String>, String, bool)>,
}

/// One part of a label selector.
#[derive(Clone, Debug)]
enum Requirement {
    Is(String, Vec<String>),
    IsNot(String, Vec<String>),
    Has(String),
    HasNot(String),
}

impl Selection {
    /// From the query of a request.
    pub(crate) fn new(namespace: Option<String>, query: &BTreeMap<String, String>) -> Result<Self, Refusal> {
        let labels = query.get("labelSelector").map(String::as_str).unwrap_or_default();
        let labels = split(labels).into_iter().map(requirement).collect::<Result<_, _>>()?;
        let fields = query.get("fieldSelector").map(String::as_str).unwrap_or_default();
        let fields =
            fields.split(',').filter(|part| !part.is_empty()).map(field).collect::<Result<_, _>>()?;
        Ok(Self { namespace, labels, fields })
    }

    /// Whether it asks for this object.
    pub(crate) fn takes(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let here =
            self.namespace.as_ref().is_none_or(|namespace| metadata["namespace"] == namespace.as_str());
        here && self.labels.iter().all(|requirement| requirement.holds(&metadata["labels"]))
            && self.fields.iter().all(|(path, value, equal)| {
                let found = path.iter().try_fold(object, |value, name| value.get(name));
                (found.and_then(Value::as_str).unwrap_or_default() == value) == *equal
            })
    }
}

impl Requirement {
    fn holds(&self, labels: &Value) -> bool {
        let label = |name: &String| labels[name.as_str()].as_str();
        let among = |values: &[String], label: Option<&str>| {
            label.is_some_and(|label| values.iter().any(|v| v == label))
        };
        match self {
            Self::Is(name, values) => among(values, label(name)),
            Self::IsNot(name, values) => !among(values, label(name)),
            Self::Has(name) => label(name).is_some(),
            Self::HasNot(name) => label(name).is_none(),
        }
    }
}

/// Splits at commas outside of brackets.
fn split(selector: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, c) in selector.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&selector[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(part: &str) -> Result<Requirement, Refusal> {
    let one = |value: &str| vec![value.trim().to_owned()];
    let name = |name: &str| name.trim().to_owned();
    let bad = || Refusal::bad_request(format!("unable to parse requirement: {part}"));
    if let Some((key, rest)) = part.split_once(" notin ").or_else(|| part.split_once(" in ")) {
        let inner = rest.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or_else(bad)?;
        let values = inner.split(',').map(|value| value.trim().to_owned()).collect();
        let negated = part.contains(" notin ");
        return Ok(if negated {
            Requirement::IsNot(name(key), values)
        } else {
            Requirement::Is(name(key), values)
        });
    }
    Ok(if let Some((key, value)) = part.split_once("!=") {
        Requirement::IsNot(name(key), one(value))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        Requirement::Is(name(key), one(value))
    } else if let Some(key) = part.strip_prefix('!') {
        Requirement::HasNot(name(key))
    } else {
        Requirement::Has(name(part))
    })
}

fn field(part: &str) -> Result<(Vec<String>, String, bool), Refusal> {
    let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (path, value, true)
    } else {
        return Err(Refusal::bad_request(format!("invalid field selector: {part}")));
    };
    Ok((path.split('.').map(str::to_owned).collect(), value.to_owned(), equal))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn takes(labels: &str, fields: &str) -> bool {
        let query = [("labelSelector", labels), ("fieldSelector", fields)];
        let query = query.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let object = json!({ "metadata": { "name": "x", "labels": { "app": "besu", "tier": "a" } } });
        Selection::new(None, &query).unwrap().takes(&object)
    }

    #[test]
    fn selectors_are_those_of_kubernetes() {
        for good in
            ["", "app=besu", "app==besu,tier", "tier in (a, b),app", "!zone", "zone!=a", "tier notin (b)"]
        {
            assert!(takes(good, "metadata.name=x"), "{good}");
        }
        for bad in ["app=pccl", "zone", "!app", "tier in (b)", "tier notin (a,b)", "app!=besu"] {
            assert!(!takes(bad, ""), "{bad}");
        }
        assert!(!takes("", "metadata.name=y") && takes("", "metadata.name!=y"));
    }
}
