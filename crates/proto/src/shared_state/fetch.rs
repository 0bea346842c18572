//! Which blocks are missing, and whom they are asked of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::SessionId;
use crate::wire::MAX_DATA_BYTES;

/// Bytes asked of one holder at a time: enough to keep a fast link busy while the next request travels.
const ASKED_BYTES: u64 = 8 << 20;
/// Blocks asked of one holder at a time.
const ASKED_BLOCKS: usize = 256;

/// A part of a block, as it is sent: at most one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The block.
    pub block: u32,
    /// First byte in the block.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

impl Piece {
    /// The pieces of a block of `len` bytes.
    pub fn all(block: u32, len: u32) -> impl Iterator<Item = Self> {
        let step = MAX_DATA_BYTES as u32;
        (0..len.div_ceil(step)).map(move |i| Self { block, offset: i * step, len: step.min(len - i * step) })
    }

    fn bit(self) -> u64 {
        1 << (self.offset / MAX_DATA_BYTES as u32)
    }
}

struct Want {
    len: u32,
    /// Pieces that are there.
    have: u64,
    /// Whom it was asked of.
    asked: Option<SessionId>,
}

/// The blocks that a receiver wants, and who has them. Each holder is asked for a bounded number at a time; who sends
/// faster is asked for more.
#[derive(Default)]
pub struct Fetch {
    wanted: BTreeMap<u32, Want>,
    /// Not asked of anybody.
    free: VecDeque<u32>,
    /// Holders that can be asked, with what they owe.
    holders: BTreeMap<SessionId, BTreeSet<u32>>,
}

impl Fetch {
    /// Wants these blocks, with their lengths. No holder can be asked yet.
    pub fn new(blocks: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut fetch = Self::default();
        for (block, len) in blocks {
            fetch.wanted.insert(block, Want { len, have: 0, asked: None });
            fetch.free.push_back(block);
        }
        fetch
    }

    /// Whether everything is there.
    pub fn is_complete(&self) -> bool {
        self.wanted.is_empty()
    }

    /// A holder can be asked, from now on.
    pub fn add_holder(&mut self, holder: SessionId) {
        self.holders.entry(holder).or_default();
    }

    /// A holder cannot be asked any more: the others are asked for what it owes.
    pub fn remove_holder(&mut self, holder: SessionId) {
        for block in self.holders.remove(&holder).into_iter().flatten() {
            self.give_back(block);
        }
    }

    fn give_back(&mut self, block: u32) {
        if let Some(want) = self.wanted.get_mut(&block) {
            // Pieces of two holders are not mixed, so that a wrong block has one sender.
            want.have = 0;
            want.asked = None;
            self.free.push_front(block);
        }
    }

    /// What to ask of whom now. Holders take turns, so that all of them send.
    pub fn ask(&mut self) -> Vec<(SessionId, Vec<u32>)> {
        let mut asks: BTreeMap<SessionId, Vec<u32>> = BTreeMap::new();
        let mut any = true;
        while std::mem::take(&mut any) {
            for (holder, owed) in &mut self.holders {
                let bytes: u64 =
                    owed.iter().filter_map(|b| self.wanted.get(b)).map(|w| u64::from(w.len)).sum();
                if owed.len() >= ASKED_BLOCKS || bytes >= ASKED_BYTES {
                    continue;
                }
                let Some(block) = self.free.pop_front() else { break };
                if let Some(want) = self.wanted.get_mut(&block) {
                    want.asked = Some(*holder);
                    owed.insert(block);
                    asks.entry(*holder).or_default().push(block);
                    any = true;
                }
            }
        }
        asks.into_iter().collect()
    }

    /// Whether a piece is one that is missing and was asked of `from`.
    pub fn expects(&self, from: SessionId, piece: Piece) -> bool {
        let Some(want) = self.wanted.get(&piece.block) else { return false };
        let step = MAX_DATA_BYTES as u32;
        let whole = piece.offset.is_multiple_of(step)
            && piece.offset < want.len
            && piece.len == step.min(want.len - piece.offset);
        whole && want.asked == Some(from) && want.have & piece.bit() == 0
    }

    /// A piece is there. True if it was the last one of its block, which is to be [`Fetch::accept`]ed or
    /// [`Fetch::reject`]ed.
    pub fn arrived(&mut self, piece: Piece) -> bool {
        let Some(want) = self.wanted.get_mut(&piece.block) else { return false };
        want.have |= piece.bit();
        want.have.count_ones() == want.len.div_ceil(MAX_DATA_BYTES as u32)
    }

    /// A block is there and right.
    pub fn accept(&mut self, block: u32) {
        if let Some(from) = self.wanted.remove(&block).and_then(|w| w.asked)
            && let Some(owed) = self.holders.get_mut(&from)
        {
            owed.remove(&block);
        }
    }

    /// A block is there and wrong: it is wanted again, from another holder. Gives the one that sent it.
    pub fn reject(&mut self, block: u32) -> Option<SessionId> {
        let want = self.wanted.get_mut(&block)?;
        let from = want.asked?;
        self.remove_holder(from);
        Some(from)
    }
}
