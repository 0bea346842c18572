//! What a checkpoint needs to know of a state.

use std::collections::BTreeMap;

use pccl_proto::vocabulary::DataType;

use super::{SharedState, Tensor};

impl Tensor<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dtype(&self) -> DataType {
        self.dtype
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes
    }

    pub(crate) fn shape(&self) -> Vec<usize> {
        self.shape.clone().unwrap_or_else(|| vec![self.bytes.len() / self.dtype.size_bytes()])
    }
}

impl SharedState<'_> {
    /// Whether a checkpoint of what this synchronization agrees on is to be written, also between the regular ones. All
    /// members must say so: a checkpoint is made of everybody's part. Default false.
    #[must_use]
    pub fn checkpoint(mut self, wanted: bool) -> Self {
        self.wants_checkpoint = wanted;
        self
    }

    /// Something to be found again with a checkpoint, for instance the step of the training; the same on all members.
    #[must_use]
    pub fn note(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.notes.insert(name.into(), value.into());
        self
    }

    pub(crate) fn block_bytes_used(&self) -> u32 {
        self.block_bytes
    }

    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.wants_checkpoint
    }

    pub(crate) fn notes(&self) -> &BTreeMap<String, String> {
        &self.notes
    }

    /// The memory of the compared tensors, by name.
    pub(crate) fn compared_mut(&mut self) -> BTreeMap<String, (DataType, &mut [u8])> {
        let compared = self.tensors.iter_mut().filter(|t| t.compared);
        compared.map(|t| (t.name.clone(), (t.dtype, &mut *t.bytes))).collect()
    }
}
