//! Which bytes of the state each peer writes.

use std::ops::Range;

/// The state as one row of blocks: each tensor begins with a new block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Bytes of each tensor.
    tensors: Vec<u64>,
    /// Number of the first block of each tensor, and of all.
    first: Vec<u64>,
    block_bytes: u64,
}

/// A part of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Which tensor.
    pub(super) tensor: usize,
    /// Which of its bytes.
    pub(super) bytes: Range<u64>,
}

impl Blocks {
    pub(super) fn new(tensors: Vec<u64>, block_bytes: u32) -> Self {
        let block_bytes = u64::from(block_bytes.max(1));
        let mut first = vec![0];
        let mut next = 0;
        for bytes in &tensors {
            next += bytes.div_ceil(block_bytes);
            first.push(next);
        }
        Self { tensors, first, block_bytes }
    }

    pub(super) fn count(&self) -> u64 {
        self.first.last().copied().unwrap_or(0)
    }

    /// The first byte of a block, counted over all tensors; blocks at the end begin where the state ends.
    fn start(&self, block: u64) -> u64 {
        let tensor = self.first.partition_point(|first| *first <= block).saturating_sub(1);
        let before: u64 = self.tensors.iter().take(tensor).sum();
        let within = block.saturating_sub(self.first[tensor]) * self.block_bytes;
        before + within.min(self.tensors.get(tensor).copied().unwrap_or(0))
    }

    /// The blocks of shard `rank` of `peers`: whole blocks, about the same bytes for each.
    pub(super) fn shard(&self, rank: u32, peers: u32) -> Range<u64> {
        let total: u64 = self.tensors.iter().sum();
        let edge = |rank: u32| {
            if rank >= peers {
                return self.count();
            }
            let at = (u128::from(total) * u128::from(rank) / u128::from(peers.max(1))) as u64;
            // The first block that begins at or after this byte: a search over all blocks.
            let (mut low, mut high) = (0, self.count());
            while low < high {
                let middle = u64::midpoint(low, high);
                if self.start(middle) < at {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            low
        };
        edge(rank)..edge(rank + 1)
    }

    /// What a row of blocks consists of, in order; tensors without bytes are not in it.
    pub(super) fn pieces(&self, blocks: &Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (tensor, bytes) in self.tensors.iter().enumerate() {
            let from = blocks.start.max(self.first[tensor]);
            let to = blocks.end.min(self.first[tensor + 1]);
            if from < to {
                let at = |block: u64| ((block - self.first[tensor]) * self.block_bytes).min(*bytes);
                pieces.push(Piece { tensor, bytes: at(from)..at(to) });
            }
        }
        pieces
    }

    /// The lengths of a row of blocks, in order.
    pub(super) fn lengths(&self, blocks: &Range<u64>) -> Vec<u64> {
        let of = |piece: Piece| {
            let (mut at, end, step) = (piece.bytes.start, piece.bytes.end, self.block_bytes);
            std::iter::from_fn(move || {
                let len = step.min(end - at);
                at += len;
                (len > 0).then_some(len)
            })
        };
        self.pieces(blocks).into_iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_hold_every_block_once_and_are_about_equal() {
        for tensors in [vec![], vec![0, 0], vec![1000], vec![3, 0, 1000, 7, 12, 12, 1], vec![64; 40]] {
            let blocks = Blocks::new(tensors.clone(), 8);
            let total: u64 = tensors.iter().sum();
            for peers in [1, 2, 3, 7, 64] {
                let mut next = 0;
                let mut bytes = 0;
                for rank in 0..peers {
                    let shard = blocks.shard(rank, peers);
                    assert_eq!(shard.start, next, "{tensors:?} {rank}/{peers}");
                    next = shard.end;
                    let here: u64 = blocks.pieces(&shard).iter().map(|p| p.bytes.end - p.bytes.start).sum();
                    assert_eq!(here, blocks.lengths(&shard).iter().sum::<u64>());
                    assert_eq!(blocks.lengths(&shard).len() as u64, shard.end - shard.start);
                    assert!(
                        here <= total.div_ceil(u64::from(peers)) + 8,
                        "{tensors:?} {rank}/{peers}: {here}"
                    );
                    bytes += here;
                }
                assert_eq!((next, bytes), (blocks.count(), total));
            }
        }
    }

    #[test]
    fn a_tensor_larger_than_a_shard_is_cut_at_blocks() {
        let blocks = Blocks::new(vec![4, 100], 16);
        assert_eq!(blocks.count(), 8);
        let shard = blocks.shard(0, 2);
        assert_eq!(
            blocks.pieces(&shard),
            [Piece { tensor: 0, bytes: 0..4 }, Piece { tensor: 1, bytes: 0..48 }]
        );
        assert_eq!(blocks.pieces(&blocks.shard(1, 2)), [Piece { tensor: 1, bytes: 48..100 }]);
        assert_eq!(blocks.lengths(&blocks.shard(1, 2)), [16, 16, 16, 4]);
    }
}
