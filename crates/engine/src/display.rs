//! What the operator sees while a deployment runs: bars on a terminal, lines elsewhere, JSON on demand.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pccl_deploy::file::Time;
use pccl_deploy::journal::Record;
use pccl_deploy::progress::{Cell, PhaseProgress, Progress, TargetProgress, Waiting};
use pccl_deploy::schedule::Outcome;

use crate::clock::Stamp;
use crate::outputs::Line;

/// More phases than this leave no room for other lines on a terminal of 24.
const MOST_PHASES: usize = 18;
/// More targets than this have no cells of their own: a line has 80 letters.
const MOST_CELLS: usize = 72;

/// How a run is shown.
pub(crate) enum Display {
    /// A bar for each phase, a cell for each target.
    Bars(Option<Box<Bars>>),
    /// A line for each event.
    Lines,
    /// The records of the journal, one JSON object a line.
    Json,
    /// Nothing but the end.
    Quiet,
}

pub(crate) struct Bars {
    group: MultiProgress,
    phases: Vec<ProgressBar>,
    cells: ProgressBar,
    waits: ProgressBar,
}

impl Display {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        if json {
            Self::Json
        } else if quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
            Self::Bars(None)
        } else {
            Self::Lines
        }
    }

    /// Shows a record that has been written.
    pub(crate) fn record(&mut self, record: &Record) {
        match self {
            Self::Json => {
                if let Ok(line) = serde_json::to_string(record) {
                    say(&line);
                }
            }
            Self::Lines => {
                if let Some(line) = line(record) {
                    say(&line);
                }
            }
            Self::Bars(bars) => {
                let bad = matches!(record, Record::Ended { outcome: Outcome::Failed(_), .. });
                if bad && let Some(line) = line(record) {
                    above(bars.as_deref(), &line);
                }
            }
            Self::Quiet => {}
        }
    }

    /// A note that is no record.
    pub(crate) fn note(&mut self, text: &str) {
        match self {
            Self::Lines => say(text),
            Self::Bars(bars) => above(bars.as_deref(), text),
            Self::Json | Self::Quiet => {}
        }
    }

    /// Shows a line that a task has printed.
    pub(crate) fn output(&mut self, line: &Line) {
        let Line { name, text } = line;
        match self {
            Self::Json => say(&serde_json::json!({ "output": name, "line": text }).to_string()),
            Self::Lines => say(&format!("{name} | {text}")),
            Self::Bars(bars) => above(bars.as_deref(), &format!("{name} | {text}")),
            Self::Quiet => {}
        }
    }

    /// Whether [`standing`](Self::standing) shows anything.
    pub(crate) fn wants_progress(&self) -> bool {
        matches!(self, Self::Bars(_))
    }

    /// Shows where the run stands.
    pub(crate) fn standing(&mut self, progress: &Progress) {
        if let Self::Bars(bars) = self {
            bars.get_or_insert_with(|| Box::new(Bars::new(progress))).update(progress);
        }
    }

    pub(crate) fn finish(&mut self) {
        if let Self::Bars(Some(bars)) = self {
            for bar in bars.phases.iter().chain([&bars.cells, &bars.waits]) {
                bar.abandon();
            }
        }
    }
}

/// Prints above the bars, if there are any yet. A terminal that is gone shows nothing.
fn above(bars: Option<&Bars>, line: &str) {
    match bars {
        Some(bars) => drop(bars.group.println(line)),
        None => say(line),
    }
}

fn say(line: &str) {
    // A reader that has gone away is no reason to stop a deployment.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// A record as a line for a person; none for what only a program wants.
fn line(record: &Record) -> Option<String> {
    let time = |at_ms: &u64| Stamp(*at_ms).to_string()[11..19].to_owned();
    Some(match record {
        Record::Begun { at_ms, mode, fence, .. } if *fence > 0 => {
            format!("{} run in mode {mode}", time(at_ms))
        }
        Record::Intent { at_ms, task, attempt: 1, .. } => format!("{} start    {task}", time(at_ms)),
        Record::Intent { at_ms, task, attempt, .. } => {
            format!("{} start    {task} (attempt {attempt})", time(at_ms))
        }
        Record::Ended { at_ms, task, outcome: Outcome::Success, .. } => {
            format!("{} done     {task}", time(at_ms))
        }
        Record::Ended { at_ms, task, outcome: Outcome::Failed(cause), again, .. } => {
            let word = if *again { "again  " } else { "FAILED " };
            format!("{} {word}  {task}: {cause}", time(at_ms))
        }
        Record::Skipped { at_ms, task, why } => format!("{} skip     {task}: {why}", time(at_ms)),
        Record::Throttled { at_ms, scope, limit } => {
            format!("{} slower   {scope} throttles: {limit} slots from now on", time(at_ms))
        }
        Record::Wave { at_ms, wave } => format!("{} wave     {wave} begins", time(at_ms)),
        Record::Retry { at_ms, tasks } => format!("{} retry    {} tasks", time(at_ms), tasks.len()),
        _ => return None,
    })
}

impl Bars {
    fn new(progress: &Progress) -> Self {
        let group = MultiProgress::new();
        let widest = progress.phases.iter().map(|phase| phase.name.len()).max().unwrap_or(8);
        let template = format!("{{prefix:{widest}}} {{bar:32}} {{pos:>4}}/{{len:<4}} {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let text =
            ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let phase = |phase: &PhaseProgress| {
            let bar = group.add(ProgressBar::new(phase.total.into()));
            bar.set_style(style.clone());
            bar.set_prefix(phase.name.clone());
            bar
        };
        let line = || {
            let bar = group.add(ProgressBar::new(1));
            bar.set_style(text.clone());
            bar
        };
        let many = progress.phases.len() > MOST_PHASES;
        // A terminal shows the first lines: what is waited for must not be below its edge.
        let above = many.then(|| (line(), line()));
        let phases = progress.phases.iter().map(phase).collect();
        let (cells, waits) = above.unwrap_or_else(|| (line(), line()));
        Self { group, phases, cells, waits }
    }

    fn update(&self, progress: &Progress) {
        for (bar, phase) in self.phases.iter().zip(&progress.phases) {
            bar.set_position(phase.done.into());
            let counts = [(phase.running, "running"), (phase.failed, "failed"), (phase.skipped, "skipped")];
            let words = counts.iter().filter(|(count, _)| *count > 0);
            let words: Vec<String> = words.map(|(count, word)| format!("{count} {word}")).collect();
            bar.set_message(words.join(", "));
        }
        self.cells.set_message(cells(progress));
        self.waits.set_message(waits(progress));
    }
}

/// A cell for each target: what is worst about it; of many targets, how many cells of each kind there are.
fn cells(progress: &Progress) -> String {
    let cell = |target: &TargetProgress| match target.worst() {
        Cell::Failed => '✗',
        Cell::Running => '▸',
        Cell::Done | Cell::None => '✓',
        Cell::Waiting | Cell::Skipped => '·',
    };
    let cells: String = progress.targets.iter().map(cell).collect();
    if progress.targets.len() <= MOST_CELLS {
        return cells;
    }
    let count = |kind: char| (cells.chars().filter(|cell| *cell == kind).count(), kind);
    let counts = ['✗', '▸', '✓', '·'].map(count).into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, kind)| format!("{kind} {count}")).collect();
    format!("targets: {}", counts.join("  "))
}

/// What is waited for, most frequent first.
fn waits(progress: &Progress) -> String {
    let part = |wait: &Waiting| format!("{} × {} for {}", wait.count, wait.phase, wait.what);
    let parts: Vec<String> = progress.waits.iter().take(4).map(part).collect();
    if parts.is_empty() { String::new() } else { format!("waiting: {}", parts.join("; ")) }
}

/// A time for people.
pub fn time(time: Duration) -> String {
    let rounded = if time >= Duration::from_secs(10) { Duration::from_secs(time.as_secs()) } else { time };
    Time(rounded).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_many_targets_are_counted_and_fit_on_a_line() {
        let target = |cells: &[Cell]| TargetProgress { name: String::new(), cells: cells.to_vec() };
        let progress = |count: usize| Progress {
            targets: (0..count)
                .map(|n| target(&[Cell::Done, if n == 0 { Cell::Failed } else { Cell::Running }]))
                .collect(),
            ..Progress::default()
        };
        assert_eq!(cells(&progress(3)), "✗▸▸");
        assert_eq!(cells(&progress(500)), "targets: ✗ 1  ▸ 499");
    }
}
