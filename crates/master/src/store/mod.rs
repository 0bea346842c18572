//! What the master must not forget, and who remembers it.

mod embedded;
mod etcd;
mod file;
mod memory;
mod postgres;
mod register;
mod url;

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod tests;

use pccl_proto::record::{StoreReply, StoreRequest};

pub use embedded::EmbeddedStore;
pub use etcd::EtcdStore;
pub use file::StoreError;
pub use memory::MemoryStore;
pub use postgres::PostgresStore;
pub use url::StoreUrl;

/// Keeps a [`pccl_proto::record::RunRecord`].
///
/// What a request means is defined by [`RunRecord::apply`](pccl_proto::record::RunRecord::apply). An answer other than
/// [`StoreReply::Unknown`] holds for ever: what it says was written survives the death of this process at any instant.
/// The call may block; whoever asks does so from a thread of its own.
pub trait StateStore: Send {
    /// Carries out a request. If that fails the answer is [`StoreReply::Unknown`] with the reason: the master then
    /// reads what stands and asks again, so that it need not know whether anything was changed.
    fn execute(&mut self, request: &StoreRequest) -> StoreReply;
}
