//! Strategic merge patches: a merge patch that knows which lists are sets of objects with a name.

use serde_json::{Map, Value};

/// Lists whose elements are merged by one of their fields: Kubernetes' `patchMergeKey`s, by the name of the list. Of several
/// the first that an element has counts: the ports of a container are told apart by another field than those of a service.
const KEYS: &[(&str, &[&str])] = &[
    ("conditions", &["type"]),
    ("containers", &["name"]),
    ("env", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("hostAliases", &["ip"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ownerReferences", &["uid"]),
    ("ports", &["containerPort", "port"]),
    ("secrets", &["name"]),
    ("topologySpreadConstraints", &["topologyKey"]),
    ("volumeDevices", &["devicePath"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// The order in which a list is to be: of elements, or of the fields that name them.
const ORDER: &str = "$setElementOrder/";
/// Elements of a list of words that are to go.
const DELETE: &str = "$deleteFromPrimitiveList/";
/// Fields of an object that stay; all others go.
const RETAIN: &str = "$retainKeys";
/// `replace`, `delete` or `merge`.
const HOW: &str = "$patch";

/// Changes `target` as the patch says.
pub(crate) fn patch(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if changes.get(HOW).is_some_and(|how| how == "replace") || !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    if let Some(kept) = changes.get(RETAIN).and_then(Value::as_array) {
        fields.retain(|name, _| kept.iter().any(|keep| keep == name));
    }
    for (name, change) in changes.iter().filter(|(name, _)| !name.starts_with('$')) {
        if change.is_null() || change.get(HOW).is_some_and(|how| how == "delete") {
            fields.remove(name);
            continue;
        }
        let field = fields.entry(name.as_str()).or_insert(Value::Null);
        match (change, key_of(name, change)) {
            (Value::Array(elements), Some(key)) => merge_list(field, elements, key),
            _ => self::patch(field, change),
        }
    }
    for (directive, value) in changes {
        if let Some(list) = directive.strip_prefix(DELETE).and_then(|name| fields.get_mut(name)) {
            let gone = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(list) = list.as_array_mut() {
                list.retain(|element| !gone.contains(element));
            }
        }
        if let Some(name) = directive.strip_prefix(ORDER)
            && let Some(list) = fields.get_mut(name)
        {
            order(list, key_of(name, value), value);
        }
    }
}

/// By which field the elements of a list are told apart.
fn key_of(list: &str, elements: &Value) -> Option<&'static str> {
    let (_, keys) = KEYS.iter().find(|(name, _)| *name == list)?;
    let all = elements.as_array()?;
    keys.iter().find(|key| all.iter().any(|element| !element[**key].is_null())).copied()
}

fn merge_list(list: &mut Value, changes: &[Value], key: &str) {
    if changes.iter().any(|change| change[HOW] == "replace") || !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Some(elements) = list.as_array_mut() else { return };
    for change in changes {
        let at = elements.iter().position(|element| element[key] == change[key]);
        match (at, change[HOW].as_str()) {
            (Some(at), Some("delete")) => drop(elements.remove(at)),
            (_, Some("replace" | "delete")) => {}
            (Some(at), _) => patch(&mut elements[at], change),
            (None, _) => {
                let mut new = Value::Null;
                patch(&mut new, change);
                elements.push(new);
            }
        }
    }
}

/// Puts what the order names where it says; the rest stays behind.
fn order(list: &mut Value, key: Option<&str>, order: &Value) {
    let (Some(elements), Some(order)) = (list.as_array_mut(), order.as_array()) else { return };
    let named = |element: &Value| key.map_or_else(|| element.clone(), |key| element[key].clone());
    let place = |element: &Value| order.iter().position(|one| named(one) == named(element));
    elements.sort_by_key(|element| place(element).unwrap_or(usize::MAX));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut target: Value, change: &Value) -> Value {
        patch(&mut target, change);
        target
    }

    #[test]
    fn the_image_of_one_container_changes_and_the_others_stay() {
        let pod = json!({ "containers": [
            { "name": "web", "image": "web:1", "ports": [{ "containerPort": 80, "name": "http" }] },
            { "name": "log", "image": "log:1" },
        ], "args": ["a", "b"] });
        let change = json!({
            "$setElementOrder/containers": [{ "name": "log" }, { "name": "web" }, { "name": "new" }],
            "containers": [
                { "name": "web", "image": "web:2", "ports": [{ "containerPort": 443 }, { "containerPort": 80, "$patch": "delete" }] },
                { "name": "new", "image": "new:1" },
            ],
            "args": ["c"],
        });
        let expected = json!({ "containers": [
            { "name": "log", "image": "log:1" },
            { "name": "web", "image": "web:2", "ports": [{ "containerPort": 443 }] },
            { "name": "new", "image": "new:1" },
        ], "args": ["c"] });
        assert_eq!(patched(pod, &change), expected);
    }

    #[test]
    fn directives_remove_replace_and_retain() {
        let before = json!({
            "spec": { "ports": [{ "port": 1 }, { "port": 2 }], "strategy": { "type": "A", "rolling": { "x": 1 } } },
            "metadata": { "finalizers": ["a", "b"], "labels": { "k": "v", "gone": "1" } },
            "data": { "old": "1" },
            "other": { "x": 1 },
        });
        let change = json!({
            "spec": {
                "ports": [{ "$patch": "replace" }, { "port": 3 }],
                "strategy": { "$retainKeys": ["type"], "type": "B" },
            },
            "metadata": { "$deleteFromPrimitiveList/finalizers": ["a"], "labels": { "gone": null } },
            "data": { "$patch": "replace", "new": "2" },
            "other": { "$patch": "delete" },
        });
        let after = json!({
            "spec": { "ports": [{ "port": 3 }], "strategy": { "type": "B" } },
            "metadata": { "finalizers": ["b"], "labels": { "k": "v" } },
            "data": { "new": "2" },
        });
        assert_eq!(patched(before, &change), after);
    }
}
