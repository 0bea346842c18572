//! Whose content wins.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Agreed, Fault, KeyDifference, NoCandidate, Offer, Strategy};
use crate::ids::SessionId;

/// Whose content won.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    /// Revision and content from now on.
    pub agreed: Agreed,
    /// Members that have the content and send it, by age.
    pub holders: Vec<SessionId>,
    /// Members that have other content and receive, by age.
    pub receivers: Vec<SessionId>,
}

/// How an election ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A content won.
    Elected(Election),
    /// These members are expelled first, then the rest elects.
    Expel(Vec<(SessionId, Fault)>),
    /// Nobody's content can win.
    Nobody(NoCandidate),
}

type Voter<'a> = (SessionId, &'a Offer);

/// Decides on the members' offers, which are given by age. `before` is what the group last agreed on.
pub fn elect(offers: &[Voter<'_>], before: Option<Agreed>) -> Outcome {
    if let Some((popular, _)) = offers.iter().find(|(_, o)| o.strategy == Strategy::EnforcePopular) {
        let others = offers.iter().filter(|(_, o)| o.strategy != Strategy::EnforcePopular);
        let expelled: Vec<_> =
            others.map(|(s, o)| (*s, Fault::Strategy { wanted: o.strategy, with: *popular })).collect();
        if !expelled.is_empty() {
            return Outcome::Expel(expelled);
        }
    }
    let expected = match expected_revision(offers, before) {
        Ok(expected) => expected,
        Err(why) => return Outcome::Nobody(why),
    };
    let higher = offers.iter().filter(|(_, o)| o.revision > expected);
    let expelled: Vec<_> =
        higher.map(|(s, o)| (*s, Fault::Revision { offered: o.revision, expected })).collect();
    if !expelled.is_empty() {
        return Outcome::Expel(expelled);
    }
    let candidates: Vec<Voter<'_>> =
        offers.iter().filter(|(_, o)| is_candidate(o) && o.revision == expected).copied().collect();
    let Some(keys) = most_common(&candidates, same_keys) else {
        return Outcome::Nobody(why_nobody(offers, expected));
    };
    let expelled: Vec<_> = offers.iter().filter_map(|voter| key_fault(voter, &keys)).collect();
    if !expelled.is_empty() {
        return Outcome::Expel(expelled);
    }
    let winner = most_common(&candidates, |a, b| a.content == b.content).unwrap_or(keys);
    decide(offers, expected, &winner)
}

fn is_candidate(offer: &Offer) -> bool {
    offer.counts && offer.strategy != Strategy::ReceiveOnly
}

/// One more than the last one; while that is 0 or none, the highest that is offered.
fn expected_revision(offers: &[Voter<'_>], before: Option<Agreed>) -> Result<u64, NoCandidate> {
    let next = before.map(|b| b.revision.saturating_add(1));
    if let (Some(next), Some(Agreed { revision: 1.., .. })) = (next, before) {
        return Ok(next);
    }
    let counted = offers.iter().filter(|(_, o)| is_candidate(o));
    let Some(highest) = counted.map(|(_, o)| o.revision).max() else {
        return Err(why_nobody(offers, next.unwrap_or(0)));
    };
    match next {
        Some(expected) if highest < expected => Err(NoCandidate::Behind { highest, expected }),
        _ => Ok(highest),
    }
}

fn why_nobody(offers: &[Voter<'_>], expected: u64) -> NoCandidate {
    let senders = || offers.iter().filter(|(_, o)| o.strategy != Strategy::ReceiveOnly);
    if senders().next().is_none() {
        return NoCandidate::AllReceive;
    }
    if senders().any(|(_, o)| !o.counts) {
        return NoCandidate::HoldersLost;
    }
    let highest = senders().map(|(_, o)| o.revision).max().unwrap_or(0);
    NoCandidate::Behind { highest, expected }
}

/// The first voter of the largest class of like voters; of classes of the same size the one with the oldest voter.
fn most_common<'a>(voters: &[Voter<'a>], like: impl Fn(&Offer, &Offer) -> bool) -> Option<Voter<'a>> {
    let mut classes: Vec<(Voter<'a>, usize)> = Vec::new();
    for voter in voters {
        match classes.iter_mut().find(|(first, _)| like(first.1, voter.1)) {
            Some((_, count)) => *count += 1,
            None => classes.push((*voter, 1)),
        }
    }
    // `max_by_key` takes the last of equals.
    classes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(first, _)| first)
}

fn same_keys(a: &Offer, b: &Offer) -> bool {
    a.block_bytes == b.block_bytes && a.tensors == b.tensors
}

fn key_fault((session, offer): &Voter<'_>, (with, keys): &Voter<'_>) -> Option<(SessionId, Fault)> {
    let difference = key_difference(offer, keys)?;
    Some((*session, Fault::KeySet { with: *with, difference }))
}

/// The first difference by name.
fn key_difference(here: &Offer, there: &Offer) -> Option<KeyDifference> {
    if same_keys(here, there) {
        return None;
    }
    if here.block_bytes != there.block_bytes {
        return Some(KeyDifference::BlockBytes { here: here.block_bytes, there: there.block_bytes });
    }
    let by_name =
        |o: &Offer| -> BTreeMap<_, _> { o.tensors.iter().map(|t| (t.name.clone(), t.clone())).collect() };
    let (ours, theirs) = (by_name(here), by_name(there));
    let missing = theirs.keys().find(|name| !ours.contains_key(*name)).cloned().map(KeyDifference::Missing);
    let extra = ours.keys().find(|name| !theirs.contains_key(*name)).cloned().map(KeyDifference::Extra);
    let other = ours.values().find_map(|a| {
        let b = theirs.get(&a.name)?;
        if (a.dtype, a.bytes) != (b.dtype, b.bytes) {
            let (here, there) = ((a.dtype, a.bytes), (b.dtype, b.bytes));
            return Some(KeyDifference::Kind { name: a.name.clone(), here, there });
        }
        (a.compared != b.compared).then(|| KeyDifference::Compared(a.name.clone()))
    });
    // The same tensors twice, or not sorted: such an offer is not one of ours.
    let odd = || KeyDifference::Extra(here.tensors.first().map_or_else(String::new, |t| t.name.clone()));
    missing.or(extra).or(other).or_else(|| Some(odd()))
}

fn decide(offers: &[Voter<'_>], revision: u64, winner: &Voter<'_>) -> Outcome {
    let content = winner.1.content;
    let has_it = |(_, o): &&Voter<'_>| o.content == content;
    let conflicting: Vec<_> = offers
        .iter()
        .filter(|(_, o)| o.strategy == Strategy::SendOnly && o.content != content)
        .map(|(s, _)| (*s, Fault::ConflictingSender { with: winner.0 }))
        .collect();
    if !conflicting.is_empty() {
        return Outcome::Expel(conflicting);
    }
    let sends = |(_, o): &&Voter<'_>| o.strategy != Strategy::ReceiveOnly;
    Outcome::Elected(Election {
        agreed: Agreed { revision, content },
        holders: offers.iter().filter(has_it).filter(sends).map(|(s, _)| *s).collect(),
        receivers: offers.iter().filter(|v| !has_it(v)).map(|(s, _)| *s).collect(),
    })
}
