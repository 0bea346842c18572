//! The Python package: built as users get it, installed into a fresh environment, tested there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::stage::{self, Counts};

/// Has PyTorch from the distribution, which is smaller than that of PyPI.
const PYTHON: &str = "/usr/bin/python3";
const DEBIAN: &[&str] = &["python3-torch", "python3-numpy", "python3-venv"];

pub(crate) fn test() -> Result<Counts> {
    install_python()?;
    let package = stage::root().join("crates/python");
    let work = target_directory()?.join("python");
    fs::create_dir_all(&work)?;
    let wheel = build(&package, &work)?;
    // What it has not brought along itself must not be there by chance.
    let fresh = environment(&work.join("fresh"), &["--clear"])?;
    succeed(
        pip(&fresh)
            .args(["pytest", "ml_dtypes<0.5", "numpy<2", "safetensors", "scikit-learn", "mypy>=1.7"])
            .arg(&wheel),
    )?;
    let report = work.join("junit.xml");
    let _ = fs::remove_file(&report);
    let mut pytest = Command::new(fresh.join("bin/python"));
    pytest.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit2"]);
    pytest.arg("--junitxml").arg(&report).arg(package.join("tests")).current_dir(&work);
    let status = pytest.env("PYTHONDONTWRITEBYTECODE", "1").status().context("failed to start pytest")?;
    let text = fs::read_to_string(&report).context("pytest wrote no report")?;
    Ok(counts(&text)?.or_failed(status))
}

/// The interpreter with what the tests compare against.
fn install_python() -> Result<()> {
    let ready = || {
        let mut python = Command::new(PYTHON);
        python.args(["-c", "import torch, numpy, ensurepip"]).stderr(Stdio::null());
        python.status().is_ok_and(|status| status.success())
    };
    if ready() {
        return Ok(());
    }
    println!("installing {}", DEBIAN.join(", "));
    let root = is_root();
    let mut apt = if root { Command::new("apt-get") } else { Command::new("sudo") };
    if !root {
        apt.args(["-n", "apt-get"]);
    }
    apt.args(["install", "-y", "-qq", "--no-install-recommends"]).args(DEBIAN);
    let _ = apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()).status();
    if !ready() {
        bail!("{PYTHON} cannot import torch, numpy and ensurepip: install {} or the like", DEBIAN.join(", "));
    }
    Ok(())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.starts_with(b"0"))
}

fn target_directory() -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new().current_dir(stage::root()).no_deps().exec()?;
    Ok(metadata.target_directory.into_std_path_buf())
}

/// A virtual environment.
fn environment(at: &Path, options: &[&str]) -> Result<PathBuf> {
    let mut make = Command::new(PYTHON);
    succeed(make.args(["-m", "venv", "--system-site-packages"]).args(options).arg(at))?;
    Ok(at.to_owned())
}

fn pip(environment: &Path) -> Command {
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip
}

/// Builds the wheel, for tests without optimization.
fn build(package: &Path, work: &Path) -> Result<PathBuf> {
    let tools = work.join("tools");
    let maturin = tools.join("bin/maturin");
    if !maturin.exists() {
        succeed(pip(&environment(&tools, &[])?).arg("maturin>=1.9,<2"))?;
    }
    let wheels = work.join("wheels");
    let _ = fs::remove_dir_all(&wheels);
    let mut command = Command::new(maturin);
    command.args(["build", "--quiet", "--interpreter", PYTHON, "--out"]).arg(&wheels).current_dir(package);
    succeed(&mut command)?;
    let first = fs::read_dir(&wheels)?.next().context("maturin made no wheel")?;
    Ok(first?.path())
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// The counts in pytest's report. What was skipped was not tested.
fn counts(report: &str) -> Result<Counts> {
    let start = report.find("<testsuite ").context("pytest's report has no <testsuite>")?;
    let tag = report[start..].split('>').next().unwrap_or_default();
    let number = |name: &str| -> Result<u64> {
        let value = tag.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        let (value, _) = value.with_context(|| format!("<testsuite> has no `{name}`"))?;
        value.parse().with_context(|| format!("`{name}` is `{value}`, not a number"))
    };
    let failed = number("failures")? + number("errors")? + number("skipped")?;
    Ok(Counts { passed: number("tests")?.saturating_sub(failed), failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_skipped_counts_as_failed() {
        let report = r#"<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="0.1">"#;
        assert_eq!(counts(report).unwrap(), Counts { passed: 4, failed: 6 });
        assert!(counts("<testsuites/>").is_err());
    }
}
