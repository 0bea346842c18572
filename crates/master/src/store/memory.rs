//! A store that forgets with its process.

use pccl_proto::record::{RunRecord, StoreReply, StoreRequest};

use super::StateStore;

/// Keeps the state in memory: for tests, and for masters whose end may be the end of the run.
#[derive(Debug, Default)]
pub struct MemoryStore {
    record: RunRecord,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl StateStore for MemoryStore {
    fn execute(&mut self, request: &StoreRequest) -> StoreReply {
        self.record.apply(request)
    }
}
