//! Pods as processes of this machine: what a kubelet does with rendered manifests, as far as it can be had without one.
//!
//! Every pod gets an address of its own in a network namespace of the node, process numbers of its own, a root that is
//! read-only with its volumes in it, the user and group of its security context, and its command line and environment as
//! the manifest has them. Names of Services lead to the pods that their selectors choose. Probes and hooks run as
//! written.
//!
//! What is different: the program is the one under test, bound into the root with this machine's libraries, where an
//! image has a static one; all pods of a node share one network, so each is told to listen on its own address
//! ([`Node::start`]); NetworkPolicies, resources and seccomp profiles are not applied.

mod container;
mod manifest;
mod network;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub use manifest::Manifest;
pub use network::unavailable;

use container::Container;
use network::Network;

/// What a node could not do.
#[derive(Debug, thiserror::Error)]
#[error("failed to {0}")]
pub struct PodError(pub(crate) String);

/// A machine that runs pods. They end with it.
#[derive(Debug)]
pub struct Node {
    manifest: Manifest,
    program: PathBuf,
    secrets: BTreeMap<(String, String), String>,
    configs: BTreeMap<(String, String), String>,
    pods: BTreeMap<String, Pod>,
    network: Network,
    folder: TempDir,
    addresses: u8,
}

#[derive(Debug)]
struct Pod {
    container: Container,
    process: Child,
}

impl Node {
    /// A node for the objects of `manifest`, whose images contain `program` as `/pccl`.
    ///
    /// # Errors
    /// The system has no network namespace for us.
    pub fn new(manifest: Manifest, program: &Path) -> Result<Self, PodError> {
        let folder = tempfile::tempdir().map_err(|error| PodError(format!("make a folder: {error}")))?;
        let mut configs = BTreeMap::new();
        for object in manifest.of_kind("ConfigMap") {
            for (key, value) in object["data"].as_object().into_iter().flatten() {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                configs.insert((name.to_owned(), key.clone()), value.as_str().unwrap_or_default().to_owned());
            }
        }
        Ok(Self {
            manifest,
            program: program.to_owned(),
            secrets: BTreeMap::new(),
            configs,
            pods: BTreeMap::new(),
            network: Network::new()?,
            folder,
            addresses: 0,
        })
    }

    /// The manifests.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A Secret, as somebody puts it into the cluster.
    pub fn secret(&mut self, name: &str, key: &str, value: &str) {
        self.secrets.insert((name.to_owned(), key.to_owned()), value.to_owned());
    }

    /// Runs `work` in the network of the pods.
    ///
    /// # Errors
    /// The network cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, PodError> {
        self.network.inside(work)
    }

    /// Makes a port of this machine's loopback reachable for pods, for a database outside; gives the address there.
    ///
    /// # Errors
    /// The network cannot be entered, or the address is taken.
    pub fn forward(&self, port: u16) -> Result<String, PodError> {
        self.network.forward(port)
    }

    /// Starts `count` pods of a Deployment or StatefulSet, and gives their names. `arguments` go behind those of the
    /// manifest, `more` goes into the environment.
    ///
    /// Each is told to listen on its own address alone, because they share one network: that is what
    /// `PCCL_NETWORK__BIND_ADDRESS` and `PCCL_METRICS_ADDRESS` are set to.
    ///
    /// # Errors
    /// There is no such workload, or it asks for something that is not there: a Secret, a volume.
    pub fn start(
        &mut self,
        workload: &str,
        count: usize,
        arguments: &[&str],
        more: &[(&str, &str)],
    ) -> Result<Vec<String>, PodError> {
        let object = self.manifest.workload(workload)?.clone();
        let mut names = Vec::new();
        for n in 0..count {
            self.addresses += 1;
            let ip = Ipv4Addr::new(10, 77, 0, self.addresses);
            self.network.add(ip)?;
            let name = if object["kind"] == "StatefulSet" {
                format!("{workload}-{n}")
            } else {
                format!("{workload}-{:05x}-{n}", self.addresses)
            };
            let mut container = Container::new(&object, &name, ip, &self.configs, &self.secrets)?;
            container.environment.insert("PCCL_NETWORK__BIND_ADDRESS".to_owned(), ip.to_string());
            container.environment.insert("PCCL_METRICS_ADDRESS".to_owned(), format!("{ip}:9090"));
            container.command.extend(arguments.iter().map(|word| (*word).to_owned()));
            for (key, value) in more {
                container.environment.insert((*key).to_owned(), (*value).to_owned());
            }
            names.push((name, container));
        }
        // Names of Services may lead to any of them.
        for (name, container) in &names {
            let home = self.folder.path().join(name);
            container.prepare(&home)?;
            self.network.name(&self.manifest, name, container.ip, &container.labels);
        }
        self.write_hosts()?;
        let mut started = Vec::new();
        for (name, container) in names {
            let home = self.folder.path().join(&name);
            let process = container.run(&home, &self.program, &self.hosts_file(), self.network.name_of())?;
            self.pods.insert(name.clone(), Pod { container, process });
            started.push(name);
        }
        Ok(started)
    }

    fn hosts_file(&self) -> PathBuf {
        self.folder.path().join("hosts")
    }

    /// In place: it is bound into the roots of pods.
    fn write_hosts(&self) -> Result<(), PodError> {
        fs::write(self.hosts_file(), self.network.hosts())
            .map_err(|error| PodError(format!("write the names of Services: {error}")))
    }

    fn pod(&self, name: &str) -> Result<&Pod, PodError> {
        self.pods.get(name).ok_or_else(|| PodError(format!("find the pod {name}")))
    }

    /// The address of a pod.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn ip(&self, pod: &str) -> Result<Ipv4Addr, PodError> {
        Ok(self.pod(pod)?.container.ip)
    }

    /// The environment of a pod's container.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn environment(&self, pod: &str) -> Result<&BTreeMap<String, String>, PodError> {
        Ok(&self.pod(pod)?.container.environment)
    }

    /// What a pod's probe (`readinessProbe`, `livenessProbe`, `startupProbe`) sees: the HTTP status, or why there is none.
    ///
    /// # Errors
    /// There is no such pod or probe.
    pub fn probe(&self, pod: &str, probe: &str) -> Result<Result<u16, String>, PodError> {
        let container = &self.pod(pod)?.container;
        let (path, port) = container.http_probe(probe)?;
        let ip = container.ip;
        self.inside(move || network::get(ip, port, &path).map(|(status, _)| status))
    }

    /// A page of a pod, by the name of its container's port.
    ///
    /// # Errors
    /// There is no such pod or port, or nothing answers.
    pub fn get(&self, pod: &str, port: &str, path: &str) -> Result<String, PodError> {
        let container = &self.pod(pod)?.container;
        let (ip, port) = (container.ip, container.port(port)?);
        let answer = self.inside(|| network::get(ip, port, path))?;
        answer.map(|(_, body)| body).map_err(|why| PodError(format!("ask {pod}: {why}")))
    }

    /// What a pod has printed.
    pub fn log(&self, pod: &str) -> String {
        fs::read_to_string(self.folder.path().join(pod).join("log")).unwrap_or_default()
    }

    /// Runs a command in a pod's container, as `kubectl exec` does.
    ///
    /// # Errors
    /// There is no such pod, or it has ended.
    pub fn execute(&self, pod: &str, command: &[&str]) -> Result<Output, PodError> {
        let one = self.pod(pod)?;
        one.container.execute(one.process.id(), command)
    }

    /// Ends a pod as a kubelet does: the hook, then SIGTERM, then, after its grace period, SIGKILL. Gives what the hook
    /// printed, and how the container ended.
    ///
    /// # Errors
    /// There is no such pod, or it has ended before.
    pub fn delete(&mut self, pod: &str) -> Result<(Option<Output>, ExitStatus), PodError> {
        let one = self.pod(pod)?;
        let hook = match one.container.pre_stop() {
            None => None,
            Some(command) => {
                let words: Vec<&str> = command.iter().map(String::as_str).collect();
                Some(self.execute(pod, &words)?)
            }
        };
        let mut one = self.pods.remove(pod).ok_or_else(|| PodError(format!("find the pod {pod}")))?;
        container::signal(one.process.id(), rustix::process::Signal::TERM);
        let deadline = Instant::now() + one.container.grace;
        loop {
            match one.process.try_wait() {
                Ok(Some(status)) => return Ok((hook, status)),
                Ok(None) if Instant::now() >= deadline => {
                    container::signal(one.process.id(), rustix::process::Signal::KILL);
                }
                Ok(None) => {}
                Err(error) => return Err(PodError(format!("wait for {pod}: {error}"))),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// kill -9 of a pod's first process.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn kill(&mut self, pod: &str) -> Result<(), PodError> {
        let mut one = self.pods.remove(pod).ok_or_else(|| PodError(format!("find the pod {pod}")))?;
        container::signal(one.process.id(), rustix::process::Signal::KILL);
        one.process.wait().map(|_| ()).map_err(|error| PodError(format!("wait for {pod}: {error}")))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for pod in self.pods.values_mut() {
            container::signal(pod.process.id(), rustix::process::Signal::KILL);
            let _ = pod.process.kill();
            let _ = pod.process.wait();
        }
    }
}

/// Whether all labels of a selector are there.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object();
    wanted.is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value))
}
