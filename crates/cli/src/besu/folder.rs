//! Writing a folder as a whole: all files are there, or the folder is not.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pccl_besu::{Network, Visibility};
use serde_json::Value;

use crate::error::CliError;
use crate::exit::Exit;

/// Refuses a folder that has something in it, before anything is drawn.
pub(super) fn refuse_if_used(folder: &Path) -> Result<(), CliError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(used(folder)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => Err(used(folder)),
        Err(error) => Err(failed(folder, &error)),
    }
}

/// Whether the folder holds this network: the same chain and the same validators. Another one is refused.
pub(super) fn holds(folder: &Path, network: &Network) -> Result<bool, CliError> {
    let list = folder.join("validators.json");
    let text = match fs::read_to_string(&list) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(CliError::input(&list, error)),
    };
    let found: Value = serde_json::from_str(&text).map_err(|error| CliError::input(&list, error))?;
    let names = found["validators"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
    if found["chainId"] == network.chain_id && names.eq(network.names()) {
        return Ok(true);
    }
    let what = format!("failed to keep {}: it holds another chain or other validators", folder.display());
    Err(CliError::new(Exit::Input, what)
        .hint("name another folder by --out, or give the options that it was made with"))
}

/// Writes the files beside `folder` and moves them there when all are on the disk. A folder that is not empty is left
/// as it is, also if it was filled in the meantime: the system's rename decides.
pub(super) fn write(folder: &Path, files: &[pccl_besu::File]) -> Result<(), CliError> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).map_err(|error| failed(&parent, &error))?;
    // Removed if anything fails, also by a panic; nobody else can look in.
    let staging = tempfile::Builder::new().prefix(".pccl-besu-").tempdir_in(&parent);
    let staging = staging.map_err(|error| failed(&parent, &error))?;
    write_all(staging.path(), files).map_err(|error| failed(folder, &error))?;
    match fs::rename(staging.path(), folder) {
        Ok(()) => {
            // It has moved: there is nothing left to remove.
            let _ = staging.keep();
        }
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory
            ) =>
        {
            return Err(used(folder));
        }
        Err(error) => return Err(failed(folder, &error)),
    }
    sync(&parent).map_err(|error| failed(&parent, &error))
}

fn write_all(root: &Path, files: &[pccl_besu::File]) -> io::Result<()> {
    for file in files {
        let path = root.join(&file.path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let mode = match file.visibility {
            Visibility::Public => 0o644,
            Visibility::Program => 0o755,
            Visibility::Secret => 0o600,
        };
        let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        out.write_all(file.content.as_bytes())?;
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    // Hundreds of files: all at once is much quicker than one by one.
    Ok(rustix::fs::syncfs(File::open(root)?)?)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn used(folder: &Path) -> CliError {
    let what = format!("failed to write {}: it is there already, and is not empty", folder.display());
    CliError::new(Exit::Input, what).hint(
        "keys that are overwritten are lost for ever: name another folder by --out, or move this one away yourself",
    )
}

fn failed(folder: &Path, error: &io::Error) -> CliError {
    CliError::new(Exit::System, format!("failed to write {}: {error}", folder.display()))
        .hint("nothing was written: choose a folder that you may write to by --out")
}
