//! Reading the tree: the only part of tidy that touches files and asks cargo and git.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand, Package, TargetKind};

use super::arrows::PURE;
use crate::stage;

/// The committed list of exceptions.
pub(super) const RATCHET: &str = "xtask/tidy-ratchet.txt";

/// All that the rules look at.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<TextFile>,
    pub(super) crates: Vec<Crate>,
    pub(super) ratchet: String,
}

/// A text file, by its path from the root, with `/` between the parts.
#[derive(Debug)]
pub(super) struct TextFile {
    pub(super) path: String,
    pub(super) text: String,
}

/// A crate of the workspace, as its manifest says.
#[derive(Debug, Default)]
pub(super) struct Crate {
    /// The name of its folder, which is how the house calls it: `proto` for `pccl-proto`.
    pub(super) room: String,
    /// The folder, from the root.
    pub(super) folder: String,
    pub(super) package: String,
    pub(super) manifest: String,
    pub(super) dependencies: Vec<Dependency>,
    /// The files that `lib` and `bin` targets start from.
    pub(super) roots: Vec<String>,
    /// For pure crates: every package that ends up in their build, at any depth, proc macros left out.
    pub(super) closure: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct Dependency {
    pub(super) package: String,
    /// Needed for tests only.
    pub(super) for_tests: bool,
}

impl TextFile {
    pub(super) fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }
}

impl Tree {
    pub(super) fn read() -> Result<Self> {
        let root = stage::root();
        let mut files = Vec::new();
        for path in paths(root)? {
            // What is not text (a picture, say) has no rule here.
            if let Ok(text) = fs::read_to_string(root.join(&path)) {
                files.push(TextFile { path, text });
            }
        }
        let ratchet =
            fs::read_to_string(root.join(RATCHET)).with_context(|| format!("failed to read {RATCHET}"))?;
        Ok(Self { files, crates: crates(root)?, ratchet })
    }
}

pub(super) fn write_ratchet(text: &str) -> Result<()> {
    fs::write(stage::root().join(RATCHET), text).with_context(|| format!("failed to write {RATCHET}"))
}

/// What git tracks or would track. Outside a repository (an unpacked archive): every file that is not build output.
fn paths(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let mut paths = Vec::new();
    if let Ok(list) = stage::read(git) {
        paths.extend(list.split_terminator('\0').map(str::to_owned));
    } else {
        walk(root, "", &mut paths).context("failed to list the files of the workspace")?;
    }
    paths.retain(|path| root.join(path).is_file());
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        if !entry.file_type()?.is_dir() {
            found.push(path);
        } else if name != ".git" && name != "target" {
            walk(&entry.path(), &path, found)?;
        }
    }
    Ok(())
}

fn crates(root: &Path) -> Result<Vec<Crate>> {
    // Without dependencies this asks no registry: tidy works offline and on a fresh clone.
    let metadata =
        MetadataCommand::new().current_dir(root).no_deps().exec().context("failed to read the workspace")?;
    let base = &metadata.workspace_root;
    let relative = |path: &Path| -> String {
        let inside = path.strip_prefix(base).unwrap_or(path);
        inside.to_string_lossy().replace('\\', "/")
    };
    metadata.packages.iter().map(|package| read_crate(package, &relative)).collect()
}

fn read_crate(package: &Package, relative: &dyn Fn(&Path) -> String) -> Result<Crate> {
    let manifest = relative(package.manifest_path.as_std_path());
    let folder = manifest.trim_end_matches("/Cargo.toml").to_owned();
    let room = folder.rsplit('/').next().unwrap_or_default().to_owned();
    let ships = |kind: &TargetKind| {
        matches!(kind, TargetKind::Lib | TargetKind::Bin | TargetKind::CDyLib | TargetKind::ProcMacro)
    };
    let targets = package.targets.iter().filter(|target| target.kind.iter().any(ships));
    let dependencies = package.dependencies.iter().map(|dependency| Dependency {
        package: dependency.name.clone(),
        for_tests: dependency.kind == DependencyKind::Development,
    });
    let closure = if PURE.contains(&room.as_str()) { closure(&package.name)? } else { BTreeSet::new() };
    Ok(Crate {
        package: package.name.to_string(),
        dependencies: dependencies.collect(),
        roots: targets.map(|target| relative(target.src_path.as_std_path())).collect(),
        room,
        folder,
        manifest,
        closure,
    })
}

/// Every package in the build of `package`. `cargo tree` resolves features for this package alone; the metadata of
/// the workspace would blame it for a feature that another crate turns on.
fn closure(package: &str) -> Result<BTreeSet<String>> {
    let mut tree = stage::cargo();
    tree.args(["tree", "--quiet", "--package", package, "--edges", "normal,build,no-proc-macro"]);
    tree.args(["--prefix", "none", "--format", "{p}"]);
    let lines = stage::read(tree)?;
    let names = lines.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| *name != package).map(str::to_owned).collect())
}

#[cfg(test)]
impl Tree {
    pub(super) fn add(&mut self, path: &str, text: &str) {
        self.files.push(TextFile { path: path.to_owned(), text: text.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_crate_is_read_as_it_is() {
        let tree = Tree::read().unwrap();
        let me = tree.crates.iter().find(|one| one.room == "xtask").unwrap();
        assert_eq!((me.folder.as_str(), me.manifest.as_str()), ("xtask", "xtask/Cargo.toml"));
        assert_eq!(me.roots, ["xtask/src/main.rs"]);
        assert!(
            me.dependencies.iter().any(|dependency| dependency.package == "anyhow" && !dependency.for_tests)
        );
        assert!(tree.files.iter().any(|file| file.path == "xtask/src/tidy/tree.rs"));
        assert!(!tree.files.iter().any(|file| file.path.starts_with("target/")));
    }

    #[test]
    fn the_closure_of_the_core_holds_its_libraries_and_not_itself() {
        let tree = Tree::read().unwrap();
        let proto = tree.crates.iter().find(|one| one.room == "proto").unwrap();
        assert!(proto.closure.contains("serde_core"), "{:?}", proto.closure);
        assert!(
            !proto.closure.contains("pccl-proto") && !proto.closure.contains("syn"),
            "{:?}",
            proto.closure
        );
    }
}
