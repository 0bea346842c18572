//! Server-side apply: who owns which field, and what an apply changes.
//!
//! As in Kubernetes: an applied object is the whole of what its manager wants. What it no longer names is removed unless
//! another manager owns it; what another manager owns with another value is a conflict, unless the apply is forced.
//! Simpler than Kubernetes: a list is one value and has one owner, so two managers cannot each own an element.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::answer::Refusal;

/// The way to a field, as the names on it.
type Path = Vec<String>;

/// Who has set a field: manager and `Apply` or `Update`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Manager {
    /// `kubectl`, say.
    pub(crate) name: String,
    /// How it was set.
    pub(crate) applies: bool,
}

/// Who owns the fields of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owners(BTreeMap<Manager, BTreeSet<Path>>);

/// What no manager owns.
const UNOWNED: [&[&str]; 6] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "managedFields"],
    &["status"],
];

impl Owners {
    /// Merges what `manager` wants into `live`.
    pub(crate) fn apply(
        &mut self,
        live: &Value,
        wanted: &Value,
        manager: &str,
        force: bool,
    ) -> Result<Value, Refusal> {
        let manager = Manager { name: manager.to_owned(), applies: true };
        let fields = leaves(wanted);
        let conflicts = self.conflicts(live, wanted, &manager, &fields);
        if !conflicts.is_empty() && !force {
            return Err(Refusal::conflict(explain(&conflicts)));
        }
        for (other, path) in &conflicts {
            self.take_from(other, path);
        }
        let mut merged = live.clone();
        let before = self.0.insert(manager.clone(), fields.clone()).unwrap_or_default();
        for path in before.difference(&fields) {
            let kept = self.0.values().any(|owned| owned.contains(path));
            if !kept && !fields.iter().any(|field| field.starts_with(path)) {
                remove(&mut merged, path);
            }
        }
        for path in &fields {
            if let Some(value) = at(wanted, path) {
                set(&mut merged, path, value.clone());
            }
        }
        Ok(merged)
    }

    /// Notes that `manager` has written `after` over `before`: what differs is now its own.
    pub(crate) fn update(&mut self, before: &Value, after: &Value, manager: &str) {
        let changed: BTreeSet<_> =
            leaves(after).into_iter().filter(|path| at(before, path) != at(after, path)).collect();
        for owned in self.0.values_mut() {
            owned.retain(|path| !changed.contains(path) && at(after, path).is_some());
        }
        if !changed.is_empty() {
            let manager = Manager { name: manager.to_owned(), applies: false };
            self.0.entry(manager).or_default().extend(changed);
        }
        self.0.retain(|_, owned| !owned.is_empty());
    }

    fn conflicts(
        &self,
        live: &Value,
        wanted: &Value,
        manager: &Manager,
        fields: &BTreeSet<Path>,
    ) -> Vec<(Manager, Path)> {
        let mut found = Vec::new();
        for (other, owned) in self.0.iter().filter(|(other, _)| *other != manager) {
            let differs = |path: &&Path| fields.contains(*path) && at(live, path) != at(wanted, path);
            found.extend(owned.iter().filter(differs).map(|path| (other.clone(), path.clone())));
        }
        found
    }

    fn take_from(&mut self, other: &Manager, path: &Path) {
        if let Some(owned) = self.0.get_mut(other) {
            owned.remove(path);
        }
        self.0.retain(|_, owned| !owned.is_empty());
    }

    /// As `metadata.managedFields`.
    pub(crate) fn managed_fields(&self, api_version: &str, time: &str) -> Value {
        let entry = |(manager, owned): (&Manager, &BTreeSet<Path>)| {
            let mut fields = json!({});
            for path in owned {
                let marked: Path = path.iter().map(|name| format!("f:{name}")).collect();
                set(&mut fields, &marked, json!({}));
            }
            json!({
                "manager": manager.name,
                "operation": if manager.applies { "Apply" } else { "Update" },
                "apiVersion": api_version,
                "time": time,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields,
            })
        };
        self.0.iter().map(entry).collect()
    }
}

fn explain(conflicts: &[(Manager, Path)]) -> String {
    let count = conflicts.len();
    let lines = conflicts
        .iter()
        .map(|(manager, path)| format!("conflict with \"{}\": .{}", manager.name, path.join(".")));
    let plural = if count == 1 { "" } else { "s" };
    format!("Apply failed with {count} conflict{plural}: {}", lines.collect::<Vec<_>>().join("; "))
}

/// JSON merge patch (RFC 7386).
pub(crate) fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(fields) = target.as_object_mut() {
                fields.remove(name);
            }
        } else {
            merge_patch(&mut target[name.as_str()], value);
        }
    }
}

/// The ways to all fields that are not objects with something in them.
fn leaves(object: &Value) -> BTreeSet<Path> {
    fn walk(value: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
        if UNOWNED.iter().any(|unowned| path.iter().eq(unowned.iter())) {
            return;
        }
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    path.push(name.clone());
                    walk(value, path, found);
                    path.pop();
                }
            }
            _ if path.is_empty() => {}
            _ => {
                found.insert(path.clone());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(object, &mut Vec::new(), &mut found);
    found
}

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}

fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *object = value;
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    set(&mut object[first.as_str()], rest, value);
}

/// Removes a field, and the objects around it that are empty then.
fn remove(object: &mut Value, path: &[String]) {
    let (Some((first, rest)), Some(fields)) = (path.split_first(), object.as_object_mut()) else { return };
    if rest.is_empty() {
        fields.remove(first);
    } else if let Some(inner) = fields.get_mut(first) {
        remove(inner, rest);
        if inner.as_object().is_some_and(Map::is_empty) {
            fields.remove(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manager_no_longer_names_is_removed() {
        let mut owners = Owners::default();
        let first = json!({ "data": { "a": "1", "b": "2" } });
        let live = owners.apply(&json!({}), &first, "me", false).unwrap();
        assert_eq!(live, first);
        let live = owners.apply(&live, &json!({ "data": { "b": "3" } }), "me", false).unwrap();
        assert_eq!(live, json!({ "data": { "b": "3" } }));
    }

    #[test]
    fn what_another_owns_stays_and_is_a_conflict_unless_forced() {
        let mut owners = Owners::default();
        let live = owners
            .apply(&json!({}), &json!({ "spec": { "replicas": 1, "image": "a" } }), "me", false)
            .unwrap();
        let mut scaled = live.clone();
        scaled["spec"]["replicas"] = json!(5);
        owners.update(&live, &scaled, "autoscaler");
        let again = owners.clone().apply(&scaled, &json!({ "spec": { "image": "b" } }), "me", false).unwrap();
        assert_eq!(again, json!({ "spec": { "replicas": 5, "image": "b" } }));
        let wanted = json!({ "spec": { "replicas": 2, "image": "b" } });
        let refusal = owners.apply(&scaled, &wanted, "me", false).unwrap_err();
        assert_eq!(refusal.code, 409);
        assert!(refusal.message.contains("conflict with \"autoscaler\": .spec.replicas"), "{refusal}");
        assert_eq!(owners.apply(&scaled, &wanted, "me", true).unwrap(), wanted);
        assert_eq!(owners.managed_fields("v1", "now").as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_merge_patch_removes_by_null() {
        let mut target = json!({ "a": { "b": 1, "c": 2 }, "d": [1] });
        merge_patch(&mut target, &json!({ "a": { "b": null, "e": 3 }, "d": [2] }));
        assert_eq!(target, json!({ "a": { "c": 2, "e": 3 }, "d": [2] }));
    }
}
