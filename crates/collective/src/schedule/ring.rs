//! Ring: partial sums of a chunk go round from its owner's successor to its owner, the result goes round once more.

use super::{Chunk, Place, Rank, Side, Step};

pub(super) fn all_reduce(bounds: &[u64], world: u32, rank: Rank) -> Vec<Chunk> {
    let next = (rank + 1) % world;
    let prev = (rank + world - 1) % world;
    let program = |owner: Rank| {
        // Hops from the owner's successor, where the chunk's sum begins, to us.
        let hop = (rank + world - (owner + 1) % world) % world;
        let fold = |last| Step::Fold {
            from: vec![prev],
            phase: 0,
            own: Place::Input,
            into: Place::Output,
            side: Side::OwnLast,
            last,
        };
        let pass_on = |phase| Step::Send { to: vec![next], phase, from: Place::Output };
        if rank == owner {
            return vec![fold(true), pass_on(1)];
        }
        let mut steps = if hop == 0 {
            vec![Step::Send { to: vec![next], phase: 0, from: Place::Input }]
        } else {
            vec![fold(false), pass_on(0)]
        };
        steps.push(Step::Store { from: prev, phase: 1 });
        if next != owner {
            steps.push(pass_on(1));
        }
        steps
    };
    (0..world)
        .map(|owner| {
            let (start, end) = (bounds[owner as usize], bounds[owner as usize + 1]);
            Chunk { start, len: end - start, input: start, output: start, steps: program(owner) }
        })
        .collect()
}

pub(super) fn all_gather(count: u64, world: u32, rank: Rank) -> Vec<Chunk> {
    let next = (rank + 1) % world;
    let prev = (rank + world - 1) % world;
    let chunk = |owner: Rank| {
        let mut steps = Vec::new();
        if owner == rank {
            steps.push(Step::Send { to: vec![next], phase: 0, from: Place::Input });
            steps.push(Step::Copy { from: Place::Input, to: Place::Output });
        } else {
            steps.push(Step::Store { from: prev, phase: 0 });
            if next != owner {
                steps.push(Step::Send { to: vec![next], phase: 0, from: Place::Output });
            }
        }
        let start = count * u64::from(owner);
        Chunk { start, len: count, input: 0, output: start, steps }
    };
    (0..world).map(chunk).collect()
}
