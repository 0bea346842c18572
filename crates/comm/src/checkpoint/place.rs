//! Where checkpoints are kept: a directory or an object store, called from threads that may wait.

use std::future::Future;
use std::path::PathBuf;
use std::thread;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::error::CheckpointError;

/// Environment variables of these families are options of the object stores.
const FAMILIES: &[&str] = &["AWS_", "AZURE_", "GOOGLE_"];
/// Most bytes of what is read as a whole and is not tensors.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// A place.
pub(super) struct Place {
    store: Box<dyn ObjectStore>,
    prefix: Path,
    /// Without credentials.
    url: String,
    /// The directory, if it is one of this machine.
    directory: Option<PathBuf>,
    /// Taken only when it is dropped.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The drop of a runtime may wait, which is a panic in a caller's own asynchronous task; this does not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Place {
    /// Opens a place: a path, or a URL. Nothing is sent yet.
    pub(super) fn open(given: &str) -> Result<Self, CheckpointError> {
        let fail = |why: String| CheckpointError::Place { url: without_credentials(given), why };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| fail(e.to_string()))?;
        let url =
            given.contains("://").then(|| Url::parse(given)).transpose().map_err(|e| fail(e.to_string()))?;
        let (store, prefix, directory) = match url {
            Some(url) if url.scheme() != "file" => {
                let (store, prefix) = remote(&url).map_err(|e| fail(one_line(&e)))?;
                (store, prefix, None)
            }
            other => {
                let path = match other {
                    Some(url) => {
                        url.to_file_path().map_err(|()| fail("it is no path on this machine".into()))?
                    }
                    None => PathBuf::from(given),
                };
                if given.is_empty() {
                    return Err(fail("it is empty".into()));
                }
                std::fs::create_dir_all(&path)
                    .map_err(|e| fail(format!("failed to make the directory: {e}")))?;
                let store = LocalFileSystem::new_with_prefix(&path).map_err(|e| fail(one_line(&e)))?;
                let store: Box<dyn ObjectStore> = Box::new(store.with_fsync(true));
                (store, Path::default(), Some(path))
            }
        };
        Ok(Self { store, prefix, url: without_credentials(given), directory, runtime: Some(runtime) })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Runs to the end, on a thread of its own: the caller's may belong to a runtime of its own.
    pub(super) fn run<R: Send>(&self, work: impl Future<Output = R> + Send) -> R {
        let Some(runtime) = &self.runtime else { unreachable!("only a dropped place has none") };
        thread::scope(|scope| match scope.spawn(|| runtime.block_on(work)).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), Path::join)
    }

    fn failed(&self, what: &str, name: &str, why: &object_store::Error) -> CheckpointError {
        CheckpointError::Access { what: format!("{what} {name}"), url: self.url.clone(), why: one_line(why) }
    }

    /// Writes an object: it is there as a whole or not at all.
    pub(super) async fn put(&self, name: &str, payload: PutPayload) -> Result<(), CheckpointError> {
        let done = self.store.put(&self.path(name), payload).await;
        done.map(drop).map_err(|e| self.failed("write", name, &e))
    }

    /// Begins a large object, that is there once it is completed.
    pub(super) async fn begin(&self, name: &str) -> Result<Upload<'_>, CheckpointError> {
        let begun = self.store.put_multipart(&self.path(name)).await;
        let upload = begun.map_err(|e| self.failed("write", name, &e))?;
        Ok(Upload { place: self, name: name.to_owned(), parts: upload })
    }

    /// The size of an object.
    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>, CheckpointError> {
        match self.store.head(&self.path(name)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed("look at", name, &e)),
        }
    }

    /// A small object as a whole, if it is there.
    pub(super) async fn text(&self, name: &str) -> Result<Option<Bytes>, CheckpointError> {
        let found = match self.store.get(&self.path(name)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(self.failed("read", name, &e)),
        };
        if found.meta.size > MAX_TEXT_BYTES {
            let why = format!("it has {} bytes, more than any of ours", found.meta.size);
            return Err(CheckpointError::Damaged { name: name.to_owned(), why });
        }
        found.bytes().await.map(Some).map_err(|e| self.failed("read", name, &e))
    }

    /// Bytes of an object; an end behind its own gives fewer.
    pub(super) async fn range(
        &self,
        name: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, CheckpointError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.store.get_range(&self.path(name), range).await.map_err(|e| self.failed("read", name, &e))
    }

    /// Everything under a folder: names relative to the place.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<(String, ObjectMeta)>, CheckpointError> {
        let under = if folder.is_empty() { self.prefix.clone() } else { self.path(folder) };
        let found: Vec<ObjectMeta> =
            self.store.list(Some(&under)).try_collect().await.map_err(|e| self.failed("list", folder, &e))?;
        let relative = |meta: ObjectMeta| {
            let parts: Vec<_> =
                meta.location.prefix_match(&self.prefix)?.map(|p| p.as_ref().to_owned()).collect();
            Some((parts.join("/"), meta))
        };
        Ok(found.into_iter().filter_map(relative).collect())
    }

    /// Removes an object; one that is gone already is as good.
    pub(super) async fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed("remove", name, &e)),
        }
    }

    /// Removes what no listing shows: in a directory the folder itself, and what a killed writer left in it.
    pub(super) fn sweep(&self, folder: &str) -> Result<(), CheckpointError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        match std::fs::remove_dir_all(directory.join(folder)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(CheckpointError::Access {
                what: format!("remove {folder}"),
                url: self.url.clone(),
                why: e.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// A large object on its way.
pub(super) struct Upload<'a> {
    place: &'a Place,
    name: String,
    parts: Box<dyn MultipartUpload>,
}

impl Upload<'_> {
    pub(super) async fn part(&mut self, payload: PutPayload) -> Result<(), CheckpointError> {
        let done = self.parts.put_part(payload).await;
        done.map_err(|e| self.place.failed("write", &self.name, &e))
    }

    pub(super) async fn complete(mut self) -> Result<(), CheckpointError> {
        let done = self.parts.complete().await;
        done.map(drop).map_err(|e| self.place.failed("write", &self.name, &e))
    }

    pub(super) async fn abort(mut self) {
        // What cannot be removed now is left to the store's own rules for unfinished uploads.
        let _ = self.parts.abort().await;
    }
}

#[cfg(feature = "cloud")]
fn remote(url: &Url) -> object_store::Result<(Box<dyn ObjectStore>, Path)> {
    // TLS by ring: reqwest brings none of its own. A provider that the program has chosen stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let family = |name: &str| FAMILIES.iter().any(|family| name.starts_with(family));
    let options = std::env::vars().filter(|(name, _)| family(name));
    object_store::parse_url_opts(url, options.map(|(name, value)| (name.to_ascii_lowercase(), value)))
}

#[cfg(not(feature = "cloud"))]
fn remote(url: &Url) -> object_store::Result<(Box<dyn ObjectStore>, Path)> {
    let _ = FAMILIES;
    object_store::parse_url(url)
}

/// A URL as it may be shown: what stands before an `@`, and questions, may be secret.
fn without_credentials(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or(url);
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
            // abfss://container@account names no secret; user:password@host does.
            let shown = match host.rsplit_once('@') {
                Some((user, at)) if user.contains(':') => at,
                _ => host,
            };
            path.map_or_else(|| format!("{scheme}://{shown}"), |path| format!("{scheme}://{shown}/{path}"))
        }
        None => url.to_owned(),
    }
}

/// What an object store says, with its causes, on one line.
fn one_line(error: &object_store::Error) -> String {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    // "Generic S3 error: " says nothing.
    match text.strip_prefix("Generic ").and_then(|rest| rest.split_once(" error: ")) {
        Some((_, what)) => what.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(without_credentials("s3://bucket/runs?key=x"), "s3://bucket/runs");
        assert_eq!(without_credentials("https://me:secret@host/runs"), "https://host/runs");
        assert_eq!(without_credentials("abfss://c@account/x"), "abfss://c@account/x");
        assert_eq!(without_credentials("/data/a?b"), "/data/a?b");
    }

    #[test]
    fn a_place_that_is_none_is_refused_with_its_name() {
        for given in ["", "gopher://host/x", "s3:///", "/dev/null/x"] {
            let error = Place::open(given).unwrap_err();
            assert!(matches!(error, CheckpointError::Place { .. }), "{given}: {error}");
            assert!(error.to_string().contains(given), "{error}");
        }
    }
}
