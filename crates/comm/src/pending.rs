//! Handles of asynchronous ops.

use std::marker::PhantomData;
use std::sync::Arc;

use pccl_proto::peer::{OpId, OpInfo};

use crate::buffer::{Buffers, OwnedBytes};
use crate::collectives::result_of;
use crate::element::Element;
use crate::engine::Engine;
use crate::error::CollectiveError;

/// An op on its way, and the buffer that it owns. Dropped, the op goes on and its result is thrown away.
#[must_use = "the buffer comes back from wait()"]
pub struct Pending<T> {
    engine: Arc<Engine>,
    id: Option<OpId>,
    tag: u64,
    buffer: PhantomData<Vec<T>>,
}

pub(crate) fn take_vec<T: Element>(memory: Buffers) -> Vec<T> {
    match memory {
        Buffers::Owned(owned) => downcast(owned),
        _ => Vec::new(),
    }
}

fn downcast<T: Element>(owned: Box<dyn OwnedBytes>) -> Vec<T> {
    owned.into_any().downcast::<Vec<T>>().map_or_else(|_| Vec::new(), |v| *v)
}

impl<T: Element> Pending<T> {
    pub(crate) fn new(engine: Arc<Engine>, id: OpId, tag: u64) -> Self {
        Self { engine, id: Some(id), tag, buffer: PhantomData }
    }

    /// The op's tag.
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Whether the op has ended; [`Pending::wait`] then returns at once.
    pub fn is_done(&self) -> bool {
        self.id.is_none_or(|id| self.engine.has_ended(id))
    }

    /// Waits for the op and gives the buffer back: reduced, or after an error as it was.
    pub fn wait(mut self) -> (Vec<T>, Result<OpInfo, CollectiveError>) {
        // Taken out once, here: the handle is consumed.
        let Some(id) = self.id.take() else { unreachable!("a handle has an op until it is waited for") };
        let mut ended = self.engine.finished(self.engine.wait_for(id));
        let memory = std::mem::replace(&mut ended.memory, Buffers::Owned(Box::new(Vec::<u8>::new())));
        (take_vec(memory), result_of("all_reduce", ended))
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.engine.forget(id);
        }
    }
}
