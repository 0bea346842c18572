//! What an op is: collective, element type, operator, algorithm, and the fingerprint that peers compare.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $text:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)+ }

        impl $name {
            /// Every value, in the order of the codes.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable integer of the C API and the wire.
            pub fn code(self) -> u8 {
                self as u8
            }

            /// The value with this code.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// The short name, as in command lines and reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("unknown value \"{text}\", expected one of {}", [$($text),+].join(", "))),
                }
            }
        }
    };
}

coded!(
    /// Element type; codes as in PCCL's C API.
    DataType {
        /// Unsigned 8-bit integer.
        U8 = 0, "u8";
        /// Signed 8-bit integer.
        I8 = 1, "i8";
        /// Signed 16-bit integer.
        I16 = 2, "i16";
        /// Unsigned 16-bit integer.
        U16 = 3, "u16";
        /// Unsigned 32-bit integer.
        U32 = 4, "u32";
        /// Signed 32-bit integer.
        I32 = 5, "i32";
        /// Unsigned 64-bit integer.
        U64 = 6, "u64";
        /// Signed 64-bit integer.
        I64 = 7, "i64";
        /// IEEE 754 binary16.
        F16 = 8, "f16";
        /// The upper half of a binary32.
        BF16 = 9, "bf16";
        /// IEEE 754 binary32.
        F32 = 10, "f32";
        /// IEEE 754 binary64.
        F64 = 11, "f64";
    }
);

impl DataType {
    /// Bytes of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

coded!(
    /// How elements are combined; codes as in PCCL's C API.
    ReduceOp {
        /// Sum; integers wrap.
        Sum = 0, "sum";
        /// Sum divided by the number of peers that took part; integers truncate towards zero.
        Avg = 1, "avg";
        /// Product; integers wrap.
        Prod = 2, "prod";
        /// Largest.
        Max = 3, "max";
        /// Smallest.
        Min = 4, "min";
    }
);

coded!(
    /// Which collective.
    Collective {
        /// Every peer gets the reduction of all inputs.
        AllReduce = 0, "all_reduce";
        /// Peer r gets block r of the reduction.
        ReduceScatter = 1, "reduce_scatter";
        /// Every peer gets the inputs of all, in rank order.
        AllGather = 2, "all_gather";
        /// Every peer gets the root's input.
        Broadcast = 3, "broadcast";
        /// Nobody returns before everybody has called.
        Barrier = 4, "barrier";
    }
);

coded!(
    /// How the values of an all-reduce travel: as integers, in blocks of [`QUANTIZATION_BLOCK`] with a scale of their own.
    ///
    /// Every peer quantizes its contribution once, the owner of a chunk adds them all in the order of ranks and quantizes
    /// the sum once, and everybody, the owner too, takes what that says: lossy, and the same to the last bit everywhere.
    Quantization {
        /// 8 bits, from the smallest to the largest value of the block.
        MinMaxU8 = 1, "u8-min-max";
        /// 8 bits, of a range that holds 0, which stays exactly 0.
        ZeroPointU8 = 2, "u8-zero-point";
        /// 16 bits, from the smallest to the largest value of the block.
        MinMaxU16 = 3, "u16-min-max";
        /// 16 bits, of a range that holds 0, which stays exactly 0.
        ZeroPointU16 = 4, "u16-zero-point";
    }
);

/// Values that are quantized together.
pub const QUANTIZATION_BLOCK: u64 = 256;

impl Quantization {
    /// Bytes of a block: two numbers (`f64` for elements of `f64`, else `f32`), and an integer for each value.
    pub fn block_bytes(self, dtype: DataType) -> u64 {
        let number = if dtype == DataType::F64 { 8 } else { 4 };
        let integer = match self {
            Self::MinMaxU8 | Self::ZeroPointU8 => 1,
            Self::MinMaxU16 | Self::ZeroPointU16 => 2,
        };
        2 * number + QUANTIZATION_BLOCK * integer
    }
}

coded!(
    /// Who sends what to whom.
    Algorithm {
        /// All-to-all reduce-scatter, then all-gather.
        Direct = 0, "direct";
        /// Partial sums go round a ring, then the results.
        Ring = 1, "ring";
        /// Pairs exchange everything, at doubling distances.
        Doubling = 2, "doubling";
        /// Everybody sends to rank 0, which sends the result to everybody: fewest messages.
        Star = 3, "star";
    }
);

/// What all peers must agree on for an op; sent with its first frame and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The collective.
    pub collective: Collective,
    /// Element type.
    pub dtype: DataType,
    /// Operator (ignored where nothing is reduced).
    pub op: ReduceOp,
    /// Elements of the whole tensor: of the input for all-reduce, reduce-scatter and broadcast,
    /// of one peer's input for all-gather.
    pub count: u64,
    /// Rank of the root (broadcast), else zero.
    pub root: u32,
    /// Algorithm asked for by the caller, if any.
    pub algorithm: Option<Algorithm>,
    /// For an all-reduce of floating-point elements: how they travel, if not as they are.
    pub quantization: Option<Quantization>,
}

impl Fingerprint {
    /// Bytes of `count` elements.
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.dtype.size_bytes() as u64)
    }

    /// What schedules count, and memory consists of: elements, or quantized blocks.
    pub fn units(&self) -> u64 {
        match self.quantization {
            None => self.count,
            Some(_) => self.count.div_ceil(QUANTIZATION_BLOCK),
        }
    }

    /// Bytes of a unit.
    pub fn unit_bytes(&self) -> u64 {
        match self.quantization {
            None => self.dtype.size_bytes() as u64,
            Some(q) => q.block_bytes(self.dtype),
        }
    }

    /// Bytes of all units.
    pub fn travelling_bytes(&self) -> u64 {
        self.units().saturating_mul(self.unit_bytes())
    }

    /// A 32-bit digest for frame headers (FNV-1a). Never zero.
    pub fn digest(&self) -> u32 {
        let fixed = [
            self.collective.code(),
            self.dtype.code(),
            self.op.code(),
            self.algorithm.map_or(0xff, Algorithm::code),
            self.quantization.map_or(0, Quantization::code),
        ];
        let bytes = fixed.into_iter().chain(self.count.to_le_bytes()).chain(self.root.to_le_bytes());
        let hash = bytes.fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        hash.max(1)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}, {}", self.collective, self.count, self.dtype, self.op)?;
        if self.collective == Collective::Broadcast {
            write!(f, ", root {}", self.root)?;
        }
        if let Some(q) = self.quantization {
            write!(f, ", quantized to {q}")?;
        }
        match self.algorithm {
            Some(a) => write!(f, ", algorithm {a}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for d in DataType::ALL {
            assert_eq!(DataType::from_code(d.code()), Some(*d));
            assert_eq!(d.name().parse::<DataType>().unwrap(), *d);
        }
        assert_eq!(DataType::F32.code(), 10);
        assert_eq!(ReduceOp::from_code(5), None);
    }

    #[test]
    fn digest_tells_every_field_apart() {
        let base = Fingerprint {
            collective: Collective::AllReduce,
            dtype: DataType::F32,
            op: ReduceOp::Sum,
            count: 1000,
            root: 0,
            algorithm: None,
            quantization: None,
        };
        let others = [
            Fingerprint { dtype: DataType::I32, ..base },
            Fingerprint { op: ReduceOp::Max, ..base },
            Fingerprint { count: 1001, ..base },
            Fingerprint { root: 1, ..base },
            Fingerprint { algorithm: Some(Algorithm::Direct), ..base },
            Fingerprint { quantization: Some(Quantization::MinMaxU8), ..base },
            Fingerprint { collective: Collective::Broadcast, ..base },
        ];
        for other in others {
            assert_ne!(base.digest(), other.digest(), "{base} against {other}");
        }
    }
}
