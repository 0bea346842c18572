//! The objects of one cluster, their versions, and what has happened to them lately.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::answer::Refusal;
use super::apply::Owners;
use super::check;
use super::controllers;
use super::resources::Resource;
use super::select::Selection;

/// So many events are kept for watchers; one that is further behind must list again.
const KEPT_EVENTS: usize = 20_000;

/// When something is done: since the start of the server, and as objects show it.
#[derive(Clone, Debug)]
pub(crate) struct Now {
    /// Since the start.
    pub(crate) elapsed: Duration,
    /// RFC 3339.
    pub(crate) stamp: String,
}

/// How a request wants a change made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// The field manager.
    pub(crate) manager: String,
    /// Take fields that others own.
    pub(crate) force: bool,
    /// Tell what would be, and change nothing.
    pub(crate) dry_run: bool,
}

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Its kind.
    pub(crate) resource: &'static Resource,
    /// Empty for objects outside of namespaces.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

/// An object with what only the server knows of it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// As clients see it.
    pub(crate) object: Value,
    owners: Owners,
}

/// A change.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The version that it made.
    pub(crate) version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) kind: &'static str,
    key: Key,
    /// The object after it, or the last state of one that is gone.
    pub(crate) object: Value,
}

/// One cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) objects: BTreeMap<Key, Stored>,
    /// Rollouts under way.
    pub(crate) rollouts: BTreeMap<Key, controllers::Rollout>,
    /// Time from one pod to the next in a rollout.
    pub(crate) pod_time: Duration,
    /// Names of workloads whose pods never become ready.
    pub(crate) stuck: std::collections::BTreeSet<String>,
    version: u64,
    /// Addresses given to load balancers, and to services.
    addresses: u32,
    services: u32,
    changes: VecDeque<Change>,
}

impl Cluster {
    /// An empty cluster with its default namespaces and `nodes` ready nodes.
    pub(crate) fn new(name: &str, nodes: usize, pod_time: Duration, now: &Now) -> Self {
        let mut cluster = Self {
            objects: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            pod_time,
            stuck: std::collections::BTreeSet::new(),
            version: 1,
            addresses: 0,
            services: 0,
            changes: VecDeque::new(),
        };
        for namespace in ["default", "kube-system"] {
            cluster.seed("namespaces", json!({ "metadata": { "name": namespace } }), now);
        }
        for number in 0..nodes {
            let node = json!({
                "metadata": {
                    "name": format!("{name}-{number}"),
                    "labels": { "topology.kubernetes.io/region": name },
                },
                "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }] },
            });
            cluster.seed("nodes", node, now);
        }
        cluster
    }

    /// An object that the cluster makes itself.
    pub(crate) fn seed(&mut self, plural: &str, mut object: Value, now: &Now) {
        let Some(resource) = Resource::named(plural) else { return };
        let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        let key = Key { resource, namespace: text("namespace"), name: text("name") };
        object["apiVersion"] = json!(resource.api_version());
        object["kind"] = json!(resource.kind);
        self.put(key, object, Owners::default(), now);
    }

    /// The newest version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Result<Value, Refusal> {
        match self.objects.get(key) {
            Some(stored) => Ok(stored.object.clone()),
            None => Err(Refusal::not_found(&key.resource.qualified(), &key.name)),
        }
    }

    /// All objects of a kind, in one namespace or in all.
    pub(crate) fn list(&self, resource: &'static Resource, selection: &Selection) -> Value {
        let items: Vec<_> = self
            .objects
            .iter()
            .filter(|(key, stored)| key.resource == resource && selection.takes(&stored.object))
            .map(|(_, stored)| stored.object.clone())
            .collect();
        json!({
            "kind": format!("{}List", resource.kind),
            "apiVersion": resource.api_version(),
            "metadata": { "resourceVersion": self.version.to_string() },
            "items": items,
        })
    }

    /// What has happened to objects of a kind after a version.
    pub(crate) fn changes_after(
        &self,
        version: u64,
        resource: &'static Resource,
        selection: &Selection,
    ) -> Result<Vec<Change>, Refusal> {
        let forgotten = self.changes.front().map_or(0, |first| first.version.saturating_sub(1));
        if version < forgotten && self.changes.len() >= KEPT_EVENTS {
            return Err(Refusal::expired(format!("too old resource version: {version} ({forgotten})")));
        }
        let wanted = |change: &&Change| {
            change.version > version && change.key.resource == resource && selection.takes(&change.object)
        };
        Ok(self.changes.iter().filter(wanted).cloned().collect())
    }

    /// A new object.
    pub(crate) fn create(
        &mut self,
        key: Key,
        object: Value,
        manner: &Manner,
        now: &Now,
    ) -> Result<Value, Refusal> {
        if self.objects.contains_key(&key) {
            return Err(Refusal::already_exists(&key.resource.qualified(), &key.name));
        }
        let mut owners = Owners::default();
        owners.update(&Value::Null, &object, &manner.manager);
        self.change(key, object, owners, manner, now)
    }

    /// A whole object in the place of another, if nobody has changed that since the client read it.
    pub(crate) fn replace(
        &mut self,
        key: Key,
        object: Value,
        manner: &Manner,
        now: &Now,
    ) -> Result<Value, Refusal> {
        let live = self.stored(&key)?;
        let read = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let current = live.object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if !read.is_empty() && read != current {
            return Err(Refusal::conflict(format!(
                "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your \
                 changes to the latest version and try again",
                key.resource.qualified(),
                key.name
            )));
        }
        let mut owners = live.owners;
        owners.update(&live.object, &object, &manner.manager);
        self.change(key, object, owners, manner, now)
    }

    /// A patch, and how it is to be merged.
    pub(crate) fn patch(
        &mut self,
        key: Key,
        patch: &Value,
        merge: fn(&mut Value, &Value),
        manner: &Manner,
        now: &Now,
    ) -> Result<Value, Refusal> {
        let live = self.stored(&key)?;
        let (mut object, mut owners) = (live.object.clone(), live.owners);
        merge(&mut object, patch);
        owners.update(&live.object, &object, &manner.manager);
        self.change(key, object, owners, manner, now)
    }

    /// A server-side apply.
    pub(crate) fn apply(
        &mut self,
        key: Key,
        wanted: &Value,
        manner: &Manner,
        now: &Now,
    ) -> Result<Value, Refusal> {
        let (live, mut owners) = match self.objects.get(&key) {
            Some(stored) => (stored.object.clone(), stored.owners.clone()),
            None => {
                (json!({ "apiVersion": wanted["apiVersion"], "kind": wanted["kind"] }), Owners::default())
            }
        };
        let mut wanted = wanted.clone();
        prepare(&key, &mut wanted);
        let mut object = owners.apply(&live, &wanted, &manner.manager, manner.force)?;
        object["metadata"]["name"] = json!(key.name);
        if key.resource.namespaced {
            object["metadata"]["namespace"] = json!(key.namespace);
        }
        self.change(key, object, owners, manner, now)
    }

    /// Removes an object and what belongs to it; tells its last state.
    pub(crate) fn delete(&mut self, key: &Key, manner: &Manner) -> Result<Value, Refusal> {
        let object = self.get(key)?;
        if manner.dry_run {
            return Ok(object);
        }
        let uid = object["metadata"]["uid"].clone();
        let belongs = |(other, stored): (&Key, &Stored)| {
            let owned = stored.object["metadata"]["ownerReferences"][0]["uid"] == uid;
            let inside = key.resource.kind == "Namespace" && other.namespace == key.name;
            (owned || inside || other == key).then(|| other.clone())
        };
        let gone: Vec<_> = self.objects.iter().filter_map(belongs).collect();
        for key in gone {
            self.rollouts.remove(&key);
            if let Some(stored) = self.objects.remove(&key) {
                self.note("DELETED", key, stored.object);
            }
        }
        Ok(object)
    }

    fn stored(&self, key: &Key) -> Result<Stored, Refusal> {
        let missing = || Refusal::not_found(&key.resource.qualified(), &key.name);
        self.objects.get(key).cloned().ok_or_else(missing)
    }

    /// Checks an object that a client wrote, completes it and stores it.
    fn change(
        &mut self,
        key: Key,
        mut object: Value,
        owners: Owners,
        manner: &Manner,
        now: &Now,
    ) -> Result<Value, Refusal> {
        prepare(&key, &mut object);
        let live = self.objects.get(&key).map(|stored| &stored.object);
        if let Some(namespace) = Some(&key.namespace).filter(|namespace| !namespace.is_empty()) {
            let there = self
                .objects
                .keys()
                .any(|other| other.resource.kind == "Namespace" && other.name == *namespace);
            if !there {
                return Err(Refusal::not_found("namespaces", namespace));
            }
        }
        check::object(&key, &object, live)?;
        // The status belongs to the cluster, whatever a client says.
        let status = live.map_or(Value::Null, |live| live["status"].clone());
        let unchanged = live.is_some_and(|live| content(live) == content(&object));
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
            if !status.is_null() {
                fields.insert("status".to_owned(), status);
            }
        }
        if manner.dry_run || unchanged {
            if let (true, Some(live)) = (unchanged, live) {
                return Ok(live.clone());
            }
            return Ok(object);
        }
        Ok(self.put(key, object, owners, now))
    }

    /// Stores an object as it is, gives it a version, and starts its rollout if it has one.
    pub(crate) fn put(&mut self, key: Key, mut object: Value, owners: Owners, now: &Now) -> Value {
        let live = self.objects.get(&key).map(|stored| stored.object.clone());
        let spec_changed = live.as_ref().is_none_or(|live| live["spec"] != object["spec"]);
        let version = self.version + 1;
        let metadata = &mut object["metadata"];
        let before = live.as_ref().map(|live| &live["metadata"]);
        metadata["uid"] = before.map_or_else(|| json!(uid(version)), |before| before["uid"].clone());
        metadata["creationTimestamp"] =
            before.map_or_else(|| json!(now.stamp), |before| before["creationTimestamp"].clone());
        let generation = before.and_then(|before| before["generation"].as_u64()).unwrap_or(0);
        metadata["generation"] = json!(generation + u64::from(spec_changed));
        metadata["resourceVersion"] = json!(version.to_string());
        let fields = owners.managed_fields(&key.resource.api_version(), &now.stamp);
        if fields.as_array().is_some_and(|fields| !fields.is_empty()) {
            metadata["managedFields"] = fields;
        }
        if key.resource.kind == "Service" {
            self.give_address(&mut object, live.as_ref());
        }
        if let Some(status) = self.first_status(&key, &object) {
            object["status"] = status;
        }
        self.objects.insert(key.clone(), Stored { object: object.clone(), owners });
        self.note(if live.is_some() { "MODIFIED" } else { "ADDED" }, key.clone(), object.clone());
        if spec_changed && controllers::rolls_out(key.resource) {
            self.rollouts.insert(key, controllers::Rollout { since: now.elapsed, fresh: live.is_none() });
        }
        object
    }

    /// Puts a status that the cluster itself has found.
    pub(crate) fn put_status(&mut self, key: &Key, status: Value) {
        let version = self.version + 1;
        let Some(stored) = self.objects.get_mut(key).filter(|stored| stored.object["status"] != status)
        else {
            return;
        };
        stored.object["status"] = status;
        stored.object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = stored.object.clone();
        self.note("MODIFIED", key.clone(), object);
    }

    /// A service is reached by an address of its own, which it keeps; clients wait until it has one.
    fn give_address(&mut self, service: &mut Value, live: Option<&Value>) {
        let spec = &mut service["spec"];
        if !spec["clusterIP"].is_null() || spec["type"] == "ExternalName" {
            return;
        }
        let kept = live.map(|live| &live["spec"]["clusterIP"]).filter(|kept| !kept.is_null());
        spec["clusterIP"] = kept.cloned().unwrap_or_else(|| {
            self.services += 1;
            let [_, _, high, low] = self.services.to_be_bytes();
            json!(format!("10.96.{high}.{low}"))
        });
    }

    /// What an object has as soon as it is there.
    fn first_status(&mut self, key: &Key, object: &Value) -> Option<Value> {
        if !object["status"].is_null() {
            return None;
        }
        match key.resource.kind {
            "Namespace" => Some(json!({ "phase": "Active" })),
            "Service" if object["spec"]["type"] == "LoadBalancer" => {
                self.addresses += 1;
                let [_, _, high, low] = self.addresses.to_be_bytes();
                // 198.18.0.0/15 is for tests of networks (RFC 2544).
                Some(json!({ "loadBalancer": { "ingress": [{ "ip": format!("198.18.{high}.{low}") }] } }))
            }
            _ => None,
        }
    }

    fn note(&mut self, kind: &'static str, key: Key, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.changes.push_back(Change { version: self.version, kind, key, object });
        if self.changes.len() > KEPT_EVENTS {
            self.changes.pop_front();
        }
    }
}

/// What the server fills in before it compares and stores.
fn prepare(key: &Key, object: &mut Value) {
    match key.resource.kind {
        "Secret" => {
            let texts = object.as_object_mut().and_then(|fields| fields.remove("stringData"));
            for (name, text) in texts.as_ref().and_then(Value::as_object).into_iter().flatten() {
                object["data"][name] = json!(BASE64.encode(text.as_str().unwrap_or_default()));
            }
        }
        "StatefulSet" | "DaemonSet" if object["spec"]["updateStrategy"]["type"].is_null() => {
            object["spec"]["updateStrategy"]["type"] = json!("RollingUpdate");
        }
        _ => {}
    }
    if ["Deployment", "StatefulSet"].contains(&key.resource.kind) && object["spec"]["replicas"].is_null() {
        object["spec"]["replicas"] = json!(1);
    }
}

/// What makes an object another one: all but status and what the server counts.
fn content(object: &Value) -> Value {
    let mut content = object.clone();
    if let Some(fields) = content.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = content["metadata"].as_object_mut() {
        for name in ["resourceVersion", "generation", "uid", "creationTimestamp", "managedFields"] {
            metadata.remove(name);
        }
    }
    content
}

/// A name that no other object has had, in the form of a UUID.
fn uid(version: u64) -> String {
    format!("00000000-0000-4000-8000-{version:012x}")
}
