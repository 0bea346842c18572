//! A real PostgreSQL in a folder of its own, on a free port.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::until;

/// `nobody`: PostgreSQL does not run as root.
const NOBODY: u32 = 65534;

/// A server that ends with the test.
pub(crate) struct Postgres {
    server: Child,
    port: u16,
    folder: TempDir,
}

/// A program of PostgreSQL, on the PATH or where Debian puts it.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let found = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not there: run `cargo xtask tools` first"))
}

/// A command that ends with this thread, and is not run by root.
fn command(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if rustix::process::geteuid().is_root() {
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    command
        .arg(program(name))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/");
    command
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("a folder of ours");
        if rustix::process::geteuid().is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("root");
        }
        let mut made = command("initdb");
        made.args(["--username=pccl", "--auth=trust", "--no-sync", "--encoding=UTF8", "--pgdata"]);
        assert!(made.arg(folder.path().join("data")).status().expect("initdb starts").success());
        // If somebody else takes the port first, on another one.
        let mut started = None;
        until("a PostgreSQL", || {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|free| free.local_addr())
                .expect("a free port")
                .port();
            started = Self::serve(folder.path(), port).map(|server| (server, port));
            started.is_some().then_some(())
        });
        let (server, port) = started.expect("it has started");
        Self { server, port, folder }
    }

    fn serve(folder: &Path, port: u16) -> Option<Child> {
        let mut line = command("postgres");
        line.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
        // Only a power failure would need it on the disk.
        line.args(["-F", "-h", "127.0.0.1", "-p", &port.to_string()]);
        let mut server = line.spawn().expect("postgres starts");
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let up = until("an answer, or an end", || match server.try_wait() {
            Ok(None) => TcpStream::connect(addr).is_ok().then_some(true),
            _ => Some(false),
        });
        up.then_some(server)
    }

    /// Where it listens on loopback.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// For `--journal`.
    pub(crate) fn url(&self) -> String {
        format!("postgres://pccl@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// kill -9 of all of it, and a new start on the same files.
    pub(crate) fn restart(&mut self) {
        self.end();
        until("a new PostgreSQL", || {
            // The children of the old one end by themselves; only then a new one starts.
            self.server = Self::serve(self.folder.path(), self.port)?;
            Some(())
        });
    }

    fn end(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end();
    }
}
