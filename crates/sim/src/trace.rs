//! What happened, for people: the last lines before a violation, or the story of a scenario.

use std::collections::VecDeque;

use pccl_proto::message::{FromMaster, LinkMessage, MasterMessage, ToMaster};
use pccl_proto::wire::{
    DATA_HEADER_BYTES, DataHeader, Kind, MAX_CONTROL_BYTES, PREFIX_BYTES, Prefix, decode_control,
};

/// Lines kept.
const MOST_LINES: usize = 400_000;

/// A log that costs nothing while it is off.
#[derive(Default)]
pub(crate) struct Trace {
    lines: Option<VecDeque<String>>,
}

impl Trace {
    pub(crate) fn on() -> Self {
        Self { lines: Some(VecDeque::new()) }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn add(&mut self, now: u64, text: &str) {
        if let Some(lines) = &mut self.lines {
            if lines.len() == MOST_LINES {
                lines.pop_front();
            }
            lines.push_back(format!("{:>10.3} ms  {text}", now as f64 / 1000.0));
        }
    }

    pub(crate) fn lines(&self) -> impl DoubleEndedIterator<Item = &String> {
        self.lines.iter().flatten()
    }
}

/// Who speaks to whom on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    ToMaster,
    FromMaster,
    BetweenPeers,
}

/// Reads along what one side of a connection writes.
#[derive(Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
}

impl Reader {
    /// Takes the next bytes; returns what was said with them, in words.
    pub(crate) fn read(&mut self, bytes: &[u8], speech: Speech) -> Vec<String> {
        self.bytes.extend_from_slice(bytes);
        let mut said = Vec::new();
        while let Some(frame) = self.next_frame() {
            said.extend(describe(&frame, speech));
        }
        said
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        if self.bytes.len() < PREFIX_BYTES {
            return None;
        }
        let prefix = Prefix::decode(&self.bytes, MAX_CONTROL_BYTES).ok()?;
        let len = head_bytes(prefix) + prefix.len;
        (self.bytes.len() >= len).then(|| self.bytes.drain(..len).collect())
    }
}

fn head_bytes(prefix: Prefix) -> usize {
    if prefix.kind == Kind::Data { DATA_HEADER_BYTES } else { PREFIX_BYTES }
}

/// A frame in words, unless it says nothing of interest.
fn describe(frame: &[u8], speech: Speech) -> Option<String> {
    let prefix = Prefix::decode(frame, MAX_CONTROL_BYTES).ok()?;
    if prefix.kind == Kind::Data {
        let DataHeader { name, offset, len, seq, phase, .. } = DataHeader::decode(frame, prefix).ok()?;
        return Some(format!("data {name}, frame {seq}, phase {phase}, {len} bytes at {offset}"));
    }
    let payload = &frame[PREFIX_BYTES..];
    match speech {
        Speech::ToMaster => match decode_control(payload).ok()? {
            ToMaster::Ping | ToMaster::Pong => None,
            message => Some(format!("{message:?}")),
        },
        Speech::FromMaster => match decode_control(payload).ok()? {
            FromMaster { message: MasterMessage::Ping | MasterMessage::Pong, .. } => None,
            FromMaster { term, message } => Some(format!("term {term}: {message:?}")),
        },
        Speech::BetweenPeers => match decode_control(payload).ok()? {
            LinkMessage::Ping | LinkMessage::Pong | LinkMessage::Accepted { .. } => None,
            message => Some(format!("{message:?}")),
        },
    }
}
