//! Database servers as processes: from Debian's packages, on free ports, in folders of their own, killed when they are
//! dropped. The end-to-end tests of peers include this file.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than anything may take here.
const HANG: Duration = Duration::from_secs(60);
/// `nobody`: PostgreSQL and PgBouncer do not run as root.
const NOBODY: u32 = 65534;

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < HANG, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program, on the PATH or where Debian puts it.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not there: run `cargo xtask tools` first"))
}

/// A command that ends with this thread, and is not run by root.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::geteuid().is_root() {
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    command.arg(program).stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
    command
}

/// A folder that the servers may use.
pub(crate) fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    hand_over(dir.path());
    dir
}

pub(crate) fn hand_over(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that is killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) port: u16,
    log: PathBuf,
}

impl Running {
    /// Starts it on a port that is free; if somebody else takes that port first, on another one.
    pub(crate) fn start(dir: &Path, name: &str, mut line: impl FnMut(u16) -> Command) -> Self {
        for _ in 0..20 {
            let port = free_port();
            if let Some(running) = Self::start_at(dir, name, port, line(port)) {
                return running;
            }
        }
        let log = fs::read_to_string(dir.join(name)).unwrap_or_default();
        panic!("{name} ends at once, on any port: {log}");
    }

    pub(crate) fn start_at(dir: &Path, name: &str, port: u16, mut line: Command) -> Option<Self> {
        let log = dir.join(name);
        let child = line.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        let mut running = Self { child, port, log };
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let mut ended = false;
        until(name, || {
            ended = running.child.try_wait().unwrap().is_some();
            ended || TcpStream::connect(addr).is_ok()
        });
        (!ended).then_some(running)
    }

    /// To it and its children: a PostgreSQL without its parent goes on with those who are connected.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        let number = self.child.id();
        let children = fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap();
        for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // One that has ended meanwhile needs none.
            let _ = kill_process(child, signal);
        }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A child that is stopped hears nothing but this.
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

pub(crate) struct Postgres {
    pub(crate) running: Running,
    pub(crate) dir: TempDir,
}

impl Postgres {
    /// It listens before it answers.
    pub(crate) fn begin(options: &[String]) -> Self {
        let dir = folder();
        let data = dir.path().join("data");
        let mut made = command(&program("initdb"));
        made.args(["--username=pccl", "--auth=trust", "--no-sync", "--encoding=UTF8", "--pgdata"]).arg(&data);
        assert!(made.status().unwrap().success());
        let running =
            Running::start(dir.path(), "postgres.log", |port| Self::line(dir.path(), port, options));
        Self { running, dir }
    }

    pub(crate) fn line(dir: &Path, port: u16, options: &[String]) -> Command {
        let mut line = command(&program("postgres"));
        line.arg("-D").arg(dir.join("data")).arg("-k").arg(dir);
        line.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(options);
        line
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://pccl@127.0.0.1:{}/postgres?sslmode=disable", self.running.port)
    }
}

pub(crate) struct Etcd {
    pub(crate) running: Running,
    pub(crate) dir: TempDir,
}

impl Etcd {
    /// It listens before it answers.
    pub(crate) fn begin() -> Self {
        let dir = folder();
        let running = Running::start(dir.path(), "etcd.log", |port| Self::line(dir.path(), port));
        Self { running, dir }
    }

    pub(crate) fn line(dir: &Path, port: u16) -> Command {
        let mut line = command(&program("etcd"));
        let (client, peer) =
            (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
        line.arg("--data-dir").arg(dir.join("data"));
        line.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        line.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        line.args(["--initial-cluster", &format!("default={peer}")]);
        line
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.running.port)
    }
}
