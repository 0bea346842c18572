//! The kinds of object that a cluster knows, and how it tells clients about them (discovery).

use serde_json::{Value, json};

/// One kind of object.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Resource {
    /// API group; empty for the core.
    pub(crate) group: &'static str,
    /// Version of the group.
    pub(crate) version: &'static str,
    /// The name of the kind: `Deployment`.
    pub(crate) kind: &'static str,
    /// Its name in paths: `deployments`.
    pub(crate) plural: &'static str,
    /// What people type; empty for none.
    pub(crate) short: &'static str,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
}

const fn one(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    namespaced: bool,
) -> Resource {
    Resource { group, version, kind, plural, short, namespaced }
}

/// Every kind, ordered by group.
pub(crate) const RESOURCES: &[Resource] = &[
    one("", "v1", "ConfigMap", "configmaps", "cm", true),
    one("", "v1", "Endpoints", "endpoints", "ep", true),
    one("", "v1", "Event", "events", "ev", true),
    one("", "v1", "Namespace", "namespaces", "ns", false),
    one("", "v1", "Node", "nodes", "no", false),
    one("", "v1", "PersistentVolume", "persistentvolumes", "pv", false),
    one("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", true),
    one("", "v1", "Pod", "pods", "po", true),
    one("", "v1", "Secret", "secrets", "", true),
    one("", "v1", "Service", "services", "svc", true),
    one("", "v1", "ServiceAccount", "serviceaccounts", "sa", true),
    one("apps", "v1", "DaemonSet", "daemonsets", "ds", true),
    one("apps", "v1", "Deployment", "deployments", "deploy", true),
    one("apps", "v1", "ReplicaSet", "replicasets", "rs", true),
    one("apps", "v1", "StatefulSet", "statefulsets", "sts", true),
    one("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", true),
    one("batch", "v1", "CronJob", "cronjobs", "cj", true),
    one("batch", "v1", "Job", "jobs", "", true),
    one("coordination.k8s.io", "v1", "Lease", "leases", "", true),
    one("networking.k8s.io", "v1", "Ingress", "ingresses", "ing", true),
    one("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol", true),
    one("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", true),
    one("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "", false),
    one("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "", false),
    one("rbac.authorization.k8s.io", "v1", "Role", "roles", "", true),
    one("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "", true),
    one("storage.k8s.io", "v1", "StorageClass", "storageclasses", "sc", false),
];

impl Resource {
    /// The one with this name in paths.
    pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|one| one.group == group && one.version == version && one.plural == plural)
    }

    /// The one with this name, by name alone: for what the cluster itself makes.
    pub(crate) fn named(plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|one| one.plural == plural)
    }

    /// As `apiVersion` in objects.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// As messages name it: `deployments.apps`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// The groups with a name, each once.
fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups: Vec<_> =
        RESOURCES.iter().filter(|one| !one.group.is_empty()).map(|one| (one.group, one.version)).collect();
    groups.dedup();
    groups
}

/// Answer to `/api`.
pub(crate) fn core_versions() -> Value {
    json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
}

/// Answer to `/apis`.
pub(crate) fn group_list() -> Value {
    let groups = groups().into_iter().map(|(group, version)| {
        let version = json!({ "groupVersion": format!("{group}/{version}"), "version": version });
        json!({ "name": group, "versions": [version], "preferredVersion": version })
    });
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>() })
}

/// Answer to `/api/v1` and `/apis/<group>/<version>`.
pub(crate) fn resource_list(group: &str, version: &str) -> Option<Value> {
    let members: Vec<_> = members(group, version).map(listed).collect();
    let first = members_first(group, version)?;
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": members,
    }))
}

fn members_first(group: &str, version: &str) -> Option<&'static Resource> {
    members(group, version).next()
}

/// The resources of one group and version.
pub(crate) fn members(group: &str, version: &str) -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().filter(move |one| one.group == group && one.version == version)
}

/// The groups and versions, as paths: `api/v1`, `apis/apps/v1`.
pub(crate) fn group_versions() -> Vec<(String, &'static str, &'static str)> {
    let named =
        groups().into_iter().map(|(group, version)| (format!("apis/{group}/{version}"), group, version));
    std::iter::once(("api/v1".to_owned(), "", "v1")).chain(named).collect()
}

fn listed(one: &Resource) -> Value {
    let mut listed = json!({
        "name": one.plural,
        "singularName": one.kind.to_ascii_lowercase(),
        "namespaced": one.namespaced,
        "kind": one.kind,
        "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
    });
    if !one.short.is_empty() {
        listed["shortNames"] = json!([one.short]);
    }
    listed
}
