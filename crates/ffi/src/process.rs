//! What belongs to the process: initialization, errors, version.

use std::ffi::c_char;
use std::sync::Once;

use crate::abi::{pcclBuildInfo_t, pcclErrorClass_t, pcclResult_t};
use crate::boundary::{self, Failure};
use crate::log;

/// Initializes the library. May be called again; every other call but those about the build and the last error wants it.
#[unsafe(no_mangle)]
pub extern "C" fn pcclInit() -> pcclResult_t {
    static LOG: Once = Once::new();
    boundary::call_without_init("pcclInit", || {
        LOG.call_once(log::start);
        boundary::initialize();
        Ok(())
    })
}

/// Says how the library was built, and whether it has found the driver of CUDA devices.
///
/// # Safety
/// `info` must be null, or valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pcclGetBuildInfo(info: *mut pcclBuildInfo_t) -> pcclResult_t {
    boundary::call_without_init("pcclGetBuildInfo", || {
        if info.is_null() {
            return Err(Failure::argument("info is null"));
        }
        // SAFETY: not null, and valid as the caller promises.
        unsafe { info.write(pcclBuildInfo_t { has_cuda_support: pccl::cuda_support().is_ok() }) };
        Ok(())
    })
}

/// What went wrong in the last call of this thread that did not return `pcclSuccess`, and what to do about it, in words:
/// UTF-8, never null, empty if there was none, valid until the next such call of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn pcclGetLastError() -> *const c_char {
    boundary::last_text()
}

/// What to do next after the last call of this thread that did not return `pcclSuccess`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclGetLastErrorClass() -> pcclErrorClass_t {
    boundary::last_class()
}

/// The version of the library, as `major.minor.patch`.
#[unsafe(no_mangle)]
pub extern "C" fn pcclGetVersion() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
