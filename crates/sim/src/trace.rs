//! What happened, for people: the last lines before a violation, or the story of a scenario.

use std::collections::VecDeque;

use pccl_proto::message::{FromMaster, LinkMessage, MasterMessage, Report, ToMaster};
use pccl_proto::record::Verdict;
use pccl_proto::wire::{
    DATA_HEADER_BYTES, DataHeader, Kind, MAX_CONTROL_BYTES, PREFIX_BYTES, Prefix, decode_control,
};

/// Lines kept.
const MOST_LINES: usize = 400_000;

/// A log that costs nothing while it is off.
#[derive(Default)]
pub(crate) struct Trace {
    lines: Option<VecDeque<String>>,
    /// For a story: short, and without times.
    pub(crate) brief: bool,
}

impl Trace {
    pub(crate) fn on() -> Self {
        Self { lines: Some(VecDeque::new()), brief: false }
    }

    /// For a story.
    pub(crate) fn told() -> Self {
        Self { brief: true, ..Self::on() }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn add(&mut self, now: u64, text: &str) {
        if let Some(lines) = &mut self.lines {
            if lines.len() == MOST_LINES {
                lines.pop_front();
            }
            if self.brief {
                return lines.push_back(text.to_owned());
            }
            lines.push_back(format!("{:>10.3} ms  {text}", now as f64 / 1000.0));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.as_ref().map_or(0, VecDeque::len)
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
    /// Takes the next bytes; returns what was said with them, in words; `brief`: what a story is made of, and no more.
    pub(crate) fn read(&mut self, bytes: &[u8], speech: Speech, brief: bool) -> Vec<String> {
        self.bytes.extend_from_slice(bytes);
        let mut said = Vec::new();
        while let Some(frame) = self.next_frame() {
            said.extend(if brief { tell(&frame, speech) } else { describe(&frame, speech) });
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

/// A frame as a story tells it.
fn tell(frame: &[u8], speech: Speech) -> Option<String> {
    let prefix = Prefix::decode(frame, MAX_CONTROL_BYTES).ok()?;
    if prefix.kind == Kind::Data {
        return None;
    }
    let payload = &frame[PREFIX_BYTES..];
    match speech {
        Speech::ToMaster => match decode_control(payload).ok()? {
            ToMaster::Hello { ended: None, .. } => Some("hello".into()),
            ToMaster::Hello { .. } => Some("hello, once more".into()),
            ToMaster::Attach { term, report, .. } => {
                Some(format!("attach, of term {term}; {}", stands(&report)))
            }
            ToMaster::Report { report, .. } => Some(format!("report: {}", stands(&report))),
            ToMaster::Done { name, .. } => Some(format!("done: {name}")),
            ToMaster::Applied { epoch } => Some(format!("in epoch {epoch}")),
            _ => None,
        },
        Speech::FromMaster => {
            let FromMaster { term, message } = decode_control(payload).ok()?;
            let text = match message {
                MasterMessage::Registered { session, .. } => format!("you are {}", session.id),
                MasterMessage::Attached { leased: true, .. } => "attached".into(),
                MasterMessage::Attached { leased: false, .. } => "attached, but I have no lease".into(),
                MasterMessage::Mandate { valid: false } => "I have no lease".into(),
                MasterMessage::Mandate { valid: true } => "I have a lease again".into(),
                MasterMessage::NotActive { .. } => "I am not active".into(),
                MasterMessage::Expelled { why, .. } => format!("you are expelled: {why}"),
                MasterMessage::Prepare { epoch, .. } => format!("epoch {epoch} ends: report"),
                MasterMessage::Committed { name, .. } => format!("committed: {name}"),
                MasterMessage::EpochChange { changes, view } => {
                    let verdicts = changes.iter().flat_map(|c| c.verdicts.iter().map(move |v| (c.from, v)));
                    let verdicts = verdicts.map(|(epoch, (tag, n, v))| {
                        format!("; tag {tag} (epoch {epoch}, attempt {n}) {}", verdict(v))
                    });
                    format!(
                        "epoch {} with {}{}",
                        view.epoch,
                        view.members.len(),
                        verdicts.collect::<String>()
                    )
                }
                _ => return None,
            };
            Some(format!("[term {term}] {text}"))
        }
        Speech::BetweenPeers => match decode_control(payload).ok()? {
            LinkMessage::Ask { name } => Some(format!("I settle: what became of {name}?")),
            LinkMessage::Tell { name, answer } => Some(format!("{name}: {answer:?}")),
            LinkMessage::Refused { why } => Some(why.to_string()),
            _ => None,
        },
    }
}

fn verdict(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Committed => "committed",
        Verdict::Retry => "begins again",
        Verdict::Failed(_) => "failed",
    }
}

/// A report in words.
fn stands(report: &Report) -> String {
    let done = report.started.iter().filter(|s| s.done).count();
    let (started, committed) = (report.started.len(), report.committed.len());
    let epoch = report.epoch;
    format!("in epoch {epoch}, {started} started, {done} of them done, {committed} heard committed")
}
