//! What every call does first and last: whatever goes wrong becomes a result code and a text.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use pccl::{Class, ResultCode};

use crate::abi::{pcclErrorClass_t, pcclResult_t};

/// A call that did not do what it should.
#[derive(Debug)]
pub(crate) struct Failure {
    code: pcclResult_t,
    class: pcclErrorClass_t,
    text: String,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: pcclResult_t, class: Class, text: impl fmt::Display) -> Self {
        let class = match class {
            Class::Retry => pcclErrorClass_t::pcclErrorRetry,
            Class::Reconfigure => pcclErrorClass_t::pcclErrorReconfigure,
            Class::Fatal => pcclErrorClass_t::pcclErrorFatal,
            Class::InputLost => pcclErrorClass_t::pcclErrorInputLost,
        };
        Self { code, class, text: text.to_string() }
    }

    /// A failure of the library below.
    pub(crate) fn coded(code: ResultCode, class: Class, text: impl fmt::Display) -> Self {
        Self::new(result_of(code), class, text)
    }

    pub(crate) fn argument(text: impl fmt::Display) -> Self {
        Self::new(pcclResult_t::pcclInvalidArgument, Class::Fatal, text)
    }

    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Self::new(pcclResult_t::pcclInvalidUsage, Class::Fatal, text)
    }

    pub(crate) fn internal(text: impl fmt::Display) -> Self {
        Self::new(pcclResult_t::pcclInternalError, Class::Fatal, text)
    }

    /// The same with what to do next.
    pub(crate) fn hint(mut self, hint: &str) -> Self {
        self.text = format!("{}; {hint}", self.text);
        self
    }

    pub(crate) fn is_retry(&self) -> bool {
        self.class == pcclErrorClass_t::pcclErrorRetry
    }

    /// Of an op: no other can be in flight before one has ended.
    pub(crate) fn is_too_many(&self) -> bool {
        self.is_retry() && self.code == pcclResult_t::pcclInvalidUsage
    }
}

fn result_of(code: ResultCode) -> pcclResult_t {
    match code {
        ResultCode::NotInitialized => pcclResult_t::pcclNotInitialized,
        ResultCode::InternalError => pcclResult_t::pcclInternalError,
        ResultCode::InvalidArgument => pcclResult_t::pcclInvalidArgument,
        ResultCode::InvalidUsage => pcclResult_t::pcclInvalidUsage,
        ResultCode::TooFewPeers => pcclResult_t::pcclTooFewPeers,
        ResultCode::MasterConnectionFailed => pcclResult_t::pcclMasterConnectionFailed,
        ResultCode::RankConnectionFailed => pcclResult_t::pcclRankConnectionFailed,
        ResultCode::RankConnectionLost => pcclResult_t::pcclRankConnectionLost,
        ResultCode::NoSharedStateAvailable => pcclResult_t::pcclNoSharedStateAvailable,
        ResultCode::PendingAsyncOps => pcclResult_t::pcclPendingAsyncOps,
        ResultCode::UpdateTopologyFailed => pcclResult_t::pcclUpdateTopologyFailed,
        ResultCode::TopologyOptimizationFailed => pcclResult_t::pcclTopologyOptimizationFailed,
    }
}

static INITIALIZED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static LAST_TEXT: RefCell<CString> = RefCell::default();
    static LAST_CLASS: Cell<pcclErrorClass_t> = const { Cell::new(pcclErrorClass_t::pcclErrorNone) };
}

pub(crate) fn initialize() {
    INITIALIZED.store(true, Ordering::Release);
}

/// Runs a call that needs `pcclInit`.
pub(crate) fn call(name: &str, body: impl FnOnce() -> Outcome) -> pcclResult_t {
    call_without_init(name, || {
        if INITIALIZED.load(Ordering::Acquire) {
            return body();
        }
        Err(Failure::new(pcclResult_t::pcclNotInitialized, Class::Fatal, "call pcclInit first"))
    })
}

/// Runs a call.
pub(crate) fn call_without_init(name: &str, body: impl FnOnce() -> Outcome) -> pcclResult_t {
    let ended = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let why = what_it_says(panic.as_ref());
        Err(Failure::internal(format!("the library panicked, which is a bug: {why}")))
    });
    match ended {
        Ok(()) => pcclResult_t::pcclSuccess,
        Err(Failure { code, class, text }) => {
            remember(class, format!("{name}: {text}"));
            code
        }
    }
}

fn what_it_says(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

fn remember(class: pcclErrorClass_t, text: String) {
    let mut bytes = text.into_bytes();
    bytes.retain(|b| *b != 0);
    // A thread that is ending has no place for it any more.
    let _ = LAST_TEXT.try_with(|last| *last.borrow_mut() = CString::new(bytes).unwrap_or_default());
    let _ = LAST_CLASS.try_with(|last| last.set(class));
}

pub(crate) fn last_text() -> *const c_char {
    LAST_TEXT.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

pub(crate) fn last_class() -> pcclErrorClass_t {
    LAST_CLASS.try_with(Cell::get).unwrap_or(pcclErrorClass_t::pcclErrorNone)
}
