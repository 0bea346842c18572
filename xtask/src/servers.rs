//! The database servers, the browser and the firewalls that tests start, from Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// While this is there, Debian's packages start no service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// A program, where it may be, and the Debian package that brings it.
struct Tool {
    program: &'static str,
    folders: &'static str,
    package: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool { program: "postgres", folders: "/usr/lib/postgresql/*/bin", package: "postgresql" },
    Tool { program: "etcd", folders: "/usr/bin", package: "etcd-server" },
    Tool { program: "pgbouncer", folders: "/usr/sbin", package: "pgbouncer" },
    // Rules of firewalls are applied for real, in namespaces of their own.
    Tool { program: "nft", folders: "/usr/sbin", package: "nftables" },
    Tool { program: "iptables", folders: "/usr/sbin", package: "iptables" },
    // No window, no desktop: pages are looked at by a program.
    Tool { program: "chromium-headless-shell", folders: "/usr/bin", package: "chromium-headless-shell" },
];

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let missing: Vec<&str> = TOOLS.iter().filter(|tool| !is_there(tool)).map(|tool| tool.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    debian(&missing)
}

fn is_there(tool: &Tool) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool.program).is_file())
        || matching(tool.folders).iter().any(|folder| folder.join(tool.program).is_file())
}

/// The folders that a pattern with one `*` as a whole part stands for.
fn matching(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once("/*/") else { return vec![PathBuf::from(pattern)] };
    let Ok(found) = fs::read_dir(before) else { return Vec::new() };
    found.flatten().map(|entry| entry.path().join(after)).collect()
}

fn debian(packages: &[&str]) -> Result<()> {
    println!("installing {}", packages.join(", "));
    let quiet = Path::new(POLICY);
    let ours = !quiet.exists();
    if ours {
        let policy = "printf '#!/bin/sh\\nexit 101\\n' > \"$1\" && chmod 755 \"$1\"";
        as_root(&["sh", "-c", policy, "sh", POLICY])?;
    }
    let installed = as_root(&["apt-get", "update", "-qq"]).and_then(|()| {
        let mut command = vec!["apt-get", "install", "-y", "-qq", "--no-install-recommends"];
        command.extend(packages);
        as_root(&command)
    });
    if ours {
        as_root(&["rm", "-f", POLICY])?;
    }
    installed.with_context(|| format!("failed to install {}: install it by hand", packages.join(", ")))
}

fn as_root(command: &[&str]) -> Result<()> {
    // What root may do, others do by sudo, if it asks nothing.
    let is_root =
        fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    let sudo: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let line: Vec<&str> = sudo.iter().chain(command).copied().collect();
    let mut process = Command::new(line[0]);
    process.args(&line[1..]).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let status = process.status().with_context(|| format!("failed to start {}", line[0]))?;
    ensure!(status.success(), "`{}` ended with {status}", line.join(" "));
    Ok(())
}
