//! The file by which kubectl finds the clusters.

use std::net::SocketAddr;

use serde_json::json;

/// A kubeconfig with one context for each cluster, named like it. JSON is YAML.
pub fn kubeconfig(addr: SocketAddr, clusters: &[String]) -> String {
    let places = clusters.iter().map(
        |name| json!({ "name": name, "cluster": { "server": format!("http://{addr}/clusters/{name}") } }),
    );
    let contexts =
        clusters.iter().map(|name| json!({ "name": name, "context": { "cluster": name, "user": "nobody" } }));
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": places.collect::<Vec<_>>(),
        "contexts": contexts.collect::<Vec<_>>(),
        "current-context": clusters.first(),
        "users": [{ "name": "nobody", "user": {} }],
    });
    format!("{config:#}\n")
}
