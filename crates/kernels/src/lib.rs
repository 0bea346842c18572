//! Reduction and hashing of tensors: a scalar twin and a SIMD one of each.
