//! The fleet of `deployments/local.yaml` as a part of this process: its plan, its order and its command lines are those of
//! the file; what comes of it is attached to us instead of being left to stay.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use pccl_deploy::Deployment;
use pccl_deploy::plan::{Plan, TaskId};
use pccl_deploy::schedule::{Command, Outcome, Scheduler};
use pccl_deploy::template::Renderer;
use pccl_engine::{Choices, Source};
use pccl_launch::{Crew, Id, Program};

use crate::error::CliError;
use crate::exit::Exit;
use crate::master;
use crate::supervised;
use crate::worker::ModelArgs;

const FILE: &str = include_str!("../../../deployments/local.yaml");
/// Its phases whose processes may be attached; the others are for a fleet that stays.
const MASTER: &str = "master";
const WORKERS: &str = "workers";

/// What a fleet is told apart from the file.
pub(crate) struct Wishes<'a> {
    pub(crate) workers: u32,
    pub(crate) heartbeat_timeout_ms: u32,
    /// None: of what the workers are told nothing is needed.
    pub(crate) model: Option<&'a ModelArgs>,
}

/// What is started of the file, and when.
pub(crate) struct Local {
    scheduler: Scheduler,
    /// Knows the master's address as soon as there is one.
    deployment: Deployment,
    begun: Instant,
}

/// A process that may start now.
struct Start {
    task: TaskId,
    program: Program,
}

impl Local {
    /// The plan of a master and workers, any free port, and no rest between rounds.
    pub(crate) fn new(wishes: &Wishes<'_>) -> Result<Self, CliError> {
        let mut vars = vec![
            ("port", "0".to_owned()),
            ("standby_port", "0".to_owned()),
            ("pause", "0".to_owned()),
            ("workers", wishes.workers.to_string()),
            ("heartbeat_timeout_ms", wishes.heartbeat_timeout_ms.to_string()),
        ];
        if let Some(model) = wishes.model {
            vars.extend([("model", model.to_arg()), ("seed", model.seed.to_string())]);
        }
        let choices = Choices {
            only: [MASTER, WORKERS].map(str::to_owned).to_vec(),
            vars: vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            ..Choices::default()
        };
        let plan = choices.plan(&Source { path: PathBuf::from("local.yaml"), text: FILE.to_owned() })?;
        Ok(Self::of(plan))
    }

    fn of(plan: Plan) -> Self {
        let deployment = plan.deployment.clone();
        let options = Choices::options(&plan, 1);
        let begun = Instant::now();
        Self { scheduler: Scheduler::new(plan, options, &[].into(), begun.elapsed()), deployment, begun }
    }

    /// Starts the master, with some more arguments, and waits until it listens.
    pub(crate) fn start_master(
        &mut self,
        crew: &mut Crew,
        more: impl IntoIterator<Item = String>,
    ) -> Result<(Id, SocketAddr), CliError> {
        let start = self.ready(MASTER)?.pop();
        let Start { task, mut program } =
            start.ok_or_else(|| broken("its plan does not begin with a master"))?;
        program.line.extend(more);
        let spawned = crew.spawn("the master", &program);
        let id = spawned.map_err(|error| supervised::not_started("the master", &error))?;
        let addr = master::hear_listening(crew, id)?;
        self.deployment.vars.insert("port".to_owned(), addr.port().into());
        self.scheduler.handle_outcome(self.begun.elapsed(), task, Outcome::Success);
        Ok((id, addr))
    }

    /// The workers that may start now that their master listens.
    pub(crate) fn workers(&mut self) -> Result<Vec<Program>, CliError> {
        let starts = self.ready(WORKERS)?;
        let now = self.begun.elapsed();
        for start in &starts {
            // Nothing waits for them here: what becomes of them is heard by who has them attached.
            self.scheduler.handle_outcome(now, start.task, Outcome::Success);
        }
        Ok(starts.into_iter().map(|start| start.program).collect())
    }

    /// A worker more than the plan has.
    pub(crate) fn another_worker(&self) -> Result<Program, CliError> {
        let plan = self.scheduler.plan();
        let mut workers = plan.ids().filter(|id| plan.phase_of(*id).name == WORKERS);
        let any = workers.next().ok_or_else(|| broken("it has no workers"))?;
        self.program(&self.renderer(), any)
    }

    fn renderer(&self) -> Renderer {
        Renderer::new(&self.deployment, &self.scheduler.plan().catalog)
    }

    /// What the schedule starts now, which must be tasks of this phase.
    fn ready(&mut self, phase: &str) -> Result<Vec<Start>, CliError> {
        let now = self.begun.elapsed();
        self.scheduler.handle_time(now);
        let mut tasks = Vec::new();
        while let Some(command) = self.scheduler.poll_command(now) {
            match command {
                Command::Start { task, .. } if self.scheduler.plan().phase_of(task).name == phase => {
                    tasks.push(task);
                }
                other => return Err(broken(&format!("{other:?} is no start of {phase}"))),
            }
        }
        let renderer = self.renderer();
        tasks.into_iter().map(|task| Ok(Start { task, program: self.program(&renderer, task)? })).collect()
    }

    /// The service of a task as a child: it hears orders, reports, and is told all it needs by its line. What the file puts
    /// into the environment is configuration, which a child does not read.
    fn program(&self, renderer: &Renderer, task: TaskId) -> Result<Program, CliError> {
        let plan = self.scheduler.plan();
        let phase = plan.phase_of(task);
        let service = phase.run.service().ok_or_else(|| broken(&format!("{} is no service", phase.name)))?;
        let context = renderer.context(&phase.name, plan.subject(task));
        let word = |word: &String| renderer.text(word, &context).map_err(|error| broken(&error.to_string()));
        let mut line = service.run.iter().map(word).collect::<Result<Vec<String>, CliError>>()?;
        line.push("--supervised".to_owned());
        let program = Program::of_service(line, PathBuf::new());
        program.map(supervised::alone).map_err(|error| supervised::not_started(&plan.name(task), &error))
    }
}

fn broken(why: &str) -> CliError {
    CliError::new(Exit::System, format!("failed to plan the fleet by deployments/local.yaml: {why}"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use clap::Parser;
    use pccl_deploy::plan::Selection;

    use super::*;
    use crate::args::Cli;

    fn local(model: &[&str]) -> Local {
        let args = ["pccl", "worker"].iter().chain(model);
        let Ok(Cli { command: crate::args::Command::Worker(args) }) = Cli::try_parse_from(args) else {
            panic!("{model:?} is no model");
        };
        let wishes = Wishes { workers: 3, heartbeat_timeout_ms: 700, model: Some(&args.model) };
        Local::new(&wishes).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_master_starts_first_and_then_all_workers_with_its_address() {
        let mut local = local(&["--bytes=4KiB", "--seed=7"]);
        let mut first = local.ready(MASTER).unwrap();
        let Start { task, program } = first.pop().unwrap();
        assert_eq!(
            program.line[1..],
            ["master", "--listen", "127.0.0.1:0", "--heartbeat-timeout-ms", "700", "--supervised"]
        );
        assert!(first.is_empty() && local.workers().unwrap().is_empty(), "nobody listens yet");
        local.deployment.vars.insert("port".to_owned(), 4321.into());
        local.scheduler.handle_outcome(local.begun.elapsed(), task, Outcome::Success);
        let workers = local.workers().unwrap();
        assert_eq!(workers.len(), 3);
        let line = [
            "worker",
            "--master",
            "127.0.0.1:4321",
            "--workers=3",
            "--bytes=4096",
            "--seed=7",
            "--pause=0",
            "--supervised",
        ];
        assert!(workers.iter().all(|worker| worker.line[1..] == line), "{workers:?}");
        assert_eq!(local.another_worker().unwrap().line[1..], line);
        assert!(workers[0].env.is_empty() && workers[0].dir == PathBuf::new());
    }

    #[test]
    fn a_model_of_files_is_named_as_it_was() {
        let local = local(&["--input", "a.safetensors", "b {{ c }}.safetensors"]);
        let line = local.another_worker().unwrap().line;
        assert!(line.contains(&"--input=a.safetensors,b {{ c }}.safetensors".to_owned()), "{line:?}");
    }

    /// Also those that stay.
    #[test]
    fn every_line_of_the_file_is_understood() {
        let deployment = Deployment::from_yaml(FILE, "local.yaml").unwrap();
        let plan = Plan::new(deployment, &Selection::default()).unwrap();
        let renderer = Renderer::new(&plan.deployment, &plan.catalog);
        let mut lines = 0;
        for task in plan.ids().filter(|id| plan.phase_of(*id).run.service().is_some()) {
            let phase = plan.phase_of(task);
            let context = renderer.context(&phase.name, plan.subject(task));
            let run = &phase.run.service().unwrap().run;
            let line: Vec<String> = run.iter().map(|word| renderer.text(word, &context).unwrap()).collect();
            assert_eq!(line[0], "pccl");
            Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            lines += 1;
        }
        assert_eq!(lines, 2 + 4, "two masters and four workers");
        assert!(SocketAddr::from((Ipv4Addr::LOCALHOST, 7117)).port() == plan.deployment.vars["port"]);
    }
}
