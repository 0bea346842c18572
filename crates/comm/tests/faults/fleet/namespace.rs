//! A network whose packets can be dropped: one namespace, where every process has a user and with it an address of its
//! own, and routing rules that lose what goes from one to another. It needs no virtual links, which not every kernel has.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

const FIRST_USER: u32 = 50_000;
const ADDRESSES: u32 = 12;

/// A network namespace, gone when dropped.
pub(crate) struct Namespace {
    name: String,
    program: PathBuf,
    rules: Vec<u32>,
    next_rule: u32,
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// Why this machine has no namespaces for us, if so.
pub(crate) fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    let name = format!("pccl-probe-{}", std::process::id());
    let works = run("ip", &["netns", "add", &name])
        .and_then(|()| run("ip", &["-n", &name, "rule", "add", "pref", "9", "uidrange", "1-1", "blackhole"]))
        .and_then(|()| run("setpriv", &["--reuid=1", "--clear-groups", "true"]));
    let _ = run("ip", &["netns", "del", &name]);
    works.err()
}

impl Namespace {
    /// A new one. Its processes are other users and cannot always read where the program was built: they run a copy.
    pub(crate) fn new(dir: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
        let program = dir.join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let name = format!("pccl-{}-{}", std::process::id(), super::own_ip().octets()[3]);
        run("ip", &["netns", "add", &name]).unwrap();
        let this = Self { name, program, rules: Vec::new(), next_rule: 10 };
        this.ip_cmd("link set lo up");
        for n in 0..ADDRESSES {
            let (user, table, ip) = (FIRST_USER + n, 1000 + n, this.ip(n));
            this.ip_cmd(&format!("addr add {ip}/32 dev lo"));
            this.ip_cmd(&format!("rule add pref {} uidrange {user}-{user} lookup {table}", 100 + n));
            this.ip_cmd(&format!("route add table {table} local 10.77.0.0/24 dev lo src {ip}"));
        }
        this.ip_cmd("rule add pref 200 lookup local");
        this.ip_cmd("rule del pref 0");
        this
    }

    fn ip_cmd(&self, args: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(args.split(' '));
        run("ip", &all).unwrap();
    }

    /// The address of process `n`.
    #[expect(clippy::unused_self, reason = "an address is one of this network")]
    pub(crate) fn ip(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 1 + n as u8)
    }

    /// Starts this program as process `n`.
    pub(crate) fn command(&self, n: u32) -> Command {
        let mut command = Command::new("ip");
        let user = format!("--reuid={}", FIRST_USER + n);
        command.args(["netns", "exec", &self.name, "setpriv", &user, "--clear-groups"]).arg(&self.program);
        command
    }

    /// From now on no packet gets from one process to the other, either way.
    pub(crate) fn cut(&mut self, a: u32, b: u32) {
        for (from, to) in [(a, b), (b, a)] {
            self.lose(&format!("from {} to {}", self.ip(from), self.ip(to)));
        }
    }

    /// From now on packets of this kind are lost.
    pub(crate) fn lose(&mut self, what: &str) {
        self.next_rule += 1;
        self.ip_cmd(&format!("rule add pref {} {what} blackhole", self.next_rule));
        self.rules.push(self.next_rule);
    }

    /// Nothing is lost any more.
    pub(crate) fn heal(&mut self) {
        for rule in std::mem::take(&mut self.rules) {
            self.ip_cmd(&format!("rule del pref {rule}"));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", &["netns", "del", &self.name]);
    }
}
