//! One container: what the manifest says of it, and the process that comes of that.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PodError;

/// Keys and values of ConfigMaps or Secrets, by name.
type Data = BTreeMap<(String, String), String>;

/// Makes the root of a container and becomes its first process. The arguments: root, program, names, user, group,
/// a volume's folder, its place and `ro` or `rw` for each, `--`, the command line.
const ENTER: &str = r#"
root=$1 program=$2 hosts=$3 user=$4 group=$5; shift 5
mount --make-rprivate /
mount --bind "$root" "$root"
for part in usr lib lib64 bin; do
    if [ -d "$root/$part" ] && [ ! -L "$root/$part" ]; then mount --rbind "/$part" "$root/$part"; fi
done
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$program" "$root/pccl"
mount --bind "$hosts" "$root/etc/hosts"
while [ "$1" != -- ]; do
    mount --bind "$1" "$root$2"
    if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
    shift 3
done
shift
mount -o remount,bind,ro "$root"
exec chroot "$root" /usr/bin/setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs \
    --inh-caps=-all --bounding-set=-all --pdeathsig KILL "$@"
"#;

/// Something at a place in the root.
#[derive(Debug)]
struct Volume {
    name: String,
    place: String,
    read_only: bool,
    /// What outlives the pod.
    claim: Option<String>,
    /// Name, content and mode of what is in it from the start.
    files: Vec<(String, String, u32)>,
}

impl Volume {
    /// Where it is, for a pod whose folder is `home`.
    fn folder(&self, home: &Path) -> PathBuf {
        match (&self.claim, home.parent()) {
            (Some(claim), Some(node)) => node.join("claims").join(claim),
            _ => home.join("volumes").join(&self.name),
        }
    }
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) ip: Ipv4Addr,
    pub(super) labels: Value,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) grace: Duration,
    spec: Value,
    pub(super) command: Vec<String>,
    user: u32,
    group: u32,
    volumes: Vec<Volume>,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Container {
    /// The first container of a workload's pods.
    pub(super) fn new(
        workload: &Value,
        pod: &str,
        ip: Ipv4Addr,
        configs: &Data,
        secrets: &Data,
    ) -> Result<Self, PodError> {
        let template = &workload["spec"]["template"];
        let (pod_spec, spec) = (&template["spec"], &template["spec"]["containers"][0]);
        let security = &pod_spec["securityContext"];
        let number = |key: &str| security[key].as_u64().and_then(|n| u32::try_from(n).ok());
        let missing = |what: &str| PodError(format!("run {pod}: its security context has no {what}"));
        let user = number("runAsUser").filter(|user| *user != 0).ok_or_else(|| missing("user but root"))?;
        let group = number("runAsGroup").ok_or_else(|| missing("group"))?;
        if spec["securityContext"]["readOnlyRootFilesystem"] != true {
            return Err(missing("read-only root"));
        }
        let environment = environment(spec, pod, ip, configs, secrets)?;
        // An image's entry point is `/pccl`; `command` would replace it.
        let entry = texts(&spec["command"]);
        let entry = if entry.is_empty() { vec!["/pccl".to_owned()] } else { entry };
        let command = entry.into_iter().chain(texts(&spec["args"])).map(|word| expand(&word, &environment));
        Ok(Self {
            ip,
            labels: template["metadata"]["labels"].clone(),
            command: command.collect(),
            grace: Duration::from_secs(pod_spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30)),
            volumes: volumes(pod_spec, spec, pod, configs, secrets)?,
            spec: spec.clone(),
            environment,
            user,
            group,
        })
    }

    /// The folders of root and volumes.
    pub(super) fn prepare(&self, home: &Path) -> Result<(), PodError> {
        self.build(home).map_err(|error| PodError(format!("prepare {}: {error}", home.display())))
    }

    fn build(&self, home: &Path) -> std::io::Result<()> {
        let root = home.join("root");
        for part in ["etc", "proc", "dev"] {
            fs::create_dir_all(root.join(part))?;
        }
        File::create(root.join("pccl"))?;
        File::create(root.join("etc/hosts"))?;
        for part in ["usr", "lib", "lib64", "bin"] {
            let here = Path::new("/").join(part);
            match fs::read_link(&here) {
                Ok(target) => symlink(target, root.join(part))?,
                Err(_) if here.is_dir() => fs::create_dir(root.join(part))?,
                Err(_) => {}
            }
        }
        for volume in &self.volumes {
            fs::create_dir_all(root.join(volume.place.trim_start_matches('/')))?;
            let folder = volume.folder(home);
            fs::create_dir_all(&folder)?;
            for (name, content, mode) in &volume.files {
                let file = folder.join(name);
                fs::write(&file, content)?;
                chown(&file, Some(0), Some(self.group))?;
                fs::set_permissions(&file, fs::Permissions::from_mode(*mode))?;
            }
            // fsGroup: the group owns volumes, and may write into them.
            chown(&folder, Some(0), Some(self.group))?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775))?;
        }
        Ok(())
    }

    /// Starts it.
    pub(super) fn run(
        &self,
        home: &Path,
        program: &Path,
        hosts: &Path,
        network: &str,
    ) -> Result<Child, PodError> {
        let fail = |error: std::io::Error| PodError(format!("start {}: {error}", home.display()));
        let log = File::create(home.join("log")).map_err(fail)?;
        let mut line = Command::new("setpriv");
        line.args(["--pdeathsig", "KILL", "ip", "netns", "exec", network]);
        line.args(["unshare", "--mount", "--pid", "--fork", "sh", "-euc", ENTER, "enter"]);
        line.arg(home.join("root")).arg(program).arg(hosts);
        line.args([self.user.to_string(), self.group.to_string()]);
        for volume in &self.volumes {
            line.arg(volume.folder(home)).arg(&volume.place);
            line.arg(if volume.read_only { "ro" } else { "rw" });
        }
        line.arg("--").args(&self.command);
        self.surround(&mut line);
        line.stdin(Stdio::null()).stdout(log.try_clone().map_err(fail)?).stderr(log);
        line.spawn().map_err(fail)
    }

    /// The container's environment, with what an image has.
    fn surround(&self, line: &mut Command) {
        line.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        line.envs(&self.environment);
    }

    /// Runs a command beside the first process, whose parent is `outer`.
    pub(super) fn execute(&self, outer: u32, command: &[&str]) -> Result<Output, PodError> {
        let first = first_process(outer).ok_or_else(|| PodError(format!("run {command:?}: it has ended")))?;
        let mut line = Command::new("nsenter");
        line.args(["--mount", "--pid", "--net", "--root", "--wd", "--target", &first.to_string()]);
        line.args(["--setuid", &self.user.to_string(), "--setgid", &self.group.to_string(), "--"]);
        line.args(command).stdin(Stdio::null());
        self.surround(&mut line);
        line.output().map_err(|error| PodError(format!("run {command:?}: {error}")))
    }

    /// The number of a port by its name.
    pub(super) fn port(&self, name: &str) -> Result<u16, PodError> {
        let ports = self.spec["ports"].as_array().into_iter().flatten();
        let port = ports.filter(|port| port["name"] == name).find_map(|port| port["containerPort"].as_u64());
        port.and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| PodError(format!("find the port `{name}`")))
    }

    /// Path and port.
    pub(super) fn http_probe(&self, probe: &str) -> Result<(String, u16), PodError> {
        let get = &self.spec[probe]["httpGet"];
        let path = get["path"].as_str().ok_or_else(|| PodError(format!("find the {probe}")))?;
        Ok((path.to_owned(), self.port(get["port"].as_str().unwrap_or_default())?))
    }

    pub(super) fn pre_stop(&self) -> Option<Vec<String>> {
        let command = texts(&self.spec["lifecycle"]["preStop"]["exec"]["command"]);
        (!command.is_empty()).then_some(command)
    }
}

/// The first process in the container, by its number here.
fn first_process(outer: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
    text.split_whitespace().next()?.parse().ok()
}

/// A signal to the first process of a container, if it has one yet and still.
pub(super) fn signal(outer: u32, signal: Signal) {
    let pid = first_process(outer).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// `$(NAME)`, as Kubernetes replaces it.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    environment.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

fn environment(
    spec: &Value,
    pod: &str,
    ip: Ipv4Addr,
    configs: &Data,
    secrets: &Data,
) -> Result<BTreeMap<String, String>, PodError> {
    let mut all = BTreeMap::new();
    for one in spec["env"].as_array().into_iter().flatten() {
        let name = one["name"].as_str().unwrap_or_default().to_owned();
        let from = &one["valueFrom"];
        let looked_up = |data: &Data, from: &Value| {
            let part = |key: &str| from[key].as_str().unwrap_or_default().to_owned();
            data.get(&(part("name"), part("key"))).cloned()
        };
        let value = match (one["value"].as_str(), from["fieldRef"]["fieldPath"].as_str()) {
            (Some(value), _) => Some(expand(value, &all)),
            (None, Some("status.podIP")) => Some(ip.to_string()),
            (None, Some("metadata.name")) => Some(pod.to_owned()),
            _ => looked_up(secrets, &from["secretKeyRef"])
                .or_else(|| looked_up(configs, &from["configMapKeyRef"])),
        };
        let value = value.ok_or_else(|| PodError(format!("run {pod}: nothing says what {name} is")))?;
        all.insert(name, value);
    }
    Ok(all)
}

fn volumes(
    pod_spec: &Value,
    spec: &Value,
    pod: &str,
    configs: &Data,
    secrets: &Data,
) -> Result<Vec<Volume>, PodError> {
    let mut all = Vec::new();
    for mount in spec["volumeMounts"].as_array().into_iter().flatten() {
        let name = mount["name"].as_str().unwrap_or_default();
        let sources = pod_spec["volumes"].as_array().into_iter().flatten();
        let Some(source) = sources.into_iter().find(|source| source["name"] == name) else {
            return Err(PodError(format!("run {pod}: there is no volume {name}")));
        };
        let read = |data: &Data, from: &Value, mode: u32| -> Vec<_> {
            let files = data.iter().filter(|((name, _), _)| *from == name.as_str());
            files.map(|((_, key), text)| (key.clone(), text.clone(), mode)).collect()
        };
        let mode = source["secret"]["defaultMode"].as_u64().and_then(|mode| u32::try_from(mode).ok());
        let files = match (source.get("configMap"), source.get("secret")) {
            (Some(config), _) => read(configs, &config["name"], 0o644),
            (None, Some(secret)) => read(secrets, &secret["secretName"], mode.unwrap_or(0o644)),
            (None, None) => Vec::new(),
        };
        let claim = source["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned);
        let empty = source.get("emptyDir").is_some() || claim.is_some();
        if files.is_empty() && !empty {
            return Err(PodError(format!("run {pod}: nothing is in the volume {name}")));
        }
        let place = mount["mountPath"].as_str().unwrap_or_default().to_owned();
        let read_only = mount["readOnly"] == true || !empty;
        all.push(Volume { name: name.to_owned(), place, read_only, claim, files });
    }
    Ok(all)
}
