//! Models from safetensors files.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{SafeTensorError, SafeTensors};

use super::model::{Model, Tensor};
use crate::error::CliError;

/// One model out of the tensors of all files, in the order of the files, and of the names in each.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Model, CliError> {
    let mut model = Model::default();
    for path in paths {
        let bytes = fs::read(path)
            .map_err(|error| CliError::input(path, error).hint("name a file that this user may read"))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| refused(path, &bytes, &error))?;
        let mut tensors = file.tensors();
        tensors.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (name, view) in tensors {
            if model.has(&name) {
                return Err(CliError::input(
                    path,
                    format!("tensor `{name}` is in another of the files, too"),
                )
                .hint("give files whose tensors have different names"));
            }
            let (dtype, shape) = (view.dtype(), view.shape().to_vec());
            model.push(Tensor { name, dtype, shape }, view.data());
        }
    }
    if model.averaged_bytes() == 0 {
        let path = paths.first().map_or(Path::new("the input"), PathBuf::as_path);
        return Err(CliError::input(path, "it has no floating-point values to average")
            .hint("give a file with tensors of type F16, BF16, F32 or F64"));
    }
    Ok(model)
}

/// Why a file with these bytes is no safetensors file.
pub(crate) fn refused(path: &Path, bytes: &[u8], error: &SafeTensorError) -> CliError {
    let have = bytes.len() as u64;
    match expected_bytes(bytes) {
        Some(expected) if expected > have => CliError::input(
            path,
            format!("it is cut off: its header promises {expected} bytes, and it has {have}"),
        )
        .hint("copy it again, and compare its size with the original's"),
        _ => CliError::input(path, format!("it is no safetensors file: {error}"))
            .hint("the program that wrote it may have been interrupted; write it again"),
    }
}

/// How long a file with this beginning is, as far as its beginning says.
fn expected_bytes(bytes: &[u8]) -> Option<u64> {
    let header_bytes = u64::from_le_bytes(*bytes.first_chunk()?);
    let data_start = header_bytes.checked_add(8)?;
    // The format's own limit: a longer header is no header.
    if header_bytes > 100_000_000 {
        return None;
    }
    let Some(header) = bytes.get(8..usize::try_from(data_start).ok()?) else {
        return Some(data_start);
    };
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    let ends = header.as_object()?.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    data_start.checked_add(ends.max()?)
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, tensor::TensorView};

    use super::*;

    fn file(names: &[&str]) -> Vec<u8> {
        let data = [0_u8; 16];
        let view = || TensorView::new(Dtype::F32, vec![2, 2], &data).unwrap();
        safetensors::serialize(names.iter().map(|name| (*name, view())), None).unwrap()
    }

    fn load(contents: &[&[u8]]) -> Result<Model, CliError> {
        let folder = tempfile::tempdir().unwrap();
        let paths = contents.iter().enumerate().map(|(n, bytes)| {
            let path = folder.path().join(format!("{n}.safetensors"));
            fs::write(&path, bytes).unwrap();
            path
        });
        files(&paths.collect::<Vec<_>>())
    }

    #[test]
    fn tensors_of_several_files_make_one_model() {
        let model = load(&[&file(&["b", "a"]), &file(&["c"])]).unwrap();
        assert_eq!((model.tensor_count(), model.averaged_bytes()), (3, 48));
    }

    #[test]
    fn a_file_cut_anywhere_says_so() {
        let whole = file(&["a", "b"]);
        for length in [8, 20, whole.len() - 16, whole.len() - 1] {
            let error = load(&[&whole[..length]]).unwrap_err().to_string();
            assert!(error.contains("it is cut off") && error.contains("0.safetensors"), "{length}: {error}");
        }
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let refused = |contents: &[&[u8]]| load(contents).unwrap_err().to_string();
        assert!(refused(&[b"hello, this is text and no tensor"]).contains("no safetensors file"));
        assert!(refused(&[b"abc"]).contains("no safetensors file"));
        assert!(refused(&[&file(&["a"]), &file(&["a"])]).contains("tensor `a` is in another"));
        assert!(refused(&[&file(&[])]).contains("no floating-point values"));
    }
}
