//! Which checkpoints are there, which one is the newest, and which are removed.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use object_store::ObjectMeta;

use super::error::CheckpointError;
use super::name::{MANIFEST, SetName, group_folder};
use super::place::Place;

/// A set of shards as a listing shows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Set {
    /// Names of its objects, the manifest not among them.
    pub(super) objects: Vec<String>,
    /// Bytes of all of them.
    pub(super) bytes: u64,
    /// When the manifest was written, by the store's clock, milliseconds since 1970; none: it is not complete.
    pub(super) completed_ms: Option<i64>,
}

/// All sets under a folder.
pub(super) fn sets(listing: Vec<(String, ObjectMeta)>) -> BTreeMap<SetName, Set> {
    let mut sets: BTreeMap<SetName, Set> = BTreeMap::new();
    for (path, meta) in listing {
        let Some((name, object)) = SetName::parse(&path) else { continue };
        let set = sets.entry(name).or_default();
        if object == MANIFEST {
            set.completed_ms = Some(meta.last_modified.timestamp_millis());
        } else {
            set.bytes += meta.size;
            set.objects.push(path);
        }
    }
    sets
}

/// The complete ones of one group, the newest first. Within a run revisions only grow; among runs the one that has
/// written last is the newest: a clock decides between runs only, never within one.
pub(super) fn newest_first(sets: &BTreeMap<SetName, Set>, group: u32) -> Vec<SetName> {
    let complete = || sets.iter().filter_map(|(name, set)| Some((*name, set.completed_ms?)));
    let ours = || complete().filter(|(name, _)| name.group == group);
    let mut last_of_run: BTreeMap<u32, i64> = BTreeMap::new();
    for (name, at) in ours() {
        let last = last_of_run.entry(name.run).or_insert(at);
        *last = at.max(*last);
    }
    let mut names: Vec<SetName> = ours().map(|(name, _)| name).collect();
    let run_at = |name: &SetName| last_of_run.get(&name.run).copied();
    names.sort_by_key(|name| Reverse((run_at(name), name.run, name.revision, name.epoch, name.content)));
    names
}

/// Removes all but the newest `keep`, and unfinished ones that a newer complete one has overtaken.
pub(super) async fn clean(place: &Place, group: u32, keep: u32) -> Result<(), CheckpointError> {
    let sets = sets(place.list(&group_folder(group)).await?);
    let newest = newest_first(&sets, group);
    let Some(last) = newest.first() else { return Ok(()) };
    let kept = &newest[..newest.len().min(keep.max(1) as usize)];
    for (name, set) in &sets {
        // Of an unfinished one of another run nobody knows whether it is on its way.
        let overtaken = name.run == last.run && name.revision < last.revision;
        let old = if set.completed_ms.is_some() { !kept.contains(name) } else { overtaken };
        if !old {
            continue;
        }
        // The manifest goes first: what is half removed must not look complete.
        if set.completed_ms.is_some() {
            place.delete(&format!("{name}/{MANIFEST}")).await?;
        }
        for object in &set.objects {
            place.delete(object).await?;
        }
        place.sweep(&name.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(completed_ms: Option<i64>) -> Set {
        Set { completed_ms, ..Set::default() }
    }

    fn name(group: u32, run: u32, revision: u64) -> SetName {
        SetName { group, revision, epoch: 1, run, content: 9 }
    }

    #[test]
    fn the_newest_run_comes_first_and_its_highest_revision() {
        let sets = BTreeMap::from([
            (name(0, 1, 900), set(Some(50))),
            (name(0, 2, 10), set(Some(100))),
            // The clock went back; the revision counts.
            (name(0, 2, 20), set(Some(60))),
            (name(0, 2, 30), set(None)),
            (name(1, 3, 7), set(Some(999))),
        ]);
        assert_eq!(newest_first(&sets, 0), [name(0, 2, 20), name(0, 2, 10), name(0, 1, 900)]);
        assert_eq!(newest_first(&sets, 1), [name(1, 3, 7)]);
        assert_eq!(newest_first(&sets, 2), []);
    }
}
