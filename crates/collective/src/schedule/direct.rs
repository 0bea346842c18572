//! Direct: every chunk has an owner, to whom all send their contribution and who sends the result to all.

use super::{Chunk, Place, Rank, Side, Step, block_start};

/// The other ranks, beginning after `first`: everybody's traffic is spread over all links at any time.
fn others(world: u32, first: Rank) -> Vec<Rank> {
    (1..world).map(|i| (first + i) % world).collect()
}

fn blocks(count: u64, world: u32, program: impl Fn(Rank) -> Vec<Step>) -> Vec<Chunk> {
    let bounds: Vec<u64> = (0..=world).map(|i| block_start(count, world, i)).collect();
    between(&bounds, program)
}

fn between(bounds: &[u64], program: impl Fn(Rank) -> Vec<Step>) -> Vec<Chunk> {
    let chunk = |(pair, owner): (&[u64], Rank)| Chunk {
        start: pair[0],
        len: pair[1] - pair[0],
        input: pair[0],
        output: pair[0],
        steps: program(owner),
    };
    bounds.windows(2).zip(0..).map(chunk).collect()
}

fn fold(world: u32, owner: Rank) -> Step {
    let from = others(world, owner);
    Step::Fold { from, phase: 0, own: Place::Input, into: Place::Output, side: Side::OwnFirst, last: true }
}

pub(super) fn all_reduce(bounds: &[u64], world: u32, rank: Rank) -> Vec<Chunk> {
    between(bounds, |owner| {
        if owner == rank {
            vec![fold(world, owner), Step::Send { to: others(world, rank), phase: 1, from: Place::Output }]
        } else {
            vec![
                Step::Send { to: vec![owner], phase: 0, from: Place::Input },
                Step::Store { from: owner, phase: 1 },
            ]
        }
    })
}

/// Direct with a single chunk, whose owner is rank 0.
pub(super) fn star(count: u64, world: u32, rank: Rank) -> Vec<Chunk> {
    let steps = if rank == 0 {
        vec![fold(world, 0), Step::Send { to: others(world, 0), phase: 1, from: Place::Output }]
    } else {
        vec![Step::Send { to: vec![0], phase: 0, from: Place::Input }, Step::Store { from: 0, phase: 1 }]
    };
    vec![Chunk { start: 0, len: count, input: 0, output: 0, steps }]
}

pub(super) fn reduce_scatter(count: u64, world: u32, rank: Rank) -> Vec<Chunk> {
    let mut chunks = blocks(count, world, |owner| {
        if owner == rank {
            vec![fold(world, owner)]
        } else {
            vec![Step::Send { to: vec![owner], phase: 0, from: Place::Input }]
        }
    });
    chunks[rank as usize].output = 0;
    chunks
}

pub(super) fn all_gather(count: u64, world: u32, rank: Rank) -> Vec<Chunk> {
    let chunk = |owner: Rank| {
        let start = count * u64::from(owner);
        let steps = if owner == rank {
            vec![
                Step::Send { to: others(world, rank), phase: 0, from: Place::Input },
                Step::Copy { from: Place::Input, to: Place::Output },
            ]
        } else {
            vec![Step::Store { from: owner, phase: 0 }]
        };
        Chunk { start, len: count, input: 0, output: start, steps }
    };
    (0..world).map(chunk).collect()
}

/// The root sends a chunk to each peer, which passes it on to the others: the root sends its tensor twice at most.
pub(super) fn broadcast(count: u64, world: u32, rank: Rank, root: Rank) -> Vec<Chunk> {
    blocks(count, world, |owner| {
        let rest = |but: Rank| others(world, owner).into_iter().filter(|r| *r != but && *r != root).collect();
        if rank == root {
            let to = if owner == root { others(world, root) } else { vec![owner] };
            vec![
                Step::Send { to, phase: 0, from: Place::Input },
                Step::Copy { from: Place::Input, to: Place::Output },
            ]
        } else if owner == root {
            vec![Step::Store { from: root, phase: 0 }]
        } else if owner == rank {
            vec![
                Step::Store { from: root, phase: 0 },
                Step::Send { to: rest(rank), phase: 1, from: Place::Output },
            ]
        } else {
            vec![Step::Store { from: owner, phase: 1 }]
        }
    })
}
