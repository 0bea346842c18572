//! A report for a person: lines and tables, in the order in which they are read.

use std::fmt;

use pccl_observe::table::Table;

use crate::meet::Progress;
use crate::report::{Direction, PairReport, Report, Way};
use crate::verdict::{Level, figure};

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { at, missing } => {
                write!(f, "waiting on {at} for {missing} other hosts: `pccl check --master THIS_HOST` there")
            }
            Self::Came { name, missing } => write!(f, "{name} came, {missing} missing"),
            Self::Measuring { what, round, of } => write!(f, "round {round} of {of}: {what}"),
        }
    }
}

impl Report {
    /// All of it: hosts, worst of each pair, figures, what is to be done, verdict.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = hosts(self);
        lines.push(String::new());
        lines.extend(matrix(self));
        lines.push(String::new());
        lines.extend(figures(self));
        lines.extend(conclusion(self));
        lines
    }
}

fn hosts(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, host) in report.hosts.iter().enumerate() {
        lines.push(format!("{number}  {}  {}", host.name, host.address));
        if !host.busy_ports.is_empty() {
            let ports: Vec<String> = host.busy_ports.iter().map(u16::to_string).collect();
            lines.push(format!("   another program there has ports {}", ports.join(", ")));
        }
    }
    lines
}

fn conclusion(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if report.settings.running {
        lines.push("* from the fleet's own counters: at least this".to_owned());
    }
    lines.push(String::new());
    for (pair, direction, judged) in report.findings() {
        let (a, b) = (name(report, pair.a), name(report, pair.b));
        let who = match direction {
            Direction::Both => format!("{a} – {b}"),
            Direction::There => format!("{a} → {b}"),
            Direction::Back => format!("{b} → {a}"),
        };
        lines.push(format!("{:>4}  {who}: {}", judged.level.word(), judged.text));
        lines.extend(judged.fix.iter().map(|fix| format!("      fix: {fix}")));
    }
    lines.push(match report.verdict {
        Level::Bad => "verdict: not good enough for a fleet".to_owned(),
        Level::Low => "verdict: good enough, less than recommended".to_owned(),
        _ if is_partial(report) => "verdict: as recommended, as far as it could be measured".to_owned(),
        Level::Good | Level::Unknown => "verdict: as recommended".to_owned(),
    });
    lines
}

/// Whether something is not known, of which nobody can say that it is good enough.
fn is_partial(report: &Report) -> bool {
    let mut judged = report.pairs.iter().flat_map(|pair| &pair.judged);
    judged.any(|(_, judged)| judged.level == Level::Unknown)
}

fn name(report: &Report, host: usize) -> &str {
    report.hosts.get(host).map_or("?", |host| host.name.as_str())
}

/// Everybody with everybody: the worst of each pair.
fn matrix(report: &Report) -> Vec<String> {
    let numbers: Vec<String> = (0..report.hosts.len()).map(|host| host.to_string()).collect();
    let mut titles = vec!["<"];
    titles.extend(numbers.iter().map(String::as_str));
    let mut table = Table::new(&titles);
    for from in 0..numbers.len() {
        let cell = |to: usize| {
            let pair = report.pairs.iter().find(|pair| (pair.a, pair.b) == (from.min(to), from.max(to)));
            pair.and_then(|pair| pair.level).map_or("-", Level::word).to_owned()
        };
        table.push(std::iter::once(numbers[from].clone()).chain((0..numbers.len()).map(cell)));
    }
    table.lines()
}

const FIGURES: [&str; 12] = [
    "<",
    "RTT",
    "jitter",
    "lost →",
    "lost ←",
    "Mbit/s →",
    "Mbit/s ←",
    "MTU →",
    "MTU ←",
    "ports →",
    "ports ←",
    "clock",
];

fn figures(report: &Report) -> Vec<String> {
    let mut table = Table::new(&FIGURES);
    for pair in &report.pairs {
        table.push(row(pair));
    }
    table.lines()
}

fn row(pair: &PairReport) -> Vec<String> {
    let unit = |value: Option<f64>, unit: &str| {
        value.map_or("-".to_owned(), |value| format!("{} {unit}", figure(value)))
    };
    let trips = pair.round_trips;
    let mbps = |way: &Way| {
        let mark = if way.from_counters { "*" } else { "" };
        let sign = if way.at_least { "≥ " } else { "" };
        way.mbps.map_or("-".to_owned(), |mbps| format!("{sign}{}{mark}", figure(mbps)))
    };
    let mtu = |way: &Way| way.mtu.map_or("-".to_owned(), |mtu| mtu.to_string());
    let ports = |way: &Way| match way.ports_tried.len() {
        0 => "-".to_owned(),
        tried => format!("{}/{tried}", way.ports_open.len()),
    };
    let clock = trips.filter(|_| !pair.by_tcp).map_or("-".to_owned(), |trips| {
        format!("{:+.1} ± {:.1} ms", trips.clock_ahead_ms, trips.clock_error_ms)
    });
    vec![
        format!("{} – {}", pair.a, pair.b),
        unit(trips.map(|trips| trips.median_ms), "ms"),
        unit(trips.and_then(|trips| trips.jitter_ms), "ms"),
        unit(pair.loss_there, "%"),
        unit(pair.loss_back, "%"),
        mbps(&pair.there),
        mbps(&pair.back),
        mtu(&pair.there),
        mtu(&pair.back),
        ports(&pair.there),
        ports(&pair.back),
        clock,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Settings;
    use crate::report::HostReport;

    #[test]
    fn a_person_reads_who_what_and_what_to_do() {
        let host = |name: &str| HostReport { name: name.to_owned(), ..HostReport::default() };
        let busy = HostReport { busy_ports: vec![7118, 7119], ..host("b") };
        let there = Way { mbps: Some(2000.0), at_least: true, ..Way::default() };
        let pair = PairReport { b: 1, loss_back: Some(7.0), there, ..PairReport::default() };
        let settings = Settings { probes: 10, running: false, link_mbps: 100.0, most_mbps: 1e4 };
        let report = Report::new(settings, vec![host("a"), busy], vec![pair]);
        let text = report.lines().join("\n");
        for words in [
            "another program there has ports 7118, 7119",
            "b → a: ",
            "fix: ",
            "≥ 2000",
            "verdict: not good enough",
        ] {
            assert!(text.contains(words), "`{words}` is not in\n{text}");
        }
    }
}
