//! A store made of one value that is replaced as a whole, by whoever has seen the value before.
//!
//! So all stores mean the same by a request: [`RunRecord::apply`] says it, and a register only has to keep its promise
//! that a value is replaced once. A write whose outcome is unknown is fenced before anything is told: the value is
//! written again unchanged, which gives it a new version, so that a write which is still on its way finds an old one.

use pccl_proto::record::{RunRecord, StoreReply, StoreRequest};

use super::StateStore;
use super::file;

/// How often a request is tried again because others write at the same time.
const TRIES: u32 = 16;

/// A place for one value.
pub(super) trait Register: Send {
    /// The value and its version, if there is one.
    fn load(&mut self) -> Result<Option<(Vec<u8>, i64)>, String>;

    /// Replaces the value, if its version is `seen` (none: if there is no value). Returns the new version, or none if
    /// somebody else has written meanwhile. After an error nobody knows whether it was replaced.
    fn swap(&mut self, seen: Option<i64>, value: &[u8]) -> Result<Option<i64>, String>;

    /// For people, without credentials.
    fn name(&self) -> String;
}

/// What the register holds, as far as we know.
struct Known {
    record: RunRecord,
    version: Option<i64>,
}

/// A store on a register.
pub(super) struct RegisterStore<R> {
    register: R,
    known: Option<Known>,
    /// A write of ours may still be on its way.
    in_doubt: bool,
}

impl<R: Register> RegisterStore<R> {
    pub(super) fn new(register: R) -> Self {
        Self { register, known: None, in_doubt: false }
    }

    fn explain(&self, why: &str) -> String {
        format!("the store at {} does not do its work: {why}", self.register.name())
    }

    /// What the register holds now. What it holds stays until somebody replaces it.
    fn load(&mut self) -> Result<&Known, String> {
        for _ in 0..TRIES {
            let (record, version) = match self.register.load()? {
                Some((bytes, version)) => (file::decode_bytes(&bytes)?, Some(version)),
                None => (RunRecord::default(), None),
            };
            if !self.in_doubt {
                return Ok(self.known.insert(Known { record, version }));
            }
            let bytes = file::encode(&record).map_err(|e| e.to_string())?;
            if let Some(version) = self.register.swap(version, &bytes)? {
                self.in_doubt = false;
                return Ok(self.known.insert(Known { record, version: Some(version) }));
            }
        }
        Err("others write to it all the time".into())
    }

    fn try_execute(&mut self, request: &StoreRequest) -> Result<StoreReply, String> {
        // Whoever only reads wants to know what others have written.
        let mut is_fresh =
            matches!(request, StoreRequest::Read { .. }) || self.known.is_none() || self.in_doubt;
        for _ in 0..TRIES {
            let known =
                if is_fresh { self.load()? } else { self.known.as_ref().ok_or("nothing is known")? };
            let (mut record, seen) = (known.record.clone(), known.version);
            let reply = record.apply(request);
            if matches!(reply, StoreReply::Record { .. })
                || (matches!(reply, StoreReply::Rejected { .. }) && is_fresh)
            {
                return Ok(reply);
            }
            if !matches!(reply, StoreReply::Rejected { .. }) {
                let bytes = file::encode(&record).map_err(|e| e.to_string())?;
                let swapped = self.register.swap(seen, &bytes);
                self.in_doubt |= swapped.is_err();
                if let Some(version) = swapped? {
                    self.known = Some(Known { record, version: Some(version) });
                    return Ok(reply);
                }
            }
            // What we knew is old.
            is_fresh = true;
        }
        Err("others write to it all the time".into())
    }
}

impl<R: Register> StateStore for RegisterStore<R> {
    fn execute(&mut self, request: &StoreRequest) -> StoreReply {
        self.try_execute(request).unwrap_or_else(|why| {
            self.known = None;
            StoreReply::Unknown { id: request.id(), why: self.explain(&why) }
        })
    }
}
