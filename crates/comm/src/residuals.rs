//! What compression has taken away from the tensors of this peer so far, by tag, to be given back with the next op.
//!
//! A residual belongs to the peer and to its session: an op takes it on its way and brings one back when it ends, a new one
//! only if it has committed. So an attempt that is cut costs nothing and counts nothing twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use pccl_kernels::quantize::Residual;
use pccl_observe::process::{Roots, kib, look};
use pccl_proto::ids::Tag;
use pccl_proto::vocabulary::{DataType, Fingerprint};

use crate::engine::lock;

/// The part of the memory that residuals may take up.
const PART_OF_MEMORY: u64 = 4;
/// If nobody says how much there is.
const DEFAULT_LIMIT_BYTES: u64 = 4 << 30;

/// The residuals of a communicator.
#[derive(Debug)]
pub(crate) struct Residuals {
    kept: Mutex<Kept>,
    limit_bytes: usize,
}

#[derive(Debug, Default)]
struct Kept {
    by_tag: BTreeMap<Tag, Entry>,
    /// Ops that have brought one back.
    uses: u64,
    /// Lives of the peer.
    life: u64,
    told: bool,
}

#[derive(Debug)]
struct Entry {
    tensor: (DataType, u64),
    residual: Residual,
    /// The op that has brought it, by number.
    used: u64,
}

/// What an op brings back.
#[derive(Debug)]
pub(crate) struct Ticket {
    residuals: Arc<Residuals>,
    tag: Tag,
    tensor: (DataType, u64),
    life: u64,
}

impl Default for Residuals {
    /// At most a quarter of the memory that this process may have.
    fn default() -> Self {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let limits = [kib(&meminfo, "MemTotal:"), look(&Roots::default(), "self").group.memory_limit_bytes];
        let memory = limits.into_iter().flatten().min();
        let limit = memory.map_or(DEFAULT_LIMIT_BYTES, |bytes| bytes / PART_OF_MEMORY);
        Self::with_limit(usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

impl Residuals {
    fn with_limit(limit_bytes: usize) -> Self {
        Self { kept: Mutex::default(), limit_bytes }
    }

    /// What earlier ops of this tag on such a tensor have left, if any, for an op that brings it back.
    pub(crate) fn take(self: &Arc<Self>, tag: Tag, f: &Fingerprint) -> (Ticket, Option<Residual>) {
        let mut kept = lock(&self.kept);
        let tensor = (f.dtype, f.count);
        let fits = kept.by_tag.get(&tag).is_some_and(|entry| entry.tensor == tensor);
        let found = if fits { kept.by_tag.remove(&tag).map(|entry| entry.residual) } else { None };
        (Ticket { residuals: Arc::clone(self), tag, tensor, life: kept.life }, found)
    }

    /// The peer begins a new life: what it had not said yet in the old one is nobody's business any more.
    pub(crate) fn clear(&self) {
        let mut kept = lock(&self.kept);
        kept.by_tag.clear();
        kept.life += 1;
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.kept).bytes()
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        self.by_tag.values().map(|entry| entry.residual.bytes()).sum()
    }

    /// Drops what was brought longest ago, down to the limit.
    fn shrink(&mut self, limit_bytes: usize) {
        while self.bytes() > limit_bytes {
            let oldest = self.by_tag.iter().min_by_key(|(_, entry)| entry.used).map(|(tag, _)| *tag);
            let Some(tag) = oldest else { return };
            self.by_tag.remove(&tag);
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(
                    target: "pccl::peer",
                    "compression keeps what it takes away from a tensor by the op's tag, and has reached its limit of {} MiB: \
                     what was kept for tag {tag} is dropped, and from now on for the tag that has not been called for the \
                     longest time. Use the same tags again and again, or fewer",
                    limit_bytes >> 20
                );
            }
        }
    }
}

impl Ticket {
    /// The op has ended. `residual` is what it has left, if it has committed, else what was there before it.
    pub(crate) fn bring_back(self, residual: Option<Residual>, committed: bool) {
        let mut kept = lock(&self.residuals.kept);
        // After a failed op another thread may have called the same tag already.
        let stands = committed || !kept.by_tag.contains_key(&self.tag);
        let Some(residual) = residual.filter(|_| stands && self.life == kept.life) else { return };
        kept.uses += 1;
        let used = kept.uses;
        kept.by_tag.insert(self.tag, Entry { tensor: self.tensor, residual, used });
        kept.shrink(self.residuals.limit_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pccl_kernels::Blocks;
    use pccl_kernels::quantize::Format;
    use pccl_proto::vocabulary::{Collective, ReduceOp};

    fn of(count: u64) -> Fingerprint {
        Fingerprint {
            collective: Collective::AllReduce,
            dtype: DataType::F32,
            op: ReduceOp::Sum,
            count,
            root: 0,
            algorithm: None,
            quantization: None,
        }
    }

    /// What is left of a tensor of these values, as an op would leave it.
    fn left(count: usize) -> Residual {
        let format = Format::from_codes(DataType::F32.code(), 2);
        let Some(format) = format else { unreachable!("a format of f32") };
        let mut blocks = Blocks::new(format, count).with_feedback(count, None, None);
        let tensor: Vec<u8> = (0..count).flat_map(|i| (i as f32 * 0.37).sin().to_ne_bytes()).collect();
        let all = blocks.contribution().len();
        blocks.prepare(&tensor, 0, all);
        blocks.end_feedback(true).0.unwrap_or_default()
    }

    #[test]
    fn an_op_gets_what_the_last_one_of_its_tag_and_tensor_has_left() {
        let residuals = Arc::new(Residuals::with_limit(1 << 20));
        let (ticket, none) = residuals.take(Tag(7), &of(700));
        assert_eq!(none, None);
        ticket.bring_back(Some(left(700)), true);
        let (ticket, found) = residuals.take(Tag(7), &of(700));
        assert_eq!(found, Some(left(700)));
        assert_eq!(residuals.bytes(), 0, "it is on its way");
        ticket.bring_back(found, false);
        assert_eq!(residuals.take(Tag(8), &of(700)).1, None, "another tag");
        // Another tensor by the same tag: only once its op has committed is the old one of no use.
        let (ticket, found) = residuals.take(Tag(7), &of(300));
        assert_eq!(found, None);
        ticket.bring_back(None, false);
        assert_eq!(residuals.bytes(), 4 * 700);
        residuals.take(Tag(7), &of(300)).0.bring_back(Some(left(300)), true);
        assert_eq!(residuals.bytes(), 4 * 300);
    }

    #[test]
    fn what_has_not_been_called_for_the_longest_time_is_dropped_at_the_limit() {
        let residuals = Arc::new(Residuals::with_limit(4 * 1000 * 3));
        for tag in [1, 2, 3, 1, 4] {
            let (ticket, _) = residuals.take(Tag(tag), &of(1000));
            ticket.bring_back(Some(left(1000)), true);
        }
        let there: Vec<u64> = lock(&residuals.kept).by_tag.keys().map(|tag| tag.0).collect();
        assert_eq!((there, residuals.bytes()), (vec![1, 3, 4], 4 * 3000));
        residuals.take(Tag(5), &of(1 << 20)).0.bring_back(Some(left(1 << 20)), true);
        assert_eq!(residuals.bytes(), 0, "larger than the limit by itself");
    }

    #[test]
    fn another_life_begins_with_nothing() {
        let residuals = Arc::new(Residuals::with_limit(1 << 20));
        residuals.take(Tag(1), &of(700)).0.bring_back(Some(left(700)), true);
        let (ticket, _) = residuals.take(Tag(2), &of(700));
        residuals.clear();
        ticket.bring_back(Some(left(700)), true);
        assert_eq!(residuals.bytes(), 0, "nor what an op of the old one brings back");
    }

    #[test]
    fn there_is_a_limit_on_every_machine() {
        let limit = Residuals::default().limit_bytes;
        assert!(limit > 1 << 20 && limit < usize::MAX, "{limit}");
    }
}
