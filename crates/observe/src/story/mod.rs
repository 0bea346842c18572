//! One story from many flight records: a timeline, and where the trouble began. `pccl doctor` tells it.

mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::flight::{Line, What};

pub use records::{KeepError, Record, keep, read};

/// Troubles further apart than this are not of one chain.
const CHAIN_GAP_US: u64 = 10_000_000;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Story {
    /// The records that it is made of.
    records: Vec<String>,
    /// What happened when, oldest first.
    timeline: Vec<Moment>,
    /// Where the last chain of troubles began.
    first_cause: Option<Cause>,
    /// Ops that had not ended when the records were written.
    unfinished: Vec<Unfinished>,
}

/// A line of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Moment {
    at_us: u64,
    who: String,
    trouble: bool,
    text: String,
}

/// Where trouble began.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Cause {
    first: Moment,
    /// The session that the troubles of the chain name most often.
    blamed: Option<String>,
    /// Troubles that followed.
    followed: usize,
}

/// An op that some have called and nobody has seen end.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Unfinished {
    tag: u64,
    epoch: u64,
    /// Who is in it.
    called: Vec<String>,
    /// Who has a record and is not in it.
    not_called: Vec<String>,
}

/// Tells it; `all` ops or only those that are of interest.
pub fn tell(records: &[Record], all: bool) -> Story {
    let mut lines: Vec<&Line> = records.iter().flat_map(|record| &record.lines).collect();
    lines.sort_by_key(|line| line.at_us);
    // A record that was collected twice tells nothing new.
    lines.dedup();
    let unfinished = unfinished(&lines);
    let is_open = |line: &Line| match &line.what {
        What::OpBegan { tag, epoch, .. } => {
            unfinished.iter().any(|op| (op.tag, op.epoch) == (*tag, *epoch) && op.called.contains(&line.who))
        }
        _ => false,
    };
    let timeline: Vec<Moment> = lines
        .iter()
        .filter(|line| all || is_open(line) || is_of_interest(line))
        .map(|line| moment(line))
        .collect();
    let first_cause = first_cause(&lines);
    let records = records.iter().map(|record| record.name.clone()).collect();
    Story { records, timeline, first_cause, unfinished }
}

fn is_of_interest(line: &Line) -> bool {
    match &line.what {
        What::OpBegan { .. } => false,
        What::OpEnded { recoveries, error, .. } => *recoveries > 0 || error.is_some(),
        _ => true,
    }
}

fn moment(line: &Line) -> Moment {
    let text = match &line.what {
        What::Process { role, pid, why, .. } => format!("{role} (pid {pid}) wrote its record: {why}"),
        What::Note { text, .. } => text.clone(),
        What::OpBegan { tag, epoch, bytes } => format!("op {tag} called in epoch {epoch}, {bytes} bytes"),
        What::OpEnded { tag, error: Some(why), took_us, .. } => {
            format!("op {tag} failed after {}: {why}", duration(*took_us))
        }
        What::OpEnded { tag, epoch, took_us, recoveries, error: None } => {
            let again =
                if *recoveries > 0 { format!(", begun again {recoveries} times") } else { String::new() };
            format!("op {tag} done in epoch {epoch} after {}{again}", duration(*took_us))
        }
    };
    Moment { at_us: line.at_us, who: line.who.clone(), trouble: is_trouble(&line.what), text }
}

fn is_trouble(what: &What) -> bool {
    match what {
        What::Note { trouble, .. } => *trouble,
        What::OpEnded { error, .. } => error.is_some(),
        What::Process { why, .. } => why.starts_with("panic"),
        _ => false,
    }
}

/// The beginning of the last chain: going back from the last trouble as long as the one before is near.
fn first_cause(lines: &[&Line]) -> Option<Cause> {
    let troubles: Vec<&Line> = lines.iter().copied().filter(|line| is_trouble(&line.what)).collect();
    let last_break = troubles.windows(2).rposition(|pair| pair[1].at_us - pair[0].at_us > CHAIN_GAP_US);
    let chain = troubles.get(last_break.map_or(0, |at| at + 1)..)?;
    let first = chain.first()?;
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    for line in chain {
        if let What::Note { about: Some(about), .. } = &line.what {
            *named.entry(about).or_default() += 1;
        }
    }
    let most = named.values().max().copied().unwrap_or(0);
    // Of equals, the one that was named first.
    let blamed = chain.iter().find_map(|line| match &line.what {
        What::Note { about: Some(about), .. } if named.get(about.as_str()) == Some(&most) => {
            Some(about.clone())
        }
        _ => None,
    });
    Some(Cause { first: moment(first), blamed, followed: chain.len() - 1 })
}

fn unfinished(lines: &[&Line]) -> Vec<Unfinished> {
    let mut open: BTreeMap<(u64, u64), BTreeSet<&str>> = BTreeMap::new();
    let mut peers: BTreeSet<&str> = BTreeSet::new();
    for line in lines {
        match &line.what {
            What::OpBegan { tag, epoch, .. } => {
                peers.insert(&line.who);
                open.entry((*tag, *epoch)).or_default().insert(&line.who);
            }
            // It may have ended in a later epoch than it began in.
            What::OpEnded { tag, .. } => {
                for (_, called) in open.iter_mut().filter(|((open, _), _)| open == tag) {
                    called.remove(line.who.as_str());
                }
            }
            _ => {}
        }
    }
    let unfinished = |((tag, epoch), called): ((u64, u64), BTreeSet<&str>)| Unfinished {
        tag,
        epoch,
        not_called: peers.difference(&called).map(|who| (*who).to_owned()).collect(),
        called: called.into_iter().map(str::to_owned).collect(),
    };
    open.into_iter().filter(|(_, called)| !called.is_empty()).map(unfinished).collect()
}

impl Story {
    /// For a person.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} flight records: {}", self.records.len(), self.records.join(", "))];
        let day = self.timeline.first().map_or(0, |first| first.at_us / DAY_US);
        lines.push(format!("times are UTC, from {}", date(day)));
        lines.push(String::new());
        let width = self.timeline.iter().map(|moment| moment.who.len()).max().unwrap_or(0);
        for moment in &self.timeline {
            let mark = if moment.trouble { '!' } else { ' ' };
            lines.push(format!("{} {mark} {:<width$}  {}", clock(moment.at_us), moment.who, moment.text));
        }
        lines.push(String::new());
        lines.extend(self.conclusion());
        lines
    }

    fn conclusion(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.first_cause {
            None => lines.push("no trouble is on record".to_owned()),
            Some(Cause { first, blamed, followed }) => {
                lines.push(format!("first cause: {}, {}: {}", clock(first.at_us), first.who, first.text));
                if let Some(blamed) = blamed {
                    lines.push(format!("  most of the trouble is about peer {blamed}"));
                }
                lines.push(format!("  {followed} more troubles followed"));
            }
        }
        for op in &self.unfinished {
            let mut line =
                format!("op {} of epoch {} has not ended for {}", op.tag, op.epoch, op.called.join(", "));
            if !op.not_called.is_empty() {
                let _ = write!(line, "; these have not called it: {}", op.not_called.join(", "));
            }
            lines.push(line);
        }
        lines
    }
}

const DAY_US: u64 = 86_400_000_000;

fn clock(at_us: u64) -> String {
    let s = at_us % DAY_US / 1_000_000;
    format!("{:02}:{:02}:{:02}.{:06}", s / 3600, s / 60 % 60, s % 60, at_us % 1_000_000)
}

/// The date of a day since 1970, in the Gregorian calendar.
fn date(day: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut rest) = (1970, day);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for days in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < days {
            break;
        }
        rest -= days;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", rest + 1)
}

fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn note(at_us: u64, who: &str, trouble: bool, about: Option<&str>) -> Line {
        let what = What::Note {
            trouble,
            about: about.map(str::to_owned),
            epoch: 1,
            text: format!("text at {at_us}"),
        };
        Line { at_us, who: who.to_owned(), what }
    }

    fn began(at_us: u64, who: &str, tag: u64) -> Line {
        Line { at_us, who: who.to_owned(), what: What::OpBegan { tag, epoch: 1, bytes: 4 } }
    }

    fn ended(at_us: u64, who: &str, tag: u64, error: Option<&str>) -> Line {
        let error = error.map(str::to_owned);
        let what = What::OpEnded { tag, epoch: 2, took_us: 5, recoveries: 0, error };
        Line { at_us, who: who.to_owned(), what }
    }

    fn record(name: &str, lines: Vec<Line>) -> Record {
        Record { name: name.to_owned(), text: String::new(), lines }
    }

    #[test]
    fn the_first_trouble_of_the_last_chain_is_the_cause() {
        let one = record(
            "one",
            vec![
                note(S, "1", true, Some("7")),
                note(100 * S, "1", false, None),
                note(101 * S, "1", true, Some("3")),
            ],
        );
        let two =
            record("two", vec![note(102 * S, "2", true, Some("3")), ended(103 * S, "2", 5, Some("cut"))]);
        let story = tell(&[two, one], false);
        let cause = story.first_cause.clone().expect("a cause");
        assert_eq!((cause.first.at_us, cause.first.who.as_str()), (101 * S, "1"));
        assert_eq!((cause.blamed.as_deref(), cause.followed), (Some("3"), 2));
        let times: Vec<u64> = story.timeline.iter().map(|moment| moment.at_us).collect();
        assert!(times.is_sorted());
        assert!(story.lines().join("\n").contains("most of the trouble is about peer 3"));
    }

    #[test]
    fn an_op_that_hangs_names_who_has_not_called_it() {
        let one = record("one", vec![began(S, "1", 8), ended(2 * S, "1", 8, None), began(3 * S, "1", 9)]);
        let two = record("two", vec![began(S, "2", 8), ended(2 * S, "2", 8, None)]);
        let story = tell(&[one, two], false);
        let hangs = Unfinished { tag: 9, epoch: 1, called: vec!["1".into()], not_called: vec!["2".into()] };
        assert_eq!(story.unfinished, [hangs]);
        assert_eq!(story.timeline.len(), 1);
        let text = story.lines().join("\n");
        assert!(
            text.contains("these have not called it: 2") && text.contains("no trouble is on record"),
            "{text}"
        );
    }

    #[test]
    fn times_read_like_a_clock_and_a_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(20_454), "2026-01-01");
        assert_eq!(clock(3_723_000_042), "01:02:03.000042");
    }
}
