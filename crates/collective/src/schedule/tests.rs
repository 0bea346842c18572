//! Every schedule, run for a whole world on symbolic values: the right result, in one order, on every rank.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::vocabulary::{DataType, ReduceOp};

/// An expression: which inputs were combined, in which order.
type Expr = String;

struct World {
    schedules: Vec<Schedule>,
    pcs: Vec<Vec<usize>>,
    folded: Vec<Vec<usize>>,
    places: BTreeMap<(Rank, usize, u8), Expr>,
    mail: BTreeMap<(Rank, Rank, usize, u16), VecDeque<Expr>>,
}

fn slot(p: Place) -> u8 {
    match p {
        Place::Input => 0,
        Place::Output => 1,
        Place::Scratch(k) => 2 + k,
    }
}

impl World {
    fn run(f: &Fingerprint, algorithm: Algorithm, world: u32) -> Self {
        Self::of((0..world).map(|r| schedule(f, algorithm, world, r)).collect())
    }

    fn of(schedules: Vec<Schedule>) -> Self {
        let world = schedules.len() as Rank;
        let shape: Vec<_> = schedules.iter().map(|s| vec![0; s.chunks.len()]).collect();
        let mut w = World {
            pcs: shape.clone(),
            folded: shape,
            schedules,
            places: BTreeMap::new(),
            mail: BTreeMap::new(),
        };
        while (0..world).any(|r| w.advance(r)) {}
        w
    }

    fn value(&self, rank: Rank, chunk: usize, place: Place) -> Expr {
        match place {
            Place::Input => format!("{rank}"),
            other => self.places[&(rank, chunk, slot(other))].clone(),
        }
    }

    fn advance(&mut self, rank: Rank) -> bool {
        let mut moved = false;
        for chunk in 0..self.pcs[rank as usize].len() {
            moved |= self.step(rank, chunk);
        }
        moved
    }

    fn step(&mut self, rank: Rank, chunk: usize) -> bool {
        let pc = self.pcs[rank as usize][chunk];
        let Some(step) = self.schedules[rank as usize].chunks[chunk].steps.get(pc).cloned() else {
            return false;
        };
        match step {
            Step::Copy { from, to } => {
                let v = self.value(rank, chunk, from);
                self.places.insert((rank, chunk, slot(to)), v);
            }
            Step::Send { to, phase, from } => {
                for r in to {
                    let v = self.value(rank, chunk, from);
                    self.mail.entry((rank, r, chunk, phase)).or_default().push_back(v);
                }
            }
            Step::Fold { from, phase, own, into, side, .. } => {
                let at = &mut self.folded[rank as usize][chunk];
                let Some(mail) =
                    self.mail.get_mut(&(from[*at], rank, chunk, phase)).and_then(VecDeque::pop_front)
                else {
                    return false;
                };
                let first = *at == 0;
                *at += 1;
                let done = *at == from.len();
                if done {
                    *at = 0;
                }
                let mine = self.value(rank, chunk, if first { own } else { into });
                let v = match side {
                    Side::OwnFirst => format!("({mine}+{mail})"),
                    Side::OwnLast => format!("({mail}+{mine})"),
                };
                self.places.insert((rank, chunk, slot(into)), v);
                if !done {
                    return true;
                }
            }
            Step::Store { from, phase } => {
                let Some(v) = self.mail.get_mut(&(from, rank, chunk, phase)).and_then(VecDeque::pop_front)
                else {
                    return false;
                };
                self.places.insert((rank, chunk, 1), v);
            }
        }
        self.pcs[rank as usize][chunk] += 1;
        true
    }

    fn finished(&self) -> bool {
        let programs = self.schedules.iter().zip(&self.pcs);
        programs.flat_map(|(s, pcs)| s.chunks.iter().zip(pcs)).all(|(c, pc)| *pc == c.steps.len())
            && self.mail.values().all(VecDeque::is_empty)
    }

    fn output(&self, rank: Rank, chunk: usize) -> Option<&Expr> {
        self.places.get(&(rank, chunk, 1))
    }
}

fn fingerprint(collective: Collective, count: u64, root: u32) -> Fingerprint {
    Fingerprint {
        collective,
        dtype: DataType::F32,
        op: ReduceOp::Sum,
        count,
        root,
        algorithm: None,
        quantization: None,
    }
}

fn leaves(expr: &str) -> Vec<u32> {
    let mut all: Vec<u32> =
        expr.split(['(', ')', '+']).filter(|t| !t.is_empty()).map(|t| t.parse().unwrap()).collect();
    all.sort_unstable();
    all
}

#[test]
fn all_reduce_gives_every_rank_the_same_expression_of_all_inputs() {
    for world in 1..=17 {
        for algorithm in Algorithm::ALL.iter().copied() {
            let w = World::run(&fingerprint(Collective::AllReduce, 1003, 0), algorithm, world);
            assert!(w.finished(), "{algorithm} with {world} peers gets stuck or leaves mail");
            for chunk in 0..w.schedules[0].chunks.len() {
                let first = w.output(0, chunk).unwrap();
                assert_eq!(leaves(first), (0..world).collect::<Vec<_>>(), "{algorithm}, chunk {chunk}");
                for rank in 1..world {
                    assert_eq!(w.output(rank, chunk).unwrap(), first, "{algorithm}, rank {rank}");
                }
            }
        }
    }
}

#[test]
fn without_copies_of_the_input_the_results_are_the_same() {
    let f = fingerprint(Collective::AllReduce, 1003, 0);
    for (world, algorithm) in (2..=9).flat_map(|world| Algorithm::ALL.iter().map(move |a| (world, *a))) {
        let with = World::run(&f, algorithm, world);
        let mut schedules = with.schedules.clone();
        schedules.iter_mut().for_each(Schedule::read_the_input);
        let copies = schedules.iter().flat_map(|s| &s.chunks).flat_map(|c| &c.steps);
        assert_eq!(copies.filter(|s| matches!(s, Step::Copy { .. })).count(), 0, "{algorithm}");
        let without = World::of(schedules);
        assert!(without.finished(), "{algorithm} with {world} peers");
        for (rank, chunk) in (0..world).flat_map(|r| (0..with.schedules[0].chunks.len()).map(move |c| (r, c)))
        {
            assert_eq!(without.output(rank, chunk), with.output(rank, chunk), "{algorithm}, rank {rank}");
        }
    }
}

#[test]
fn the_order_of_reduction_is_the_documented_one() {
    let f = fingerprint(Collective::AllReduce, 3, 0);
    assert_eq!(World::run(&f, Algorithm::Direct, 3).output(0, 1).unwrap(), "((1+2)+0)");
    assert_eq!(World::run(&f, Algorithm::Ring, 3).output(0, 1).unwrap(), "((2+0)+1)");
    assert_eq!(World::run(&f, Algorithm::Star, 3).output(2, 0).unwrap(), "((0+1)+2)");
    assert_eq!(World::run(&f, Algorithm::Doubling, 3).output(0, 0).unwrap(), "((0+2)+1)");
}

#[test]
fn the_other_collectives_deliver_what_they_promise() {
    for world in 1..=9 {
        let w = World::run(&fingerprint(Collective::ReduceScatter, 1003, 0), Algorithm::Direct, world);
        assert!(w.finished());
        for rank in 0..world {
            let got = w.output(rank, if world == 1 { 0 } else { rank as usize }).unwrap();
            assert_eq!(leaves(got).len(), world as usize);
        }
        for algorithm in [Algorithm::Direct, Algorithm::Ring] {
            let w = World::run(&fingerprint(Collective::AllGather, 10, 0), algorithm, world);
            assert!(w.finished());
            for rank in 0..world {
                for owner in 0..world {
                    assert_eq!(w.output(rank, owner as usize).unwrap(), &owner.to_string());
                }
            }
        }
        for root in 0..world {
            let w = World::run(&fingerprint(Collective::Broadcast, 1003, root), Algorithm::Direct, world);
            assert!(w.finished());
            for rank in 0..world {
                for chunk in 0..w.schedules[0].chunks.len() {
                    assert_eq!(w.output(rank, chunk).unwrap(), &root.to_string(), "rank {rank} root {root}");
                }
            }
        }
    }
}

#[test]
fn chunks_cover_the_tensor_and_bytes_match_the_formula() {
    for world in 2..=9u32 {
        for count in [1u64, 2, 7, 1000, 1003] {
            for algorithm in [Algorithm::Direct, Algorithm::Ring] {
                let f = fingerprint(Collective::AllReduce, count, 0);
                let mut sent = 0;
                for rank in 0..world {
                    let s = schedule(&f, algorithm, world, rank);
                    let mut at = 0;
                    for c in &s.chunks {
                        assert_eq!(c.start, at);
                        at += c.len;
                    }
                    assert_eq!(at, count);
                    sent += (0..world).map(|r| s.elements_to(r)).sum::<u64>();
                    for other in 0..world {
                        let theirs = schedule(&f, algorithm, world, other);
                        assert_eq!(s.elements_to(other), theirs.elements_from(rank));
                    }
                }
                assert_eq!(sent, 2 * u64::from(world - 1) * count, "{algorithm}, {world} peers");
            }
        }
    }
}
