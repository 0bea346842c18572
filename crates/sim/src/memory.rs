//! The callers' buffers, and the real kernels behind the protocol's trait.

use pccl_kernels as kernels;
use pccl_kernels::quantize::Format;
use pccl_proto::execute::{Kernels, OpMemory, Quantized};
use pccl_proto::vocabulary::{DataType, Quantization, ReduceOp};

/// Bytes of an output that nobody may write keep this value.
pub(crate) const UNTOUCHED: u8 = 0xAA;

/// Buffers of one op.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl OpMemory for Memory {
    fn in_place(&self) -> bool {
        matches!(self, Self::InPlace(_))
    }
    fn input(&self) -> &[u8] {
        let (Self::InPlace(bytes) | Self::Apart { input: bytes, .. }) = self;
        bytes
    }
    fn output(&self) -> &[u8] {
        let (Self::InPlace(bytes) | Self::Apart { output: bytes, .. }) = self;
        bytes
    }
    fn output_mut(&mut self) -> &mut [u8] {
        let (Self::InPlace(bytes) | Self::Apart { output: bytes, .. }) = self;
        bytes
    }
    fn split(&mut self) -> (&[u8], &mut [u8]) {
        match self {
            Self::InPlace(_) => unreachable!("the executor splits only what lies apart"),
            Self::Apart { input, output } => (input, output),
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
    fn reduce_quantized(&self, what: Quantized, dst: &mut [u8], parts: &[&[u8]]) {
        format(what.dtype, what.quantization).reduce(operator(what.op), parts, dst);
    }
}

/// The shipped quantization.
pub(crate) fn format(d: DataType, quantization: Quantization) -> Format {
    Format::from_codes(d.code(), quantization.code()).unwrap_or_else(|| unreachable!("{d} is not quantized"))
}
