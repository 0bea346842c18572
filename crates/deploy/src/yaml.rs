//! YAML text as a tree of nodes that know their places, and that tree as a source for `serde`.
//!
//! One document of mappings, lists and scalars. Anchors, aliases and tags are refused; size and depth are bounded.

mod tree;
mod typed;

pub(crate) use tree::parse;
pub(crate) use typed::read;
