//! What was measured, for people and for programs.

use std::fmt::Write as _;

use pccl_config::ByteSize;
use serde::Serialize;

use super::{
    bars::{self, Verdict},
    row::{self, Row},
    systems::{Skipped, System},
};

/// Load per core before the run from which the times are somebody else's too.
const BUSY_LOAD: f64 = 0.25;

/// All rounds of one system in one cell.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    /// Which.
    pub(super) system: System,
    /// Median over the rounds of their median times; none if a round failed or gave wrong results.
    pub(super) median_s: Option<f64>,
    /// The rounds that ended.
    pub(super) rounds: Vec<Row>,
    /// Why there is no median.
    pub(super) failure: Option<String>,
}

impl Outcome {
    /// Nothing measured yet.
    pub(super) fn new(system: System) -> Self {
        Self { system, median_s: None, rounds: Vec::new(), failure: None }
    }

    /// Takes one more round.
    pub(super) fn add(&mut self, round: anyhow::Result<Row>) {
        match round {
            Ok(row) => {
                if row.wrong > 0 {
                    let why = format!("WRONG RESULT: {} elements are not the sum", row.wrong);
                    self.failure.get_or_insert(why);
                }
                self.rounds.push(row);
            }
            Err(error) => self.failure = Some(format!("{error:#}")),
        }
        let medians: Vec<f64> = self.rounds.iter().map(|row| row.median_s).collect();
        self.median_s = if self.failure.is_none() { row::median(&medians) } else { None };
    }

    fn gave_wrong_results(&self) -> bool {
        self.rounds.iter().any(|row| row.wrong > 0)
    }
}

/// One size at one world size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cell {
    /// World size.
    pub(super) peers: u32,
    /// Buffer size of one peer.
    pub(super) bytes: u64,
    /// One for each system.
    pub(super) outcomes: Vec<Outcome>,
    /// Why it was not measured at all.
    pub(super) skipped: Option<String>,
}

impl Cell {
    fn median_s(&self, system: System) -> Option<f64> {
        self.outcomes.iter().find(|outcome| outcome.system == system)?.median_s
    }

    /// `ours / other`, where both were measured.
    fn ratio(&self, other: System) -> Option<f64> {
        Some(self.median_s(System::Ours)? / self.median_s(other)?)
    }
}

/// Everything one run found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Cores of this machine.
    pub(super) cores: usize,
    /// Load average over the minute before the run.
    pub(super) load_before: Option<f64>,
    /// Rounds asked for.
    pub(super) rounds: u32,
    /// The systems measured, in order.
    pub(super) systems: Vec<System>,
    /// The systems not measured.
    pub(super) skipped: Vec<Skipped>,
    /// The measurements.
    pub(super) cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Comparison {
    peers: u32,
    bytes: u64,
    against: System,
    ratio: f64,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    ratios: Vec<Comparison>,
    bars: Vec<Verdict>,
}

impl Report {
    /// One verdict for each bar that applies to each cell.
    pub(super) fn verdicts(&self) -> Vec<Verdict> {
        let judge = |cell: &Cell| bars::judge(cell.peers, cell.bytes, |system| cell.median_s(system));
        self.cells.iter().flat_map(judge).collect()
    }

    /// The systems whose result was not the sum anywhere.
    pub(super) fn wrong(&self) -> Vec<System> {
        let gave_wrong = |&system: &System| {
            let mut outcomes = self.cells.iter().flat_map(|cell| &cell.outcomes);
            outcomes.any(|outcome| outcome.system == system && outcome.gave_wrong_results())
        };
        self.systems.iter().copied().filter(gave_wrong).collect()
    }

    /// One JSON document.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let mut ratios = Vec::new();
        for cell in &self.cells {
            for &against in self.systems.iter().filter(|system| **system != System::Ours) {
                if let Some(ratio) = cell.ratio(against) {
                    ratios.push(Comparison { peers: cell.peers, bytes: cell.bytes, against, ratio });
                }
            }
        }
        serde_json::to_string_pretty(&Document { report: self, ratios, bars: self.verdicts() })
    }

    /// Tables, bars, and what went wrong.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let mut worlds: Vec<u32> = self.cells.iter().map(|cell| cell.peers).collect();
        worlds.dedup();
        for peers in worlds {
            self.write_world(&mut out, peers);
        }
        self.write_bars(&mut out);
        self.write_trouble(&mut out);
        out
    }

    fn write_world(&self, out: &mut String, peers: u32) {
        let cells: Vec<&Cell> = self.cells.iter().filter(|cell| cell.peers == peers).collect();
        let _ = writeln!(
            out,
            "{peers} peers on {} cores: all-reduce, f32 sum, out of place; median of {} rounds\n",
            self.cores, self.rounds
        );
        let times = |cell: &Cell, system| cell.median_s(system).map_or_else(|| "–".to_owned(), time);
        write_table(out, "time", &cells, &self.systems, times);
        let others: Vec<System> =
            self.systems.iter().copied().filter(|system| *system != System::Ours).collect();
        if self.systems.contains(&System::Ours) && !others.is_empty() {
            let ratios = |cell: &Cell, system| {
                cell.ratio(system).map_or_else(|| "–".to_owned(), |r| format!("{r:.2}"))
            };
            write_table(out, "ours /", &cells, &others, ratios);
        }
    }

    fn write_bars(&self, out: &mut String) {
        let verdicts = self.verdicts();
        if verdicts.is_empty() {
            return;
        }
        let _ = writeln!(out, "bars");
        for v in &verdicts {
            let word = if v.pass { "pass" } else { "FAIL" };
            let goal = match v.goal {
                Some(goal) if v.goal_met => format!(", goal {goal} met"),
                Some(goal) => format!(", goal {goal} not met"),
                None => String::new(),
            };
            let (size, title) = (ByteSize(v.bytes).to_string(), v.against.title());
            let _ = writeln!(
                out,
                "  {word}  {:>2} peers {size:>7}  {:.2} × {title} (at most {:.2}{goal})",
                v.peers, v.ratio, v.limit
            );
        }
        let passed = verdicts.iter().filter(|v| v.pass).count();
        let _ = writeln!(out, "  {passed} of {} bars passed\n", verdicts.len());
    }

    fn write_trouble(&self, out: &mut String) {
        if let Some(load) = self.load_before.filter(|load| *load > BUSY_LOAD * self.cores as f64) {
            let _ = writeln!(
                out,
                "note: the machine was busy before the run (load {load:.2}): measure again when quiet"
            );
        }
        for Skipped { system, why, fix } in &self.skipped {
            let _ = writeln!(out, "not measured: {}: {why} ({fix})", system.title());
        }
        for cell in &self.cells {
            let place = format!("{} peers, {}", cell.peers, ByteSize(cell.bytes));
            if let Some(why) = &cell.skipped {
                let _ = writeln!(out, "not measured: {place}: {why}");
            }
            for outcome in &cell.outcomes {
                if let Some(why) = &outcome.failure {
                    let _ = writeln!(out, "failed: {}, {place}: {why}", outcome.system.title());
                }
            }
        }
    }
}

fn write_table(
    out: &mut String,
    corner: &str,
    cells: &[&Cell],
    systems: &[System],
    text: impl Fn(&Cell, System) -> String,
) {
    let _ = write!(out, "  {corner:<8}");
    for system in systems {
        let _ = write!(out, "{:>12}", system.title());
    }
    out.push('\n');
    for cell in cells {
        let _ = write!(out, "  {:<8}", ByteSize(cell.bytes).to_string());
        for &system in systems {
            let _ = write!(out, "{:>12}", text(cell, system));
        }
        out.push('\n');
    }
    out.push('\n');
}

/// Three figures and a unit.
fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(median_s: f64, wrong: u64) -> Row {
        Row {
            peers: 2,
            bytes: 1 << 20,
            algorithm: String::new(),
            iters: 3,
            median_s,
            p99_s: median_s,
            wrong,
            max_rss_bytes: 0,
        }
    }

    fn outcome(system: System, rounds: &[f64]) -> Outcome {
        let mut outcome = Outcome::new(system);
        for median_s in rounds {
            outcome.add(Ok(row(*median_s, 0)));
        }
        outcome
    }

    fn report(outcomes: Vec<Outcome>) -> Report {
        let systems = outcomes.iter().map(|outcome| outcome.system).collect();
        let cell = Cell { peers: 2, bytes: 1 << 20, outcomes, skipped: None };
        Report { cores: 2, load_before: None, rounds: 3, systems, skipped: Vec::new(), cells: vec![cell] }
    }

    #[test]
    fn times_have_three_figures() {
        for (seconds, text) in [
            (0.000_004, "4.00 µs"),
            (0.000_123_4, "123 µs"),
            (0.0123, "12.3 ms"),
            (0.999, "999 ms"),
            (1.5, "1.50 s"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn a_cell_is_the_median_of_its_rounds() {
        assert_eq!(outcome(System::Ours, &[3.0, 1.0, 2.0]).median_s, Some(2.0));
    }

    #[test]
    fn a_failed_round_or_a_wrong_result_leaves_no_median() {
        let mut failed = outcome(System::Ours, &[1.0]);
        failed.add(Err(anyhow::anyhow!("peer 1 died")));
        failed.add(Ok(row(1.0, 0)));
        assert_eq!((failed.median_s, failed.failure.as_deref()), (None, Some("peer 1 died")));

        let mut wrong = outcome(System::Ours, &[1.0]);
        wrong.add(Ok(row(1.0, 5)));
        assert_eq!(wrong.median_s, None);
        let report = report(vec![wrong, outcome(System::MpiTcp, &[1.0])]);
        assert_eq!(report.wrong(), [System::Ours]);
        assert_eq!(report.verdicts(), []);
        assert!(report.text().contains("WRONG RESULT: 5"));
    }

    #[test]
    fn the_text_has_times_ratios_and_bars() {
        let text = report(vec![outcome(System::Ours, &[0.001]), outcome(System::MpiTcp, &[0.002])]).text();
        for part in ["2 peers", "1MiB", "1.00 ms", "2.00 ms", "0.50", "pass", "1 of 1 bars"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
    }

    #[test]
    fn a_busy_machine_is_noted() {
        let mut report = report(vec![outcome(System::Ours, &[0.001])]);
        assert!(!report.text().contains("busy"));
        report.load_before = Some(1.5);
        assert!(report.text().contains("busy before the run (load 1.50)"));
    }

    #[test]
    fn the_document_has_cells_ratios_and_bars() {
        let report = report(vec![outcome(System::Ours, &[0.003]), outcome(System::MpiTcp, &[0.002])]);
        let document: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(document["cells"][0]["outcomes"][1]["system"], "mpi-tcp");
        assert_eq!(document["cells"][0]["outcomes"][1]["rounds"][0]["iters"], 3);
        assert_eq!(document["ratios"][0]["against"], "mpi-tcp");
        assert_eq!(document["bars"][0]["pass"], false);
    }
}
