use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::strategy::Strategy as _;

use super::Strategy::{EnforcePopular as P, ReceiveOnly as R, SendOnly as S};
use super::{
    Agreed, BLOCK_BYTES, Fault, Fetch, NoCandidate, Offer, Outcome, Piece, Strategy, TensorKey, elect,
};
use crate::ids::SessionId;
use crate::vocabulary::DataType;

fn tensor(name: &str, bytes: u64) -> TensorKey {
    TensorKey { name: name.into(), dtype: DataType::F32, bytes, compared: true }
}

fn offer(strategy: Strategy, revision: u64, content: u128) -> Offer {
    let tensors = vec![tensor("a", 8), tensor("w", 400)];
    Offer { revision, strategy, counts: true, admits: true, block_bytes: BLOCK_BYTES, content, tensors }
}

fn session(i: usize) -> SessionId {
    SessionId(100 + i as u64)
}

fn run(offers: &[Offer], before: Option<(u64, u128)>) -> Outcome {
    let voters: Vec<_> = offers.iter().enumerate().map(|(i, o)| (session(i), o)).collect();
    elect(&voters, before.map(|(revision, content)| Agreed { revision, content }))
}

/// The outcome in short: who holds, who receives, which revision; or who is expelled.
fn short(outcome: &Outcome) -> String {
    let names = |all: &[SessionId]| all.iter().map(|s| (s.0 - 100).to_string()).collect::<Vec<_>>().join(",");
    match outcome {
        Outcome::Elected(e) => {
            let Agreed { revision, content } = e.agreed;
            format!("r{revision} c{content} hold {} receive {}", names(&e.holders), names(&e.receivers))
        }
        Outcome::Expel(faults) => {
            let kind = |f: &Fault| match f {
                Fault::Strategy { .. } => "strategy",
                Fault::Revision { .. } => "revision",
                Fault::KeySet { .. } => "keys",
                Fault::ConflictingSender { .. } => "conflict",
            };
            let all: Vec<_> = faults.iter().map(|(s, f)| format!("{} {}", s.0 - 100, kind(f))).collect();
            format!("expel {}", all.join(", "))
        }
        Outcome::Nobody(why) => format!("{why:?}"),
    }
}

#[test]
fn every_rule_of_an_election() {
    type Row<'a> = (&'a str, Vec<(Strategy, u64, u128)>, Option<(u64, u128)>, &'a str);
    let table: Vec<Row<'_>> = vec![
        ("alone", vec![(P, 0, 1)], None, "r0 c1 hold 0 receive "),
        ("all agree", vec![(P, 4, 1), (P, 4, 1)], Some((3, 9)), "r4 c1 hold 0,1 receive "),
        ("most common", vec![(P, 4, 2), (P, 4, 1), (P, 4, 1)], Some((3, 9)), "r4 c1 hold 1,2 receive 0"),
        ("a tie: the oldest", vec![(P, 4, 2), (P, 4, 1)], Some((3, 9)), "r4 c2 hold 0 receive 1"),
        (
            "a tie of two",
            vec![(P, 4, 3), (P, 4, 1), (P, 4, 2), (P, 4, 2), (P, 4, 1)],
            Some((3, 9)),
            "r4 c1 hold 1,4 receive 0,2,3",
        ),
        ("lower receives", vec![(P, 0, 2), (P, 0, 2), (P, 4, 1)], Some((3, 9)), "r4 c1 hold 2 receive 0,1"),
        ("lower with the content", vec![(P, 0, 1), (P, 4, 1)], Some((3, 9)), "r4 c1 hold 0,1 receive "),
        ("higher", vec![(P, 5, 1), (P, 4, 1), (P, 6, 1)], Some((3, 9)), "expel 0 revision, 2 revision"),
        ("to resume", vec![(P, 90, 2), (P, 100, 1), (P, 90, 2)], None, "r100 c1 hold 1 receive 0,2"),
        ("to resume after 0", vec![(P, 77, 1), (P, 77, 1)], Some((0, 9)), "r77 c1 hold 0,1 receive "),
        ("0 after 0", vec![(P, 0, 1), (P, 0, 1)], Some((0, 9)), "Behind { highest: 0, expected: 1 }"),
        ("all lower", vec![(P, 3, 1), (P, 2, 1)], Some((3, 9)), "Behind { highest: 3, expected: 4 }"),
        (
            "all must enforce",
            vec![(S, 4, 1), (P, 4, 1), (R, 4, 1)],
            Some((3, 9)),
            "expel 0 strategy, 2 strategy",
        ),
        ("a sender wins", vec![(R, 4, 2), (R, 4, 2), (S, 4, 1)], Some((3, 9)), "r4 c1 hold 2 receive 0,1"),
        (
            "a receiver never sends",
            vec![(R, 4, 1), (R, 3, 2), (S, 4, 1)],
            Some((3, 9)),
            "r4 c1 hold 2 receive 1",
        ),
        (
            "senders differ",
            vec![(S, 4, 2), (S, 4, 1), (S, 4, 1), (R, 4, 2)],
            Some((3, 9)),
            "expel 0 conflict",
        ),
        ("two senders differ", vec![(S, 4, 2), (S, 4, 1)], Some((3, 9)), "expel 1 conflict"),
        ("a sender that is behind", vec![(S, 3, 2), (S, 4, 1)], Some((3, 9)), "expel 0 conflict"),
        ("nobody sends", vec![(R, 4, 1), (R, 4, 1)], Some((3, 9)), "AllReceive"),
        ("nobody sends at first", vec![(R, 0, 1)], None, "AllReceive"),
        ("a receiver may not be ahead", vec![(S, 4, 1), (R, 9, 1)], None, "expel 1 revision"),
    ];
    for (what, offers, before, expected) in table {
        let offers: Vec<_> = offers.into_iter().map(|(s, r, c)| offer(s, r, c)).collect();
        assert_eq!(short(&run(&offers, before)), expected, "{what}");
    }
}

#[test]
fn content_that_should_have_been_replaced_does_not_count() {
    let lost = Offer { counts: false, ..offer(P, 4, 2) };
    let known = offer(P, 4, 1);
    assert_eq!(short(&run(&[lost.clone(), lost.clone(), known], Some((3, 9)))), "r4 c1 hold 2 receive 0,1");
    assert_eq!(run(&[lost.clone(), lost], Some((3, 9))), Outcome::Nobody(NoCandidate::HoldersLost));
}

#[test]
fn other_tensors_are_named() {
    let good = offer(P, 4, 1);
    let check = |change: &dyn Fn(&mut Offer), expected: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        let outcome = run(&[good.clone(), good.clone(), bad], Some((3, 9)));
        let Outcome::Expel(faults) = outcome else { panic!("{outcome:?}") };
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].0, session(2));
        let text = faults[0].1.to_string();
        assert!(text.contains(expected) && text.contains("peer 0.100"), "{text}");
    };
    check(&|o| o.tensors.truncate(1), "tensor \"w\" is missing");
    check(&|o| o.tensors.push(tensor("x", 4)), "tensor \"x\" is not known there");
    check(&|o| o.tensors[1].bytes = 404, "tensor \"w\" is 404 bytes of f32 and should be 400 bytes of f32");
    check(
        &|o| o.tensors[0].dtype = DataType::I32,
        "tensor \"a\" is 8 bytes of i32 and should be 8 bytes of f32",
    );
    check(&|o| o.tensors[0].compared = false, "tensor \"a\" may differ");
    check(&|o| o.block_bytes = 1, "blocks of 1 bytes");
    check(&|o| o.tensors.swap(0, 1), "tensor \"w\" is not known there");
    // Newcomers, however many, cannot change what the tensors are.
    let mut newcomer = offer(P, 0, 7);
    newcomer.tensors.truncate(1);
    let outcome = run(&[good.clone(), newcomer.clone(), newcomer], Some((3, 9)));
    assert_eq!(short(&outcome), "expel 1 keys, 2 keys");
}

fn any_offers() -> impl proptest::strategy::Strategy<Value = Vec<Offer>> {
    let one = (0..3u8, 0..6u64, 0..3u128, prop::bool::weighted(0.9), prop::bool::weighted(0.1));
    prop::collection::vec(one, 1..9).prop_map(|all| {
        let make = |(strategy, revision, content, counts, other)| {
            let mut o = offer([P, R, S][usize::from(strategy)], revision, content);
            o.counts = counts;
            if other {
                o.tensors.truncate(1);
            }
            o
        };
        all.into_iter().map(make).collect()
    })
}

/// One holder, chosen by `at`, sends the next piece that it was asked for.
fn send_a_piece(
    fetch: &mut Fetch,
    holders: &mut BTreeMap<SessionId, Vec<Piece>>,
    got: &mut BTreeSet<u32>,
    lens: &[u32],
    right: bool,
    at: usize,
) {
    for (holder, asked) in fetch.ask() {
        let queue = holders.get_mut(&holder).unwrap();
        queue.extend(asked.iter().flat_map(|b| Piece::all(*b, lens[*b as usize])));
        let bytes: u64 = queue.iter().map(|p| u64::from(p.len)).sum();
        // What is asked of one is bounded: a little, and at most one block more.
        assert!(bytes < (8 << 20) + (16 << 20) && asked.len() <= 256);
    }
    let ready: Vec<SessionId> = holders.iter().filter(|(_, q)| !q.is_empty()).map(|(s, _)| *s).collect();
    if ready.is_empty() {
        return;
    }
    let from = ready[at % ready.len()];
    let piece = holders.get_mut(&from).unwrap().remove(0);
    assert!(fetch.expects(from, piece));
    assert!(!fetch.expects(SessionId(1), piece));
    if !fetch.arrived(piece) {
        assert!(!fetch.expects(from, piece));
    } else if right {
        assert!(got.insert(piece.block), "a block is wanted once");
        fetch.accept(piece.block);
    } else {
        assert_eq!(fetch.reject(piece.block), Some(from));
        holders.remove(&from);
    }
}

proptest! {
    #[test]
    fn an_election_ends_and_keeps_the_rules(offers in any_offers(), before in prop::option::of((0..4u64, Just(9u128)))) {
        let mut left: Vec<(usize, Offer)> = offers.into_iter().enumerate().collect();
        // Expelling ends, and then the rest elects or fails.
        let election = loop {
            let voters: Vec<_> = left.iter().map(|(i, o)| (session(*i), o)).collect();
            match elect(&voters, before.map(|(revision, content)| Agreed { revision, content })) {
                Outcome::Expel(faults) => {
                    prop_assert!(!faults.is_empty());
                    if faults.len() == left.len() {
                        // All are ahead of what the group remembers.
                        let is_ahead = |f: &Fault| matches!(f, Fault::Revision { .. });
                        prop_assert!(faults.iter().all(|(_, f)| is_ahead(f)));
                        return Ok(());
                    }
                    left.retain(|(i, _)| faults.iter().all(|(s, _)| *s != session(*i)));
                }
                Outcome::Nobody(_) => return Ok(()),
                Outcome::Elected(e) => break e,
            }
        };
        let next = before.map_or(0, |b| b.0 + 1);
        prop_assert!(election.agreed.revision >= next);
        prop_assert!(election.agreed.revision == next || before.is_none_or(|b| b.0 == 0));
        prop_assert!(!election.holders.is_empty());
        let mut candidates = BTreeMap::<u128, usize>::new();
        for (i, o) in &left {
            let holds = election.holders.contains(&session(*i));
            let receives = election.receivers.contains(&session(*i));
            let has_it = o.content == election.agreed.content;
            prop_assert_eq!(receives, !has_it);
            prop_assert_eq!(holds, has_it && o.strategy != R);
            prop_assert!(!(receives && o.strategy == S));
            prop_assert!(o.revision <= election.agreed.revision);
            if o.counts && o.strategy != R && o.revision == election.agreed.revision {
                *candidates.entry(o.content).or_default() += 1;
            }
        }
        let most = candidates.values().max().copied();
        prop_assert_eq!(candidates.get(&election.agreed.content).copied(), most);
    }

    #[test]
    fn every_block_comes_whatever_holders_do(
        lens in prop::collection::vec(1u32..(16 << 20), 1..40),
        choices in prop::collection::vec((0..4u8, any::<usize>(), 0..3usize), 0..400),
    ) {
        let blocks: Vec<(u32, u32)> = lens.iter().enumerate().map(|(i, l)| (i as u32, *l)).collect();
        let mut fetch = Fetch::new(blocks.clone());
        let mut holders: BTreeMap<SessionId, Vec<Piece>> = BTreeMap::new();
        let mut got: BTreeSet<u32> = BTreeSet::new();
        for (choice, at, holder) in choices {
            match choice {
                0 => {
                    fetch.add_holder(session(holder));
                    holders.entry(session(holder)).or_default();
                }
                1 => {
                    fetch.remove_holder(session(holder));
                    holders.remove(&session(holder));
                }
                _ => send_a_piece(&mut fetch, &mut holders, &mut got, &lens, choice == 2, at),
            }
        }
        fetch.add_holder(session(9));
        holders.entry(session(9)).or_default();
        while !fetch.is_complete() {
            send_a_piece(&mut fetch, &mut holders, &mut got, &lens, true, 0);
        }
        prop_assert_eq!(got.len(), lens.len());
    }
}
