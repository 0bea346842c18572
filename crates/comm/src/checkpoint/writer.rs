//! The thread that writes a peer's shard, and, if it is the last one to finish, completes the checkpoint.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::PutPayload;
use pccl_kernels::hash::hash_block;

use super::CheckpointStatus;
use super::error::CheckpointError;
use super::manifest::{Head, Manifest, Shard, hex};
use super::name::{MANIFEST, SetName, shard_files};
use super::place::{Place, Upload};
use super::retention;

/// What is written at a time. Object stores want parts of at least 5 MiB.
const PART_BYTES: usize = 8 << 20;
/// A shard is written in about this time, so that disk and network are left to the training.
const SPREAD: Duration = Duration::from_secs(20);
/// But not slower than this.
const SLOWEST_BYTES_PER_S: u64 = 8 << 20;
/// A writer that has written nothing for so long is not waited for. Also on a host whose cores are all taken.
const STALLED: Duration = Duration::from_secs(20);
/// Between two looks whether somebody waits.
const LOOK: Duration = Duration::from_millis(20);
/// A tenth of the share of a thread of the training: pauses leave it most of the time, and where it takes all cores a
/// checkpoint still comes to its end (at the lowest priority, a hundredth, it may not).
const NICE: i32 = 10;

/// A shard to be written.
pub(super) struct Job {
    pub(super) name: SetName,
    pub(super) head: Head,
    pub(super) rank: u32,
    pub(super) peers: u32,
    /// The shard's blocks.
    pub(super) data: Bytes,
}

#[derive(Debug)]
struct Progress {
    status: CheckpointStatus,
    /// When something was written last.
    at: Instant,
    /// Somebody waits: no pauses.
    hurry: bool,
    stop: bool,
}

struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// The writing thread as its owner sees it.
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Plain values: a panic elsewhere has left them whole.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = self.lock();
        change(&mut progress);
        progress.at = Instant::now();
        self.changed.notify_all();
    }
}

impl Writer {
    pub(super) fn start(place: Arc<Place>, keep: u32) -> std::io::Result<Self> {
        let progress =
            Progress { status: CheckpointStatus::default(), at: Instant::now(), hurry: false, stop: false };
        let shared = Arc::new(Shared { progress: Mutex::new(progress), changed: Condvar::new() });
        let (jobs, taken) = mpsc::channel();
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("pccl-checkpoint".into()).spawn(move || {
            be_modest();
            for job in taken {
                work(&place, &theirs, &job, keep);
            }
        })?;
        Ok(Self { shared, jobs })
    }

    pub(super) fn status(&self) -> CheckpointStatus {
        self.shared.lock().status.clone()
    }

    /// Waits until nothing is being written, while that gets on; at most for `limit`. Says whether it came to that.
    pub(super) fn finish(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut progress = self.shared.lock();
        while progress.status.writing.is_some() {
            progress.hurry = true;
            self.shared.changed.notify_all();
            let now = Instant::now();
            if now >= deadline || now - progress.at > STALLED {
                break;
            }
            let wait = Duration::from_millis(100).min(deadline - now);
            let waited = self.shared.changed.wait_timeout(progress, wait);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        progress.hurry = false;
        progress.status.writing.is_none()
    }

    /// Hands a shard over. Only when nothing is being written.
    pub(super) fn write(&self, job: Job) {
        let revision = job.name.revision;
        self.shared.update(|p| p.status.writing = Some(revision));
        if self.jobs.send(job).is_err() {
            self.shared.update(|p| {
                p.status.writing = None;
                p.status.error = Some("the thread that writes checkpoints has ended".into());
            });
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The thread ends with what it does now: a store that does not answer must not keep a program from its end.
        self.shared.update(|p| p.stop = true);
    }
}

/// Lowers the priority of this thread, and so of those that it starts.
fn be_modest() {
    #[cfg(target_os = "linux")]
    {
        // On Linux a priority belongs to a thread. Without it everything works, only not as modestly.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
    }
}

fn work(place: &Place, shared: &Shared, job: &Job, keep: u32) {
    let begun = Instant::now();
    let revision = job.name.revision;
    let ended = place.run(write(place, shared, job, keep));
    let seconds = begun.elapsed().as_secs_f64();
    shared.update(|p| {
        p.status.writing = None;
        p.status.error = ended.as_ref().err().map(ToString::to_string);
        if let Ok(complete) = ended {
            p.status.written = Some(revision);
            if complete {
                p.status.completed = Some(revision);
            }
        }
    });
    let bytes = job.data.len();
    match ended {
        Ok(true) => tracing::info!(
            target: "pccl::checkpoint",
            "the checkpoint of revision {revision} is complete; this peer's part, {bytes} bytes, took {seconds:.1} s"
        ),
        Ok(false) => tracing::debug!(
            target: "pccl::checkpoint",
            "this peer's part of the checkpoint of revision {revision}, {bytes} bytes, took {seconds:.1} s"
        ),
        Err(error) => tracing::warn!(
            target: "pccl::checkpoint",
            "the checkpoint of revision {revision} cannot be completed: {error}; {}", error.hint()
        ),
    }
}

/// Writes a shard and what is said about it. Returns whether the checkpoint is complete with it.
async fn write(place: &Place, shared: &Shared, job: &Job, keep: u32) -> Result<bool, CheckpointError> {
    let (file, about) = shard_files(job.rank, job.peers);
    let written = write_shard(place, shared, job, &file).await?;
    let text = serde_json::to_vec(&written).map_err(|e| bug(&job.name, &e))?;
    place.put(&format!("{}/{about}", job.name), text.into()).await?;
    shared.update(|_| {});
    if !complete(place, job).await? {
        return Ok(false);
    }
    shared.update(|_| {});
    if let Err(error) = retention::clean(place, job.name.group, keep).await {
        tracing::warn!(target: "pccl::checkpoint", "old checkpoints cannot be removed: {error}");
    }
    Ok(true)
}

fn bug(name: &SetName, why: &impl ToString) -> CheckpointError {
    CheckpointError::Damaged { name: name.to_string(), why: why.to_string() }
}

async fn write_shard(
    place: &Place,
    shared: &Shared,
    job: &Job,
    file: &str,
) -> Result<Shard, CheckpointError> {
    let header = job.head.shard_header(job.rank, job.peers).map_err(|why| bug(&job.name, &why))?;
    let data_start = header.len() as u64;
    let file_bytes = data_start + job.data.len() as u64;
    let path = format!("{}/{file}", job.name);
    let mut parts = parts(&header.into(), &job.data);
    if parts.len() == 1 {
        place.put(&path, parts.remove(0)).await?;
    } else {
        let mut upload = place.begin(&path).await?;
        match send(&mut upload, parts, shared, job).await {
            Ok(()) => upload.complete().await?,
            Err(error) => {
                upload.abort().await;
                return Err(error);
            }
        }
    }
    Ok(Shard { file: file.to_owned(), file_bytes, data_start, blocks: hashes(job) })
}

/// Header and data, cut into parts of one size; only the last one may be smaller, as some object stores want it.
fn parts(header: &Bytes, data: &Bytes) -> Vec<PutPayload> {
    let total = header.len() + data.len();
    let cut = |at: usize| -> PutPayload {
        let end = total.min(at + PART_BYTES);
        let of_header = header.slice(at.min(header.len())..end.min(header.len()));
        let of_data = data.slice(at.saturating_sub(header.len())..end.saturating_sub(header.len()));
        [of_header, of_data].into_iter().filter(|bytes| !bytes.is_empty()).collect()
    };
    (0..total).step_by(PART_BYTES).map(cut).collect()
}

async fn send(
    upload: &mut Upload<'_>,
    parts: Vec<PutPayload>,
    shared: &Shared,
    job: &Job,
) -> Result<(), CheckpointError> {
    let pace = Pace::new(job.data.len());
    for (n, part) in parts.into_iter().enumerate() {
        pace.pause(shared, n * PART_BYTES).await;
        if shared.lock().stop {
            return Err(bug(&job.name, &"this peer has ended before its part was written"));
        }
        upload.part(part).await?;
        shared.update(|_| {});
    }
    Ok(())
}

/// The hashes of the shard's blocks.
fn hashes(job: &Job) -> Vec<String> {
    let blocks = job.head.blocks();
    let mut at = 0;
    let lengths = blocks.lengths(&blocks.shard(job.rank, job.peers));
    let hash = |len: u64| {
        let end = at + len as usize;
        let hash = hash_block(&job.data[at..end]);
        at = end;
        hex(hash)
    };
    lengths.into_iter().map(hash).collect()
}

/// If all shards are there: sees that they make up the state that the peers agreed on, and says so.
async fn complete(place: &Place, job: &Job) -> Result<bool, CheckpointError> {
    let mut shards = Vec::new();
    for rank in 0..job.peers {
        let (_, about) = shard_files(rank, job.peers);
        let Some(text) = place.text(&format!("{}/{about}", job.name)).await? else {
            return Ok(false);
        };
        let shard: Shard = serde_json::from_slice(&text).map_err(|e| CheckpointError::Damaged {
            name: format!("{}/{about}", job.name),
            why: e.to_string(),
        })?;
        shards.push(shard);
    }
    let manifest = Manifest::new(job.head.clone(), shards);
    manifest.check(&job.name.to_string())?;
    let text = manifest.encode().map_err(|why| bug(&job.name, &why))?;
    place.put(&format!("{}/{MANIFEST}", job.name), text.into()).await?;
    Ok(true)
}

/// Spreads the writing over time.
struct Pace {
    begun: Instant,
    bytes_per_s: u64,
}

impl Pace {
    fn new(bytes: usize) -> Self {
        let bytes_per_s = (bytes as u64 / SPREAD.as_secs()).max(SLOWEST_BYTES_PER_S);
        Self { begun: Instant::now(), bytes_per_s }
    }

    /// Waits until `done` bytes are due, unless somebody is in a hurry.
    async fn pause(&self, shared: &Shared, done: usize) {
        let due = Duration::from_secs_f64(done as f64 / self.bytes_per_s as f64);
        loop {
            let left = due.saturating_sub(self.begun.elapsed());
            let (hurry, stop) = {
                let progress = shared.lock();
                (progress.hurry, progress.stop)
            };
            if left.is_zero() || hurry || stop {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
            // A pause is no stall.
            shared.update(|_| {});
        }
    }
}
