//! What controllers do in a real cluster: rollouts that take time, pod by pod.

use std::time::Duration;

use serde_json::{Value, json};

use super::resources::Resource;
use super::store::{Cluster, Key, Now};

/// A rollout under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rollout {
    /// When it began.
    pub(crate) since: Duration,
    /// Nothing ran before: nothing is taken down on the way.
    pub(crate) fresh: bool,
}

/// How far a rollout is, in pods.
#[derive(Clone, Copy, Debug)]
struct Progress {
    wanted: u64,
    updated: u64,
    ready: u64,
    stuck: bool,
}

/// Whether objects of this kind are rolled out.
pub(crate) fn rolls_out(resource: &Resource) -> bool {
    ["Deployment", "StatefulSet", "DaemonSet", "Job"].contains(&resource.kind)
}

impl Cluster {
    /// Moves every rollout to where it is now.
    pub(crate) fn advance(&mut self, now: &Now) {
        let rollouts: Vec<_> = self.rollouts.iter().map(|(key, rollout)| (key.clone(), *rollout)).collect();
        for (key, rollout) in rollouts {
            let Some(stored) = self.objects.get(&key) else { continue };
            let object = stored.object.clone();
            let progress = self.progress(&key, &object, rollout, now);
            self.pods(&key, &object, progress, now);
            if key.resource.kind == "Deployment" {
                self.replica_set(&key, &object, progress, now);
            }
            self.put_status(&key, status(&key, &object, progress));
            if progress.ready == progress.wanted && progress.updated == progress.wanted {
                self.rollouts.remove(&key);
            }
        }
    }

    fn progress(&self, key: &Key, object: &Value, rollout: Rollout, now: &Now) -> Progress {
        let wanted = match key.resource.kind {
            "DaemonSet" => self.objects.keys().filter(|key| key.resource.kind == "Node").count() as u64,
            "Job" => object["spec"]["completions"].as_u64().unwrap_or(1),
            _ => object["spec"]["replicas"].as_u64().unwrap_or(1),
        };
        let passed = now.elapsed.saturating_sub(rollout.since).as_nanos();
        let steps = passed / self.pod_time.as_nanos().max(1);
        let stuck = self.stuck.contains(&key.name);
        let updated = if stuck { 0 } else { u64::try_from(steps).unwrap_or(u64::MAX).min(wanted) };
        // An update takes one pod down at a time; the first rollout has nothing to take down.
        let ready = match (rollout.fresh, updated == wanted) {
            (true, _) | (_, true) => updated,
            (false, false) => wanted.saturating_sub(1),
        };
        Progress { wanted, updated, ready, stuck }
    }

    /// The replica set of a deployment's newest template, by which clients see how far its rollout is. The pods are the
    /// deployment's own here, and older sets are gone as soon as there is a newer one.
    fn replica_set(&mut self, key: &Key, object: &Value, progress: Progress, now: &Now) {
        let (uid, spec) = (&object["metadata"]["uid"], &object["spec"]);
        let hash = format!("{:08x}", hash(&spec["template"]));
        let Some(resource) = Resource::named("replicasets") else { return };
        let set = Key { resource, namespace: key.namespace.clone(), name: format!("{}-{hash}", key.name) };
        let old = self.objects.iter().filter(|(other, stored)| {
            other.resource == resource && **other != set && is_owned(&stored.object, uid)
        });
        for old in old.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            let _ = self.delete(&old, &super::store::Manner::default());
        }
        let is_current =
            self.objects.get(&set).is_some_and(|stored| stored.object["spec"]["replicas"] == progress.wanted);
        if !is_current {
            let mut template = spec["template"].clone();
            template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
            let owner = json!({
                "apiVersion": key.resource.api_version(), "kind": key.resource.kind, "name": key.name, "uid": uid,
                "controller": true, "blockOwnerDeletion": true,
            });
            let metadata = json!({
                "name": set.name, "namespace": set.namespace, "labels": template["metadata"]["labels"],
                "ownerReferences": [owner],
            });
            let spec =
                json!({ "replicas": progress.wanted, "selector": spec["selector"], "template": template });
            self.seed("replicasets", json!({ "metadata": metadata, "spec": spec }), now);
        }
        let generation = self.objects.get(&set).map(|stored| stored.object["metadata"]["generation"].clone());
        let status = json!({
            "observedGeneration": generation,
            "replicas": progress.wanted,
            "fullyLabeledReplicas": progress.updated,
            "readyReplicas": progress.updated,
            "availableReplicas": progress.updated,
        });
        self.put_status(&set, status);
    }

    /// The pods of a workload: there as soon as they are wanted, ready when the rollout has reached them.
    fn pods(&mut self, key: &Key, object: &Value, progress: Progress, now: &Now) {
        let uid = &object["metadata"]["uid"];
        let name = |number: u64| match key.resource.kind {
            "StatefulSet" => format!("{}-{number}", key.name),
            _ => format!("{}-{:05x}", key.name, number + 1),
        };
        let kind = key.resource.kind;
        for number in 0..progress.wanted {
            let ready = number < progress.updated;
            let (phase, reason) = match (kind, ready, progress.stuck) {
                ("Job", true, _) => ("Succeeded", "PodCompleted"),
                (_, true, _) => ("Running", "Started"),
                (.., true) => ("Pending", "ImagePullBackOff"),
                _ => ("Pending", "ContainerCreating"),
            };
            let waiting = json!({ "waiting": { "reason": reason } });
            let state = if ready { json!({ "running": {} }) } else { waiting };
            let pod_status = json!({
                "phase": phase,
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
                "containerStatuses": [{ "name": "main", "ready": ready, "restartCount": 0, "state": state }],
            });
            let Some(resource) = Resource::named("pods") else { return };
            let pod = Key { resource, namespace: key.namespace.clone(), name: name(number) };
            if self.objects.contains_key(&pod) {
                self.put_status(&pod, pod_status);
            } else {
                let template = &object["spec"]["template"];
                let owner = json!({ "kind": kind, "name": key.name, "uid": uid, "controller": true });
                let object = json!({
                    "metadata": {
                        "name": pod.name,
                        "namespace": key.namespace,
                        "labels": template["metadata"]["labels"],
                        "ownerReferences": [owner],
                    },
                    "spec": template["spec"],
                    "status": pod_status,
                });
                self.seed("pods", object, now);
            }
        }
        let too_many: Vec<_> = self
            .objects
            .iter()
            .filter(|(key, stored)| key.resource.kind == "Pod" && is_owned(&stored.object, uid))
            .map(|(key, _)| key.clone())
            .filter(|pod| !(0..progress.wanted).any(|number| pod.name == name(number)))
            .collect();
        for pod in too_many {
            let _ = self.delete(&pod, &super::store::Manner::default());
        }
    }
}

/// Whether an object belongs to the one with this uid.
fn is_owned(object: &Value, uid: &Value) -> bool {
    object["metadata"]["ownerReferences"][0]["uid"] == *uid
}

/// A short name of a template: FNV-1a of its text, whose keys are in order.
fn hash(template: &Value) -> u32 {
    let step = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    template.to_string().bytes().fold(0x811c_9dc5, step)
}

/// The status of a workload, as its controller would write it.
fn status(key: &Key, object: &Value, progress: Progress) -> Value {
    let Progress { wanted, updated, ready, stuck } = progress;
    let generation = &object["metadata"]["generation"];
    let done = updated == wanted && ready == wanted;
    let truth = |yes: bool| if yes { "True" } else { "False" };
    match key.resource.kind {
        "Deployment" => {
            let reason = match (done, stuck) {
                (true, _) => "NewReplicaSetAvailable",
                (_, true) => "ProgressDeadlineExceeded",
                _ => "ReplicaSetUpdated",
            };
            json!({
                "observedGeneration": generation,
                "replicas": wanted,
                "updatedReplicas": updated,
                "readyReplicas": ready,
                "availableReplicas": ready.min(updated),
                "unavailableReplicas": wanted - ready.min(wanted),
                "conditions": [
                    { "type": "Available", "status": truth(done), "reason": "MinimumReplicasAvailable" },
                    { "type": "Progressing", "status": truth(!stuck), "reason": reason },
                ],
            })
        }
        "StatefulSet" => {
            let revision = |number: u64| format!("{}-{number:010x}", key.name);
            let newest = generation.as_u64().unwrap_or(1);
            let current = if done { newest } else { newest.saturating_sub(1) };
            json!({
                "observedGeneration": generation,
                "replicas": wanted,
                "readyReplicas": ready,
                "availableReplicas": ready,
                "updatedReplicas": updated,
                "currentReplicas": if done { wanted } else { wanted - updated },
                "currentRevision": revision(current),
                "updateRevision": revision(newest),
            })
        }
        "DaemonSet" => json!({
            "observedGeneration": generation,
            "desiredNumberScheduled": wanted,
            "currentNumberScheduled": wanted,
            "updatedNumberScheduled": updated,
            "numberReady": ready,
            "numberAvailable": ready,
            "numberUnavailable": wanted - ready.min(wanted),
            "numberMisscheduled": 0,
        }),
        _ => json!({
            "active": wanted - updated,
            "succeeded": updated,
            "conditions": if done { json!([{ "type": "Complete", "status": "True" }]) } else { json!([]) },
        }),
    }
}
