//! `pccl deploy plan` and `rehearse`: what will happen.

use pccl_deploy::file::Mode;
use pccl_deploy::plan::Plan;
use pccl_deploy::predict::{Rehearsal, estimates, sample, simulate};
use pccl_deploy::random::Random;
use pccl_deploy::report;
use pccl_engine::{Choices, Outlook, Place, Source, time};

use super::{JournalArgs, PlanArgs, RehearseArgs};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::print;

/// Tasks that are listed one by one.
const LISTED: usize = 200;

/// `pccl deploy plan`.
pub(super) fn plan(args: &PlanArgs) -> Result<Exit, CliError> {
    let source = Source::read(&args.file.file)?;
    let plan = args.choices.plan(&source)?;
    let JournalArgs { state, journal } = &args.journal;
    let place = Place::of(&source, &plan.deployment.name, state.as_deref(), journal.as_ref());
    let outlook = Outlook::of(plan, &place, args.runs)?;
    if args.json {
        print(&[outlook.object().to_string()]);
    } else {
        print(&outlook.lines());
    }
    Ok(Exit::Success)
}

/// The tasks of a plan, one a line.
pub(super) fn tasks(plan: &Plan) -> Vec<String> {
    let chosen: Vec<_> = plan.ids().filter(|id| !plan.task(*id).left_out).collect();
    let mut lines: Vec<String> = chosen
        .iter()
        .take(LISTED)
        .map(|id| {
            let task = plan.task(*id);
            format!("wave {}  {:<10} {}", task.wave + 1, plan.phase_of(*id).run.runner(), plan.name(*id))
        })
        .collect();
    if chosen.len() > LISTED {
        lines.push(format!("… and {} more", chosen.len() - LISTED));
    }
    lines.push(format!("{} tasks; nothing was run", chosen.len()));
    lines
}

/// `pccl deploy rehearse`.
pub(super) fn rehearse(args: &RehearseArgs) -> Result<Exit, CliError> {
    let source = Source::read(&args.file.file)?;
    let plan = args.choices.plan(&source)?;
    let mut random = Random::new(args.seed);
    let durations = sample(&plan, &estimates(&plan), &mut random);
    let options = Choices::options(&plan, args.seed);
    let bound = plan.lower_bound(&durations, None, options.mode == Mode::Auto);
    let rehearsal =
        Rehearsal { failing: args.failing.clamp(0.0, 1.0), ..Rehearsal::new(durations, args.seed) };
    let timeline = simulate(&plan, &options, &rehearsal);
    let efficiency = bound.as_secs_f64() / timeline.makespan.as_secs_f64().max(1e-9) * 100.0;
    let counts = timeline.counts;
    let mut lines = vec![
        format!("{} in mode {}, seed {}, simulated clouds", plan.deployment.name, options.mode, args.seed),
        format!(
            "{}; no schedule is faster than {} ({efficiency:.0} % efficiency)",
            time(timeline.makespan),
            time(bound)
        ),
        format!("{} done, {} failed, {} skipped", counts.done, counts.failed, counts.skipped),
    ];
    for one in timeline.calls.iter().filter(|one| one.served + one.refused > 0).take(20) {
        lines.push(format!("{} {}: {} calls, {} refused", one.scope, one.kind, one.served, one.refused));
    }
    print(&lines);
    if let Some(path) = &args.html {
        let page = report::html(&report::of_timeline(&plan, &timeline));
        super::status::write(path, &page)?;
    }
    Ok(if counts.failed + counts.skipped == 0 { Exit::Success } else { Exit::Partial })
}
