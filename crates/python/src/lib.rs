//! `pccl._native`: the calls of a peer and of a master for Python, with numbers and addresses. What they mean to people is
//! in the package beside it (`python/pccl`).
//!
//! Whatever blocks lets other threads of Python run, and looks for signals several times a second: after Ctrl-C the peer
//! leaves the run, so that the library touches no buffer any more when the exception is raised.

mod communicator;
mod errors;
mod master;
mod op;
mod safetensors;

use pyo3::prelude::*;

/// Why tensors on CUDA devices cannot be synchronized, or nothing if they can be.
#[pyfunction]
fn cuda_support() -> Option<String> {
    pccl::cuda_support().err()
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<communicator::Communicator>()?;
    module.add_class::<master::Master>()?;
    module.add_class::<op::Pending>()?;
    module.add_function(wrap_pyfunction!(safetensors::read_safetensors, module)?)?;
    module.add_function(wrap_pyfunction!(safetensors::write_safetensors, module)?)?;
    module.add_function(wrap_pyfunction!(cuda_support, module)?)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
