//! Errors as exceptions of the package.

use pccl::{Class, ResultCode};
use pyo3::prelude::*;

/// What to raise when the library says no.
pub(crate) fn raise(py: Python<'_>, call: &str, code: ResultCode, class: Class, text: &str) -> PyErr {
    let class = match class {
        Class::Retry => "retry",
        Class::Reconfigure => "reconfigure",
        Class::Fatal => "fatal",
        Class::InputLost => "input_lost",
    };
    let make = || py.import("pccl._errors")?.getattr("make")?.call1((code as u8, call, text, class));
    match make() {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

pub(crate) fn usage(py: Python<'_>, call: &str, text: &str) -> PyErr {
    raise(py, call, ResultCode::InvalidUsage, Class::Fatal, text)
}

pub(crate) fn argument(py: Python<'_>, call: &str, text: &str) -> PyErr {
    raise(py, call, ResultCode::InvalidArgument, Class::Fatal, text)
}
