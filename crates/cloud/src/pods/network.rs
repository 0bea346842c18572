//! The network of a node: one namespace, with an address for each pod, and the names of Services.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use super::{Manifest, PodError, selects};

/// Where the machine itself is, for what pods reach outside.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
/// Longest wait for an answer of a pod.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Network {
    name: String,
    /// Name of a Service or pod, and where it leads.
    hosts: BTreeMap<String, Ipv4Addr>,
}

fn ip(args: &str) -> Result<(), PodError> {
    let output = Command::new("ip").args(args.split(' ')).output();
    let output = output.map_err(|error| PodError(format!("run `ip {args}`: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(PodError(format!("run `ip {args}`: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Why pods cannot run on this machine, if so.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("pods need namespaces of network, processes and mounts, and these need root".to_owned());
    }
    Network::new().err().map(|error| error.to_string())
}

impl Network {
    pub(super) fn new() -> Result<Self, PodError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let this =
            Self { name: format!("pccl-pods-{}-{number}", std::process::id()), hosts: BTreeMap::new() };
        ip(&format!("netns add {}", this.name))?;
        ip(&format!("-n {} link set lo up", this.name))?;
        this.add(OUTSIDE)?;
        Ok(this)
    }

    pub(super) fn name_of(&self) -> &str {
        &self.name
    }

    pub(super) fn add(&self, address: Ipv4Addr) -> Result<(), PodError> {
        ip(&format!("-n {} addr add {address}/32 dev lo", self.name))
    }

    /// The Services that select a pod lead to it from now on.
    pub(super) fn name(&mut self, manifest: &Manifest, pod: &str, address: Ipv4Addr, labels: &Value) {
        for service in manifest.of_kind("Service") {
            if !selects(&service["spec"]["selector"], labels) {
                continue;
            }
            let name = service["metadata"]["name"].as_str().unwrap_or_default();
            if service["spec"]["clusterIP"] == "None" {
                self.hosts.insert(format!("{pod}.{name}"), address);
            }
            self.hosts.insert(name.to_owned(), address);
        }
    }

    pub(super) fn hosts(&self) -> String {
        self.hosts.iter().fold("127.0.0.1 localhost\n".to_owned(), |mut text, (name, address)| {
            let _ = writeln!(text, "{address} {name}");
            text
        })
    }

    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, PodError> {
        let path = format!("/run/netns/{}", self.name);
        let fail = |why: String| PodError(format!("enter the network {path}: {why}"));
        let file = File::open(&path).map_err(|error| fail(error.to_string()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok::<_, rustix::io::Errno>(work())
            });
            match inside.join() {
                Ok(done) => done.map_err(|error| fail(error.to_string())),
                Err(_) => Err(fail("a thread panicked".to_owned())),
            }
        })
    }

    pub(super) fn forward(&self, port: u16) -> Result<String, PodError> {
        let listener = self
            .inside(|| TcpListener::bind((OUTSIDE, port)))?
            .map_err(|error| PodError(format!("listen for pods on port {port}: {error}")))?;
        thread::spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let Ok(to) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (Ok(from2), Ok(to2)) = (from.try_clone(), to.try_clone()) else { continue };
                thread::spawn(move || carry(from, to));
                thread::spawn(move || carry(to2, from2));
            }
        });
        Ok(format!("{OUTSIDE}:{port}"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// Status and body.
pub(super) fn get(ip: Ipv4Addr, port: u16, path: &str) -> Result<(u16, String), String> {
    let address = SocketAddr::from((ip, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    status.map(|status| (status, body.to_owned())).ok_or_else(|| format!("no HTTP: {answer}"))
}
