//! The real kubectl against the simulated clusters: applies, waits, conflicts, faults.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A server that ends with the test.
struct Server {
    child: Child,
    url: String,
    folder: TempDir,
}

impl Server {
    fn start(clusters: &str, pod_ms: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_pccl-cloud"))
            .args(["--kubernetes", clusters, "--pod-ms", &pod_ms.to_string(), "--kubeconfig"])
            .arg(folder.path().join("kubeconfig"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let url = line.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Self { child, url, folder }
    }

    fn kubectl(&self, context: &str, arguments: &[&str]) -> Output {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(self.folder.path().join("kubeconfig")).args(["--context", context]);
        // Its cache of discovery must not come from another server.
        kubectl.arg("--cache-dir").arg(self.folder.path().join("cache")).args(arguments);
        kubectl.output().expect("kubectl must be on the PATH: install it, the tests of deployments need it")
    }

    /// Standard output of a call that must succeed.
    fn said(&self, context: &str, arguments: &[&str]) -> String {
        let output = self.kubectl(context, arguments);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Standard error of a call that must fail.
    fn refused(&self, context: &str, arguments: &[&str]) -> String {
        let output = self.kubectl(context, arguments);
        assert!(
            !output.status.success(),
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn object(&self, context: &str, arguments: &[&str]) -> Value {
        let text = self.said(context, &[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    fn order(&self, cluster: &str, fault: &str) {
        let url = format!("{}/faults/{cluster}", self.url);
        let curl = Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--json", fault, &url])
            .output()
            .expect("curl starts");
        assert!(curl.status.success(), "{}", String::from_utf8_lossy(&curl.stderr));
    }

    fn counts(&self, cluster: &str) -> Value {
        let url = format!("{}/counts", self.url);
        let curl = Command::new("curl").args(["--silent", "--fail", &url]).output().expect("curl starts");
        serde_json::from_slice::<Value>(&curl.stdout).expect("JSON")[cluster].clone()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("a writable folder");
        path
    }

    /// Applies a file on the server's side.
    fn apply(&self, context: &str, path: &Path) -> String {
        self.said(context, &["apply", "--server-side", "-f", path.to_str().expect("UTF-8")])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn workload(kind: &str, replicas: u32, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop }}\n---\n\
         apiVersion: apps/v1\nkind: {kind}\nmetadata: {{ name: web, namespace: shop, labels: {{ app: web }} }}\n\
         spec:\n  replicas: {replicas}\n  selector: {{ matchLabels: {{ app: web }} }}\n\
         \x20 template:\n    metadata: {{ labels: {{ app: web }} }}\n\
         \x20   spec: {{ containers: [{{ name: main, image: \"{image}\" }}] }}\n"
    )
}

#[test]
fn workloads_are_applied_and_waited_for() {
    let server = Server::start("ukwest,uksouth", 50);
    for kind in ["Deployment", "StatefulSet"] {
        let path = server.file(
            kind,
            &workload(kind, 3, "web:1").replace("name: web,", &format!("name: {},", kind.to_lowercase())),
        );
        let said = server.apply("ukwest", &path);
        assert!(said.contains("serverside-applied"), "{said}");
        let name = format!("{0}/{0}", kind.to_lowercase());
        let said = server.said("ukwest", &["rollout", "status", "--timeout=60s", "-n", "shop", &name]);
        assert!(said.contains("success") || said.contains("complete"), "{said}");
        let object = server.object("ukwest", &["get", &name, "-n", "shop", "--show-managed-fields"]);
        assert_eq!(
            (&object["status"]["readyReplicas"], &object["metadata"]["generation"]),
            (&3.into(), &1.into())
        );
        assert_eq!(object["metadata"]["managedFields"][0]["manager"], "kubectl");
    }
    let pods = server.object("ukwest", &["get", "pods", "-n", "shop", "-l", "app=web"]);
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(6));
    server.said("ukwest", &["wait", "--for=condition=Ready", "pods", "--all", "-n", "shop", "--timeout=60s"]);
    server.said("ukwest", &["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"]);
    // The other cluster has heard nothing of it.
    assert!(server.refused("uksouth", &["get", "namespace", "shop"]).contains("NotFound"));
}

#[test]
fn an_update_is_a_new_rollout_and_the_same_again_is_none() {
    let server = Server::start("ukwest", 50);
    let status = ["rollout", "status", "--timeout=60s", "-n", "shop", "statefulset/web"];
    let first = server.file("first.yaml", &workload("StatefulSet", 2, "web:1"));
    server.apply("ukwest", &first);
    server.said("ukwest", &status);
    server.apply("ukwest", &first);
    let get = ["get", "statefulset", "web", "-n", "shop"];
    assert_eq!(server.object("ukwest", &get)["metadata"]["generation"], 1);
    server.apply("ukwest", &server.file("second.yaml", &workload("StatefulSet", 2, "web:2")));
    server.said("ukwest", &status);
    let object = server.object("ukwest", &get);
    assert_eq!(object["metadata"]["generation"], 2);
    assert_eq!(object["status"]["updatedReplicas"], 2);
    server.said("ukwest", &["rollout", "restart", "-n", "shop", "statefulset/web"]);
    server.said("ukwest", &status);
    assert_eq!(server.object("ukwest", &get)["metadata"]["generation"], 3);
    server.said("ukwest", &["delete", "namespace", "shop", "--timeout=60s"]);
    assert!(server.refused("ukwest", &get).contains("NotFound"));
}

#[test]
fn what_kubernetes_refuses_is_refused() {
    let server = Server::start("ukwest", 50);
    let apply = |text: &str| {
        let path = server.file("object.yaml", text);
        server.refused("ukwest", &["apply", "--server-side", "-f", path.to_str().expect("UTF-8")])
    };
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: c, namespace: nowhere }\n";
    assert!(apply(config).contains("namespaces \"nowhere\" not found"));
    let stray = workload("Deployment", 1, "web:1")
        .replace("metadata: { labels: { app: web } }", "metadata: { labels: { app: x } }");
    assert!(apply(&stray).contains("`selector` does not match template `labels`"));
    let said = apply("apiVersion: v9\nkind: Nothing\nmetadata: { name: x }\n");
    assert!(said.contains("no matches for kind"), "{said}");
    // Two managers and one field.
    let config =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: c, namespace: default }\ndata: { a: \"1\" }\n";
    let path = server.file("config.yaml", config);
    server.apply("ukwest", &path);
    let other = server.file("other.yaml", &config.replace("\"1\"", "\"2\""));
    let other = other.to_str().expect("UTF-8");
    let said = server.refused("ukwest", &["apply", "--server-side", "--field-manager=other", "-f", other]);
    assert!(said.contains("conflict with \"kubectl\"") && said.contains(".data.a"), "{said}");
    server.said(
        "ukwest",
        &["apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", other],
    );
    assert_eq!(server.object("ukwest", &["get", "cm", "c"])["data"]["a"], "2");
    // A dry run changes nothing.
    server.said(
        "ukwest",
        &[
            "apply",
            "--server-side",
            "--dry-run=server",
            "--force-conflicts",
            "-f",
            path.to_str().expect("UTF-8"),
        ],
    );
    assert_eq!(server.object("ukwest", &["get", "cm", "c"])["data"]["a"], "2");
}

#[test]
fn faults_strike_when_they_are_ordered() {
    let server = Server::start("ukwest,uksouth", 50);
    let path = server.file("web.yaml", &workload("Deployment", 2, "web:1"));
    // kubectl obeys Retry-After and gets through.
    server.order("ukwest", r#"{ "fault": "throttle", "requests": 2, "retry_after_s": 1 }"#);
    server.apply("ukwest", &path);
    assert_eq!(server.counts("ukwest")["throttled"], 2);
    server.order("ukwest", r#"{ "fault": "error", "requests": 1000000, "code": 500 }"#);
    let said = server.refused("ukwest", &["get", "--raw", "/clusters/ukwest/api/v1/nodes"]);
    assert!(said.contains("a fault that was asked for"), "{said}");
    server.order("ukwest", r#"{ "fault": "heal" }"#);
    server.said("ukwest", &["get", "nodes"]);
    // Pods that never start end the rollout with its deadline.
    server.order("uksouth", r#"{ "fault": "stuck", "name": "web" }"#);
    server.apply("uksouth", &path);
    let status = ["rollout", "status", "--timeout=60s", "-n", "shop", "deployment/web"];
    assert!(server.refused("uksouth", &status).contains("exceeded its progress deadline"));
    let pods = server.object("uksouth", &["get", "pods", "-n", "shop"]);
    assert_eq!(
        pods["items"][0]["status"]["containerStatuses"][0]["state"]["waiting"]["reason"],
        "ImagePullBackOff"
    );
    server.order("uksouth", r#"{ "fault": "heal" }"#);
    server.said("uksouth", &status);
}

#[test]
fn secrets_are_kept_as_base64() {
    let server = Server::start("ukwest", 50);
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: { name: s, namespace: default }\nstringData: { key: hidden }\n";
    server.apply("ukwest", &server.file("secret.yaml", secret));
    let object = server.object("ukwest", &["get", "secret", "s"]);
    assert_eq!((&object["data"]["key"], &object["stringData"]), (&"aGlkZGVu".into(), &Value::Null));
    server.apply("ukwest", &server.file("secret.yaml", secret));
    assert_eq!(
        server.object("ukwest", &["get", "secret", "s"])["metadata"]["resourceVersion"],
        object["metadata"]["resourceVersion"]
    );
}

/// As the deployment `pccl-fleet` does it: the namespace, the script with the secrets, the overlays.
#[test]
fn the_fleet_of_this_repository_is_applied_and_rolled_out() {
    let server = Server::start("northeurope", 20);
    let fleet = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deployments/pccl-fleet/kubernetes");
    server.apply("northeurope", &fleet.join("base/settings/namespace.yaml"));
    let settings = Command::new(fleet.join("settings.sh"))
        .args(["northeurope", "24"])
        .env("KUBECONFIG", server.folder.path().join("kubeconfig"))
        .env("KUBECACHEDIR", server.folder.path().join("cache"))
        .env("PCCL_AUTH_SECRET", "0123456789abcdef")
        .env("PCCL_STORE_URL", "postgres://masters@db/pccl")
        .output()
        .expect("the script starts");
    assert!(settings.status.success(), "{}", String::from_utf8_lossy(&settings.stderr));
    let secret = server.object("northeurope", &["get", "secret/pccl-auth", "-n", "pccl"]);
    assert_eq!(secret["data"]["secret"], "MDEyMzQ1Njc4OWFiY2RlZg==");
    for overlay in ["single", "region-masters", "region-workers"] {
        let folder = fleet.join("overlays").join(overlay);
        let folder = folder.to_str().expect("UTF-8");
        let apply = ["apply", "--server-side", "--force-conflicts", "-k", folder];
        server.said("northeurope", &apply);
        let workloads: &[&str] = match overlay {
            "single" => &["deployment/pccl-master", "statefulset/pccl-worker"],
            "region-masters" => &["deployment/pccl-master", "deployment/pccl-standby"],
            _ => &["statefulset/pccl-worker"],
        };
        for workload in workloads {
            server.said("northeurope", &["rollout", "status", "--timeout=60s", "-n", "pccl", workload]);
        }
    }
    let worker = server.object("northeurope", &["get", "statefulset/pccl-worker", "-n", "pccl"]);
    assert_eq!(worker["spec"]["template"]["spec"]["hostNetwork"], true);
}
