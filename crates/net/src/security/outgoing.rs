//! What is to be written to a connection, and where it comes from.

/// Sealed records, one behind the other, in memory that is used again: a record of its own memory each keeps the
/// allocator busy.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outgoing {
    /// The next `n` bytes, to be filled.
    pub(super) fn space(&mut self, n: usize) -> &mut [u8] {
        let first = self.end;
        self.end += n;
        if self.bytes.len() < self.end {
            self.bytes.resize(self.end, 0);
        }
        &mut self.bytes[first..self.end]
    }

    /// The last `n` bytes have not been filled after all.
    pub(super) fn take_back(&mut self, n: usize) {
        self.end -= n;
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn written(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

/// Bytes to seal, in several pieces of memory.
pub(super) struct Plain<'a> {
    chunks: &'a [&'a [u8]],
    /// Bytes of the first one that have been taken.
    taken: usize,
}

impl<'a> Plain<'a> {
    pub(super) fn new(chunks: &'a [&'a [u8]]) -> Self {
        Self { chunks, taken: 0 }
    }

    /// Bytes left.
    pub(super) fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum::<usize>() - self.taken
    }

    /// The next `n` bytes, if they lie in one piece.
    pub(super) fn in_one(&mut self, n: usize) -> Option<&'a [u8]> {
        self.skip_empty();
        let bytes = self.chunks.first()?.get(self.taken..self.taken + n)?;
        self.taken += n;
        Some(bytes)
    }

    /// Copies as many bytes as `into` has room for; no fewer are left.
    pub(super) fn copy_to(&mut self, mut into: &mut [u8]) {
        while !into.is_empty() {
            self.skip_empty();
            let Some(rest) = self.chunks.first().and_then(|chunk| chunk.get(self.taken..)) else { return };
            let n = rest.len().min(into.len());
            into[..n].copy_from_slice(&rest[..n]);
            self.taken += n;
            into = &mut into[n..];
        }
    }

    fn skip_empty(&mut self) {
        while self.chunks.first().is_some_and(|chunk| chunk.len() == self.taken) {
            self.chunks = &self.chunks[1..];
            self.taken = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_in_order_whatever_pieces_they_lie_in() {
        let chunks: [&[u8]; 5] = [b"", b"ab", b"", b"cdef", b"g"];
        let mut plain = Plain::new(&chunks);
        assert_eq!((plain.len(), plain.in_one(3)), (7, None));
        let mut three = [0; 3];
        plain.copy_to(&mut three);
        assert_eq!((&three, plain.in_one(3), plain.len()), (b"abc", Some(&b"def"[..]), 1));
        assert_eq!((plain.in_one(1), plain.len(), plain.in_one(1)), (Some(&b"g"[..]), 0, None));
    }

    #[test]
    fn memory_is_used_again() {
        let mut out = Outgoing::default();
        out.push(b"abc");
        out.space(4).fill(b'x');
        out.take_back(2);
        out.written(2);
        assert_eq!(out.as_slice(), b"cxx");
        out.written(3);
        out.push(b"de");
        assert_eq!((out.as_slice(), out.bytes.len()), (&b"de"[..], 7));
    }
}
