//! Files that are replaced as a whole, or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where a new file has to be put so that it replaces what is at `path`: behind symbolic links, which stay. That one can be
/// put there has been tried.
///
/// # Errors
/// What is there is no ordinary file (`InvalidInput`): putting one in the place of a device, a pipe or a folder would take
/// that away. Or the system does not let us write there.
pub fn replaceable(path: &Path) -> io::Result<PathBuf> {
    let place = place(path)?;
    let trial = beside(&place);
    File::create(&trial).and_then(|_| fs::remove_file(&trial))?;
    Ok(place)
}

/// Puts a file with these bytes in the place of what is at `place` (see [`replaceable`]), as a whole or not at all.
///
/// # Errors
/// It cannot be written; then what was there is as it was.
pub fn replace_file(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = beside(place);
    let written = File::create(&fresh)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fresh, place));
    if written.is_err() {
        // It may not have come into being.
        let _ = fs::remove_file(&fresh);
    }
    written
}

/// The name of a new file until it is whole.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

fn place(path: &Path) -> io::Result<PathBuf> {
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    match fs::canonicalize(path) {
        Ok(real) => match fs::metadata(&real)?.file_type() {
            kind if kind.is_file() => Ok(real),
            kind if kind.is_dir() => refuse("it is a folder; name a file in it"),
            _ => refuse("it is a device, a pipe or a socket; name an ordinary file"),
        },
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) if fs::symlink_metadata(path).is_ok() => refuse("it is a symbolic link that leads nowhere"),
        Err(_) if path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
            refuse("this is the name of a folder; name a file in it")
        }
        Err(_) => match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) if !folder.is_dir() => {
                refuse(&format!("{} is no folder; make it first", folder.display()))
            }
            _ => Ok(path.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_ordinary_files_are_replaced_and_links_lead_to_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("old"), "old").unwrap();
        symlink(at("old"), at("link")).unwrap();
        symlink(at("nowhere"), at("lost")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let old = fs::canonicalize(at("old")).unwrap();
        assert_eq!(replaceable(&at("old")).unwrap(), old);
        assert_eq!(replaceable(&at("link")).unwrap(), old, "the link stays");
        assert_eq!(replaceable(&at("new")).unwrap(), at("new"));
        for (name, why) in [
            ("socket", "ordinary"),
            ("lost", "leads nowhere"),
            ("", "folder"),
            ("new/", "folder"),
            ("no/new", "is no folder"),
        ] {
            let error = replaceable(&at(name)).unwrap_err().to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
        assert!(replaceable(Path::new("/dev/null")).is_err());
        replace_file(&old, b"new").unwrap();
        assert_eq!(fs::read(at("link")).unwrap(), b"new");
        assert!(replace_file(&at("no/new"), b"new").is_err());
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["link", "lost", "old", "socket"], "nothing of a try is left");
    }
}
