//! Rules that hold in every schedule, and the stories of single decisions.

#![expect(clippy::format_push_string, reason = "a test may allocate")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::file::Deployment;
use crate::plan::Selection;

const S: Duration = Duration::from_secs(1);

fn plan(text: &str) -> Plan {
    let deployment = Deployment::from_yaml(text, "s.yaml").unwrap_or_else(|error| panic!("{error}"));
    Plan::new(deployment, &Selection::default()).unwrap()
}

fn scheduler(text: &str) -> Scheduler {
    let plan = plan(text);
    let options = Options::new(&plan);
    Scheduler::new(plan, options, &BTreeMap::new(), Duration::ZERO)
}

fn started(scheduler: &mut Scheduler, now: Duration) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(command) = scheduler.poll_command(now) {
        names.push(match command {
            Command::Start { task, .. } => scheduler.plan().name(task),
            Command::Gate { wave, gate } => format!("gate {gate} after {wave}"),
        });
    }
    names
}

fn end(scheduler: &mut Scheduler, now: Duration, name: &str, outcome: Outcome) {
    let task = scheduler.plan().by_name()[name];
    scheduler.handle_outcome(now, task, outcome);
}

fn failed(what: &str) -> Outcome {
    Outcome::Failed(Cause::Failed { what: what.to_owned() })
}

/// `two` phases over targets a, b, c, with more keys for the first phase and for the file.
fn file(first: &str, more: &str) -> String {
    format!(
        "name: s\ntargets: [a, b, c]\nphases:\n  - name: one\n    for_each: targets\n    run: {{ command: {{ run: [x] }} }}\n\
         {first}  - name: two\n    for_each: targets\n    after: [one]\n    run: {{ command: {{ run: [x] }} }}\n{more}"
    )
}

#[test]
fn without_barriers_a_task_starts_when_its_own_dependencies_are_done() {
    let mut s = scheduler(&file("", ""));
    assert_eq!(started(&mut s, S), ["one/a", "one/b", "one/c"]);
    end(&mut s, 2 * S, "one/b", Outcome::Success);
    assert_eq!(started(&mut s, 2 * S), ["two/b"]);
    let two_a = s.plan().by_name()["two/a"];
    assert_eq!(s.waits_for(two_a), Some(Wait::Dependencies(1)));
}

#[test]
fn what_an_api_asks_for_beyond_reason_is_no_reason_to_panic() {
    let limits = "limits: [{ scope: s, buckets: { read: { burst: 9, refill: 1/365d } } }]\n";
    let mut s = scheduler(&file("    calls: [{ scope: s, kind: read, count: 6 }]\n", limits));
    assert_eq!(started(&mut s, S), ["one/a"]);
    let asked = Some(Duration::from_secs(u64::MAX));
    let task = s.plan().by_name()["one/a"];
    s.handle_throttled(S, task, asked);
    end(&mut s, 2 * S, "one/a", Outcome::Failed(Cause::Throttled { retry_after: asked }));
    assert!(s.poll_timeout().is_some_and(|at| at <= 2 * S + Duration::from_secs(2 * 86_400)));
    let calls = plan(&file(
        "    calls: [{ scope: s, kind: read, count: 6 }]\n",
        &limits.replace("1/365d", "0.000000000000000001/d"),
    ));
    assert!(calls.lower_bound(&[S; 6], None, false) > Duration::from_secs(1 << 40));
}

#[test]
fn a_task_that_fails_while_all_is_stopped_keeps_its_other_attempts_for_whoever_goes_on() {
    let mut s = scheduler(&file("", ""));
    assert_eq!(started(&mut s, S).len(), 3);
    s.handle_stop(S);
    end(&mut s, 2 * S, "one/a", failed("a moment's trouble"));
    end(&mut s, 2 * S, "one/b", Outcome::Failed(Cause::Stopped));
    end(&mut s, 2 * S, "one/c", Outcome::Success);
    assert!(s.is_finished());
    let again: Vec<bool> = std::iter::from_fn(|| s.poll_event())
        .filter_map(|event| match event {
            Event::Ended { again_at, .. } => Some(again_at.is_some()),
            _ => None,
        })
        .collect();
    assert_eq!(again, [true, false, false]);
}

#[test]
fn waves_that_were_left_out_are_neither_baked_nor_asked_about() {
    let gate = "gates: [{ name: g, run: { command: { run: [x] } } }]";
    let text = file("", &format!("waves: {{ sizes: [1, 1], bake: 5m, {gate} }}\n"));
    let deployment = Deployment::from_yaml(&text, "s.yaml").unwrap();
    let selection = Selection { only: vec!["b".into(), "c".into()], ..Selection::default() };
    let plan = Plan::new(deployment, &selection).unwrap();
    let options = Options::new(&plan);
    let mut s = Scheduler::new(plan, options, &BTreeMap::new(), S);
    assert_eq!(started(&mut s, S), ["one/b"]);
    end(&mut s, S, "one/b", Outcome::Success);
    assert_eq!(started(&mut s, S), ["two/b"]);
    end(&mut s, S, "two/b", Outcome::Success);
    assert_eq!(started(&mut s, S), [""; 0], "what has changed is baked");
    s.handle_time(400 * S);
    assert_eq!(started(&mut s, 400 * S), ["gate 0 after 1"]);
}

#[test]
fn with_barriers_it_says_which_phase_it_waits_for() {
    let mut s = scheduler(&file("", "mode: max\nwidth: 2\n"));
    assert_eq!(started(&mut s, S), ["one/a", "one/b"]);
    let by_name = s.plan().by_name();
    assert_eq!(s.waits_for(by_name["one/c"]), Some(Wait::Width(2)));
    end(&mut s, 2 * S, "one/a", Outcome::Success);
    assert_eq!(started(&mut s, 2 * S), ["one/c"]);
    assert_eq!(s.waits_for(by_name["two/a"]).unwrap().to_string(), "the end of phase one");
    end(&mut s, 3 * S, "one/b", Outcome::Success);
    end(&mut s, 3 * S, "one/c", Outcome::Success);
    assert_eq!(started(&mut s, 3 * S), ["two/a", "two/b"]);
}

#[test]
fn a_failed_target_stops_its_own_chain_and_skipped_is_not_failed() {
    let mut s = scheduler(&file("    retry: { attempts: 1 }\n", ""));
    started(&mut s, S);
    end(&mut s, 2 * S, "one/b", failed("exit status 1"));
    end(&mut s, 2 * S, "one/a", Outcome::Success);
    end(&mut s, 2 * S, "one/c", Outcome::Success);
    assert_eq!(started(&mut s, 2 * S), ["two/a", "two/c"]);
    end(&mut s, 3 * S, "two/a", Outcome::Success);
    end(&mut s, 3 * S, "two/c", Outcome::Success);
    assert!(s.is_finished());
    assert_eq!(s.counts(), Counts { done: 4, failed: 1, skipped: 1, ..Counts::default() });
    assert_eq!(s.state(s.plan().by_name()["two/b"]), &TaskState::Skipped(Skip::Upstream("one/b".to_owned())));
}

#[test]
fn what_was_left_out_is_not_counted_as_skipped() {
    let deployment = Deployment::from_yaml(&file("    retry: { attempts: 1 }\n", ""), "s.yaml").unwrap();
    let selection = Selection { skip: vec!["two".to_owned()], ..Selection::default() };
    let plan = Plan::new(deployment, &selection).unwrap();
    let options = Options::new(&plan);
    let mut s = Scheduler::new(plan, options, &BTreeMap::new(), Duration::ZERO);
    started(&mut s, S);
    end(&mut s, S, "one/a", failed("no"));
    end(&mut s, S, "one/b", Outcome::Success);
    end(&mut s, S, "one/c", Outcome::Success);
    assert!(s.is_finished());
    assert_eq!(s.counts(), Counts { done: 2, failed: 1, ..Counts::default() });
}

#[test]
fn retries_back_off_with_jitter_and_end() {
    let mut s = scheduler(&file("    retry: { attempts: 3, base: 2s, cap: 60s }\n", ""));
    started(&mut s, S);
    let mut now = S;
    for (attempt, most) in [(1, 4), (2, 8)] {
        end(&mut s, now, "one/a", failed("no"));
        let until = s.poll_timeout().unwrap();
        assert!(until <= now + most * S, "attempt {attempt}: {until:?}");
        assert_eq!(s.waits_for(TaskId(0)), Some(Wait::Backoff));
        s.handle_time(until);
        assert_eq!(started(&mut s, until), ["one/a"]);
        now = until;
    }
    end(&mut s, 20 * S, "one/a", failed("no"));
    assert!(matches!(s.state(TaskId(0)), TaskState::Failed(_)));
}

#[test]
fn what_can_never_work_is_not_tried_again() {
    for cause in [Cause::Impossible { what: "no such tool".into() }, Cause::Quota { what: "cores".into() }] {
        let mut s = scheduler(&file("", ""));
        started(&mut s, S);
        end(&mut s, S, "one/a", Outcome::Failed(cause));
        assert!(matches!(s.state(TaskId(0)), TaskState::Failed(_)));
    }
}

const LIMITED: &str = "    calls: [{ scope: arm, kind: write, count: 10 }]\n";
const ARM: &str = "limits: [{ scope: arm, buckets: { write: { burst: 25, refill: 1/s } } }]\n";

#[test]
fn calls_are_counted_before_they_are_refused() {
    let mut s = scheduler(&file(LIMITED, ARM));
    assert_eq!(started(&mut s, Duration::ZERO), ["one/a", "one/b"]);
    assert_eq!(s.waits_for(TaskId(2)).unwrap().to_string(), "the limit of arm");
    let until = s.poll_timeout().unwrap();
    assert!(until > 8 * S && until < 9 * S, "7.5 calls are missing at 0.9 a second: {until:?}");
    s.handle_time(until);
    assert_eq!(started(&mut s, until), ["one/c"]);
}

#[test]
fn who_shares_an_api_with_nobody_uses_all_of_it() {
    let arm = ARM.replace("scope: arm,", "scope: arm, share: 1,");
    let mut s = scheduler(&file(LIMITED, &arm));
    assert_eq!(started(&mut s, Duration::ZERO), ["one/a", "one/b"]);
    let until = s.poll_timeout().unwrap();
    assert!(until >= 5 * S && until < 6 * S, "5 calls are missing at 1 a second: {until:?}");
}

#[test]
fn retry_after_is_shared_by_the_scope_in_every_mode() {
    for mode in ["auto", "ultra"] {
        let text = file(LIMITED, &format!("{ARM}mode: {mode}\nwidth: 1\n"));
        let mut s = scheduler(&text);
        assert_eq!(started(&mut s, Duration::ZERO), ["one/a"]);
        let throttled = Outcome::Failed(Cause::Throttled { retry_after: Some(30 * S) });
        end(&mut s, S, "one/a", throttled);
        assert_eq!(started(&mut s, 2 * S), [""; 0], "{mode}");
        let mut now = S;
        while started(&mut s, now).is_empty() {
            now = s.poll_timeout().unwrap();
            s.handle_time(now);
        }
        assert!(now >= 31 * S, "{mode}: {now:?}");
    }
}

#[test]
fn a_lock_conflict_serializes_the_target_and_nothing_else() {
    let text = file("", "").replace("    after: [one]\n", "");
    let mut s = scheduler(&text);
    assert_eq!(started(&mut s, S).len(), 6);
    end(&mut s, 2 * S, "one/a", Outcome::Failed(Cause::Locked { what: "in progress".into() }));
    let until = s.poll_timeout().unwrap();
    s.handle_time(until);
    assert_eq!(started(&mut s, until), [""; 0]);
    assert_eq!(s.waits_for(TaskId(0)).unwrap().to_string(), "another task of a");
    end(&mut s, until, "two/a", Outcome::Success);
    assert_eq!(started(&mut s, until), ["one/a"]);
}

#[test]
fn strict_tolerance_never_risks_more_than_may_fail() {
    let mut s = scheduler(&file("    retry: { attempts: 1 }\n", "failures: { max: 1, strict: true }\n"));
    assert_eq!(started(&mut s, S), ["one/a", "one/b"]);
    end(&mut s, S, "one/a", failed("no"));
    assert_eq!(started(&mut s, S), [""; 0], "one failed: one at a time from now on");
    end(&mut s, S, "one/b", failed("no"));
    assert!(s.is_finished());
    assert_eq!(s.state(TaskId(2)), &TaskState::Skipped(Skip::TooManyFailures { failed: 2, max: 1 }));
}

#[test]
fn waves_bake_ask_their_gates_and_stop() {
    let gate = "gates: [{ name: healthy, run: { command: { run: [x] } } }]";
    let text =
        file("    retry: { attempts: 1 }\n", &format!("waves: {{ sizes: [1, 2], bake: 10s, {gate} }}\n"));
    let through_wave_one = |s: &mut Scheduler| {
        assert_eq!(started(s, S), ["one/a"]);
        end(s, S, "one/a", Outcome::Success);
        assert_eq!(started(s, S), ["two/a"]);
        end(s, S, "two/a", Outcome::Success);
        assert_eq!(started(s, S), [""; 0]);
        assert_eq!(s.waits_for(s.plan().by_name()["one/b"]).unwrap().to_string(), "wave 2 to begin");
        assert_eq!(s.poll_timeout(), Some(11 * S));
        s.handle_time(11 * S);
        assert_eq!(started(s, 11 * S), ["gate 0 after 0"]);
    };
    let mut s = scheduler(&text);
    through_wave_one(&mut s);
    s.handle_gate(12 * S, 0, Ok(()));
    assert_eq!(started(&mut s, 12 * S), ["one/b", "one/c"]);
    let mut s = scheduler(&text);
    through_wave_one(&mut s);
    s.handle_gate(12 * S, 0, Err("500".to_owned()));
    assert!(s.is_finished());
    assert_eq!(s.counts().skipped, 4);
    let mut s = scheduler(&text);
    started(&mut s, S);
    end(&mut s, S, "one/a", failed("no"));
    assert!(s.is_finished(), "a failed target in a wave that tolerates none");
    assert_eq!(s.counts(), Counts { failed: 1, skipped: 5, ..Counts::default() });
}

#[test]
fn what_an_earlier_run_finished_is_not_run_again() {
    let plan = plan(&file("", ""));
    let names = plan.by_name();
    let prior = BTreeMap::from([
        (names["one/a"], Prior::Done),
        (names["two/a"], Prior::Done),
        (names["one/b"], Prior::Done),
        (names["one/c"], Prior::Failed(Cause::TimedOut)),
    ]);
    let options = Options::new(&plan);
    let mut s = Scheduler::new(plan, options, &prior, S);
    assert_eq!(started(&mut s, S), ["two/b"]);
    end(&mut s, S, "two/b", Outcome::Success);
    assert!(s.is_finished());
    assert_eq!(s.counts(), Counts { done: 4, failed: 1, skipped: 1, ..Counts::default() });
}

#[test]
fn stopping_starts_nothing_and_ends_when_the_last_has_ended() {
    let mut s = scheduler(&file("", ""));
    started(&mut s, S);
    s.handle_stop(S);
    end(&mut s, S, "one/a", Outcome::Success);
    end(&mut s, S, "one/b", Outcome::Success);
    assert!(!s.is_finished());
    end(&mut s, S, "one/c", failed("no"));
    assert!(s.is_finished());
    assert_eq!(s.counts(), Counts { done: 2, failed: 0, skipped: 4, ..Counts::default() });
}

#[test]
fn ten_thousand_tasks_that_wait_for_one_slot_are_scheduled_in_linear_time() {
    let targets: Vec<String> = (0..10_000).map(|n| format!("t{n}")).collect();
    let text = format!(
        "name: s\nmode: max\nwidth: 4\ntargets: [{}]\nphases: [{{ name: one, for_each: targets, run: {{ command: {{ run: [x] }} }} }}]\n",
        targets.join(", ")
    );
    let mut s = scheduler(&text);
    let mut steps = 0;
    let mut running = BTreeSet::new();
    while !s.is_finished() {
        while let Some(Command::Start { task, .. }) = s.poll_command(S) {
            running.insert(task);
        }
        let task = running.pop_first().unwrap();
        s.handle_outcome(S, task, Outcome::Success);
        steps += 1;
    }
    assert_eq!(steps, 10_000);
}

/// A deployment of random shape, and how its attempts end.
fn deployments() -> impl Strategy<Value = (String, u64, u8)> {
    let shape = (1..8_usize, 1..4_usize, 0..4_u32, prop::bool::ANY, prop::bool::ANY, prop::bool::ANY);
    (shape, 0..5_usize, any::<u64>(), 0..60_u8).prop_map(
        |((targets, phases, width, lock, waves, limits), mode, seed, failing)| {
            let names: Vec<String> = (0..targets).map(|n| format!("t{n}")).collect();
            let mut text = format!(
                "name: p\nmode: {}\ntargets: [{}]\nlists: {{ v: {{ per_target: 2, name: 'v{{{{ index }}}}' }} }}\n",
                Mode::ALL[mode],
                names.join(", ")
            );
            if width > 0 {
                text.push_str(&format!("width: {width}\n"));
            }
            if waves {
                text += "waves: { fan_out: 2, bake: 3s, max_failures: 1 }\nfailures: { max: 50%, strict: true }\n";
            }
            text += "limits: [{ scope: arm, buckets: { write: { burst: 12, refill: 2/s } }, concurrency: { start: 3, max: 4 } }]\n";
            text += "phases:\n";
            for phase in 0..phases {
                let over = if phase % 2 == 1 { "v" } else { "targets" };
                text.push_str(&format!("  - name: p{phase}\n    for_each: {over}\n    run: {{ command: {{ run: [x] }} }}\n"));
                if phase > 0 {
                    let all = phase == 2;
                    text.push_str(&format!("    after: [{{ phase: p{}, all: {all} }}]\n", phase - 1));
                }
                if lock {
                    text += "    lock: \"l{{ item.name | length }}\"\n";
                }
                if limits {
                    text += "    calls: [{ scope: arm, kind: write, count: 5 }]\n";
                }
            }
            if phases > 1 {
                text.push_str(&format!(
                    "invariants: [{{ name: up, of: v, min_up: {targets}, disrupted_by: [p1] }}]\n"
                ));
            }
            (text, seed, failing)
        },
    )
}

/// Runs to the end with random outcomes and checks every rule at every step.
fn check_rules(text: &str, seed: u64, failing: u8) {
    let mut s = scheduler(text);
    let mut random = Random::new(seed);
    let mut now = Duration::ZERO;
    let mut running: BTreeSet<TaskId> = BTreeSet::new();
    let mut done: BTreeSet<TaskId> = BTreeSet::new();
    let mut steps = 0;
    while !s.is_finished() {
        steps += 1;
        assert!(steps < 20_000, "it does not end:\n{text}");
        while let Some(command) = s.poll_command(now) {
            let Command::Start { task, .. } = command else { continue };
            assert!(!done.contains(&task), "{} runs again after success", s.plan().name(task));
            assert!(running.insert(task), "{} runs twice", s.plan().name(task));
        }
        check_instant(&s, &running, &done);
        for id in s.plan().ids().filter(|id| !s.state(*id).is_final() && !running.contains(id)) {
            assert!(s.waits_for(id).is_some(), "{} waits for nothing", s.plan().name(id));
        }
        let pick = running.iter().nth((random.bits() % running.len().max(1) as u64) as usize).copied();
        match pick {
            Some(task) => {
                now += Duration::from_millis(random.bits() % 900);
                s.handle_time(now);
                running.remove(&task);
                let outcome = outcome(&mut random, failing);
                if outcome == Outcome::Success {
                    done.insert(task);
                }
                s.handle_outcome(now, task, outcome);
            }
            None if s.is_finished() => break,
            None => {
                now = s
                    .poll_timeout()
                    .unwrap_or_else(|| panic!("nothing runs and nothing comes:\n{text}"))
                    .max(now);
                s.handle_time(now);
            }
        }
    }
    let counts = s.counts();
    assert_eq!(counts.waiting + counts.running, 0);
    assert_eq!((counts.done + counts.failed + counts.skipped) as usize, s.plan().tasks.len());
    assert_eq!(counts.done as usize, done.len());
}

fn outcome(random: &mut Random, failing: u8) -> Outcome {
    if random.bits() % 100 >= u64::from(failing) {
        return Outcome::Success;
    }
    Outcome::Failed(match random.bits() % 5 {
        0 => Cause::Throttled { retry_after: Some(2 * S) },
        1 => Cause::Locked { what: "held".into() },
        2 => Cause::TimedOut,
        3 => Cause::Quota { what: "cores".into() },
        _ => Cause::Failed { what: "exit status 1".into() },
    })
}

fn check_instant(s: &Scheduler, running: &BTreeSet<TaskId>, done: &BTreeSet<TaskId>) {
    let plan = s.plan();
    for from in 0..plan.tasks.len() + plan.phases.len() {
        let is_done = match from.checked_sub(plan.tasks.len()) {
            None => done.contains(&TaskId(from as u32)),
            Some(phase) => plan.phases[phase].clone().all(|at| done.contains(&TaskId(at as u32))),
        };
        for to in plan.dependents.of(from) {
            assert!(is_done || !running.contains(&TaskId(*to)), "{} is too early", plan.name(TaskId(*to)));
        }
    }
    let slots: u32 = running.iter().map(|id| plan.task(*id).slots).sum();
    if let Some(width) = s.options.width() {
        assert!(slots <= width || running.len() == 1);
    }
    if s.options.mode == Mode::Sequential {
        assert!(running.len() <= 1);
    }
    let locks: Vec<u32> = running.iter().filter_map(|id| plan.task(*id).lock).collect();
    assert_eq!(locks.iter().collect::<BTreeSet<_>>().len(), locks.len(), "a lock is held twice");
    for (at, invariant) in plan.deployment.invariants.iter().enumerate() {
        let touched = plan.ids().filter(|id| {
            let begun = running.contains(id)
                || matches!(s.state(*id), TaskState::Failed(_) | TaskState::Backoff { .. });
            begun && !done.contains(id)
        });
        let down: BTreeSet<u32> = touched
            .flat_map(|id| plan.task(id).disrupts.iter().filter(|(i, _)| *i as usize == at).map(|(_, t)| *t))
            .collect();
        let up = plan.invariant_sizes[at] - down.len();
        assert!(up >= invariant.min_up as usize, "only {up} are up");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_schedule_keeps_every_rule_and_ends((text, seed, failing) in deployments()) {
        check_rules(&text, seed, failing);
    }
}
