//! Recursive doubling: pairs at distance 1, 2, 4, … exchange what they have and add it, lower rank as left operand.
//!
//! Worlds that are no power of two fold the surplus ranks into the first ones before and give them the result after.
//! What is sent lies in a buffer of its own: the partner's answer does not prove that ours has arrived, so it must stay
//! as it was sent until the op ends (a broken connection is resumed by sending again).

use super::{Chunk, Place, Rank, Side, Step};

pub(super) fn all_reduce(count: u64, world: u32, rank: Rank) -> Vec<Chunk> {
    let rounds = world.ilog2();
    let core = 1 << rounds;
    let last_phase = rounds as u16 + 1;
    let mut steps = vec![Step::Copy { from: Place::Input, to: Place::Scratch(0) }];
    if rank >= core {
        steps.push(Step::Send { to: vec![rank - core], phase: 0, from: Place::Scratch(0) });
        steps.push(Step::Store { from: rank - core, phase: last_phase });
    } else {
        let mut at = Place::Scratch(0);
        if rank + core < world {
            let into = Place::Scratch(1);
            steps.push(exchange_fold(rank + core, 0, at, into, Side::OwnFirst, false));
            at = into;
        }
        for round in 0..rounds {
            let partner = rank ^ (1 << round);
            let phase = round as u16 + 1;
            let last = round + 1 == rounds;
            let into = if last { Place::Output } else { Place::Scratch(round as u8 + 2) };
            let side = if rank < partner { Side::OwnFirst } else { Side::OwnLast };
            steps.push(Step::Send { to: vec![partner], phase, from: at });
            steps.push(exchange_fold(partner, phase, at, into, side, last));
            at = into;
        }
        if rank + core < world {
            steps.push(Step::Send { to: vec![rank + core], phase: last_phase, from: Place::Output });
        }
    }
    vec![Chunk { start: 0, len: count, input: 0, output: 0, steps }]
}

fn exchange_fold(from: Rank, phase: u16, own: Place, into: Place, side: Side, last: bool) -> Step {
    Step::Fold { from: vec![from], phase, own, into, side, last }
}
