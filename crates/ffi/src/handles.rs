//! Handles: numbers that look like addresses, and are never used again.

use std::collections::BTreeMap;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::boundary::{Failure, Outcome};

/// Everything of a kind that has been created and not destroyed.
pub(crate) struct Registry<T> {
    what: &'static str,
    next: AtomicUsize,
    /// With the process that created it: a child after `fork` has none of them.
    all: RwLock<BTreeMap<usize, (u32, Arc<T>)>>,
}

/// Handles of one kind are so far apart.
const STEP: usize = 16;

impl<T> Registry<T> {
    /// `first` tells kinds apart: below [`STEP`], and not 0.
    pub(crate) const fn new(what: &'static str, first: usize) -> Self {
        Self { what, next: AtomicUsize::new(first + STEP), all: RwLock::new(BTreeMap::new()) }
    }

    pub(crate) fn add<H>(&self, one: T) -> *mut H {
        let number = self.next.fetch_add(STEP, Ordering::Relaxed);
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(number, (process::id(), Arc::new(one)));
        ptr::without_provenance_mut(number)
    }

    pub(crate) fn get<H>(&self, handle: *const H) -> Outcome<Arc<T>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        self.check(all.get(&handle.addr()), handle)
    }

    /// Takes it out, if `may_go` agrees.
    pub(crate) fn remove<H>(&self, handle: *const H, may_go: impl FnOnce(&T) -> Outcome) -> Outcome<Arc<T>> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let one = self.check(all.get(&handle.addr()), handle)?;
        may_go(&one)?;
        all.remove(&handle.addr());
        Ok(one)
    }

    fn check<H>(&self, found: Option<&(u32, Arc<T>)>, handle: *const H) -> Outcome<Arc<T>> {
        let what = self.what;
        match found {
            None if handle.is_null() => Err(Failure::argument(format!("the {what} is null"))),
            None => Err(Failure::argument(format!("{handle:p} is no {what}, or one that was destroyed"))),
            Some((process, _)) if *process != process::id() => Err(Failure::usage(format!(
                "the {what} belongs to process {process}, from which this one was forked; create one of its own here"
            ))),
            Some((_, one)) => Ok(Arc::clone(one)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_not_used_again_and_not_taken_for_another() {
        let (red, blue) = (Registry::new("red", 1), Registry::new("blue", 2));
        let a: *mut u8 = red.add("a");
        let b: *mut u8 = blue.add("b");
        assert_eq!(*red.get(a).unwrap(), "a");
        assert!(red.get(b).is_err() && blue.get(a).is_err());
        assert!(red.get(ptr::null::<u8>()).is_err());
        assert!(red.remove(a, |_| Err(Failure::usage("busy"))).is_err());
        assert!(red.remove(a, |_| Ok(())).is_ok());
        assert!(red.remove(a, |_| Ok(())).is_err());
        assert_ne!(red.add::<u8>("c"), a);
    }
}
