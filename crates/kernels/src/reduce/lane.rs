//! One lane of a vector: how an element is loaded, combined and stored, without branches, so that a loop over
//! lanes becomes vector code on any instruction set.

#![expect(
    clippy::inline_always,
    reason = "a lane left out of line would stay behind the caller's target features"
)]

/// What lanes compute with: the element itself, or `f32` for the halves.
pub(super) trait Value: Copy {
    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
    fn greater(self, other: Self) -> Self;
    fn lesser(self, other: Self) -> Self;
    fn divided_by(self, world: u32) -> Self;
}

/// A reduction of two values; a type, so that each loop is compiled for one op.
pub(super) trait Op {
    fn apply<V: Value>(a: V, b: V) -> V;
}

macro_rules! ops {
    ($($Name:ident $method:ident)*) => {$(
        pub(super) struct $Name;

        impl Op for $Name {
            #[inline(always)]
            fn apply<V: Value>(a: V, b: V) -> V {
                a.$method(b)
            }
        }
    )*};
}

ops!(Sum sum  Prod product  Max greater  Min lesser);

macro_rules! integer {
    ($($T:ident, |$value:ident, $world:ident| $quotient:expr;)*) => {$(
        impl Value for $T {
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn product(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }

            #[inline(always)]
            fn greater(self, other: Self) -> Self {
                self.max(other)
            }

            #[inline(always)]
            fn lesser(self, other: Self) -> Self {
                self.min(other)
            }

            #[inline(always)]
            fn divided_by(self, $world: u32) -> Self {
                let $value = self;
                $quotient
            }
        }
    )*};
}

// Vector units divide floats, not integers. Up to 32 bits that is exact: a value just short of a whole
// quotient is k·w − 1, so its quotient is short of k by one part in k·w, which is at least 2⁻¹⁶ of it for
// 16 bits (2⁻³² for 32), while an f32 rounds by at most 2⁻²⁴ of it (an f64 by 2⁻⁵³). Of a world too great
// for an f32 to hold, every quotient is less than 1 and gives 0 either way.
integer! {
    u8, |value, world| (f32::from(value) / world as f32) as i32 as u8;
    i8, |value, world| (f32::from(value) / world as f32) as i32 as i8;
    u16, |value, world| (f32::from(value) / world as f32) as i32 as u16;
    i16, |value, world| (f32::from(value) / world as f32) as i32 as i16;
    u32, |value, world| (f64::from(value) / f64::from(world)) as u32;
    i32, |value, world| (f64::from(value) / f64::from(world)) as i32;
    u64, |value, world| value / u64::from(world);
    i64, |value, world| value / i64::from(world);
}

macro_rules! float {
    ($T:ident, $nan:literal) => {
        impl Value for $T {
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                let result = self + other;
                if result.is_nan() { $T::from_bits($nan) } else { result }
            }

            #[inline(always)]
            fn product(self, other: Self) -> Self {
                let result = self * other;
                if result.is_nan() { $T::from_bits($nan) } else { result }
            }

            #[inline(always)]
            fn greater(self, other: Self) -> Self {
                // Each is one `max` instruction, which gives its second operand if both are zeros. The two
                // differ then only if the zeros do, and the common bits of +0 and −0 are those of +0.
                let (m, n) =
                    (if self > other { self } else { other }, if other > self { other } else { self });
                let result = $T::from_bits(m.to_bits() & n.to_bits());
                if self.is_nan() || other.is_nan() { $T::from_bits($nan) } else { result }
            }

            #[inline(always)]
            fn lesser(self, other: Self) -> Self {
                // As in `greater`: either zero's sign makes it −0.
                let (m, n) =
                    (if self < other { self } else { other }, if other < self { other } else { self });
                let result = $T::from_bits(m.to_bits() | n.to_bits());
                if self.is_nan() || other.is_nan() { $T::from_bits($nan) } else { result }
            }

            #[inline(always)]
            fn divided_by(self, world: u32) -> Self {
                let result = self / world as $T;
                if result.is_nan() { $T::from_bits($nan) } else { result }
            }
        }
    };
}

float!(f32, 0x7FC0_0000);
float!(f64, 0x7FF8_0000_0000_0000);

/// An element type: its bytes in memory and the value they stand for.
pub(super) trait Lane {
    /// The element as it lies in a buffer, at any address.
    type Bytes: Copy;
    type Value: Value;

    /// The buffer as elements.
    fn elements(buffer: &[u8]) -> &[Self::Bytes];
    fn elements_mut(buffer: &mut [u8]) -> &mut [Self::Bytes];
    fn load(bytes: Self::Bytes) -> Self::Value;
    /// If `value` is NaN, it is the canonical one: every result of a [`Value`] is.
    fn store(value: Self::Value) -> Self::Bytes;
}

macro_rules! elements {
    ($size:expr) => {
        type Bytes = [u8; $size];

        #[inline(always)]
        fn elements(buffer: &[u8]) -> &[Self::Bytes] {
            buffer.as_chunks().0
        }

        #[inline(always)]
        fn elements_mut(buffer: &mut [u8]) -> &mut [Self::Bytes] {
            buffer.as_chunks_mut().0
        }
    };
}

macro_rules! plain_lane {
    ($($T:ident)*) => {$(
        impl Lane for $T {
            elements!(size_of::<$T>());
            type Value = $T;

            #[inline(always)]
            fn load(bytes: Self::Bytes) -> $T {
                $T::from_ne_bytes(bytes)
            }

            #[inline(always)]
            fn store(value: $T) -> Self::Bytes {
                value.to_ne_bytes()
            }
        }
    )*};
}

plain_lane!(u8 i8 i16 u16 u32 i32 u64 i64 f32 f64);

/// bfloat16: the upper half of an `f32`.
pub(super) struct Bf16;

impl Lane for Bf16 {
    elements!(2);
    type Value = f32;

    #[inline(always)]
    fn load(bytes: [u8; 2]) -> f32 {
        f32::from_bits(u32::from(u16::from_ne_bytes(bytes)) << 16)
    }

    #[inline(always)]
    fn store(value: f32) -> [u8; 2] {
        // Adding just under half of the last place that stays, and its lowest bit, carries exactly when
        // rounding to nearest even goes up; beyond the greatest number that carry gives infinity. The
        // canonical NaN has zeros there and comes through unchanged.
        let bits = value.to_bits();
        let rounded = bits + 0x7FFF + (bits >> 16 & 1);
        ((rounded >> 16) as u16).to_ne_bytes()
    }
}

/// binary16, converted by integer arithmetic: for machines without an instruction for it.
pub(super) struct F16;

/// The difference of the exponent biases, 127 − 15, in the exponent's place of an `f32`.
const REBIAS: u32 = 112 << 23;
/// The bits of 2⁻¹⁴, the least normal binary16, as an `f32`.
const LEAST_NORMAL: u32 = REBIAS + (1 << 23);

impl Lane for F16 {
    elements!(2);
    type Value = f32;

    #[inline(always)]
    fn load(bytes: [u8; 2]) -> f32 {
        let bits = u32::from(u16::from_ne_bytes(bytes));
        let sign = (bits & 0x8000) << 16;
        let magnitude = (bits & 0x7FFF) << 13;
        // A subnormal m·2⁻²⁴ has no leading one: lend it one (2⁻¹⁴ + m·2⁻²⁴ is normal in f32) and take that
        // away.
        let lent = f32::from_bits(magnitude + LEAST_NORMAL) - f32::from_bits(LEAST_NORMAL);
        let exponent = bits & 0x7C00;
        let normal = if exponent == 0x7C00 { magnitude | 0x7F80_0000 } else { magnitude + REBIAS };
        let unsigned = if exponent == 0 { lent.to_bits() } else { normal };
        f32::from_bits(sign | unsigned)
    }

    #[inline(always)]
    fn store(value: f32) -> [u8; 2] {
        let bits = value.to_bits();
        let sign = bits >> 16 & 0x8000;
        let magnitude = bits & 0x7FFF_FFFF;
        // As in bfloat16, 13 bits instead of 16. From 65520 on the carry gives infinity, the exponent above
        // 65504. (Wraps for subnormals, whose result is not used.)
        let normal = (magnitude + 0xFFF + (magnitude >> 13 & 1)).wrapping_sub(REBIAS) >> 13;
        // The last place of an f32 between 0.5 and 1 is 2⁻²⁴, the unit of the subnormals: the addition
        // rounds to it.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
        let finite = if magnitude < LEAST_NORMAL { subnormal } else { normal };
        let special = if magnitude > 0x7F80_0000 { 0x7E00 } else { 0x7C00 };
        let unsigned = if magnitude >= 65536_f32.to_bits() { special } else { finite };
        ((sign | unsigned) as u16).to_ne_bytes()
    }
}
