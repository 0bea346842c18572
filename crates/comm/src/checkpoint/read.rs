//! What is there, whether it is whole, and getting it back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use futures_util::{StreamExt, TryStreamExt, stream};
use pccl_kernels::hash::hash_block;
use pccl_proto::vocabulary::DataType;
use safetensors::tensor::TensorInfo;

use super::error::CheckpointError;
use super::manifest::{Head, Manifest, encode_header, hex, safetensors_type};
use super::name::{MANIFEST, SetName};
use super::place::Place;
use super::retention::{newest_first, sets};
use crate::shared_state::SharedState;
use crate::whole_file::replaceable;

/// What is asked for at a time, and how many such requests are under way.
const FETCH_BYTES: u64 = 8 << 20;
const FETCHES: usize = 4;

/// A checkpoint that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// Its folder at the place.
    pub name: String,
    /// Of which peer group.
    pub group: u32,
    /// Of which revision of the shared state.
    pub revision: u64,
    /// In which epoch it was written.
    pub epoch: u64,
    /// The first 32 bits of the run's name, hexadecimal.
    pub run: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was complete, by the store's clock, milliseconds since 1970; none: it is not complete.
    pub completed_ms: Option<i64>,
}

/// A tensor in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DataType,
    /// Elements in each dimension.
    pub shape: Vec<usize>,
    /// Its size.
    pub bytes: u64,
}

/// The checkpoints at a place.
#[derive(Debug)]
pub struct Checkpoints {
    place: Place,
}

impl Checkpoints {
    /// Looks at a place, named as for [`CheckpointOptions::new`](super::CheckpointOptions::new).
    pub fn open(url: &str) -> Result<Self, CheckpointError> {
        Ok(Self { place: Place::open(url)? })
    }

    /// All that are there: by group, complete ones first and of these the newest first.
    pub fn list(&self) -> Result<Vec<CheckpointInfo>, CheckpointError> {
        let sets = sets(self.place.run(self.place.list(""))?);
        let mut groups: Vec<u32> = sets.keys().map(|name| name.group).collect();
        groups.dedup();
        let mut names = Vec::new();
        for group in groups {
            names.extend(newest_first(&sets, group));
            let unfinished = sets.iter().filter(|(n, set)| n.group == group && set.completed_ms.is_none());
            names.extend(unfinished.map(|(name, _)| *name).rev());
        }
        let info = |name: SetName| CheckpointInfo {
            name: name.to_string(),
            group: name.group,
            revision: name.revision,
            epoch: name.epoch,
            run: format!("{:08x}", name.run),
            bytes: sets.get(&name).map_or(0, |set| set.bytes),
            completed_ms: sets.get(&name).and_then(|set| set.completed_ms),
        };
        Ok(names.into_iter().map(info).collect())
    }

    /// The newest complete one of a group, or the one of this revision.
    pub fn find(&self, group: u32, revision: Option<u64>) -> Result<Option<CheckpointInfo>, CheckpointError> {
        let wanted = |info: &CheckpointInfo| {
            info.group == group && info.completed_ms.is_some() && revision.is_none_or(|r| info.revision == r)
        };
        Ok(self.list()?.into_iter().find(wanted))
    }

    /// As [`find`](Self::find), but one must be there.
    pub fn get(&self, group: u32, revision: Option<u64>) -> Result<CheckpointInfo, CheckpointError> {
        self.find(group, revision)?.ok_or_else(|| {
            let which = revision.map_or_else(String::new, |r| format!(" of revision {r}"));
            let why = format!("there is no complete one{which} of group {group}");
            CheckpointError::None { url: self.place.url().to_owned(), why }
        })
    }

    /// Its tensors, in the order of their names.
    pub fn tensors(&self, info: &CheckpointInfo) -> Result<Vec<StoredTensor>, CheckpointError> {
        let manifest = self.place.run(self.manifest(&info.name))?;
        let stored = |t: &super::manifest::TensorEntry| {
            let dtype = t.dtype.parse().map_err(|why| damaged(&info.name, why))?;
            Ok(StoredTensor { name: t.name.clone(), dtype, shape: t.shape.clone(), bytes: t.bytes })
        };
        manifest.head.tensors.iter().map(stored).collect()
    }

    /// Reads all of it and compares it with its hashes. Returns the bytes of the state.
    pub fn verify(&self, info: &CheckpointInfo) -> Result<u64, CheckpointError> {
        let mut bytes = 0;
        self.read(info, |_, _, block| {
            bytes += block.len() as u64;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Reads it into the tensors of a state, and sets the state's revision to the checkpoint's. The next
    /// synchronization of the peers goes on from there: raise the revision by one before it, as always.
    /// Tensors that [allow inequality](crate::Tensor::allow_content_inequality) are not in a checkpoint and stay as they
    /// are. Returns the notes that were written with it.
    ///
    /// After an error the tensors hold nothing of use.
    pub fn restore(
        &self,
        info: &CheckpointInfo,
        state: &mut SharedState<'_>,
    ) -> Result<BTreeMap<String, String>, CheckpointError> {
        let head = self.place.run(self.manifest(&info.name))?.head;
        let mut targets =
            fit(&head, state).map_err(|why| CheckpointError::Unfit { name: info.name.clone(), why })?;
        self.read(info, |tensor, at, block| {
            targets[tensor][at..at + block.len()].copy_from_slice(block);
            Ok(())
        })?;
        drop(targets);
        state.revision = head.revision;
        Ok(head.notes)
    }

    /// Writes it as one safetensors file, with whole tensors, at `path`: the file is there as a whole or not at all.
    pub fn export(&self, info: &CheckpointInfo, path: &Path) -> Result<u64, CheckpointError> {
        let head = self.place.run(self.manifest(&info.name))?.head;
        let failed = |why: String| CheckpointError::File { path: path.display().to_string(), why };
        let path = &replaceable(path).map_err(|e| failed(e.to_string()))?;
        let mut temp = path.as_os_str().to_owned();
        temp.push(".part");
        let temp = Path::new(&temp);
        let header = export_header(&head).map_err(|why| damaged(&info.name, why))?;
        let write = || -> Result<(), CheckpointError> {
            let mut file = BufWriter::new(File::create(temp).map_err(|e| failed(e.to_string()))?);
            file.write_all(&header).map_err(|e| failed(e.to_string()))?;
            self.read(info, |_, _, block| file.write_all(block).map_err(|e| failed(e.to_string())))?;
            let file = file.into_inner().map_err(|e| failed(e.to_string()))?;
            file.sync_all().map_err(|e| failed(e.to_string()))?;
            fs::rename(temp, path).map_err(|e| failed(e.to_string()))
        };
        let written = write();
        if written.is_err() {
            // It may not have come into being.
            let _ = fs::remove_file(temp);
        }
        written.map(|()| header.len() as u64 + head.tensors.iter().map(|t| t.bytes).sum::<u64>())
    }

    async fn manifest(&self, name: &str) -> Result<Manifest, CheckpointError> {
        let text = self.place.text(&format!("{name}/{MANIFEST}")).await?;
        let text = text.ok_or_else(|| damaged(name, "it has no manifest, so it is not complete".into()))?;
        Manifest::decode(name, &text)
    }

    /// Hands out all blocks in order, each seen to be right: tensor, first byte, bytes.
    fn read(
        &self,
        info: &CheckpointInfo,
        mut take: impl FnMut(usize, usize, &[u8]) -> Result<(), CheckpointError> + Send,
    ) -> Result<(), CheckpointError> {
        let name = &info.name;
        let work = async {
            let manifest = self.manifest(name).await?;
            let blocks = manifest.head.blocks();
            let peers = manifest.shards.len() as u32;
            for (rank, shard) in manifest.shards.iter().enumerate() {
                let path = format!("{name}/{}", shard.file);
                let found = self.place.size(&path).await?;
                if found != Some(shard.file_bytes) {
                    let have = found.map_or_else(|| "is missing".to_owned(), |n| format!("has {n} bytes"));
                    return Err(damaged(name, format!("{} {have}, not {}", shard.file, shard.file_bytes)));
                }
                let range = blocks.shard(rank as u32, peers);
                let lengths = blocks.lengths(&range);
                let mut hashes = shard.blocks.iter();
                let mut places = blocks.pieces(&range).into_iter().flat_map(|piece| {
                    let step = manifest.head.block_bytes as usize;
                    piece.bytes.step_by(step).map(move |at| (piece.tensor, at as usize))
                });
                let mut fetches = stream::iter(fetches(&lengths, shard.data_start))
                    .map(|(at, lens)| {
                        let end = at + lens.iter().sum::<u64>();
                        let path = &path;
                        async move { self.place.range(path, at..end).await.map(|bytes| (bytes, lens)) }
                    })
                    .buffered(FETCHES);
                while let Some((bytes, lens)) = fetches.try_next().await? {
                    let mut rest = &bytes[..];
                    for len in lens {
                        let cut = rest.split_at_checked(len as usize);
                        let (block, behind) =
                            cut.ok_or_else(|| damaged(name, format!("{} is cut off", shard.file)))?;
                        rest = behind;
                        let (Some(hash), Some((tensor, at))) = (hashes.next(), places.next()) else {
                            return Err(damaged(name, "its blocks cannot be counted".into()));
                        };
                        if hex(hash_block(block)) != *hash {
                            let tensor = &manifest.head.tensors[tensor].name;
                            let why = format!("tensor \"{tensor}\" is not what was written, at byte {at}");
                            return Err(damaged(name, why));
                        }
                        take(tensor, at, block)?;
                    }
                }
            }
            Ok(())
        };
        self.place.run(work)
    }
}

/// Blocks of a file that are read together: first byte, lengths.
fn fetches(lengths: &[u64], start: u64) -> Vec<(u64, Vec<u64>)> {
    let mut all: Vec<(u64, Vec<u64>)> = Vec::new();
    let (mut at, mut open) = (start, 0);
    for len in lengths {
        match all.last_mut() {
            Some((_, lens)) if open + len <= FETCH_BYTES => lens.push(*len),
            _ => {
                all.push((at, vec![*len]));
                open = 0;
            }
        }
        open += len;
        at += len;
    }
    all
}

fn damaged(name: &str, why: String) -> CheckpointError {
    CheckpointError::Damaged { name: name.to_owned(), why }
}

fn export_header(head: &Head) -> Result<Vec<u8>, String> {
    let mut at = 0;
    let mut infos = Vec::new();
    for tensor in &head.tensors {
        let end = at + tensor.bytes as usize;
        let dtype = safetensors_type(tensor.dtype.parse()?);
        infos.push((
            tensor.name.clone(),
            TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (at, end) },
        ));
        at = end;
    }
    let mut notes = head.notes.clone();
    notes.insert("revision".to_owned(), head.revision.to_string());
    encode_header(notes, infos)
}

/// The memory of the checkpoint's tensors, in its order.
fn fit<'s>(head: &Head, state: &'s mut SharedState<'_>) -> Result<Vec<&'s mut [u8]>, String> {
    let mut ours = state.compared_mut();
    let targets = head.tensors.iter().map(|stored| {
        let (dtype, bytes) =
            ours.remove(&stored.name).ok_or_else(|| format!("here is no tensor \"{}\"", stored.name))?;
        let (there, here) = ((stored.dtype.as_str(), stored.bytes), (dtype.name(), bytes.len() as u64));
        if there != here {
            let (name, there, here) = (&stored.name, there.0, here.0);
            let (wants, has) = (stored.bytes, bytes.len());
            return Err(format!(
                "tensor \"{name}\" has {wants} bytes of {there} there and {has} of {here} here"
            ));
        }
        Ok(bytes)
    });
    let targets = targets.collect::<Result<Vec<_>, String>>()?;
    match ours.keys().next() {
        Some(name) => Err(format!("it has no tensor \"{name}\"")),
        None => Ok(targets),
    }
}
