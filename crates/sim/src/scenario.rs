//! Stories: a small world, told what happens to it by a script, beside a golden trace of what it does.
//!
//! A script is a text file of lines, read from the top. `peers N`, `masters N`, `lease MS`, `master_timeout MS`, `caller
//! recovers`, `no backups`, `syncs PERCENT` (of the rounds), `connections N` (of a link), `carries N` (of them, the way between two
//! hosts), `pieces BYTES` and `seed N` say how the world is; `without RULE` names the rule that a second run does without.
//! Then: `when TEXT` waits until a line of the trace contains the text, `wait MS` waits, everything else is done at once:
//!
//! * `cut A B`, `mend A B`: two processes do not hear each other, and do again
//! * `swallow A B BYTES`: what A writes to B is lost, if it is more at once, until everything is healed
//! * `break A B`: all connections between two processes break
//! * `power off A`: without a word; `crash A`, `freeze A`, `thaw A`, `start master N` (on the Nth host), `start peer N`
//! * `store off`, `store late MS`, `store on`: requests have no effect, or so much later, and nobody knows; or they have
//! * `no masters`: nobody starts any from now on; `heal`: everything works again, and progress is demanded
//! * `end`: that is the story
//!
//! Processes are named as in the trace (`master0`, `peer2`).

use std::fmt;

use pccl_proto::rules::Rule;
use pccl_proto::settings::Recovery;

use crate::faults::{Cut, Fault, Hole};
use crate::plan::Plan;
use crate::runs::finish;
use crate::trace::Trace;
use crate::world::{Event, Host, MASTER_HOST, ProcId, World, say};

/// Lines of a trace before the script's first action, and in all.
const CONTEXT: usize = 6;
const MOST_LINES: usize = 150;

/// A script that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unclear {
    line: usize,
    text: String,
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: what is \"{}\"?", self.line, self.text)
    }
}

#[derive(Debug, Clone)]
struct Step {
    text: String,
    act: Act,
}

#[derive(Debug, Clone)]
enum Act {
    When(String),
    Wait(u64),
    Cut(String, String),
    Mend(String, String),
    Break(String, String),
    Swallow(String, String, usize),
    Crash(String),
    Freeze(String),
    Thaw(String),
    StartMaster(u8),
    StartPeer(usize),
    Store(bool),
    StoreLate(u64),
    PowerOff(String),
    NoMasters,
    Heal,
    End,
}

/// Where a world is in its script.
pub(crate) struct Script {
    steps: Vec<Step>,
    next: usize,
    /// Lines of the trace before this one have been looked at.
    read: usize,
    until: Option<u64>,
}

/// A parsed story.
pub struct Story {
    plan: Plan,
    masters: u8,
    without: Option<Rule>,
    steps: Vec<Step>,
}

impl Story {
    /// Reads a script.
    pub fn parse(script: &str) -> Result<Self, Unclear> {
        let mut story = Self {
            plan: Plan { told: true, think_us: 60_000, ..Plan::small(3, Recovery::InsideCall) },
            masters: 1,
            without: None,
            steps: Vec::new(),
        };
        for (i, line) in script.lines().enumerate() {
            let text = line.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let known = story.setting(text) || story.step(text);
            if !known {
                return Err(Unclear { line: i + 1, text: text.to_owned() });
            }
        }
        Ok(story)
    }

    fn setting(&mut self, text: &str) -> bool {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |w: &str| w.parse::<u32>().ok();
        match words[..] {
            ["peers", n] => number(n).map(|n| self.plan.peers = n as usize).is_some(),
            ["masters", n] => number(n).map(|n| self.masters = n as u8).is_some(),
            ["lease", ms] => number(ms).map(|ms| self.plan.lease_ms = ms).is_some(),
            ["master_timeout", ms] => {
                number(ms).map(|ms| self.plan.settings.master_timeout_ms = ms).is_some()
            }
            ["seed", n] => number(n).map(|n| self.plan.seed = n.into()).is_some(),
            ["syncs", percent] => number(percent).map(|n| self.plan.syncs = n.into()).is_some(),
            ["connections", n] => {
                number(n).map(|n| self.plan.settings.connections_per_link = n as u16).is_some()
            }
            ["carries", n] => number(n).map(|n| self.plan.links.most = n as usize).is_some(),
            ["pieces", bytes] => number(bytes).map(|n| self.plan.piece_bytes = n.into()).is_some(),
            ["no", "backups"] => {
                self.plan.settings.enable_buffer_backup = false;
                true
            }
            ["caller", "recovers"] => {
                self.plan.settings.recovery = Recovery::ByCaller;
                true
            }
            ["without", rule] => {
                self.without =
                    [Rule::ALL, Rule::TOLD].concat().into_iter().find(|r| format!("{r:?}") == rule);
                self.without.is_some()
            }
            _ => false,
        }
    }

    fn step(&mut self, text: &str) -> bool {
        let words: Vec<&str> = text.split_whitespace().collect();
        let own = |w: &str| w.to_owned();
        let act = match words[..] {
            ["when", ..] => Act::When(text["when".len()..].trim().to_owned()),
            ["wait", us] => match us.strip_suffix("us").unwrap_or(us).parse::<u64>() {
                Ok(n) => Act::Wait(if us.ends_with("us") { n } else { n * 1000 }),
                Err(_) => return false,
            },
            ["cut", a, b] => Act::Cut(own(a), own(b)),
            ["mend", a, b] => Act::Mend(own(a), own(b)),
            ["break", a, b] => Act::Break(own(a), own(b)),
            ["swallow", a, b, bytes] => match bytes.parse() {
                Ok(bytes) => Act::Swallow(own(a), own(b), bytes),
                Err(_) => return false,
            },
            ["crash", a] => Act::Crash(own(a)),
            ["freeze", a] => Act::Freeze(own(a)),
            ["thaw", a] => Act::Thaw(own(a)),
            ["start", "master", n] => match n.parse() {
                Ok(n) => Act::StartMaster(n),
                Err(_) => return false,
            },
            ["start", "peer", n] => match n.parse() {
                Ok(n) => Act::StartPeer(n),
                Err(_) => return false,
            },
            ["store", "off"] => Act::Store(false),
            ["store", "on"] => Act::Store(true),
            ["store", "late", ms] => match ms.parse::<u64>() {
                Ok(ms) => Act::StoreLate(ms * 1000),
                Err(_) => return false,
            },
            ["power", "off", a] => Act::PowerOff(own(a)),
            ["no", "masters"] => Act::NoMasters,
            ["heal"] => Act::Heal,
            ["end"] => Act::End,
            _ => return false,
        };
        self.steps.push(Step { text: text.to_owned(), act });
        true
    }

    /// Tells it: as it goes, and as it goes without the rule that it is about.
    pub fn tell(&self) -> String {
        let mut text = self.run(None);
        if let Some(rule) = self.without {
            let without = self.run(Some(rule));
            text = format!("{text}\n--- without {rule:?} ---\n{without}");
        }
        text
    }

    fn run(&self, broken: Option<Rule>) -> String {
        let plan = Plan { broken, ..self.plan.clone() };
        let mut world = World::new(plan, Trace::told());
        for n in 1..self.masters {
            world.start_master(MASTER_HOST + n);
        }
        world.script = Some(Script { steps: self.steps.clone(), next: 0, read: 0, until: None });
        let outcome = finish(&mut world);
        let first =
            outcome.trace.iter().position(|l| l.starts_with("* ")).unwrap_or(0).saturating_sub(CONTEXT);
        let last = outcome.trace.len().saturating_sub(usize::from(outcome.violation.is_some()));
        let healed = outcome.trace.iter().position(|l| l == "* heal").map_or(last, |at| at + 1);
        // How everybody goes on after that is no part of the story, unless it does not.
        let mut lines: Vec<String> = outcome.trace[first..last.min(healed)].to_vec();
        lines.truncate(MOST_LINES);
        lines.push(match outcome.violation {
            None => "it ends well".to_owned(),
            Some(wrong) => format!("it ends wrong: {wrong}"),
        });
        lines.join("\n") + "\n"
    }
}

impl World {
    /// Goes on with the script as far as it can.
    pub(crate) fn follow(&mut self) {
        let Some(mut script) = self.script.take() else { return };
        while let Some(step) = script.steps.get(script.next).cloned() {
            match &step.act {
                Act::When(text) => {
                    let found = self.trace.lines().skip(script.read).position(|l| l.contains(text.as_str()));
                    let Some(at) = found else {
                        script.read = self.trace.len();
                        break;
                    };
                    script.read += at + 1;
                }
                Act::Wait(us) => {
                    let until = *script.until.get_or_insert(self.now + us);
                    if self.now < until {
                        if script.until.is_some() {
                            self.at(until, Event::Fault(Fault::Follow));
                        }
                        break;
                    }
                    script.until = None;
                }
                act => {
                    say!(self, "* {}", step.text);
                    self.act_out(act);
                }
            }
            script.next += 1;
        }
        self.script = Some(script);
    }

    fn act_out(&mut self, act: &Act) {
        match act {
            Act::Cut(a, b) => {
                if let (Some(a), Some(b)) = (self.host_named(a), self.host_named(b)) {
                    self.cuts.push(Cut::between(a, b));
                }
            }
            Act::Mend(a, b) => {
                if let (Some(a), Some(b)) = (self.host_named(a), self.host_named(b)) {
                    self.cuts.retain(|c| !(c.cuts(a, b) && c.cuts(b, a)));
                }
            }
            Act::Swallow(a, b, most) => {
                if let (Some(from), Some(to)) = (self.host_named(a), self.host_named(b)) {
                    self.holes.push(Hole { id: 0, from, to, most: *most });
                }
            }
            Act::Break(a, b) => {
                if let (Some(a), Some(b)) = (self.proc_named(a), self.proc_named(b)) {
                    for s in self.sockets_between(a, b) {
                        self.break_socket(s, false);
                    }
                }
            }
            Act::Crash(name) => {
                if let Some(p) = self.proc_named(name) {
                    self.crash(p, false);
                }
            }
            Act::Freeze(name) => {
                if let Some(p) = self.proc_named(name) {
                    self.procs[p].paused = true;
                }
            }
            Act::Thaw(name) => {
                if let Some(p) = self.proc_named(name) {
                    self.go_on(p);
                }
            }
            Act::StartMaster(n) => {
                self.no_masters = false;
                self.start_master(MASTER_HOST + n);
            }
            Act::StartPeer(n) => self.start_peer(*n, None, None),
            Act::Store(works) => {
                self.store.silent = !works;
                self.store.late_us = None;
            }
            Act::StoreLate(us) => self.store.late_us = Some(*us),
            Act::PowerOff(name) => {
                if let Some(p) = self.proc_named(name) {
                    let host = self.procs[p].host;
                    self.bury(p, true);
                    self.dark.insert(host);
                }
            }
            Act::NoMasters => self.no_masters = true,
            Act::Heal => self.fault(Fault::Heal),
            Act::End => self.over = true,
            Act::When(_) | Act::Wait(_) => {}
        }
    }

    fn proc_named(&mut self, name: &str) -> Option<ProcId> {
        let found = self.procs.iter().rposition(|p| p.name == name);
        if found.is_none() {
            self.check.fail(format!("the script names {name}, and nobody is called so"));
        }
        found
    }

    fn host_named(&mut self, name: &str) -> Option<Host> {
        self.proc_named(name).map(|p| self.procs[p].host)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Every script beside its golden trace. `PCCL_UPDATE_GOLDEN=1` writes the traces anew: read the difference.
    #[test]
    fn stories_are_told_as_before() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let update = std::env::var_os("PCCL_UPDATE_GOLDEN").is_some();
        let mut stories: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()).collect();
        stories.retain(|p| p.extension().is_some_and(|e| e == "story"));
        stories.sort();
        assert!(stories.len() >= 9, "{stories:?}");
        let mut wrong = Vec::new();
        for path in stories {
            let story = Story::parse(&fs::read_to_string(&path).unwrap());
            let told = story.unwrap_or_else(|e| panic!("{}: {e}", path.display())).tell();
            let ends: Vec<&str> = told.lines().filter(|l| l.starts_with("it ends ")).collect();
            assert_eq!(ends[0], "it ends well", "{}", path.display());
            assert!(ends[1..].iter().all(|e| e.starts_with("it ends wrong")), "{}: {ends:?}", path.display());
            let golden = path.with_extension("trace");
            if update {
                fs::write(&golden, &told).unwrap();
            }
            if fs::read_to_string(&golden).unwrap_or_default() != told {
                wrong.push(golden);
            }
        }
        assert!(
            wrong.is_empty(),
            "not as in {wrong:?}: if it shall be so, set PCCL_UPDATE_GOLDEN and read the diff"
        );
    }

    #[test]
    fn a_script_that_is_not_understood_names_the_line() {
        let wrong = Story::parse("# a story\npeers 3\ncut peer0\n").err().unwrap();
        assert_eq!(wrong.to_string(), "line 3: what is \"cut peer0\"?");
    }
}
