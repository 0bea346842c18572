//! The callers' buffers, and the real kernels behind the protocol's trait.

use pccl_kernels as kernels;
use pccl_kernels::Blocks;
use pccl_kernels::quantize::{Format, Residual};
use pccl_proto::execute::{Kernels, OpMemory, Quantized};
use pccl_proto::vocabulary::{DataType, Fingerprint, Quantization, ReduceOp};

/// Bytes of an output that nobody may write keep this value.
pub(crate) const UNTOUCHED: u8 = 0xAA;

/// Buffers of one op.
#[derive(Debug)]
pub enum Memory {
    /// Input and output are the same.
    InPlace(Vec<u8>),
    /// They are not.
    Apart {
        /// The input.
        input: Vec<u8>,
        /// The output.
        output: Vec<u8>,
    },
    /// Blocks, made of one of the above as they are needed.
    Quantized {
        /// What travels.
        blocks: Blocks,
        /// What the caller has.
        tensor: Box<Memory>,
    },
}

impl Memory {
    /// Buffers with this input; an output of `output_bytes` if they are apart.
    pub fn new(input: Vec<u8>, in_place: bool, output_bytes: usize) -> Self {
        if in_place {
            Self::InPlace(input)
        } else {
            let output = vec![UNTOUCHED; output_bytes];
            Self::Apart { input, output }
        }
    }

    /// The same for the op that `f` describes, quantized if it is to be.
    pub(crate) fn for_op(f: &Fingerprint, input: Vec<u8>, in_place: bool, output_bytes: usize) -> Self {
        let tensor = Self::new(input, in_place, output_bytes);
        match f.quantization {
            None => tensor,
            Some(how) => Self::Quantized {
                blocks: Blocks::new(format(f.dtype, how), f.count as usize),
                tensor: Box::new(tensor),
            },
        }
    }

    /// The same for a compressed op: with what earlier ones have left.
    pub(crate) fn compressed(self, f: &Fingerprint, before: Option<Residual>) -> Self {
        match self {
            Self::Quantized { blocks, tensor } => {
                Self::Quantized { blocks: blocks.with_feedback(f.count as usize, before, None), tensor }
            }
            other => other,
        }
    }

    /// What is left for the next op when this one has ended.
    pub(crate) fn end_feedback(&mut self, committed: bool) -> Option<Residual> {
        match self {
            Self::Quantized { blocks, .. } => blocks.end_feedback(committed).0,
            _ => None,
        }
    }

    /// What the caller has.
    pub(crate) fn tensor(&self) -> &Self {
        match self {
            Self::Quantized { tensor, .. } => tensor,
            other => other,
        }
    }

    /// What the library does with the memory of an op that has succeeded, before its call returns.
    pub(crate) fn finish(&mut self) {
        if let Self::Quantized { blocks, tensor } = self
            && tensor.in_place()
        {
            blocks.take_all(tensor.output_mut());
        }
    }
}

impl OpMemory for Memory {
    fn in_place(&self) -> bool {
        matches!(self, Self::InPlace(_))
    }
    fn input(&self) -> &[u8] {
        match self {
            Self::InPlace(bytes) | Self::Apart { input: bytes, .. } => bytes,
            Self::Quantized { blocks, .. } => blocks.contribution(),
        }
    }
    fn output(&self) -> &[u8] {
        match self {
            Self::InPlace(bytes) | Self::Apart { output: bytes, .. } => bytes,
            Self::Quantized { blocks, .. } => blocks.result(),
        }
    }
    fn output_mut(&mut self) -> &mut [u8] {
        match self {
            Self::InPlace(bytes) | Self::Apart { output: bytes, .. } => bytes,
            Self::Quantized { blocks, .. } => blocks.result_mut(),
        }
    }
    fn split(&mut self) -> (&[u8], &mut [u8]) {
        match self {
            Self::InPlace(_) => unreachable!("the executor splits only what lies apart"),
            Self::Apart { input, output } => (input, output),
            Self::Quantized { blocks, .. } => blocks.both(),
        }
    }
    fn begin(&mut self) {
        if let Self::Quantized { blocks, .. } = self {
            blocks.begin();
        }
    }
    fn split_to_sum(&mut self, start: usize, len: usize) -> (&[u8], &mut [u8], Option<&mut [u8]>) {
        match self {
            Self::Quantized { blocks, .. } => blocks.both_to_sum(start, len),
            other => {
                let (input, output) = other.split();
                (input, output, None)
            }
        }
    }
    fn prepare(&mut self, start: usize, len: usize) {
        if let Self::Quantized { blocks, tensor } = self {
            blocks.prepare(tensor.input(), start, len);
        }
    }
    fn complete(&mut self, start: usize, len: usize) {
        if let Self::Quantized { blocks, tensor } = self
            && !tensor.in_place()
        {
            blocks.take(tensor.output_mut(), start, len);
        }
    }
}

/// The shipped kernels.
#[derive(Debug, Clone, Copy)]
pub struct Arithmetic;

fn dtype(d: DataType) -> kernels::DataType {
    kernels::DataType::from_code(d.code()).unwrap_or(kernels::DataType::Uint8)
}

fn operator(op: ReduceOp) -> kernels::ReduceOp {
    kernels::ReduceOp::from_code(op.code()).unwrap_or(kernels::ReduceOp::Sum)
}

impl Kernels for Arithmetic {
    fn fold(&self, d: DataType, op: ReduceOp, dst: &mut [u8], a: &[u8], b: &[u8]) {
        kernels::reduce(dtype(d), operator(op), dst, a, b);
    }
    fn fold_right(&self, d: DataType, op: ReduceOp, acc: &mut [u8], b: &[u8]) {
        kernels::reduce_assign(dtype(d), operator(op), acc, b);
    }
    fn fold_left(&self, d: DataType, op: ReduceOp, a: &[u8], acc: &mut [u8]) {
        kernels::reduce_assign_left(dtype(d), operator(op), a, acc);
    }
    fn finalize(&self, d: DataType, op: ReduceOp, acc: &mut [u8], world: u32) {
        kernels::finalize(dtype(d), operator(op), acc, world);
    }
    fn reduce_quantized(
        &self,
        what: Quantized,
        dst: &mut [u8],
        parts: &[&[u8]],
        residual: Option<&mut [u8]>,
    ) {
        let format = format(what.dtype, what.quantization);
        match residual {
            None => format.reduce(operator(what.op), parts, dst),
            Some(residual) => format.reduce_with_residual(operator(what.op), parts, dst, residual),
        }
    }
}

/// The shipped quantization.
pub(crate) fn format(d: DataType, quantization: Quantization) -> Format {
    Format::from_codes(d.code(), quantization.code()).unwrap_or_else(|| unreachable!("{d} is not quantized"))
}
