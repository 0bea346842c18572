//! What every store must do, whatever it is made of.

use std::net::{Ipv4Addr, SocketAddr};

use pccl_proto::ids::{Epoch, PeerGroup, RunId, SessionId, Tag, Term};
use pccl_proto::lease::{Candidate, Lease, Mark, MasterId};
use pccl_proto::record::{
    Change, Failure, GroupRecord, Member, MemberRecord, Removal, RunRecord, StoreReply, StoreRequest, Verdict,
};

use super::StateStore;

/// The name that requests give a run without one; more than 64 bits.
pub(crate) const RUN: RunId = RunId(u128::MAX - 1);

/// A group's record with something in every field.
pub(crate) fn group(epoch: u64, members: u32) -> GroupRecord {
    let member = |n: u32| MemberRecord {
        member: Member {
            session: SessionId::new(Term(u64::from(u32::MAX)), n),
            addr: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7118),
            site: format!("north-{n} \"quoted\" \u{e9}\n"),
        },
        key: u64::MAX - u64::from(n),
        joined: Epoch(epoch),
    };
    let lost = vec![(SessionId(3), Removal::Silent { for_ms: 501 })];
    let verdicts = vec![
        (Tag(u64::MAX), 0, Verdict::Committed),
        (Tag(1), 7, Verdict::Retry),
        (Tag(2), 0, Verdict::Failed(Failure::TooManyRecoveries { retries: 3, lost: lost.clone() })),
    ];
    GroupRecord {
        epoch: Epoch(epoch),
        members: (0..members).map(member).collect(),
        changes: vec![Change { from: Epoch(epoch.saturating_sub(1)), removed: lost, verdicts }],
        retries: [(Tag(9), 2), (Tag(u64::MAX), 1)].into(),
        revision: 1 << 60,
        ..GroupRecord::default()
    }
}

/// A master that says where it is, and its lease of a second.
fn candidate(id: u64) -> Candidate {
    let addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7117);
    Candidate { id: MasterId(u64::MAX - id), addr: Some(addr), lease_ms: 1000 }
}

/// The lease of a term that was taken with the request `id`.
fn lease(id: u64, term: u64) -> Lease {
    let Candidate { id: holder, addr, lease_ms } = candidate(id);
    Lease { term: Term(term), holder, addr, lease_ms, ..Lease::default() }
}

pub(crate) fn take_term(id: u64, new_run: RunId) -> StoreRequest {
    StoreRequest::TakeTerm { id, new_run, replaces: None, candidate: candidate(id) }
}

pub(crate) fn write(id: u64, term: u64, replaces: u64, record: GroupRecord) -> StoreRequest {
    let record = Box::new(record);
    StoreRequest::Write { id, term: Term(term), group: PeerGroup(5), replaces: Epoch(replaces), record }
}

/// What the store holds.
pub(crate) fn content(store: &mut dyn StateStore) -> RunRecord {
    match store.execute(&StoreRequest::Read { id: 99 }) {
        StoreReply::Record { id: 99, record, .. } => *record,
        other => panic!("a read was answered by {other:?}"),
    }
}

/// Every store passes this; `make_store` gives empty ones.
pub(crate) fn store_conformance<S: StateStore>(mut make_store: impl FnMut() -> S) {
    a_new_store_is_empty(&mut make_store());
    terms_rise_and_a_run_keeps_its_name(&mut make_store());
    writes_stand(&mut make_store());
    a_deposed_master_cannot_write(&mut make_store());
    an_epoch_is_replaced_once(&mut make_store());
    a_lease_is_renewed_claimed_and_given_back(&mut make_store());
    an_older_term_cannot_touch_the_lease(&mut make_store());
    a_term_is_taken_once(&mut make_store());
    it_does_what_the_record_does(&mut make_store());
}

fn a_new_store_is_empty(store: &mut dyn StateStore) {
    assert_eq!(content(store), RunRecord::default());
}

fn terms_rise_and_a_run_keeps_its_name(store: &mut dyn StateStore) {
    for term in 1..=3 {
        let reply = store.execute(&take_term(term, RunId(RUN.0 - u128::from(term))));
        let expected = RunRecord {
            run: RunId(RUN.0 - 1),
            term: Term(term),
            lease: lease(term, term),
            ..RunRecord::default()
        };
        assert_eq!(reply, StoreReply::Taken { id: term, record: Box::new(expected.clone()) });
        assert_eq!(content(store), expected);
    }
}

fn writes_stand(store: &mut dyn StateStore) {
    store.execute(&take_term(1, RUN));
    assert_eq!(store.execute(&write(2, 1, 0, group(1, 3))), StoreReply::Written { id: 2 });
    assert_eq!(store.execute(&write(3, 1, 1, group(2, 2))), StoreReply::Written { id: 3 });
    let held = content(store);
    assert_eq!(held.groups.get(&PeerGroup(5)), Some(&group(2, 2)));
    let taken = store.execute(&take_term(4, RunId(1)));
    let expected = RunRecord { term: Term(2), lease: lease(4, 2), ..held };
    assert_eq!(taken, StoreReply::Taken { id: 4, record: Box::new(expected) });
}

fn a_deposed_master_cannot_write(store: &mut dyn StateStore) {
    store.execute(&take_term(1, RUN));
    store.execute(&take_term(2, RUN));
    for term in [0, 1, 3] {
        assert_eq!(
            store.execute(&write(3, term, 0, group(1, 1))),
            StoreReply::Rejected { id: 3 },
            "term {term}"
        );
    }
    assert!(content(store).groups.is_empty());
}

fn an_epoch_is_replaced_once(store: &mut dyn StateStore) {
    store.execute(&take_term(1, RUN));
    assert_eq!(store.execute(&write(2, 1, 0, group(4, 1))), StoreReply::Written { id: 2 });
    assert_eq!(store.execute(&write(3, 1, 0, group(4, 2))), StoreReply::Rejected { id: 3 });
    assert_eq!(store.execute(&write(4, 1, 3, group(4, 2))), StoreReply::Rejected { id: 4 });
    assert_eq!(content(store).groups.get(&PeerGroup(5)), Some(&group(4, 1)));
}

fn a_lease_is_renewed_claimed_and_given_back(store: &mut dyn StateStore) {
    store.execute(&take_term(1, RUN));
    for beat in 1..=2 {
        let renewed = Lease { beat, ..lease(1, 1) };
        let reply = store.execute(&StoreRequest::Renew { id: beat, term: Term(1) });
        assert_eq!(reply, StoreReply::Renewed { id: beat, lease: Box::new(renewed.clone()) });
        assert_eq!(content(store).lease, renewed);
    }
    let heir = MasterId(5);
    let claim = StoreRequest::Claim { id: 4, term: Term(1), heir };
    assert_eq!(store.execute(&claim), StoreReply::Written { id: 4 });
    let claimed = Lease { beat: 3, heir: Some(heir), ..lease(1, 1) };
    let reply = store.execute(&StoreRequest::Renew { id: 5, term: Term(1) });
    assert_eq!(reply, StoreReply::Renewed { id: 5, lease: Box::new(claimed.clone()) });
    let release = StoreRequest::Release { id: 6, term: Term(1), heir: None };
    assert_eq!(store.execute(&release), StoreReply::Written { id: 6 });
    assert_eq!(content(store).lease, Lease { released: true, ..claimed });
    let renew = StoreRequest::Renew { id: 7, term: Term(1) };
    assert_eq!(store.execute(&renew), StoreReply::Rejected { id: 7 }, "what is given back is not renewed");
    // Its last writes are still its own, until somebody takes the next term.
    assert_eq!(store.execute(&write(8, 1, 0, group(1, 1))), StoreReply::Written { id: 8 });
}

fn an_older_term_cannot_touch_the_lease(store: &mut dyn StateStore) {
    store.execute(&take_term(1, RUN));
    store.execute(&take_term(2, RUN));
    let term = Term(1);
    let heir = MasterId(5);
    for request in [
        StoreRequest::Renew { id: 3, term },
        StoreRequest::Release { id: 3, term, heir: Some(heir) },
        StoreRequest::Claim { id: 3, term, heir },
    ] {
        assert_eq!(store.execute(&request), StoreReply::Rejected { id: 3 }, "{request:?}");
    }
    assert_eq!(content(store).lease, lease(2, 2));
}

/// Of those who have seen the same lease end, one takes the next term.
fn a_term_is_taken_once(store: &mut dyn StateStore) {
    let take = |id: u64, seen: Mark| StoreRequest::TakeTerm {
        id,
        new_run: RUN,
        replaces: Some(seen),
        candidate: candidate(id),
    };
    let nobody = Mark::default();
    assert!(matches!(store.execute(&take(1, nobody)), StoreReply::Taken { id: 1, .. }));
    assert_eq!(store.execute(&take(2, nobody)), StoreReply::Rejected { id: 2 });
    let seen = content(store).lease.mark();
    store.execute(&StoreRequest::Renew { id: 3, term: Term(1) });
    assert_eq!(store.execute(&take(4, seen)), StoreReply::Rejected { id: 4 }, "it was renewed meanwhile");
    store.execute(&StoreRequest::Release { id: 5, term: Term(1), heir: None });
    let seen = content(store).lease.mark();
    assert!(matches!(store.execute(&take(6, seen)), StoreReply::Taken { id: 6, .. }));
    assert_eq!(store.execute(&take(7, seen)), StoreReply::Rejected { id: 7 });
    assert_eq!(content(store).lease, lease(6, 2));
}

/// A request about the lease, often of an older term.
fn leadership(random: &mut pccl_proto::ids::Seeded, id: u64, model: &RunRecord) -> StoreRequest {
    let term = Term(model.term.0.saturating_sub(random.below(3) / 2));
    let heir = MasterId(random.below(3));
    match random.below(6) {
        0 => StoreRequest::Release { id, term, heir: (heir.0 > 0).then_some(heir) },
        1 => StoreRequest::Claim { id, term, heir },
        2 => {
            let seen = model.lease.mark();
            let replaces = Some(Mark { beat: seen.beat.saturating_sub(random.below(2)), ..seen });
            StoreRequest::TakeTerm { id, new_run: RUN, replaces, candidate: candidate(id) }
        }
        _ => StoreRequest::Renew { id, term },
    }
}

/// Whether the holder lives is a matter of the store.
fn without_gone(reply: StoreReply) -> StoreReply {
    match reply {
        StoreReply::Record { id, record, .. } => StoreReply::Record { id, record, holder_is_gone: false },
        reply => reply,
    }
}

/// A long row of requests, many of them refused, beside the definition.
fn it_does_what_the_record_does(store: &mut dyn StateStore) {
    let mut model = RunRecord::default();
    let mut random = pccl_proto::ids::Seeded::new(7);
    for id in 0..200 {
        let request = match random.below(12) {
            0 => take_term(id, RunId(u128::from(random.next_u64()))),
            1 => {
                let read = StoreReply::Record { id, record: Box::new(model.clone()), holder_is_gone: false };
                let reply = store.execute(&StoreRequest::Read { id });
                assert!(matches!(reply, StoreReply::Record { .. }) && without_gone(reply.clone()) == read);
                continue;
            }
            2..5 => leadership(&mut random, id, &model),
            _ => {
                let term = model.term.0.saturating_sub(random.below(3) / 2);
                let epoch = model.groups.get(&PeerGroup(5)).map_or(0, |g| g.epoch.0);
                let replaces = epoch + random.below(4) / 3;
                write(id, term, replaces, group(replaces + 1, random.below(4) as u32))
            }
        };
        assert_eq!(store.execute(&request), model.apply(&request), "{request:?}");
    }
    assert_eq!(content(store), model);
}
