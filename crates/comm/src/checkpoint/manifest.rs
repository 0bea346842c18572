//! What is said about a checkpoint, as JSON: by each peer about its shard, and about the whole.

use std::collections::BTreeMap;

use pccl_kernels::hash::{hash_block, hash_tensor};
use pccl_proto::vocabulary::DataType;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use super::cut::Blocks;
use super::error::CheckpointError;
use super::name::shard_files;

const FORMAT: &str = "pccl-checkpoint";
/// Version of the format that this program writes; it reads no other.
const VERSION: u32 = 1;
/// Most peers of a group, as a bound on what a damaged manifest can ask for.
const MAX_SHARDS: usize = 1 << 16;

/// A tensor of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorEntry {
    pub(super) name: String,
    /// By PCCL's name: `f32`.
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: u64,
}

/// What all peers know of a checkpoint before they write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    format: String,
    version: u32,
    /// Hexadecimal.
    pub(super) run: String,
    pub(super) group: u32,
    pub(super) revision: u64,
    pub(super) epoch: u64,
    /// The hash that the peers agreed on, hexadecimal.
    pub(super) content: String,
    pub(super) block_bytes: u32,
    /// What the program wants to find again, for instance its step.
    pub(super) notes: BTreeMap<String, String>,
    pub(super) tensors: Vec<TensorEntry>,
}

/// A shard: some blocks of the state, in order, in one safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shard {
    pub(super) file: String,
    /// Of the whole file.
    pub(super) file_bytes: u64,
    /// Where the blocks begin in it.
    pub(super) data_start: u64,
    /// The hashes of its blocks, hexadecimal.
    pub(super) blocks: Vec<String>,
}

/// What makes a checkpoint complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    #[serde(flatten)]
    pub(super) head: Head,
    pub(super) shards: Vec<Shard>,
    /// The hash of all this, written without it; hexadecimal.
    checksum: String,
}

#[derive(Deserialize)]
struct Version {
    format: String,
    version: u32,
}

pub(super) fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

impl Head {
    pub(super) fn new(
        run: u128,
        group: u32,
        revision: u64,
        epoch: u64,
        content: u128,
        block_bytes: u32,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            run: hex(run),
            group,
            revision,
            epoch,
            content: hex(content),
            block_bytes,
            notes: BTreeMap::new(),
            tensors: Vec::new(),
        }
    }

    pub(super) fn blocks(&self) -> Blocks {
        Blocks::new(self.tensors.iter().map(|t| t.bytes).collect(), self.block_bytes)
    }

    /// The header of a shard's file, with its length in front: what stands before the blocks.
    pub(super) fn shard_header(&self, rank: u32, peers: u32) -> Result<Vec<u8>, String> {
        let blocks = self.blocks();
        let mut names = std::collections::BTreeSet::new();
        let mut at = 0;
        let mut infos = Vec::new();
        for piece in blocks.pieces(&blocks.shard(rank, peers)) {
            let tensor = &self.tensors[piece.tensor];
            let dtype: DataType = tensor.dtype.parse()?;
            let bytes = (piece.bytes.end - piece.bytes.start) as usize;
            let whole = bytes as u64 == tensor.bytes;
            let mut name = tensor.name.clone();
            if !whole {
                name = format!("{name}[{}..{}]", piece.bytes.start, piece.bytes.end);
            }
            // A tensor may be named like a piece of another one, or like the format's own entry.
            while name == "__metadata__" || !names.insert(name.clone()) {
                name.push('\'');
            }
            let shape = if whole { tensor.shape.clone() } else { vec![bytes / dtype.size_bytes()] };
            let (dtype, shape) = if whole || bytes.is_multiple_of(dtype.size_bytes()) {
                (safetensors_type(dtype), shape)
            } else {
                (Dtype::U8, vec![bytes])
            };
            infos.push((name, TensorInfo { dtype, shape, data_offsets: (at, at + bytes) }));
            at += bytes;
        }
        let notes = [
            ("format".to_owned(), FORMAT.to_owned()),
            ("revision".to_owned(), self.revision.to_string()),
            ("shard".to_owned(), format!("{rank} of {peers}")),
        ];
        encode_header(notes, infos)
    }

    fn check(&self, name: &str) -> Result<(), CheckpointError> {
        let damaged = |why: String| CheckpointError::Damaged { name: name.to_owned(), why };
        if self.format != FORMAT {
            return Err(damaged(format!("its format is \"{}\"", self.format)));
        }
        for tensor in &self.tensors {
            let dtype: DataType = tensor.dtype.parse().map_err(&damaged)?;
            let elements = tensor.shape.iter().try_fold(1_u64, |n, d| n.checked_mul(*d as u64));
            let bytes = elements.and_then(|n| n.checked_mul(dtype.size_bytes() as u64));
            if bytes != Some(tensor.bytes) {
                return Err(damaged(format!(
                    "the size of tensor \"{}\" does not fit its shape",
                    tensor.name
                )));
            }
        }
        let total = self.tensors.iter().try_fold(0_u64, |sum, t| sum.checked_add(t.bytes));
        if total.is_none() || self.block_bytes == 0 {
            return Err(damaged("its sizes make no sense".into()));
        }
        Ok(())
    }
}

/// The bytes in front of a safetensors file's data.
pub(super) fn encode_header(
    notes: impl IntoIterator<Item = (String, String)>,
    tensors: Vec<(String, TensorInfo)>,
) -> Result<Vec<u8>, String> {
    let metadata = Metadata::new(Some(notes.into_iter().collect()), tensors).map_err(|e| e.to_string())?;
    let mut text = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    // The data begins aligned, as the format asks.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    Ok(bytes)
}

pub(super) fn safetensors_type(dtype: DataType) -> Dtype {
    match dtype {
        DataType::U8 => Dtype::U8,
        DataType::I8 => Dtype::I8,
        DataType::I16 => Dtype::I16,
        DataType::U16 => Dtype::U16,
        DataType::U32 => Dtype::U32,
        DataType::I32 => Dtype::I32,
        DataType::U64 => Dtype::U64,
        DataType::I64 => Dtype::I64,
        DataType::F16 => Dtype::F16,
        DataType::BF16 => Dtype::BF16,
        DataType::F32 => Dtype::F32,
        DataType::F64 => Dtype::F64,
    }
}

impl Manifest {
    pub(super) fn new(head: Head, shards: Vec<Shard>) -> Self {
        Self { head, shards, checksum: String::new() }
    }

    fn computed_checksum(&self) -> Result<String, String> {
        let plain = Self { checksum: String::new(), ..self.clone() };
        Ok(hex(hash_block(&serde_json::to_vec(&plain).map_err(|e| e.to_string())?)))
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let summed = Self { checksum: self.computed_checksum()?, ..self.clone() };
        let mut text = serde_json::to_vec(&summed).map_err(|e| e.to_string())?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads one, and sees that it makes sense: nothing in it is believed that follows from something else.
    pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let damaged = |why: String| CheckpointError::Damaged { name: name.to_owned(), why };
        let unreadable = |e: serde_json::Error| damaged(format!("its manifest cannot be parsed: {e}"));
        let version: Version = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version.format != FORMAT {
            return Err(damaged(format!("its format is \"{}\"", version.format)));
        }
        if version.version != VERSION {
            let (found, known) = (version.version, VERSION);
            return Err(CheckpointError::Version { name: name.to_owned(), found, known });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(unreadable)?;
        if manifest.computed_checksum().map_err(damaged)? != manifest.checksum {
            return Err(damaged("its manifest has another checksum than its content".into()));
        }
        manifest.head.check(name)?;
        manifest.check(name)?;
        Ok(manifest)
    }

    /// Whether the shards make up the state whose hash is that of the head.
    pub(super) fn check(&self, name: &str) -> Result<(), CheckpointError> {
        let damaged = |why: String| CheckpointError::Damaged { name: name.to_owned(), why };
        if self.shards.is_empty() || self.shards.len() > MAX_SHARDS {
            return Err(damaged(format!("it has {} shards", self.shards.len())));
        }
        let blocks = self.head.blocks();
        let peers = self.shards.len() as u32;
        for (rank, shard) in self.shards.iter().enumerate() {
            let range = blocks.shard(rank as u32, peers);
            let bytes: u64 = blocks.lengths(&range).iter().sum();
            let fits = shard.file == shard_files(rank as u32, peers).0
                && shard.blocks.len() as u64 == range.end - range.start
                && shard.data_start.checked_add(bytes) == Some(shard.file_bytes);
            if !fits {
                return Err(damaged(format!("what it says of {} does not fit", shard.file)));
            }
        }
        let content = self.content().ok_or_else(|| damaged("a hash in it is no hash".into()))?;
        if hex(content) != self.head.content {
            return Err(damaged(format!("its blocks make {}, not {}", hex(content), self.head.content)));
        }
        Ok(())
    }

    /// The hash of the state, from those of all blocks: what the peers compare.
    fn content(&self) -> Option<u128> {
        let hashes = self.hashes()?;
        let mut rest = hashes.as_slice();
        let mut all = Vec::new();
        for tensor in &self.head.tensors {
            let count = tensor.bytes.div_ceil(u64::from(self.head.block_bytes)) as usize;
            let (ours, others) = rest.split_at_checked(count)?;
            all.extend_from_slice(&hash_tensor(ours, tensor.bytes).to_le_bytes());
            rest = others;
        }
        rest.is_empty().then(|| hash_block(&all))
    }

    /// The hashes of all blocks in order.
    fn hashes(&self) -> Option<Vec<u128>> {
        let texts = self.shards.iter().flat_map(|s| &s.blocks);
        texts.map(|text| u128::from_str_radix(text, 16).ok()).collect()
    }
}
