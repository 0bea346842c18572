//! The names of things at the place: `group-0/r…/shard-0001-of-0004.safetensors`.

use std::fmt;

/// What is written last: with it a checkpoint is complete.
pub(super) const MANIFEST: &str = "manifest.json";

/// A set of shards: those of one revision, in one epoch, with one content. Peers that see the world differently write
/// into different sets, so that no two views can be mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SetName {
    pub(super) group: u32,
    pub(super) revision: u64,
    pub(super) epoch: u64,
    /// The first 32 bits of the run's name.
    pub(super) run: u32,
    /// The first 32 bits of the content's hash.
    pub(super) content: u32,
}

/// A peer group's folder.
pub(super) fn group_folder(group: u32) -> String {
    format!("group-{group}")
}

impl SetName {
    pub(super) fn new(group: u32, revision: u64, epoch: u64, run: u128, content: u128) -> Self {
        Self { group, revision, epoch, run: (run >> 96) as u32, content: (content >> 96) as u32 }
    }

    /// The set that an object belongs to, and its name there; `path` is relative to the place.
    pub(super) fn parse(path: &str) -> Option<(Self, &str)> {
        let (group, rest) = path.split_once('/')?;
        let (set, object) = rest.split_once('/')?;
        let group = group.strip_prefix("group-")?.parse().ok()?;
        let mut words = set.split('-');
        let revision = words.next()?.strip_prefix('r')?.parse().ok()?;
        let epoch = words.next()?.strip_prefix('e')?.parse().ok()?;
        let run = u32::from_str_radix(words.next()?, 16).ok()?;
        let content = u32::from_str_radix(words.next()?, 16).ok()?;
        let name = Self { group, revision, epoch, run, content };
        (name.to_string() == format!("group-{group}/{set}")).then_some((name, object))
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, revision, epoch, run, content } = self;
        write!(f, "{}/r{revision:020}-e{epoch}-{run:08x}-{content:08x}", group_folder(*group))
    }
}

/// The names of a shard's tensors and of what is said about them.
pub(super) fn shard_files(rank: u32, peers: u32) -> (String, String) {
    let stem = format!("shard-{rank:04}-of-{peers:04}");
    (format!("{stem}.safetensors"), format!("{stem}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_not_ours() {
        let name = SetName::new(7, 100, 5, 0x0123_4567 << 96, u128::MAX);
        let text = name.to_string();
        assert_eq!(text, "group-7/r00000000000000000100-e5-01234567-ffffffff");
        assert_eq!(SetName::parse(&format!("{text}/manifest.json")), Some((name, MANIFEST)));
        for other in ["", "group-7", &text, "group-7/r1-e5-01234567-ffffffff/x", "other/thing/manifest.json"]
        {
            assert_eq!(SetName::parse(other), None, "{other}");
        }
    }
}
