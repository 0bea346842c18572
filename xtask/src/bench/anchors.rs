//! Building what is measured: our own program, and the anchor programs from `benches/anchors`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// Where things are in the checkout.
#[derive(Clone, Debug)]
pub(super) struct Places {
    root: PathBuf,
    target: PathBuf,
}

/// One anchor program and how it is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    name: &'static str,
    source: &'static str,
    compiler: &'static str,
    standard: &'static str,
    libraries: &'static [&'static str],
    /// Something that only works where the library is installed.
    probe: &'static [&'static str],
    packages: &'static str,
}

/// Gloo, ring and bcube.
pub(super) const GLOO: Anchor = Anchor {
    name: "gloo_allreduce",
    source: "gloo_allreduce.cc",
    compiler: "g++",
    standard: "-std=c++17",
    libraries: &["-lgloo"],
    probe: &["g++", "-E", "-x", "c++", "-include", "gloo/allreduce.h", "-o", "/dev/null", "/dev/null"],
    packages: "g++ libgloo-dev",
};

/// Open MPI, over TCP and over shared memory.
pub(super) const MPI: Anchor = Anchor {
    name: "mpi_allreduce",
    source: "mpi_allreduce.c",
    compiler: "mpicc",
    standard: "-std=gnu11",
    libraries: &[],
    probe: &["mpirun", "--version"],
    packages: "openmpi-bin libopenmpi-dev",
};

/// Any library with PCCL's C API.
pub(super) const LIBPCCL: Anchor = Anchor {
    name: "pccl_allreduce",
    source: "pccl_allreduce.c",
    compiler: "gcc",
    standard: "-std=gnu11",
    libraries: &["-ldl"],
    probe: &["gcc", "--version"],
    packages: "gcc libc6-dev",
};

/// Why a system is not measured, and what would change that.
#[derive(Clone, Debug)]
pub(super) struct Missing {
    /// Why.
    pub(super) why: String,
    /// What to do.
    pub(super) fix: String,
}

impl Anchor {
    fn missing(&self, why: impl Into<String>) -> Missing {
        Missing { why: why.into(), fix: format!("apt-get install -y {}", self.packages) }
    }

    /// The built program, or why it cannot be built here.
    pub(super) fn build(&self, places: &Places) -> Result<Result<PathBuf, Missing>> {
        match self.find() {
            Ok(()) => self.compile(places).map(Ok),
            Err(missing) => Ok(Err(missing)),
        }
    }

    fn find(&self) -> Result<(), Missing> {
        for program in [self.compiler, self.probe[0]] {
            if !is_on_path(program) {
                return Err(self.missing(format!("`{program}` is not installed")));
            }
        }
        let probed = Command::new(self.probe[0]).args(&self.probe[1..]).stdin(Stdio::null()).output();
        match probed {
            Ok(output) if !output.status.success() => {
                Err(self.missing("the library's headers are not installed"))
            }
            Ok(output) if self.probe[0] == "mpirun" && !contains(&output.stdout, "Open MPI") => {
                Err(self.missing("`mpirun` is another MPI than Open MPI"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.missing(format!("`{}` does not start: {error}", self.probe[0]))),
        }
    }

    fn compile(&self, places: &Places) -> Result<PathBuf> {
        let sources = places.root.join("benches/anchors");
        let source = sources.join(self.source);
        let directory = places.target.join("anchors");
        let program = directory.join(self.name);
        if is_newer(&program, &[&source, &sources.join("anchor.h")])? {
            return Ok(program);
        }
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let output = Command::new(self.compiler)
            .args(["-O2", "-Wall", "-Wextra", "-Wno-unused-function", self.standard])
            .arg("-o")
            .arg(&program)
            .arg(&source)
            .args(self.libraries)
            .output()
            .with_context(|| format!("cannot start {}", self.compiler))?;
        ensure!(
            output.status.success(),
            "{} cannot compile {}:\n{}",
            self.compiler,
            source.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(program)
    }
}

impl Places {
    /// The checkout that this program was built from.
    pub(super) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let root = root.canonicalize().with_context(|| format!("the checkout {} is gone", root.display()))?;
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target })
    }

    /// Where programs are that are built as users get them.
    pub(super) fn release(&self) -> PathBuf {
        self.target.join("release")
    }

    /// Builds our own program as users get it, and makes sure that it can be measured.
    pub(super) fn build_ours(&self) -> Result<PathBuf> {
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--release", "--package", "pccl-cli"])
            .current_dir(&self.root)
            .stdout(Stdio::null())
            .status()
            .context("cannot start cargo")?;
        let instead = "or leave `ours` and `ours-in-place` out with --only";
        ensure!(built.success(), "`pccl` does not build ({built}): fix that, {instead}");
        let program = self.target.join("release/pccl");
        ensure!(
            program.is_file(),
            "cargo built no {}: is the package's program still called `pccl`?",
            program.display()
        );
        let help = Command::new(&program)
            .args(["bench", "--help"])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", program.display()))?;
        if !help.status.success() || !contains(&help.stdout, "--peers") {
            bail!(
                "{} has no `bench` command with `--peers`: build one that has, {instead}",
                program.display()
            );
        }
        Ok(program)
    }
}

fn contains(output: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(output).contains(text)
}

pub(super) fn is_on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Whether `built` exists and no source is younger.
fn is_newer(built: &Path, sources: &[&Path]) -> Result<bool> {
    let Ok(built_at) = fs::metadata(built).and_then(|data| data.modified()) else {
        return Ok(false);
    };
    for source in sources {
        let changed_at = fs::metadata(source).and_then(|data| data.modified());
        if changed_at.with_context(|| format!("cannot read {}", source.display()))? >= built_at {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_says_how_to_install_it() {
        let absent = Anchor { compiler: "no-such-compiler", ..GLOO };
        let missing = absent.find().unwrap_err();
        assert!(missing.why.contains("no-such-compiler"));
        assert!(missing.fix.starts_with("apt-get install") && missing.fix.contains("libgloo-dev"));
    }

    #[test]
    fn a_program_older_than_its_source_is_built_again() {
        let directory = tempfile::tempdir().unwrap();
        let (source, program) = (directory.path().join("a.c"), directory.path().join("a"));
        fs::write(&source, "").unwrap();
        assert!(!is_newer(&program, &[&source]).unwrap());
        fs::write(&program, "").unwrap();
        let at = |seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let touch =
            |path: &Path, seconds| fs::File::options().write(true).open(path)?.set_modified(at(seconds));
        touch(&source, 100).unwrap();
        touch(&program, 200).unwrap();
        assert!(is_newer(&program, &[&source]).unwrap());
        touch(&source, 300).unwrap();
        assert!(!is_newer(&program, &[&source]).unwrap());
    }
}
