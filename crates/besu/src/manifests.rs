//! The Kubernetes objects: of a region (one cluster each), of a validator, and the secret with its key.
//!
//! Every validator is a StatefulSet of its own, so that each is rolled out, waited for and taken back alone. It is
//! ready as soon as it answers, also without peers: a rollout must never wait for a validator of a later wave. That
//! peers are there and blocks are made is for the verification after the rollout.

use serde_json::{Value, json};

use crate::network::{Network, Validator};
use crate::options::{self, Places};

/// Where the files are in the container.
const NETWORK_FOLDER: &str = "/etc/besu/network";
const VALIDATOR_FOLDER: &str = "/etc/besu/validator";
const KEY_FOLDER: &str = "/etc/besu/key";
const DATA_FOLDER: &str = "/data";

/// The user of Besu's image.
const USER: u32 = 1000;

/// What all objects of the network carry.
fn labels(network: &Network) -> Value {
    json!({
        "app.kubernetes.io/name": "besu",
        "app.kubernetes.io/part-of": format!("chain-{}", network.chain_id),
        "app.kubernetes.io/managed-by": "pccl",
    })
}

/// What all objects of a validator carry.
fn validator_labels(network: &Network, validator: &Validator) -> Value {
    let mut labels = labels(network);
    labels["app.kubernetes.io/instance"] = json!(validator.name);
    labels
}

/// What a service, a budget or a StatefulSet finds its pods by.
fn selector(validator: &Validator) -> Value {
    json!({ "app.kubernetes.io/name": "besu", "app.kubernetes.io/instance": validator.name })
}

fn metadata(network: &Network, name: &str, labels: &Value) -> Value {
    json!({ "name": name, "namespace": network.namespace, "labels": labels })
}

/// Namespace, genesis and static nodes, a budget for disruptions and a network policy.
pub fn region(network: &Network, genesis: &str, static_nodes: &str) -> Vec<Value> {
    let labels = labels(network);
    let pods = json!({ "matchLabels": { "app.kubernetes.io/name": "besu" } });
    let inside = json!([{ "namespaceSelector": {} }]);
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": network.namespace, "labels": labels },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(network, "besu-network", &labels),
            "data": { "genesis.json": genesis, "static-nodes.json": static_nodes },
        }),
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(network, "besu", &labels),
            "spec": { "maxUnavailable": 1, "selector": pods },
        }),
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(network, "besu", &labels),
            "spec": {
                "podSelector": pods,
                "policyTypes": ["Ingress"],
                "ingress": [
                    { "ports": [{ "port": network.p2p_port, "protocol": "TCP" }] },
                    {
                        "from": inside,
                        "ports": [
                            { "port": network.rpc_port, "protocol": "TCP" },
                            { "port": network.metrics_port, "protocol": "TCP" },
                        ],
                    },
                ],
            },
        }),
    ]
}

/// The secret with the validator's private key.
pub fn secret(network: &Network, validator: &Validator) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(network, &key_name(validator), &validator_labels(network, validator)),
        "type": "Opaque",
        "stringData": { "nodekey": validator.key.to_file().as_str() },
    })
}

/// Services, configuration and StatefulSet of a validator.
pub fn validator(network: &Network, validator: &Validator) -> Vec<Value> {
    let labels = validator_labels(network, validator);
    let name = object_name(validator);
    let places = Places {
        data: DATA_FOLDER.to_owned(),
        genesis: format!("{NETWORK_FOLDER}/genesis.json"),
        static_nodes: format!("{NETWORK_FOLDER}/static-nodes.json"),
        key: format!("{KEY_FOLDER}/nodekey"),
    };
    let config = options::toml(&options::options(network, &places));
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(network, &name, &labels),
            "data": { "config.toml": config },
        }),
        outer_service(network, validator, &labels),
        inner_service(network, validator, &labels),
        stateful_set(network, validator, &labels),
    ]
}

/// How the other regions reach it: the name in `static-nodes.json`, which external-dns publishes. Peers must find it
/// before it is ready.
fn outer_service(network: &Network, validator: &Validator, labels: &Value) -> Value {
    let mut metadata = metadata(network, &object_name(validator), labels);
    metadata["annotations"] = json!({ "external-dns.alpha.kubernetes.io/hostname": validator.host });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "publishNotReadyAddresses": true,
            "selector": selector(validator),
            "ports": [
                { "name": "p2p", "port": network.p2p_port, "targetPort": "p2p", "protocol": "TCP" },
            ],
        },
    })
}

/// How the cluster reaches it: JSON-RPC and metrics stay inside.
fn inner_service(network: &Network, validator: &Validator, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(network, &format!("{}-pod", object_name(validator)), labels),
        "spec": {
            "clusterIP": "None",
            "selector": selector(validator),
            "ports": [
                { "name": "rpc", "port": network.rpc_port, "targetPort": "rpc", "protocol": "TCP" },
                { "name": "metrics", "port": network.metrics_port, "targetPort": "metrics", "protocol": "TCP" },
            ],
        },
    })
}

fn stateful_set(network: &Network, validator: &Validator, labels: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(network, &object_name(validator), labels),
        "spec": {
            "replicas": 1,
            "serviceName": format!("{}-pod", object_name(validator)),
            "selector": { "matchLabels": selector(validator) },
            "updateStrategy": { "type": "RollingUpdate" },
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": {
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": network.metrics_port.to_string(),
                    },
                },
                "spec": pod(network, validator),
            },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": format!("{}Gi", network.storage_gib) } },
                },
            }],
        },
    })
}

fn pod(network: &Network, validator: &Validator) -> Value {
    let spread = json!([{
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": { "app.kubernetes.io/name": "besu" } },
    }]);
    json!({
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 120,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "topologySpreadConstraints": spread,
        "containers": [container(network)],
        "volumes": [
            { "name": "network", "configMap": { "name": "besu-network" } },
            { "name": "validator", "configMap": { "name": object_name(validator) } },
            { "name": "key", "secret": { "secretName": key_name(validator), "defaultMode": 0o440 } },
            { "name": "tmp", "emptyDir": {} },
        ],
    })
}

fn container(network: &Network) -> Value {
    let mount = |name: &str, path: &str, read_only: bool| json!({ "name": name, "mountPath": path, "readOnly": read_only });
    let ask = |path: &str| json!({ "path": path, "port": "rpc" });
    json!({
        "name": "besu",
        "image": network.image,
        "args": [format!("--config-file={VALIDATOR_FOLDER}/config.toml"), "--p2p-host=$(POD_IP)"],
        "env": [{ "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }],
        "ports": [
            { "name": "p2p", "containerPort": network.p2p_port, "protocol": "TCP" },
            { "name": "rpc", "containerPort": network.rpc_port, "protocol": "TCP" },
            { "name": "metrics", "containerPort": network.metrics_port, "protocol": "TCP" },
        ],
        // A first start may replay blocks for long: only then is silence a fault.
        "startupProbe": { "httpGet": ask("/liveness"), "periodSeconds": 10, "failureThreshold": 180 },
        "livenessProbe": { "httpGet": ask("/liveness"), "periodSeconds": 10, "failureThreshold": 6 },
        "readinessProbe": { "httpGet": ask("/readiness?minPeers=0"), "periodSeconds": 5 },
        "resources": {
            "requests": { "cpu": "1", "memory": "4Gi" },
            "limits": { "memory": "8Gi" },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
        },
        "volumeMounts": [
            mount("network", NETWORK_FOLDER, true),
            mount("validator", VALIDATOR_FOLDER, true),
            mount("key", KEY_FOLDER, true),
            mount("data", DATA_FOLDER, false),
            mount("tmp", "/tmp", false),
        ],
    })
}

/// The name of the validator's objects.
pub fn object_name(validator: &Validator) -> String {
    format!("besu-{}", validator.name)
}

fn key_name(validator: &Validator) -> String {
    format!("besu-{}-key", validator.name)
}
