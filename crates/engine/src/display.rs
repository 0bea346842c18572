//! What the operator sees while a deployment runs: bars on a terminal, lines elsewhere, JSON on demand.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pccl_deploy::file::Time;
use pccl_deploy::journal::Record;
use pccl_deploy::plan::Plan;
use pccl_deploy::schedule::{Outcome, Scheduler, TaskState};

use crate::clock::Stamp;

/// How a run is shown.
pub(crate) enum Display {
    /// A bar for each phase, a cell for each target.
    Bars(Box<Bars>),
    /// A line for each event.
    Lines,
    /// The records of the journal, one JSON object a line.
    Json,
    /// Nothing but the end.
    Quiet,
}

pub(crate) struct Bars {
    group: MultiProgress,
    phases: Vec<Option<ProgressBar>>,
    cells: ProgressBar,
    waits: ProgressBar,
}

impl Display {
    pub(crate) fn new(json: bool, quiet: bool, plan: &Plan) -> Self {
        if json {
            Self::Json
        } else if quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
            Self::Bars(Box::new(Bars::new(plan)))
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
                    // A terminal that is gone shows nothing.
                    let _ = bars.group.println(line);
                }
            }
            Self::Quiet => {}
        }
    }

    /// A note that is no record.
    pub(crate) fn note(&mut self, text: &str) {
        match self {
            Self::Lines => say(text),
            Self::Bars(bars) => drop(bars.group.println(text)),
            Self::Json | Self::Quiet => {}
        }
    }

    /// Shows where the run stands.
    pub(crate) fn standing(&mut self, scheduler: &Scheduler) {
        if let Self::Bars(bars) = self {
            bars.update(scheduler);
        }
    }

    pub(crate) fn finish(&mut self) {
        if let Self::Bars(bars) = self {
            for bar in bars.phases.iter().flatten().chain([&bars.cells, &bars.waits]) {
                bar.abandon();
            }
        }
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
    fn new(plan: &Plan) -> Self {
        let group = MultiProgress::new();
        let widest = plan.deployment.phases.iter().map(|phase| phase.name.len()).max().unwrap_or(8);
        let template = format!("{{prefix:{widest}}} {{bar:32}} {{pos:>4}}/{{len:<4}} {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let text = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let phase = |(at, phase): (usize, &pccl_deploy::file::Phase)| {
            let tasks = plan.phases[at].clone().filter(|task| !plan.tasks[*task].left_out).count();
            (tasks > 0).then(|| {
                let bar = group.add(ProgressBar::new(tasks as u64));
                bar.set_style(style.clone());
                bar.set_prefix(phase.name.clone());
                bar
            })
        };
        let phases = plan.deployment.phases.iter().enumerate().map(phase).collect();
        let line = || {
            let bar = group.add(ProgressBar::new(1));
            bar.set_style(text.clone());
            bar
        };
        let (cells, waits) = (line(), line());
        Self { group, phases, cells, waits }
    }

    fn update(&self, scheduler: &Scheduler) {
        let plan = scheduler.plan();
        for (at, bar) in self.phases.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let (mut done, mut running, mut failed) = (0, 0, 0);
            for task in plan.phases[at].clone() {
                match scheduler.state(pccl_deploy::plan::TaskId(task as u32)) {
                    TaskState::Done => done += 1,
                    TaskState::Running { .. } => running += 1,
                    TaskState::Failed(_) => failed += 1,
                    _ => {}
                }
            }
            bar.set_position(done);
            let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
            bar.set_message(format!("{running} running{failed}"));
        }
        self.cells.set_message(cells(scheduler));
        self.waits.set_message(waits(scheduler));
    }
}

/// A cell for each target: what is worst about it.
fn cells(scheduler: &Scheduler) -> String {
    let plan = scheduler.plan();
    let mut cells = vec!['✓'; plan.catalog.targets.len()];
    let weight = |c: char| "✓·▸✗".chars().position(|known| known == c).unwrap_or(0);
    for id in plan.ids() {
        let Some(target) = plan.task(id).target else { continue };
        let cell = match scheduler.state(id) {
            TaskState::Failed(_) => '✗',
            TaskState::Running { .. } => '▸',
            TaskState::Done | TaskState::Passed => '✓',
            _ => '·',
        };
        let old = &mut cells[target as usize];
        if weight(cell) > weight(*old) {
            *old = cell;
        }
    }
    cells.into_iter().collect()
}

/// What is waited for, most frequent first.
fn waits(scheduler: &Scheduler) -> String {
    let mut sums: std::collections::BTreeMap<String, u32> = std::collections::BTreeMap::new();
    for id in scheduler.plan().ids() {
        match scheduler.waits_for(id) {
            Some(pccl_deploy::schedule::Wait::Dependencies(_)) => {
                *sums.entry("others".to_owned()).or_default() += 1;
            }
            Some(wait) => *sums.entry(wait.to_string()).or_default() += 1,
            None => {}
        }
    }
    let mut sums: Vec<(String, u32)> = sums.into_iter().collect();
    sums.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let parts: Vec<String> =
        sums.into_iter().take(4).map(|(what, count)| format!("{count} for {what}")).collect();
    if parts.is_empty() { String::new() } else { format!("waiting: {}", parts.join(", ")) }
}

/// A time for people.
pub fn time(time: Duration) -> String {
    let rounded = if time >= Duration::from_secs(10) { Duration::from_secs(time.as_secs()) } else { time };
    Time(rounded).to_string()
}
