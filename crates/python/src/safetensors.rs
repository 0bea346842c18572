//! Safetensors files, read where the package has mapped them and written from the memory of its tensors.

use std::collections::HashMap;
use std::path::PathBuf;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use safetensors::{SafeTensors, serialize_to_file};

/// Name, element type, shape, address, bytes.
type TensorArgs = (String, String, Vec<usize>, usize, usize);

const DTYPES: [Dtype; 16] = [
    Dtype::BOOL,
    Dtype::U8,
    Dtype::I8,
    Dtype::I16,
    Dtype::U16,
    Dtype::I32,
    Dtype::U32,
    Dtype::I64,
    Dtype::U64,
    Dtype::F8_E4M3,
    Dtype::F8_E5M2,
    Dtype::F16,
    Dtype::BF16,
    Dtype::F32,
    Dtype::F64,
    Dtype::C64,
];

/// Bytes at an address.
///
/// # Safety
/// They are there and nobody writes to them for as long as the slice is used.
unsafe fn at<'a>(address: usize, bytes: usize) -> &'a [u8] {
    if bytes == 0 {
        return &[]; // nothing may have no address
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }
}

/// Writes a file, from the memory of tensors that the caller keeps.
#[expect(clippy::needless_pass_by_value, reason = "PyO3 makes the values for the call")]
#[pyfunction]
pub(crate) fn write_safetensors(
    py: Python<'_>,
    path: PathBuf,
    tensors: Vec<TensorArgs>,
    metadata: HashMap<String, String>,
) -> PyResult<()> {
    let invalid = |name: &str, why: String| PyValueError::new_err(format!("tensor \"{name}\": {why}"));
    let mut views = Vec::with_capacity(tensors.len());
    for (name, dtype, shape, address, bytes) in tensors {
        let found = DTYPES.into_iter().find(|known| known.to_string() == dtype);
        let found = found.ok_or_else(|| invalid(&name, format!("unsupported dtype: {dtype}")))?;
        // SAFETY: the package gives addresses of tensors that it keeps until the call has returned.
        let data = unsafe { at(address, bytes) };
        let view = TensorView::new(found, shape, data).map_err(|e| invalid(&name, e.to_string()))?;
        views.push((name, view));
    }
    let metadata = Some(metadata).filter(|notes| !notes.is_empty());
    py.detach(|| serialize_to_file(views, metadata, &path)).map_err(|error| match error {
        SafeTensorError::IoError(error) => {
            let why = format!("failed to write {}: {error}", path.display());
            PyOSError::new_err((error.raw_os_error(), why))
        }
        other => PyValueError::new_err(format!("failed to write {}: {other}", path.display())),
    })
}

/// What a file holds that is mapped at an address: its metadata, and name, element type, shape and place of each tensor,
/// in bytes from the beginning of the file.
#[pyfunction]
pub(crate) fn read_safetensors(
    address: usize,
    bytes: usize,
) -> PyResult<(HashMap<String, String>, Vec<TensorArgs>)> {
    // SAFETY: the package keeps the mapping until the call has returned.
    let file = unsafe { at(address, bytes) };
    let (header, found) =
        SafeTensors::read_metadata(file).map_err(|e| PyValueError::new_err(why(&e, file)))?;
    let start = size_of::<u64>() + header;
    let tensors = found.offset_keys().into_iter().filter_map(|name| {
        let info = found.info(&name)?;
        let (from, to) = info.data_offsets;
        Some((name, info.dtype.to_string(), info.shape.clone(), start + from, to - from))
    });
    let tensors = tensors.collect();
    Ok((found.metadata().clone().unwrap_or_default(), tensors))
}

/// Why a file cannot be read, for people.
fn why(error: &SafeTensorError, file: &[u8]) -> String {
    let has = file.len();
    match error {
        SafeTensorError::HeaderTooSmall | SafeTensorError::InvalidHeaderLength => {
            format!(
                "it ends in its header, after {has} bytes: it has been cut off, or is no safetensors file"
            )
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!(
                "it has {has} bytes, which is not what its header says: it has been cut off, or written to"
            )
        }
        SafeTensorError::HeaderTooLarge => "it is no safetensors file".to_owned(),
        other => format!("it is no safetensors file, or damaged: {other}"),
    }
}
