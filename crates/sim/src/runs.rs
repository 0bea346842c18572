//! Runs by seed, and runs in which a process ends at every step.

use crate::plan::Plan;
use crate::stats::Stats;
use crate::trace::Trace;
use crate::world::World;

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// Figures.
    pub stats: Stats,
    /// What went wrong, if anything.
    pub violation: Option<String>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

/// One random run.
pub fn run_seed(seed: u64, traced: bool) -> Outcome {
    let trace = if traced { Trace::on() } else { Trace::default() };
    let mut world = World::new(Plan::random(seed), trace);
    if traced {
        let plan = format!("{:?}", world.plan);
        world.trace.add(0, &plan);
    }
    finish(&mut world)
}

fn finish(world: &mut World) -> Outcome {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run()));
    let violation = match caught {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    };
    Outcome { stats: world.stats.clone(), violation, trace: world.trace.lines().cloned().collect() }
}
