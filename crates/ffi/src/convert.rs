//! What comes from C, checked.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

use pccl::{DataType, ReduceOp};

use crate::abi::{pcclDataType_t, pcclRedOp_t};
use crate::boundary::{Failure, Outcome};

/// Enumerations of C: four bytes that may hold any number.
pub(crate) fn number<T: Copy>(value: MaybeUninit<T>) -> u32 {
    const { assert!(size_of::<T>() == size_of::<u32>() && align_of::<T>() == align_of::<u32>()) }
    // SAFETY: size and alignment are those of a u32, and the caller in C has given a value.
    unsafe { value.as_ptr().cast::<u32>().read() }
}

fn code(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

pub(crate) fn data_type(value: MaybeUninit<pcclDataType_t>) -> Outcome<DataType> {
    let number = number(value);
    DataType::from_code(code(number))
        .ok_or_else(|| Failure::argument(format!("{number} is no pcclDataType_t (0 to 11)")))
}

pub(crate) fn reduce_op(value: MaybeUninit<pcclRedOp_t>) -> Outcome<ReduceOp> {
    let number = number(value);
    ReduceOp::from_code(code(number))
        .ok_or_else(|| Failure::argument(format!("{number} is no pcclRedOp_t (0 to 4)")))
}

/// Bytes of so many elements.
pub(crate) fn bytes_of(count: usize, dtype: DataType) -> Outcome<usize> {
    count.checked_mul(dtype.size_bytes()).filter(|bytes| isize::try_from(*bytes).is_ok()).ok_or_else(|| {
        Failure::argument(format!("{count} elements of {dtype} are more than memory can hold"))
    })
}

/// Where a result goes.
///
/// # Safety
/// `to` must be null, or valid for writing.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: as promised.
        unsafe { to.write(value) }
    }
}

/// What an argument points to.
///
/// # Safety
/// `at` must be null, or valid for reading for as long as the caller uses it.
pub(crate) unsafe fn read<'a, T>(at: *const T, what: &str) -> Outcome<&'a T> {
    // SAFETY: as promised.
    unsafe { at.as_ref() }.ok_or_else(|| Failure::argument(format!("{what} is null")))
}

/// # Safety
/// `text` must be null, or end in a zero byte and be valid for reading for as long as the caller uses it.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Outcome<&'a str> {
    if text.is_null() {
        return Err(Failure::argument(format!("{what} is null")));
    }
    // SAFETY: as promised.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::argument(format!("{what} is not UTF-8: {text:?}")))
}
