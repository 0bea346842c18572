//! The displays of `pccl up`: lines for a person, objects for a program.

use serde::Serialize;

use super::event::{Display, Event, Outcome, Verdict};
use super::ledger::RoundSummary;
use crate::output;
use crate::worker::recoveries;
use pccl_chaos::{Judgement, Kind};
use pccl_config::ByteSize;
use pccl_observe::table::{Table, seconds};

/// One object per round, and a last one with the outcome.
#[derive(Debug)]
pub(super) struct Json;

/// Lines for a person.
#[derive(Debug)]
pub(super) struct Terminal;

impl Display for Json {
    fn show(&mut self, event: &Event) {
        match event {
            Event::Round(round) => print_json(round),
            Event::Ended { outcome, .. } => print_json(outcome),
            _ => {}
        }
    }
}

impl Display for Terminal {
    fn show(&mut self, event: &Event) {
        let lines = match event {
            Event::Ended { outcome, rounds } => ending(outcome, rounds),
            event => vec![line(event)],
        };
        output::print(&lines);
    }
}

fn print_json(object: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(object) {
        output::print(&[text]);
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Kill => "kill",
        Kind::Freeze => "freeze",
        Kind::Join => "join",
    }
}

fn line(event: &Event) -> String {
    match event {
        Event::Started { master, workers, bytes, tensors } => format!(
            "master on {master}; {workers} workers average {tensors} tensors, {} in all, each round",
            ByteSize(*bytes)
        ),
        Event::Joined { worker, world_size, seconds: time } => {
            format!("  + {worker} is in after {}, the world is {world_size}", seconds(*time))
        }
        Event::Expelled { worker, why } => format!("  ! {worker}: {why}"),
        Event::Struck { kind, worker, round } => {
            let what = match kind {
                Kind::Kill => "kill -9",
                Kind::Freeze => "kill -STOP",
                Kind::Join => "start",
            };
            format!("  x {what} {worker}, inside the op of round {round}")
        }
        Event::Replaced { worker } => format!("  + {worker} starts in its place"),
        Event::Thawed { worker } => format!("  x kill -CONT {worker}"),
        Event::Judged(judgement) => judgement_line(judgement),
        Event::Round(round) => round_line(round),
        Event::Ended { .. } => String::new(),
    }
}

fn judgement_line(judgement: &Judgement) -> String {
    let (what, round) = (name(judgement.kind), judgement.round);
    let after = judgement.seconds.map_or_else(String::new, |after| format!(" after {}", seconds(after)));
    match (judgement.hit, judgement.kind) {
        (false, _) => format!("  = {what} in round {round}: missed the op, does not count"),
        (true, Kind::Join) => format!("  = {what} in round {round}: it has the model{after}"),
        (true, _) => format!("  = {what} in round {round}: the last survivor was through the op{after}"),
    }
}

fn round_line(round: &RoundSummary) -> String {
    format!(
        "round {:>4}  world {:>2}  epoch {:>3}  {:>8}  {:>6.2} GB/s  {:>12}  sync {:>8}  {}{}",
        round.round,
        round.world_size,
        round.epoch,
        seconds(round.seconds),
        round.gbs,
        recoveries(round.recoveries),
        seconds(round.sync_seconds),
        &round.hash[..round.hash.len().min(12)],
        if round.identical { "" } else { "  DIVERGED" },
    )
}

/// The table at the end, and the verdict.
fn ending(outcome: &Outcome, rounds: &[RoundSummary]) -> Vec<String> {
    let mut table = Table::new(&["<rounds", "count", "median", "slowest", "GB/s"]);
    let (hit, calm): (Vec<&RoundSummary>, Vec<&RoundSummary>) =
        rounds.iter().partition(|round| round.recoveries > 0);
    for (title, rounds) in [("undisturbed", calm), ("with a recovery", hit)] {
        if let Some(cells) = statistics(title, &rounds) {
            table.push(cells);
        }
    }
    let mut lines = vec![String::new()];
    lines.extend(table.lines());
    lines.push(String::new());
    lines.push(verdict_line(outcome));
    lines.extend(chaos_line(outcome));
    lines
}

fn statistics(title: &str, rounds: &[&RoundSummary]) -> Option<[String; 5]> {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let (median, slowest) = (sorted.get(sorted.len() / 2)?, sorted.last()?);
    Some([
        title.to_owned(),
        sorted.len().to_string(),
        seconds(median.seconds),
        seconds(slowest.seconds),
        format!("{:.2}", median.gbs),
    ])
}

fn verdict_line(outcome: &Outcome) -> String {
    let identity = match (outcome.rounds, outcome.verdict) {
        (0, _) => "no round was done",
        (_, Verdict::Identical) => "identical: after every round all survivors had the same bits",
        (_, Verdict::Diverged) => "DIVERGED: survivors of a round had different bits",
    };
    let interrupted = if outcome.interrupted { ", interrupted" } else { "" };
    format!(
        "{identity} ({} rounds, {}, world {} at the end, {}{interrupted})",
        outcome.rounds,
        recoveries(outcome.recoveries),
        outcome.world_size,
        seconds(outcome.seconds),
    )
}

fn chaos_line(outcome: &Outcome) -> Option<String> {
    let tally = outcome.chaos;
    let counts = [("killed", tally.kill), ("frozen", tally.freeze), ("joined", tally.join)];
    let mut parts: Vec<String> =
        counts.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect();
    if tally.missed > 0 {
        parts.push(format!("{} missed", tally.missed));
    }
    parts.extend(outcome.not_hit.iter().map(|kind| format!("{} NEVER HIT", name(*kind))));
    (!parts.is_empty()).then(|| format!("strikes inside an op: {}", parts.join(", ")))
}
