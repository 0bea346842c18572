//! OpenAPI documents, as much as clients need: kubectl asks whether the server checks fields itself before it sends
//! objects, and finds the answer among the parameters of `PATCH`.

use serde_json::{Map, Value, json};

use super::resources::{self, Resource};

/// Answer to `/openapi/v3`: where the document of each group is.
pub(crate) fn index() -> Value {
    let paths: Map<_, _> = resources::group_versions()
        .into_iter()
        .map(|(path, ..)| {
            let at = json!({ "serverRelativeURL": format!("/openapi/v3/{path}") });
            (path, at)
        })
        .collect();
    json!({ "paths": paths })
}

/// Answer to `/openapi/v3/<group and version>`.
pub(crate) fn v3(group: &str, version: &str) -> Option<Value> {
    let paths: Map<_, _> = resources::members(group, version).map(|one| path(one, true)).collect();
    let schemas: Map<_, _> = resources::members(group, version).map(schema).collect();
    (!paths.is_empty()).then(|| {
        json!({
            "openapi": "3.0.0",
            "info": { "title": "Kubernetes", "version": super::VERSION },
            "paths": paths,
            "components": { "schemas": schemas },
        })
    })
}

/// Answer to `/openapi/v2`, for clients that read it as JSON.
pub(crate) fn v2() -> Value {
    let paths: Map<_, _> = resources::RESOURCES.iter().map(|one| path(one, false)).collect();
    let definitions: Map<_, _> = resources::RESOURCES.iter().map(schema).collect();
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": super::VERSION },
        "paths": paths,
        "definitions": definitions,
    })
}

fn path(one: &Resource, v3: bool) -> (String, Value) {
    let root =
        if one.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}", one.api_version()) };
    let namespace = if one.namespaced { "/namespaces/{namespace}" } else { "" };
    let parameter = |name: &str, place: &str, required: bool| {
        let mut parameter = json!({ "name": name, "in": place, "required": required });
        if v3 {
            parameter["schema"] = json!({ "type": "string", "uniqueItems": true });
        } else {
            parameter["type"] = json!("string");
        }
        parameter
    };
    let queries = ["dryRun", "fieldManager", "fieldValidation", "force"];
    let mut operation = json!({
        "operationId": format!("patch{}{}", one.version, one.kind),
        "parameters": queries.map(|name| parameter(name, "query", false)),
        "responses": { "200": { "description": "OK" } },
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": kind(one),
    });
    if !v3 {
        operation["consumes"] = json!([super::APPLY_PATCH]);
    }
    let mut in_path = vec![parameter("name", "path", true)];
    if one.namespaced {
        in_path.push(parameter("namespace", "path", true));
    }
    let item = json!({ "parameters": in_path, "patch": operation });
    (format!("{root}{namespace}/{}/{{name}}", one.plural), item)
}

/// Objects of any content: this server takes what the schemas of a real one have checked.
fn schema(one: &Resource) -> (String, Value) {
    let group = one.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    let schema = json!({
        "type": "object",
        "description": format!("{} of {}", one.kind, one.api_version()),
        "x-kubernetes-group-version-kind": [kind(one)],
        "x-kubernetes-preserve-unknown-fields": true,
    });
    (format!("io.k8s.api.{group}.{}.{}", one.version, one.kind), schema)
}

fn kind(one: &Resource) -> Value {
    json!({ "group": one.group, "version": one.version, "kind": one.kind })
}
