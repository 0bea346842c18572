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

/// Refuses a call of a child after `fork`, whose parent `process` made `what`.
pub(crate) fn check_process(py: Python<'_>, process: u32, call: &str, what: &str) -> PyResult<()> {
    if process == std::process::id() {
        return Ok(());
    }
    let text = format!(
        "the {what} belongs to process {process}, from which this one was forked; create one of its own here"
    );
    Err(usage(py, call, &text))
}
