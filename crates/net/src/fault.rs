//! Fault points: places where a test strikes a process, by its own hand and at the very moment (feature `fault-points`).
//!
//! A specification `point:count:action` (by the variable `PCCL_FAULT` or [`arm`]) names the point, which of the times it
//! is reached, and what happens then: `kill` (SIGKILL), `stop` (SIGSTOP), or `cut` (every connection is dropped).
//! Without the feature nothing here does anything, and no variable is read.

#[cfg(not(feature = "fault-points"))]
mod points {
    /// A point is reached.
    #[inline]
    pub fn reached(_point: &str) {}

    /// Whether connections shall be dropped now.
    #[inline]
    pub(crate) fn take_cut() -> bool {
        false
    }
}

#[cfg(feature = "fault-points")]
mod points {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, OnceLock, PoisonError};

    use signal_hook::consts::{SIGKILL, SIGSTOP};
    use signal_hook::low_level::raise;

    struct Armed {
        point: String,
        left: u32,
        action: String,
    }

    static CUT: AtomicBool = AtomicBool::new(false);

    fn armed() -> &'static Mutex<Option<Armed>> {
        static ARMED: OnceLock<Mutex<Option<Armed>>> = OnceLock::new();
        ARMED.get_or_init(|| Mutex::new(std::env::var("PCCL_FAULT").ok().as_deref().and_then(parse)))
    }

    fn parse(text: &str) -> Option<Armed> {
        let mut parts = text.split(':');
        let point = parts.next()?.to_owned();
        let left = parts.next()?.parse().ok()?;
        Some(Armed { point, left, action: parts.next()?.to_owned() })
    }

    /// Arms a point of this process, in place of the one that was armed. False if the specification is none.
    pub fn arm(specification: &str) -> bool {
        let new = parse(specification);
        let known = new.is_some();
        *armed().lock().unwrap_or_else(PoisonError::into_inner) = new;
        known
    }

    /// A point is reached.
    pub fn reached(point: &str) {
        let mut guard = armed().lock().unwrap_or_else(PoisonError::into_inner);
        let Some(armed) = guard.as_mut().filter(|a| a.point == point) else { return };
        armed.left = armed.left.saturating_sub(1);
        if armed.left > 0 {
            return;
        }
        let Some(Armed { action, .. }) = guard.take() else { return };
        drop(guard);
        let signal = match action.as_str() {
            "kill" => SIGKILL,
            "stop" => SIGSTOP,
            _ => return CUT.store(true, Ordering::Relaxed),
        };
        // To this thread: a signal to the process may be taken by another one, while this one goes on.
        if let Err(error) = raise(signal) {
            eprintln!("error: failed to strike at `{point}`: {error}");
        }
    }

    /// Whether connections shall be dropped now.
    pub(crate) fn take_cut() -> bool {
        CUT.load(Ordering::Relaxed) && CUT.swap(false, Ordering::Relaxed)
    }
}

#[cfg(feature = "fault-points")]
pub use points::arm;
pub use points::reached;
pub(crate) use points::take_cut;
