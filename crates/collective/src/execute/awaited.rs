//! Whose data an attempt needs next.

use std::collections::BTreeSet;

use super::{Execution, PieceId};
use crate::schedule::{Rank, Step};

impl Execution {
    /// The ranks whose data the pieces on their way wait for now; empty if the attempt is complete here.
    pub fn awaited(&self) -> BTreeSet<Rank> {
        let mut ranks = BTreeSet::new();
        let end = self.low.saturating_add(self.window).min(self.open_at.len() as u32);
        for chunk in 0..self.schedule.chunks.len() as u32 {
            for index in self.low..end.min(self.piece_count(chunk)) {
                let state = self.state(PieceId { chunk, index });
                match self.schedule.chunks[chunk as usize].steps.get(state.pc as usize) {
                    Some(Step::Fold { from, .. }) => {
                        let rest = from.get(state.folded as usize..).unwrap_or_default();
                        let early = |rank: &Rank| self.early.iter().any(|e| e.at.from == *rank);
                        ranks.extend(rest.iter().filter(|rank| !early(rank)));
                    }
                    Some(Step::Store { from, .. }) => {
                        ranks.insert(*from);
                    }
                    _ => {}
                }
            }
        }
        ranks
    }
}
