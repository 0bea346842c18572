//! The arithmetic of this machine, for the executor.

use pccl_proto::execute::{Kernels, Quantized};
use pccl_proto::vocabulary::{DataType, ReduceOp};

/// `pccl-kernels`, by the codes that both crates share.
pub(crate) struct Cpu;

fn dtype(d: DataType) -> pccl_kernels::DataType {
    use pccl_kernels::DataType as K;
    match d {
        DataType::U8 => K::Uint8,
        DataType::I8 => K::Int8,
        DataType::I16 => K::Int16,
        DataType::U16 => K::Uint16,
        DataType::U32 => K::Uint32,
        DataType::I32 => K::Int32,
        DataType::U64 => K::Uint64,
        DataType::I64 => K::Int64,
        DataType::F16 => K::Float16,
        DataType::BF16 => K::BFloat16,
        DataType::F32 => K::Float32,
        DataType::F64 => K::Float64,
    }
}

fn op(o: ReduceOp) -> pccl_kernels::ReduceOp {
    use pccl_kernels::ReduceOp as K;
    match o {
        ReduceOp::Sum => K::Sum,
        ReduceOp::Avg => K::Avg,
        ReduceOp::Prod => K::Prod,
        ReduceOp::Max => K::Max,
        ReduceOp::Min => K::Min,
    }
}

impl Kernels for Cpu {
    fn fold(&self, d: DataType, o: ReduceOp, dst: &mut [u8], a: &[u8], b: &[u8]) {
        pccl_kernels::reduce(dtype(d), op(o), dst, a, b);
    }
    fn fold_right(&self, d: DataType, o: ReduceOp, acc: &mut [u8], b: &[u8]) {
        pccl_kernels::reduce_assign(dtype(d), op(o), acc, b);
    }
    fn fold_left(&self, d: DataType, o: ReduceOp, a: &[u8], acc: &mut [u8]) {
        pccl_kernels::reduce_assign_left(dtype(d), op(o), a, acc);
    }
    fn finalize(&self, d: DataType, o: ReduceOp, acc: &mut [u8], world: u32) {
        pccl_kernels::finalize(dtype(d), op(o), acc, world);
    }
    fn reduce_quantized(
        &self,
        what: Quantized,
        dst: &mut [u8],
        parts: &[&[u8]],
        residual: Option<&mut [u8]>,
    ) {
        let format = crate::quantized::format(what.dtype, what.quantization);
        match residual {
            None => format.reduce(op(what.op), parts, dst),
            Some(residual) => format.reduce_with_residual(op(what.op), parts, dst, residual),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pccl_proto::vocabulary::Quantization;

    #[test]
    fn both_crates_mean_the_same_codes() {
        for d in DataType::ALL {
            assert_eq!(dtype(*d).code(), d.code());
            assert_eq!(dtype(*d).size(), d.size_bytes());
        }
        for o in ReduceOp::ALL {
            assert_eq!(op(*o).code(), o.code());
        }
        for q in Quantization::ALL {
            for d in [DataType::F16, DataType::BF16, DataType::F32, DataType::F64] {
                assert_eq!(crate::quantized::format(d, *q).block_bytes() as u64, q.block_bytes(d));
            }
        }
    }
}
