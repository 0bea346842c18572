//! Child processes: the parent's side ([`crew`]) and the child's ([`parent`]).
//!
//! A parent starts its own program again, writes orders to a child's standard input and reads its standard output,
//! both as lines of JSON. Nothing outlives the parent: it kills what is left when it ends; if it cannot, the kernel
//! kills its children, and where the kernel does not do that, they end when their standard input does.

mod crew;
mod parent;

pub(crate) use crew::{Crew, Happening, Id};
pub(crate) use parent::{die_with_parent, follow, say};
