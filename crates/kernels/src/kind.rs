//! What is reduced and how: element types and operators, with the codes and names that leave the process.

use std::fmt;
use std::str::FromStr;

/// The element type of a tensor. The codes are those of PCCL's C API and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DataType {
    /// `u8`
    Uint8 = 0,
    /// `i8`
    Int8 = 1,
    /// `i16`
    Int16 = 2,
    /// `u16`
    Uint16 = 3,
    /// `u32`
    Uint32 = 4,
    /// `i32`
    Int32 = 5,
    /// `u64`
    Uint64 = 6,
    /// `i64`
    Int64 = 7,
    /// IEEE 754 binary16
    Float16 = 8,
    /// bfloat16: the upper half of an `f32`
    BFloat16 = 9,
    /// `f32`
    Float32 = 10,
    /// `f64`
    Float64 = 11,
}

impl DataType {
    /// Every type, in the order of the codes.
    pub const ALL: [Self; 12] = [
        Self::Uint8,
        Self::Int8,
        Self::Int16,
        Self::Uint16,
        Self::Uint32,
        Self::Int32,
        Self::Uint64,
        Self::Int64,
        Self::Float16,
        Self::BFloat16,
        Self::Float32,
        Self::Float64,
    ];

    /// The type with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The code of this type.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 => 1,
            Self::Int16 | Self::Uint16 | Self::Float16 | Self::BFloat16 => 2,
            Self::Uint32 | Self::Int32 | Self::Float32 => 4,
            Self::Uint64 | Self::Int64 | Self::Float64 => 8,
        }
    }

    /// The short name: `u8`, `f32`, `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uint8 => "u8",
            Self::Int8 => "i8",
            Self::Int16 => "i16",
            Self::Uint16 => "u16",
            Self::Uint32 => "u32",
            Self::Int32 => "i32",
            Self::Uint64 => "u64",
            Self::Int64 => "i64",
            Self::Float16 => "f16",
            Self::BFloat16 => "bf16",
            Self::Float32 => "f32",
            Self::Float64 => "f64",
        }
    }

    /// Whether this is one of the four floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Float16 | Self::BFloat16 | Self::Float32 | Self::Float64)
    }
}

/// How two elements become one. The codes are those of PCCL's C API and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ReduceOp {
    /// a + b
    Sum = 0,
    /// a + b, divided by the world size at the end
    Avg = 1,
    /// a · b
    Prod = 2,
    /// the greater
    Max = 3,
    /// the lesser
    Min = 4,
}

impl ReduceOp {
    /// Every operator, in the order of the codes.
    pub const ALL: [Self; 5] = [Self::Sum, Self::Avg, Self::Prod, Self::Max, Self::Min];

    /// The operator with this code, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The code of this operator.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The name: `sum`, `avg`, `prod`, `max`, `min`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Prod => "prod",
            Self::Max => "max",
            Self::Min => "min",
        }
    }
}

/// A name that no [`DataType`] or [`ReduceOp`] has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {kind} is called \"{name}\"; there are {known}")]
pub struct UnknownName {
    kind: &'static str,
    name: String,
    known: String,
}

fn by_name<T: Copy>(
    kind: &'static str,
    all: &[T],
    name_of: fn(T) -> &'static str,
    name: &str,
) -> Result<T, UnknownName> {
    all.iter().copied().find(|&item| name_of(item) == name).ok_or_else(|| {
        let known: Vec<_> = all.iter().copied().map(name_of).collect();
        UnknownName { kind, name: name.to_owned(), known: known.join(", ") }
    })
}

impl FromStr for DataType {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        by_name("data type", &Self::ALL, Self::name, name)
    }
}

impl FromStr for ReduceOp {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        by_name("reduce op", &Self::ALL, Self::name, name)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_c_api() {
        let named = ["u8", "i8", "i16", "u16", "u32", "i32", "u64", "i64", "f16", "bf16", "f32", "f64"];
        for (code, name) in (0..).zip(named) {
            let dtype = DataType::from_code(code).unwrap();
            assert_eq!((dtype.code(), dtype.name()), (code, name));
            assert_eq!(name.parse(), Ok(dtype));
            let bits: usize = name.trim_start_matches(char::is_alphabetic).parse().unwrap();
            assert_eq!(dtype.size() * 8, bits, "{name}");
            assert_eq!(dtype.is_float(), name.contains('f'));
        }
        assert_eq!(DataType::from_code(12), None);

        for (code, name) in (0..).zip(["sum", "avg", "prod", "max", "min"]) {
            let op = ReduceOp::from_code(code).unwrap();
            assert_eq!((op.code(), op.name()), (code, name));
            assert_eq!(name.parse(), Ok(op));
        }
        assert_eq!(ReduceOp::from_code(5), None);
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let error = "mean".parse::<ReduceOp>().unwrap_err();
        assert_eq!(error.to_string(), "no reduce op is called \"mean\"; there are sum, avg, prod, max, min");
        assert!("F32".parse::<DataType>().is_err());
    }
}
