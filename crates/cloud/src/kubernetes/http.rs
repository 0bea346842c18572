//! The clusters over HTTP: paths and verbs of the Kubernetes API, one cluster below `/clusters/<name>` each.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use super::answer::Refusal;
use super::protobuf;
use super::resources::{self, Resource};
use super::select::Selection;
use super::store::{Change, Key, Manner};
use super::{APPLY_PATCH, Clusters, apply, openapi, strategic};

/// Bodies above this are refused, as by etcd.
const MOST_BODY_BYTES: usize = 3 << 20;

/// How long a watch lasts when the client does not say.
const WATCH_TIME: Duration = Duration::from_secs(300);

/// What a request names.
struct Asked {
    resource: &'static Resource,
    namespace: String,
    name: String,
    query: BTreeMap<String, String>,
}

/// Answers a request to `/clusters/<name>/…`.
pub(crate) async fn answer(State(clusters): State<Arc<Clusters>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let Some((name, path)) = path.strip_prefix("/clusters/").and_then(|rest| rest.split_once('/')) else {
        return refuse(&Refusal::not_found("path", &path));
    };
    if !clusters.has(name) {
        return refuse(&Refusal::not_found("cluster", name));
    }
    match clusters.fault(name) {
        Ok(delay) => tokio::time::sleep(delay).await,
        Err(refusal) => return refuse(&refusal),
    }
    match route(&clusters, name, path.trim_matches('/'), request).await {
        Ok(response) => response,
        Err(refusal) => refuse(&refusal),
    }
}

fn refuse(refusal: &Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (code, Json(refusal.status())).into_response();
    if let Some(seconds) = refusal.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

async fn route(
    clusters: &Arc<Clusters>,
    cluster: &str,
    path: &str,
    request: Request,
) -> Result<Response, Refusal> {
    if path == "openapi/v2" && accepts(&request, "protobuf") {
        // An empty document, as no bytes are in that encoding. kubectl asks for it about kinds that nobody knows.
        let media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        return Ok(([(header::CONTENT_TYPE, media)], Bytes::new()).into_response());
    }
    if let Some(document) = document(path) {
        return Ok(Json(document?).into_response());
    }
    if ["healthz", "livez", "readyz"].contains(&path) {
        return Ok("ok".into_response());
    }
    let asked = asked(path, request.uri().query().unwrap_or_default())?;
    let method = request.method().clone();
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = media.unwrap_or_default().to_owned();
    if method == Method::GET {
        return read(clusters, cluster, &asked);
    }
    let body = axum::body::to_bytes(request.into_body(), MOST_BODY_BYTES).await;
    let body = body.map_err(|error| Refusal::bad_request(format!("failed to read the body: {error}")))?;
    write(clusters, cluster, &asked, &method, &media, &body)
}

fn accepts(request: &Request, form: &str) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains(form))
}

/// What is the same in every cluster: versions, discovery, OpenAPI.
fn document(path: &str) -> Option<Result<Value, Refusal>> {
    let parts: Vec<_> = path.split('/').collect();
    let found = match parts.as_slice() {
        ["version"] => Some(super::version()),
        ["api"] => Some(resources::core_versions()),
        ["apis"] => Some(resources::group_list()),
        ["api", version] => resources::resource_list("", version),
        ["apis", group, version] => resources::resource_list(group, version),
        ["openapi", "v2"] => Some(openapi::v2()),
        ["openapi", "v3"] => Some(openapi::index()),
        ["openapi", "v3", "api", version] => openapi::v3("", version),
        ["openapi", "v3", "apis", group, version] => openapi::v3(group, version),
        _ => return None,
    };
    Some(found.ok_or_else(|| Refusal::not_found("path", path)))
}

fn asked(path: &str, query: &str) -> Result<Asked, Refusal> {
    let parts: Vec<_> = path.split('/').collect();
    let missing = || Refusal::not_found("path", path);
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(missing()),
    };
    let (namespace, plural, name) = match rest {
        ["namespaces", namespace, plural, name] => (*namespace, *plural, *name),
        ["namespaces", namespace, plural] => (*namespace, *plural, ""),
        [plural, name] => ("", *plural, *name),
        [plural] => ("", *plural, ""),
        _ => return Err(missing()),
    };
    let resource = Resource::find(group, version, plural).ok_or_else(missing)?;
    if resource.namespaced && !name.is_empty() && namespace.is_empty() {
        return Err(missing());
    }
    Ok(Asked { resource, namespace: namespace.to_owned(), name: name.to_owned(), query: pairs(query)? })
}

fn pairs(query: &str) -> Result<BTreeMap<String, String>, Refusal> {
    let uri = format!("/?{query}").parse().map_err(|_| Refusal::bad_request("the query is malformed"))?;
    axum::extract::Query::try_from_uri(&uri)
        .map(|axum::extract::Query(pairs)| pairs)
        .map_err(|error| Refusal::bad_request(error.to_string()))
}

impl Asked {
    fn key(&self, name: &str) -> Key {
        Key { resource: self.resource, namespace: self.namespace.clone(), name: name.to_owned() }
    }

    /// The object in the namespace of the path: clients need not say it twice.
    fn placed(&self, mut object: Value) -> Value {
        if self.resource.namespaced {
            object["metadata"]["namespace"] = json!(self.namespace);
        }
        object
    }

    fn says(&self, name: &str, value: &str) -> bool {
        self.query.get(name).is_some_and(|found| found == value)
    }

    fn selection(&self) -> Result<Selection, Refusal> {
        let namespace = Some(self.namespace.clone()).filter(|namespace| !namespace.is_empty());
        Selection::new(namespace, &self.query)
    }

    fn manner(&self) -> Manner {
        Manner {
            manager: self.query.get("fieldManager").cloned().unwrap_or_else(|| "unknown".to_owned()),
            force: self.says("force", "true"),
            dry_run: self.says("dryRun", "All"),
        }
    }
}

fn read(clusters: &Arc<Clusters>, cluster: &str, asked: &Asked) -> Result<Response, Refusal> {
    if asked.says("watch", "true") || asked.says("watch", "1") {
        return watch(clusters, cluster, asked);
    }
    let selection = asked.selection()?;
    let object = clusters.with(cluster, |cluster, _| match asked.name.as_str() {
        "" => Ok(cluster.list(asked.resource, &selection)),
        name => cluster.get(&asked.key(name)),
    })?;
    Ok(Json(object).into_response())
}

fn write(
    clusters: &Arc<Clusters>,
    cluster: &str,
    asked: &Asked,
    method: &Method,
    media: &str,
    body: &Bytes,
) -> Result<Response, Refusal> {
    let object = || -> Result<Value, Refusal> {
        if media.starts_with(protobuf::MEDIA) {
            return protobuf::object(body)
                .ok_or_else(|| Refusal::unsupported(format!("{} as protobuf", asked.resource.plural)));
        }
        let object: Value = serde_json::from_slice(body)
            .map_err(|error| Refusal::bad_request(format!("the body is no JSON: {error}")))?;
        if object.is_object() { Ok(object) } else { Err(Refusal::bad_request("the body is no object")) }
    };
    let manner = asked.manner();
    clusters.with(cluster, |cluster, now| match (method.as_str(), asked.name.as_str()) {
        ("POST", "") => {
            let object = asked.placed(object()?);
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let created = cluster.create(asked.key(&name), object, &manner, now)?;
            Ok((StatusCode::CREATED, Json(created)).into_response())
        }
        ("PUT", name) if !name.is_empty() => {
            let object = asked.placed(object()?);
            Ok(Json(cluster.replace(asked.key(name), object, &manner, now)?).into_response())
        }
        ("PATCH", name) if !name.is_empty() => {
            let key = asked.key(name);
            let patched = match media.split(';').next().unwrap_or_default() {
                APPLY_PATCH => cluster.apply(key, &object()?, &manner, now)?,
                "application/merge-patch+json" => {
                    cluster.patch(key, &object()?, apply::merge_patch, &manner, now)?
                }
                "application/strategic-merge-patch+json" => {
                    cluster.patch(key, &object()?, strategic::patch, &manner, now)?
                }
                other => return Err(Refusal::unsupported(format!("patches of type {other}"))),
            };
            Ok(Json(patched).into_response())
        }
        ("DELETE", name) if !name.is_empty() => {
            Ok(Json(cluster.delete(&asked.key(name), &manner)?).into_response())
        }
        (method, _) => Err(Refusal::not_allowed(format!("{method} of {}", asked.resource.plural))),
    })
}

/// Where a watch stands.
struct Watching {
    clusters: Arc<Clusters>,
    cluster: String,
    resource: &'static Resource,
    selection: Selection,
    version: u64,
    until: tokio::time::Instant,
    over: bool,
}

fn watch(clusters: &Arc<Clusters>, cluster: &str, asked: &Asked) -> Result<Response, Refusal> {
    let from = asked.query.get("resourceVersion").map(String::as_str).unwrap_or_default();
    let from = if from.is_empty() {
        0
    } else {
        from.parse().map_err(|_| Refusal::bad_request("resourceVersion"))?
    };
    let lasts = asked.query.get("timeoutSeconds").and_then(|text| text.parse().ok());
    let mut asked_selection = asked.selection()?;
    // A watch of one object by its path, as old clients do.
    if !asked.name.is_empty() {
        let one = BTreeMap::from([("fieldSelector".to_owned(), format!("metadata.name={}", asked.name))]);
        asked_selection = Selection::new(asked_selection.namespace, &one)?;
    }
    let watching = Watching {
        clusters: Arc::clone(clusters),
        cluster: cluster.to_owned(),
        resource: asked.resource,
        selection: asked_selection,
        version: from,
        until: tokio::time::Instant::now() + lasts.map_or(WATCH_TIME, Duration::from_secs),
        over: false,
    };
    let lines = stream::unfold(watching, next_lines);
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

/// Waits for changes; gives them as lines, or ends.
async fn next_lines(mut watching: Watching) -> Option<(Result<Bytes, Infallible>, Watching)> {
    while !watching.over {
        let mut wake = watching.clusters.changed();
        let found = watching.clusters.with(&watching.cluster, |cluster, _| {
            let changes = cluster.changes_after(watching.version, watching.resource, &watching.selection)?;
            Ok((changes, cluster.version()))
        });
        match found {
            Ok((changes, version)) => {
                watching.version = version;
                if !changes.is_empty() {
                    let lines: String = changes.iter().map(line).collect();
                    return Some((Ok(Bytes::from(lines)), watching));
                }
            }
            Err(refusal) => {
                watching.over = true;
                let line = format!("{}\n", json!({ "type": "ERROR", "object": refusal.status() }));
                return Some((Ok(Bytes::from(line)), watching));
            }
        }
        tokio::select! {
            woken = wake.changed() => watching.over = woken.is_err(),
            () = tokio::time::sleep_until(watching.until) => watching.over = true,
        }
    }
    None
}

fn line(change: &Change) -> String {
    format!("{}\n", json!({ "type": change.kind, "object": change.object }))
}
