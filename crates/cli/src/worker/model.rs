//! A model: named tensors, those of one element type side by side, so that one op moves all of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use half::{bf16, f16};
use pccl::DataType;
use pccl_proto::ids::Seeded;
use safetensors::Dtype;

use super::load;
use crate::error::CliError;
use pccl_config::ByteSize;

/// How far an update moves a value, at most.
const STEP: f32 = 1.0 / 64.0;

/// A tensor's name, type and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tensor {
    /// Unique in the model.
    pub(crate) name: String,
    /// Element type.
    pub(crate) dtype: Dtype,
    /// Elements in each dimension.
    pub(crate) shape: Vec<usize>,
}

/// The tensors of one element type.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// The type, if values of it are averaged: floating-point ones are, all others are only carried along.
    pub(crate) averaged: Option<DataType>,
    /// The tensors' elements, one after the other.
    pub(crate) bytes: Vec<u8>,
    /// The tensors' names, and the bytes of each.
    tensors: Vec<(String, usize)>,
}

/// All tensors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    tensors: Vec<Tensor>,
    parts: Vec<Part>,
}

/// Where a model comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Made up: so many bytes.
    Seed(ByteSize, u64),
    /// Read.
    Files(Vec<PathBuf>),
}

impl Source {
    /// The model.
    pub(crate) fn model(&self) -> Result<Model, CliError> {
        match self {
            Self::Seed(bytes, seed) => Ok(generate(*bytes, *seed)),
            Self::Files(paths) => load::files(paths),
        }
    }
}

impl Model {
    /// Adds a tensor with its content. The caller sees to it that names are unique.
    pub(crate) fn push(&mut self, tensor: Tensor, content: &[u8]) {
        let averaged = averaged(tensor.dtype);
        let known = self.parts.iter().position(|part| part.averaged == averaged);
        let at = known.unwrap_or_else(|| {
            self.parts.push(Part { averaged, bytes: Vec::new(), tensors: Vec::new() });
            self.parts.len() - 1
        });
        let part = &mut self.parts[at];
        part.bytes.extend_from_slice(content);
        part.tensors.push((tensor.name.clone(), content.len()));
        self.tensors.push(tensor);
    }

    /// Whether it has a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.iter().any(|tensor| tensor.name == name)
    }

    /// Number of tensors.
    pub(crate) fn tensor_count(&self) -> usize {
        self.tensors.len()
    }

    /// Bytes that an averaging moves.
    pub(crate) fn averaged_bytes(&self) -> u64 {
        let averaged = self.parts.iter().filter(|part| part.averaged.is_some());
        averaged.map(|part| part.bytes.len() as u64).sum()
    }

    /// The parts, in the order of their first tensors: the same on all peers with the same layout.
    pub(crate) fn parts_mut(&mut self) -> &mut [Part] {
        &mut self.parts
    }

    /// 128 bits of the content.
    pub(crate) fn hash(&self) -> u128 {
        let hashes = self.parts.iter().map(|part| pccl::hash_bytes(&part.bytes));
        let all: Vec<u8> = hashes.flat_map(u128::to_le_bytes).collect();
        pccl::hash_bytes(&all)
    }

    /// 64 bits of names, types and shapes: peers with different ones cannot average.
    pub(crate) fn layout_digest(&self) -> u64 {
        let mut text = String::new();
        for tensor in &self.tensors {
            let _ = writeln!(text, "{:?} {:?} {:?}", tensor.name, tensor.dtype, tensor.shape);
        }
        pccl::hash_bytes(text.as_bytes()) as u64
    }

    /// All tensors, as what the peers keep identical.
    pub(crate) fn shared(&mut self) -> Vec<pccl::Tensor<'_>> {
        let mut shared = Vec::with_capacity(self.tensors.len());
        let shapes: BTreeMap<&String, &Vec<usize>> =
            self.tensors.iter().map(|tensor| (&tensor.name, &tensor.shape)).collect();
        for part in &mut self.parts {
            // Of a type that is only carried along we know no more than its bytes.
            let dtype = part.averaged.unwrap_or(DataType::U8);
            let mut rest = part.bytes.as_mut_slice();
            for (name, bytes) in &part.tensors {
                let (tensor, behind) = rest.split_at_mut(*bytes);
                let shared_tensor = pccl::Tensor::from_bytes(name.as_str(), dtype, tensor);
                shared.push(match shapes.get(name).filter(|_| part.averaged.is_some()) {
                    Some(shape) => shared_tensor.shaped(shape.as_slice()),
                    None => shared_tensor,
                });
                rest = behind;
            }
        }
        shared
    }

    /// One worker's own update of one round: every value moves by a little, in a way of its own.
    pub(crate) fn move_by(&mut self, worker: u64, round: u64) {
        let stream = Seeded::new(worker ^ Seeded::new(round).next_u64()).next_u64();
        for part in &mut self.parts {
            let bytes = part.bytes.as_mut_slice();
            match part.averaged {
                Some(DataType::F32) => {
                    shift(bytes, stream, |b: [u8; 4], d| (f32::from_ne_bytes(b) + d).to_ne_bytes());
                }
                Some(DataType::F64) => {
                    shift(bytes, stream, |b: [u8; 8], d| {
                        (f64::from_ne_bytes(b) + f64::from(d)).to_ne_bytes()
                    });
                }
                Some(DataType::F16) => shift(bytes, stream, |b: [u8; 2], d| {
                    f16::from_f32(f16::from_ne_bytes(b).to_f32() + d).to_ne_bytes()
                }),
                Some(DataType::BF16) => shift(bytes, stream, |b: [u8; 2], d| {
                    bf16::from_f32(bf16::from_ne_bytes(b).to_f32() + d).to_ne_bytes()
                }),
                _ => {}
            }
        }
    }
}

/// Applies `add` to every element with a small number that depends on `stream` and the element's place.
fn shift<const N: usize>(bytes: &mut [u8], stream: u64, add: impl Fn([u8; N], f32) -> [u8; N]) {
    let (elements, _) = bytes.as_chunks_mut::<N>();
    let mut at = stream;
    for element in elements {
        // A Weyl sequence, its high bits read as a number in [-1, 1).
        at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let unit = (at >> 40) as f32 / (1 << 23) as f32 - 1.0;
        *element = add(*element, unit * STEP);
    }
}

fn averaged(dtype: Dtype) -> Option<DataType> {
    match dtype {
        Dtype::F16 => Some(DataType::F16),
        Dtype::BF16 => Some(DataType::BF16),
        Dtype::F32 => Some(DataType::F32),
        Dtype::F64 => Some(DataType::F64),
        _ => None,
    }
}

/// A made-up model of `bytes` bytes: an embedding and layers of weights and biases, all `f32`.
fn generate(bytes: ByteSize, seed: u64) -> Model {
    let count = (bytes.0 / 4) as usize;
    let mut random = Seeded::new(seed);
    let mut model = Model::default();
    for (name, elements) in cut(count) {
        let content: Vec<u8> = (0..elements)
            .flat_map(|_| ((random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0).to_ne_bytes())
            .collect();
        let (dtype, shape) = (Dtype::F32, vec![elements]);
        model.push(Tensor { name, dtype, shape }, &content);
    }
    model
}

/// Names and sizes of the tensors of a made-up model with `count` elements.
fn cut(count: usize) -> Vec<(String, usize)> {
    const LAYERS: usize = 4;
    let bias = count / 256;
    let embedding = count / 4;
    let weight = count.saturating_sub(embedding) / LAYERS - bias;
    let mut tensors: Vec<(String, usize)> = (0..LAYERS)
        .flat_map(|layer| {
            let name = |kind| format!("layers.{layer}.{kind}");
            [(name("weight"), weight), (name("bias"), bias)]
        })
        .collect();
    let rest = count - tensors.iter().map(|(_, elements)| elements).sum::<usize>();
    tensors.insert(0, ("embedding.weight".to_owned(), rest));
    tensors.retain(|(_, elements)| *elements > 0);
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_model_has_the_bytes_asked_for_and_depends_on_the_seed_alone() {
        for bytes in [4, 8, 4096, 1 << 20] {
            let model = generate(ByteSize(bytes), 7);
            assert_eq!(model.averaged_bytes(), bytes);
            assert_eq!(model.hash(), generate(ByteSize(bytes), 7).hash());
            assert_ne!(model.hash(), generate(ByteSize(bytes), 8).hash());
        }
        assert_eq!(generate(ByteSize(1 << 20), 7).tensor_count(), 9);
    }

    #[test]
    fn workers_move_their_models_apart_and_each_in_its_own_way() {
        let base = generate(ByteSize(4096), 1);
        let moved = |worker, round| {
            let mut model = base.clone();
            model.move_by(worker, round);
            model.hash()
        };
        assert_ne!(moved(1, 1), base.hash());
        assert_ne!(moved(1, 1), moved(2, 1));
        assert_ne!(moved(1, 1), moved(1, 2));
        assert_eq!(moved(1, 1), moved(1, 1));
    }

    #[test]
    fn integers_are_carried_along_and_halves_are_moved() {
        let mut model = Model::default();
        let tensor = |name: &str, dtype| Tensor { name: name.to_owned(), dtype, shape: vec![3] };
        model.push(tensor("ids", Dtype::U8), &[1, 2, 3]);
        model.push(tensor("halves", Dtype::BF16), &[0; 6]);
        assert_eq!(model.averaged_bytes(), 6);
        model.move_by(1, 1);
        assert_eq!(model.parts_mut()[0].bytes, [1, 2, 3]);
        assert_ne!(model.parts_mut()[1].bytes, [0; 6]);
        assert_eq!(model.shared().len(), 2);
    }
}
