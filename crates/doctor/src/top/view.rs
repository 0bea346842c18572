//! A sample on a screen, and as plain lines. Both show the same cells.

use std::fmt::Write as _;

use pccl_observe::table::Table as Text;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};

use super::sample::{Column, MasterRow, Member, OpRow, Sample};

/// Titles, and the width of each column on a screen; words stand to the left.
const MEMBERS: [(&str, u16); 13] = [
    ("rank", 4),
    ("<address", 21),
    ("<site", 10),
    ("<state", 10),
    ("epoch", 6),
    ("heard ms", 8),
    ("RTT ms", 8),
    ("Mbit/s", 8),
    ("resent/s", 8),
    ("ops", 4),
    ("recov.", 6),
    ("awaited", 7),
    ("<waits for", 24),
];
/// A member that has not been heard for so long is marked.
const LATE_MS: u64 = 250;
/// Ops that are shown below the members.
const MOST_OPS: usize = 8;

/// For whoever has no terminal.
pub fn lines(sample: &Sample, by: Column) -> Vec<String> {
    let mut lines = head(sample);
    lines.push(String::new());
    let mut table = Text::new(&MEMBERS.map(|(title, _)| title));
    for member in sample.sorted(by) {
        table.push(cells(member));
    }
    lines.extend(table.lines());
    if !sample.ops.is_empty() {
        lines.push(String::new());
        lines.extend(ops(&sample.ops));
    }
    lines.extend(sample.unread.iter().map(|why| format!("no metrics of {why}")));
    lines
}

/// On a terminal.
pub fn draw(frame: &mut Frame<'_>, sample: &Sample, by: Column) {
    let head = head(sample);
    let mut below = ops(&sample.ops);
    below.extend(sample.unread.iter().map(|why| format!("no metrics of {why}")));
    let [top, middle, bottom, keys] = Layout::vertical([
        Constraint::Length(head.len() as u16 + 1),
        Constraint::Min(3),
        Constraint::Length((below.len() as u16).min(frame.area().height / 3)),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let text = |lines: Vec<String>| Paragraph::new(lines.into_iter().map(Line::from).collect::<Vec<_>>());
    frame.render_widget(text(head), top);
    let titles = MEMBERS.map(|(title, width)| match title.strip_prefix('<') {
        Some(words) => words.to_owned(),
        None => format!("{title:>0$}", usize::from(width)),
    });
    let rows = sample.sorted(by).into_iter().map(|member| Row::new(aligned(member)).style(style(member)));
    let table = Table::new(rows, MEMBERS.map(|(_, width)| Constraint::Length(width)))
        .header(Row::new(titles).style(Style::new().add_modifier(Modifier::REVERSED)));
    frame.render_widget(table, middle);
    frame.render_widget(text(below), bottom);
    frame.render_widget(text(vec![format!("q: quit   s: sort, now by {}", by.name())]), keys);
}

fn head(sample: &Sample) -> Vec<String> {
    let members = sample.members.iter().filter(|member| member.rank.is_some()).count();
    let mut lines = vec![if sample.run.is_empty() {
        "no master answers".to_owned()
    } else {
        format!(
            "run {}: {members} members, {} newcomers, {} ops in flight",
            sample.run,
            sample.members.len() - members,
            sample.ops.len()
        )
    }];
    lines.extend(sample.masters.iter().map(master));
    lines.extend(sample.activities.iter().cloned());
    lines
}

fn master(row: &MasterRow) -> String {
    let mut text = format!("master {}: {}", row.name, row.role);
    if let Some(term) = row.term {
        let _ = write!(text, ", term {term}");
    }
    if let Some(left) = row.lease_left_ms {
        let _ = write!(text, ", lease {left} ms");
    }
    if let Some(why) = &row.store_trouble {
        let _ = write!(text, ", its store: {why}");
    }
    text
}

fn cells(member: &Member) -> [String; MEMBERS.len()] {
    let figure = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    let count = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let word = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    [
        count(member.rank.map(u64::from)),
        member.address.clone(),
        word(&member.site),
        member.state.clone(),
        member.epoch.to_string(),
        member.heard_ms.to_string(),
        figure(member.rtt_ms),
        figure(member.mbps),
        figure(member.retransmits_per_s),
        count(member.ops_in_flight),
        count(member.recoveries),
        member.awaited_by.to_string(),
        word(&member.waits_for),
    ]
}

fn aligned(member: &Member) -> Vec<String> {
    let align = |(cell, (title, width)): (String, (&str, u16))| {
        if title.starts_with('<') { cell } else { format!("{cell:>0$}", usize::from(width)) }
    };
    cells(member).into_iter().zip(MEMBERS).map(align).collect()
}

fn style(member: &Member) -> Style {
    if member.state.contains("not attached") {
        Style::new().fg(Color::Red)
    } else if member.heard_ms > LATE_MS {
        Style::new().fg(Color::Yellow)
    } else {
        Style::new()
    }
}

/// The oldest ops, and whom they wait for.
fn ops(all: &[OpRow]) -> Vec<String> {
    if all.is_empty() {
        return Vec::new();
    }
    let mut table = Text::new(&["group", "tag", "<op", "age ms", "<waits for"]);
    for op in all.iter().take(MOST_OPS) {
        let call = if op.call.is_empty() { "-" } else { &op.call };
        let whom = op.waits_for.join(", ");
        table.push([op.group.to_string(), op.tag.to_string(), call.to_owned(), op.age_ms.to_string(), whom]);
    }
    table.lines()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn member(rank: u32, heard_ms: u64, awaited_by: usize) -> Member {
        Member {
            epoch: 4,
            rank: Some(rank),
            address: format!("10.0.0.{rank}:7118"),
            state: "member".into(),
            heard_ms,
            awaited_by,
            ..Member::default()
        }
    }

    fn sample() -> Sample {
        let measured =
            Member { rtt_ms: Some(0.42), mbps: Some(950.0), ops_in_flight: Some(1), ..member(0, 40, 0) };
        let far =
            Member { rtt_ms: Some(81.0), mbps: Some(90.0), retransmits_per_s: Some(3.0), ..member(1, 60, 0) };
        let op = OpRow {
            tag: 9,
            call: "sum".into(),
            age_ms: 5000,
            waits_for: vec!["10.0.0.2:7118".into()],
            group: 0,
        };
        Sample {
            run: "7f".into(),
            masters: vec![
                MasterRow {
                    name: "a".into(),
                    role: "active".into(),
                    term: Some(3),
                    lease_left_ms: Some(900),
                    ..MasterRow::default()
                },
                MasterRow { name: "b".into(), role: "no answer".into(), ..MasterRow::default() },
            ],
            members: vec![measured, far, member(2, 1900, 1)],
            ops: vec![op],
            activities: Vec::new(),
            unread: vec!["10.0.0.2:9090: connection refused".into()],
        }
    }

    #[test]
    fn plain_lines_have_the_worst_first() {
        let expected = "\
run 7f: 3 members, 0 newcomers, 1 ops in flight
master a: active, term 3, lease 900 ms
master b: no answer

rank  address        site  state   epoch  heard ms  RTT ms  Mbit/s  resent/s  ops  recov.  awaited  waits for
   2  10.0.0.2:7118  -     member      4      1900       -       -         -    -       -        1  -
   0  10.0.0.0:7118  -     member      4        40     0.4   950.0         -    1       -        0  -
   1  10.0.0.1:7118  -     member      4        60    81.0    90.0       3.0    -       -        0  -

group  tag  op   age ms  waits for
    0    9  sum    5000  10.0.0.2:7118
no metrics of 10.0.0.2:9090: connection refused";
        assert_eq!(lines(&sample(), Column::Trouble).join("\n"), expected);
    }

    #[test]
    fn every_column_sorts_the_worst_to_the_top() {
        let first = |by: Column| sample().sorted(by)[0].rank;
        let expected = [
            (Column::Trouble, 2),
            (Column::Heard, 2),
            (Column::RoundTrip, 1),
            (Column::Throughput, 1),
            (Column::Retransmits, 1),
            (Column::Rank, 0),
        ];
        let mut by = Column::default();
        for (column, rank) in expected {
            assert_eq!((by, first(by)), (column, Some(rank)));
            by = by.next();
        }
        assert_eq!(by, Column::default());
    }

    #[test]
    fn a_screen_shows_the_same_and_no_size_is_too_small() {
        let sample = sample();
        let mut terminal = Terminal::new(TestBackend::new(140, 14)).unwrap();
        terminal.draw(|frame| draw(frame, &sample, Column::RoundTrip)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows: Vec<String> = (0..14)
            .map(|y| {
                (0..140).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>().trim_end().to_owned()
            })
            .collect();
        assert!(rows[0].starts_with("run 7f: 3 members"), "{rows:#?}");
        assert!(rows[4].starts_with("rank address"), "{rows:#?}");
        assert!(rows[5].starts_with("   1 10.0.0.1:7118") && rows[5].contains("81.0"), "{rows:#?}");
        assert!(rows.iter().any(|row| row.contains("5000  10.0.0.2:7118")), "{rows:#?}");
        assert_eq!(rows[13], "q: quit   s: sort, now by RTT");
        let late = rows.iter().position(|row| row.starts_with("   2 10.0.0.2:7118")).unwrap();
        assert_eq!(buffer[(0, late as u16)].fg, Color::Yellow);
        for (width, height) in [(1, 1), (20, 2), (400, 3)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &sample, Column::Trouble)).unwrap();
        }
    }
}
