//! The library and the programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, process};

use anyhow::{Context, Result, bail};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    C,
    Cpp,
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("failed to start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A directory of this test process.
fn scratch() -> Result<&'static Path> {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir =
        DIR.get_or_init(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ffi-{}", process::id())));
    fs::create_dir_all(dir)?;
    Ok(dir)
}

/// The directory of `libpccl.so`, linked as `cargo xtask install` does it.
pub(crate) fn library() -> Result<&'static Path> {
    static LINKED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let linked = LINKED.get_or_init(|| link().map_err(|e| format!("{e:#}")));
    linked.as_deref().map_err(|e| anyhow::anyhow!("{e}"))
}

fn link() -> Result<PathBuf> {
    // Beside this program: cargo has built the archive for it.
    let archive = env::current_exe()?.with_file_name("libpccl_ffi.a");
    let dir = scratch()?.join("lib");
    fs::create_dir_all(&dir)?;
    run(Command::new(here("link.sh")).arg(&archive).arg(dir.join("libpccl.so")))?;
    Ok(dir)
}

/// The names that the dynamic linker sees, with their versions.
pub(crate) fn symbols(library: &Path) -> Result<Vec<String>> {
    let listed = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library.join("libpccl.so")))?;
    let names = listed.lines().filter(|l| !l.contains(" A ")).filter_map(|l| l.split_whitespace().last());
    Ok(names.map(str::to_owned).collect())
}

/// The folder of a `libcuda.so.1` that needs no device.
pub(crate) fn cuda_stand_in() -> Result<PathBuf> {
    let dir = scratch()?.join("cuda");
    fs::create_dir_all(&dir)?;
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
    run(command.arg(dir.join("libcuda.so.1")).arg(here("tests/c/cuda_stand_in.c")))?;
    Ok(dir)
}

/// Compiles a program of this crate; warnings are errors.
pub(crate) fn compile(source: &str, language: Language) -> Result<PathBuf> {
    let (variable, compiler, standard) = match language {
        Language::C => ("CC", "cc", "-std=c99"),
        Language::Cpp => ("CXX", "c++", "-std=c++11"),
    };
    let compiler = env::var_os(variable).unwrap_or_else(|| OsStr::new(compiler).to_owned());
    let name = Path::new(source).file_name().context("a file")?;
    let program =
        scratch()?.join(name).with_extension(if language == Language::C { "c.out" } else { "cpp.out" });
    let library = library()?;
    let mut command = Command::new(compiler);
    command.args([
        standard,
        "-D_POSIX_C_SOURCE=200809L",
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Werror",
        "-pthread",
    ]);
    command.arg("-I").arg(here("include"));
    if language == Language::Cpp {
        command.args(["-x", "c++"]);
    }
    command.arg(here(source)).args(["-x", "none"]).arg("-o").arg(&program);
    command.arg("-L").arg(library).arg("-lpccl").arg(format!("-Wl,-rpath,{}", library.display())).arg("-lm");
    run(&mut command)?;
    Ok(program)
}
