//! Element types of tensors.

use pccl_proto::vocabulary::DataType;

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that tensors can be made of: any bit pattern is a value, and there is no padding.
pub trait Element: Copy + Default + Send + Sync + sealed::Sealed + 'static {
    /// Its name on the wire.
    const DTYPE: DataType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),+ $(,)?) => {
        $(
            impl sealed::Sealed for $rust {}
            impl Element for $rust {
                const DTYPE: DataType = DataType::$dtype;
            }
        )+
    };
}

elements!(
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    half::f16 => F16, half::bf16 => BF16, f32 => F32, f64 => F64,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_agree_with_the_wire() {
        fn check<T: Element>() {
            assert_eq!(size_of::<T>(), T::DTYPE.size_bytes());
        }
        check::<u8>();
        check::<i8>();
        check::<u16>();
        check::<i16>();
        check::<u32>();
        check::<i32>();
        check::<u64>();
        check::<i64>();
        check::<half::f16>();
        check::<half::bf16>();
        check::<f32>();
        check::<f64>();
    }
}
