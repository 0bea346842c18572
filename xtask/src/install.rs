//! `cargo xtask install`: the program, the library and its headers under a prefix.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::stage;

#[derive(Args)]
pub(crate) struct InstallArgs {
    /// Where to: `bin`, `lib`, `include` and `lib/pkgconfig` are made below
    #[arg(long, value_name = "DIR")]
    prefix: PathBuf,
}

pub(crate) fn run(arguments: &InstallArgs) -> Result<()> {
    let prefix = std::path::absolute(&arguments.prefix)?;
    let mut build = stage::cargo();
    build.args(["build", "--release", "--package", "pccl-ffi", "--package", "pccl-cli"]);
    succeed(&mut build)?;
    let release = target_directory()?.join("release");
    let (lib, include) = (prefix.join("lib"), prefix.join("include"));
    for dir in [&prefix.join("bin"), &lib.join("pkgconfig"), &include] {
        fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
    }
    let ffi = stage::root().join("crates/ffi");
    // A running program keeps the file that it has: the new one takes the name, not the place.
    let fresh = lib.join("libpccl.so.new");
    succeed(Command::new(ffi.join("link.sh")).arg(release.join("libpccl_ffi.a")).arg(&fresh))?;
    fs::rename(&fresh, lib.join("libpccl.so"))?;
    for header in ["pccl.h", "ccoip_inet.h", "ccoip.h"] {
        copy(&ffi.join("include").join(header), &include.join(header))?;
    }
    fs::write(lib.join("pkgconfig/pccl.pc"), pkg_config(&prefix))?;
    copy(&release.join("pccl"), &prefix.join("bin/pccl"))?;
    println!("installed under {}:", prefix.display());
    println!("  bin/pccl, lib/libpccl.so, include/pccl.h, lib/pkgconfig/pccl.pc");
    Ok(())
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension("new");
    let copied = fs::copy(from, &fresh).and_then(|_| fs::rename(&fresh, to));
    copied.with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))
}

fn target_directory() -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(stage::root()).no_deps().exec()?;
    Ok(metadata.target_directory.into_std_path_buf())
}

fn pkg_config(prefix: &Path) -> String {
    format!(
        "prefix={}\nlibdir=${{prefix}}/lib\nincludedir=${{prefix}}/include\n\n\
         Name: pccl\nDescription: Fault-tolerant collectives over TCP/IP\nVersion: {}\n\
         Libs: -L${{libdir}} -lpccl\nCflags: -I${{includedir}}\n",
        prefix.display(),
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pkg_config_names_the_prefix_once() {
        let text = pkg_config(Path::new("/opt/pccl"));
        assert_eq!(text.matches("/opt/pccl").count(), 1);
        assert!(text.contains("Libs: -L${libdir} -lpccl\n"), "{text}");
    }
}
