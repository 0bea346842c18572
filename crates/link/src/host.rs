//! A host: a network namespace with one TUN device.

use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

/// Name of the device, the same in every namespace.
const DEVICE: &str = "link0";
/// Packets that may wait for this process to read them. It is no queue of the link, which is much shorter.
const DEVICE_QUEUE: u32 = 10_000;

/// A network cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// A program is missing, or says no.
    #[error("failed to make a network: `{program}`: {why}; it takes root, util-linux and iproute2")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        why: String,
    },
    /// The system refuses.
    #[error("failed to make a network: {what}: {source}; it takes root and /dev/net/tun")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// More hosts than there are addresses, or none.
    #[error("failed to make a network: it has 1 to 200 hosts, not {0}")]
    Hosts(usize),
}

pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> LinkError {
    move |source| LinkError::System { what, source }
}

/// A network namespace. It lives as long as this, or as something runs in it.
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Result<Self, LinkError> {
        // A process that waits in a namespace of its own until we have a hand on that; it ends with its input.
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| LinkError::Program { program: "unshare", why: e.to_string() })?;
        let ready = holder.stdout.as_mut().is_some_and(|out| out.read_exact(&mut [0]).is_ok());
        let opened = File::open(format!("/proc/{}/ns/net", holder.id()));
        drop(holder.stdin.take());
        let output = holder.wait_with_output().map_err(system("wait for unshare"))?;
        if !ready {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LinkError::Program { program: "unshare", why });
        }
        let namespace = Self(opened.map_err(system("open a namespace"))?);
        let up = namespace.command("ip").args(["link", "set", "lo", "up"]).output();
        let up = up.map_err(|e| LinkError::Program { program: "setpriv", why: e.to_string() })?;
        if !up.status.success() {
            let why = String::from_utf8_lossy(&up.stderr).trim().to_owned();
            return Err(LinkError::Program { program: "ip", why });
        }
        Ok(namespace)
    }

    /// Where others find it as long as this process lives.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }

    /// A program in it, killed when the thread that starts it ends.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]);
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs `work` on a thread in it. Sockets and devices belong to the namespace that they were made in.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Its device, that all packets of the network go through.
    pub(crate) fn device(&self, address: Ipv4Addr, mtu: u16) -> Result<SyncDevice, LinkError> {
        let build = || {
            DeviceBuilder::new()
                .name(DEVICE)
                .ipv4(address, 24, None)
                .mtu(mtu)
                .with(|linux| {
                    linux.tx_queue_len(DEVICE_QUEUE);
                })
                .build_sync()
        };
        let device = self.enter(build).and_then(|device| device).map_err(system("make a TUN device"))?;
        device.set_nonblocking(true).map_err(system("set up a TUN device"))?;
        Ok(device)
    }
}
