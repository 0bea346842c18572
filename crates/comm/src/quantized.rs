//! Quantized all-reduce, seen from the caller's memory: it is quantized before the op and written to after it.
//!
//! The op itself runs on quantized blocks in memory of its own, so the caller's input is whole until the op has
//! committed, whatever happens, and a retry contributes the same bytes.

use pccl_kernels::quantize::{BLOCK, Format};
use pccl_proto::vocabulary::{
    Algorithm, Collective, DataType, Fingerprint, QUANTIZATION_BLOCK, Quantization,
};

use crate::buffer::OwnedBytes;

const _: () = assert!(BLOCK as u64 == QUANTIZATION_BLOCK);

/// How blocks of an op that [`check`] has passed are made.
pub(crate) fn format(dtype: DataType, quantization: Quantization) -> Format {
    Format::from_codes(dtype.code(), quantization.code())
        .unwrap_or_else(|| unreachable!("ops of {dtype} are not quantized"))
}

/// The memory of a quantized op.
pub(crate) struct Quantized {
    format: Format,
    /// This peer's contribution.
    pub(crate) input: Vec<u8>,
    /// The result.
    pub(crate) output: Vec<u8>,
    /// The tensor, if the op owns it.
    pub(crate) tensor: Option<Box<dyn OwnedBytes>>,
}

impl Quantized {
    /// Quantizes a tensor for the op that `f` describes.
    pub(crate) fn new(f: &Fingerprint, quantization: Quantization, tensor: &[u8]) -> Self {
        let format = format(f.dtype, quantization);
        let mut input = vec![0; f.travelling_bytes() as usize];
        format.encode(tensor, &mut input);
        let output = vec![0; input.len()];
        Self { format, input, output, tensor: None }
    }

    /// The same with a tensor that the op owns.
    pub(crate) fn owning(f: &Fingerprint, quantization: Quantization, tensor: Box<dyn OwnedBytes>) -> Self {
        let mut new = Self::new(f, quantization, tensor.bytes());
        new.tensor = Some(tensor);
        new
    }

    /// Writes the result of an op that has committed.
    pub(crate) fn write_to(&self, tensor: &mut [u8]) {
        self.format.decode(&self.output, tensor);
    }

    /// The same, to the tensor that the op owns.
    pub(crate) fn write_to_owned(&mut self) {
        if let Some(mut tensor) = self.tensor.take() {
            self.write_to(tensor.bytes_mut());
            self.tensor = Some(tensor);
        }
    }
}

/// What PCCL's API calls a quantization: the type of the integers, of 8 or 16 bits (signed or not makes no difference to the
/// result), and 1 for min-max, 2 for zero point and scale; 0 is none.
pub fn quantization_of(integer: DataType, algorithm: u32) -> Result<Option<Quantization>, String> {
    let wide = match integer {
        _ if algorithm == 0 => return Ok(None),
        DataType::U8 | DataType::I8 => false,
        DataType::U16 | DataType::I16 => true,
        other => return Err(format!("values cannot be quantized to {other}: take u8, i8, u16 or i16")),
    };
    match (algorithm, wide) {
        (1, false) => Ok(Some(Quantization::MinMaxU8)),
        (1, true) => Ok(Some(Quantization::MinMaxU16)),
        (2, false) => Ok(Some(Quantization::ZeroPointU8)),
        (2, true) => Ok(Some(Quantization::ZeroPointU16)),
        _ => Err(format!("{algorithm} is no quantization algorithm (0 to 2)")),
    }
}

/// Whether an op can be quantized as it asks to be.
pub(crate) fn check(f: &Fingerprint) -> Result<(), String> {
    let Some(quantization) = f.quantization else { return Ok(()) };
    if f.collective != Collective::AllReduce {
        return Err(format!("{} cannot be quantized: only an all-reduce can", f.collective));
    }
    if Format::from_codes(f.dtype.code(), quantization.code()).is_none() {
        return Err(format!("elements of {} cannot be quantized: take f16, bf16, f32 or f64", f.dtype));
    }
    match f.algorithm {
        None | Some(Algorithm::Direct | Algorithm::Star) => Ok(()),
        Some(other) => Err(format!(
            "algorithm {other} would quantize sums again and again: ask for direct or star, or for none"
        )),
    }
}
