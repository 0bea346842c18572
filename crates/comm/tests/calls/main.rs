//! Every call, right and wrong, among peers in one process, over real sockets.
#![expect(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "tests, of small numbers")]

mod compressed;
mod crew;
mod every_kind;
mod groups;
mod many;
mod mismatch;
mod quantized;
