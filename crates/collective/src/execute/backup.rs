//! What is kept of an in-place input until its op commits.

/// A copy of the parts of a buffer that were overwritten, at the same offsets.
#[derive(Debug, Default)]
pub struct Backup {
    data: Vec<u8>,
    kept: usize,
}

impl Backup {
    /// For a buffer of `len` bytes, in the memory of an earlier backup if that is large enough.
    pub fn for_len(reuse: Option<Self>, len: usize) -> Self {
        match reuse {
            // A much larger one would hold memory for nothing.
            Some(old) if old.data.len() >= len && old.data.len() <= 2 * len.max(1 << 20) => {
                Self { kept: 0, ..old }
            }
            // Fresh zeroed pages are mapped by the system only when they are written to.
            _ => Self { data: vec![0; len], kept: 0 },
        }
    }

    /// Bytes kept.
    pub fn kept_bytes(&self) -> usize {
        self.kept
    }

    pub(super) fn keep(&mut self, start: usize, bytes: &[u8]) {
        self.data[start..start + bytes.len()].copy_from_slice(bytes);
        self.kept += bytes.len();
    }

    pub(super) fn bytes(&self, start: usize, len: usize) -> &[u8] {
        &self.data[start..start + len]
    }

    pub(super) fn restore(&self, start: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.data[start..start + into.len()]);
    }
}
