//! Runs in which bytes are spoiled on their way: no machine may panic, whatever a member, a master or a stranger sends it.
//!
//! Random bytes end at the first frame. Here the bytes are those of a run on its way, so what is spoiled comes at any
//! point of a registration, an op, an epoch change or a synchronization, behind valid sessions. Results mean nothing then:
//! who may send valid frames may send a wrong tensor.

use pccl_proto::ids::Seeded;

use crate::plan::Plan;
use crate::runs::{Outcome, finish};
use crate::trace::Trace;
use crate::world::World;

/// Of a thousand writes, so many are spoiled.
const SPOILED_PER_MILLE: &[u64] = &[1, 5, 30];

/// One run over a network that spoils bytes. Only a panic counts as wrong.
pub fn hostile(seed: u64, traced: bool) -> Outcome {
    let base = if seed % 2 == 1 { Plan::troubled(seed) } else { Plan::random(seed) };
    let rate = SPOILED_PER_MILLE[(seed / 2 % SPOILED_PER_MILLE.len() as u64) as usize];
    let trace = if traced { Trace::on() } else { Trace::default() };
    let mut outcome = finish(&mut World::new(Plan { spoiled_per_mille: rate, ..base }, trace));
    outcome.violation = outcome.violation.filter(|wrong| wrong.starts_with("panic"));
    outcome
}

/// Spoils some bytes: changes one, makes a number large, takes some out, or brings some twice.
pub(crate) fn spoil(random: &mut Seeded, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len() as u64;
    let at = random.below(len) as usize;
    let some = 1 + random.below(16.min(len)) as usize;
    let end = (at + some).min(bytes.len());
    match random.below(6) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next_u64() as u8,
        2 => bytes[at..end].fill(0xff),
        3 => bytes[at..end].fill(0),
        4 => drop(bytes.drain(at..end)),
        _ => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoiled_bytes_make_nobody_panic() {
        for seed in 1..=20 {
            let outcome = hostile(seed, false);
            assert_eq!(outcome.violation, None, "to see it: cargo xtask sim --hostile-seed {seed}");
        }
    }
}
