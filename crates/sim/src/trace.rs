//! What happened, for people: the last lines before a violation, or the story of a scenario.

use std::collections::VecDeque;

use pccl_proto::message::{FromMaster, LinkMessage, ToMaster};
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
        while let Some(text) = self.next(speech) {
            said.extend(text);
        }
        said
    }

    fn next(&mut self, speech: Speech) -> Option<Option<String>> {
        if self.bytes.len() < PREFIX_BYTES {
            return None;
        }
        let prefix = Prefix::decode(&self.bytes, MAX_CONTROL_BYTES).ok()?;
        let head = if prefix.kind == Kind::Data { DATA_HEADER_BYTES } else { PREFIX_BYTES };
        if self.bytes.len() < head + prefix.len {
            return None;
        }
        let frame: Vec<u8> = self.bytes.drain(..head + prefix.len).collect();
        if prefix.kind == Kind::Data {
            let header = DataHeader::decode(&frame, prefix).ok()?;
            let (name, at) = (header.name, header.offset);
            let (seq, phase) = (header.seq, header.phase);
            return Some(Some(format!(
                "data {name}, frame {seq}, phase {phase}, {} bytes at {at}",
                header.len
            )));
        }
        let payload = &frame[PREFIX_BYTES..];
        Some(match speech {
            Speech::ToMaster => decode_control::<ToMaster>(payload).ok().and_then(|m| match m {
                ToMaster::Ping | ToMaster::Pong => None,
                m => Some(format!("{m:?}")),
            }),
            Speech::FromMaster => decode_control::<FromMaster>(payload).ok().and_then(|m| {
                use pccl_proto::message::MasterMessage::{Ping, Pong};
                let quiet = matches!(m.message, Ping | Pong);
                (!quiet).then(|| format!("term {}: {:?}", m.term, m.message))
            }),
            Speech::BetweenPeers => decode_control::<LinkMessage>(payload).ok().and_then(|m| match m {
                LinkMessage::Ping | LinkMessage::Pong | LinkMessage::Accepted { .. } => None,
                m => Some(format!("{m:?}")),
            }),
        })
    }
}
