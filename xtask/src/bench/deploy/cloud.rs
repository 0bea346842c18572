//! The same resources of the same cloud by `xargs -P`, GNU parallel, Terraform and `pccl deploy`: how long, and how
//! often the cloud refused.
//!
//! The cloud is `pccl-cloud`: Azure Resource Manager's limits over HTTP, some times faster than life. Each resource is
//! created by the same program (`pccl-cloud-create`), which does what a provider does; only who starts it differs.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::report::Part;
use super::timing::{Guarded, measure, median};
use super::{Bench, DeployArgs, say};

const REGIONS: usize = 24;
/// What the cloud allows: calls at once, and calls that come back in a second of the cloud.
const WRITES: (f64, f64) = (200.0, 10.0);
const READS: (f64, f64) = (250.0, 25.0);

/// Who starts the work.
#[derive(Clone, Copy, Debug)]
enum Tool {
    Xargs(u32),
    Parallel(u32),
    Terraform(u32),
    Pccl,
}

impl Tool {
    fn title(self) -> String {
        match self {
            Self::Xargs(width) => format!("xargs -P {width}"),
            Self::Parallel(width) => format!("parallel -j {width}"),
            Self::Terraform(width) => format!("terraform -parallelism={width}"),
            Self::Pccl => "pccl deploy".to_owned(),
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Xargs(_) => "xargs",
            Self::Parallel(_) => "parallel",
            Self::Terraform(_) => "terraform",
            Self::Pccl => "pccl",
        }
    }
}

/// What is to be created, and with what.
struct Work<'a> {
    bench: &'a Bench<'a>,
    speed: f64,
    /// `region name`
    resources: Vec<(String, String)>,
    create: PathBuf,
}

/// All tools at all widths, one after the other, in each round.
pub(super) fn compare(bench: &Bench<'_>, args: &DeployArgs) -> Result<Part> {
    let resources: Vec<(String, String)> = (0..REGIONS * args.resources as usize)
        .map(|number| (format!("region{:02}", number % REGIONS + 1), format!("r{number:04}")))
        .collect();
    let work = Work { bench, speed: args.speed, resources, create: bench.folder.join("pccl-cloud-create") };
    let mut part = Part::new(format!(
        "{} resources in {REGIONS} regions of the simulated Azure, {} x as fast as life",
        work.resources.len(),
        args.speed
    ));
    let widths = args.widths.iter();
    let of = |tool: fn(u32) -> Tool| widths.clone().map(move |width| tool(*width));
    let tools = of(Tool::Xargs).chain(of(Tool::Parallel)).chain(of(Tool::Terraform)).chain([Tool::Pccl]);
    let (here, missing): (Vec<Tool>, Vec<Tool>) = tools
        .partition(|tool| matches!(tool, Tool::Pccl) || crate::bench::anchors::is_on_path(tool.program()));
    let mut figures = vec![(Vec::new(), Vec::new(), Vec::new()); here.len()];
    for round in 1..=bench.rounds {
        for (tool, (seconds, refused, bound)) in here.iter().zip(&mut figures) {
            say(&format!("cloud, round {round} of {}: {}", bench.rounds, tool.title()));
            let (time, calls) = work.run(*tool)?;
            seconds.push(time);
            refused.push(calls.refused as f64);
            bound.push(calls.bound);
        }
    }
    let figures: Vec<(f64, f64, f64)> =
        figures.into_iter().map(|(s, r, b)| (median(s), median(r), median(b))).collect();
    for (tool, (seconds, refused, bound)) in here.iter().zip(&figures) {
        let more =
            format!("{refused:>5.0} calls refused; those that were served take {bound:>5.2} s at least");
        part.row(&tool.title(), *seconds, &more);
    }
    for tool in missing {
        part.note(format!("{} is not measured: install `{}`", tool.title(), tool.program()));
    }
    let (ours, others) = figures.split_last().context("nothing was measured")?;
    let best = |of: fn(&(f64, f64, f64)) -> f64| others.iter().map(of).fold(f64::INFINITY, f64::min);
    part.bar("time of pccl deploy / the fastest other", ours.0 / best(|f| f.0), 1.0, "x");
    part.bar("calls refused to pccl deploy", ours.1, best(|f| f.1), "calls (the fewest of the others)");
    Ok(part)
}

impl Work<'_> {
    /// Seconds, and what became of the calls, in a cloud of its own.
    fn run(&self, tool: Tool) -> Result<(f64, Calls)> {
        let cloud = Cloud::start(&self.bench.folder, self.speed)?;
        let folder = tempfile::tempdir()?;
        let mut command = match tool {
            Tool::Xargs(width) => self.xargs(folder.path(), &cloud.url, width)?,
            Tool::Parallel(width) => self.parallel(folder.path(), &cloud.url, width)?,
            Tool::Terraform(width) => self.terraform(folder.path(), &cloud.url, width)?,
            Tool::Pccl => self.pccl(folder.path(), &cloud.url)?,
        };
        command.current_dir(folder.path());
        let measured = measure(&tool.title(), &mut command, self.bench.limit, self.bench.stop)?;
        let calls = cloud.calls(self.speed)?;
        ensure!(
            calls.created == self.resources.len() as u64,
            "{} created {} resources",
            tool.title(),
            calls.created
        );
        Ok((measured.seconds, calls))
    }

    fn xargs(&self, folder: &Path, url: &str, width: u32) -> Result<Command> {
        let mut command = self.list(folder, |region, name| format!("{region} {name}\n"))?;
        command.args([&format!("xargs -P {width} -n 2 {} {url} < list", self.create.display())]);
        Ok(command)
    }

    fn parallel(&self, folder: &Path, url: &str, width: u32) -> Result<Command> {
        let mut command = self.list(folder, |region, name| format!("{region} {name}\n"))?;
        let create = self.create.display();
        command.args([&format!(
            "parallel --will-cite -j {width} --colsep ' ' {create} {url} {{1}} {{2}} < list"
        )]);
        Ok(command)
    }

    fn list(&self, folder: &Path, line: impl Fn(&str, &str) -> String) -> Result<Command> {
        let lines: String = self.resources.iter().map(|(region, name)| line(region, name)).collect();
        fs::write(folder.join("list"), lines)?;
        let mut command = Command::new("sh");
        command.arg("-c");
        Ok(command)
    }

    fn terraform(&self, folder: &Path, url: &str, width: u32) -> Result<Command> {
        let entries: Vec<String> =
            self.resources.iter().map(|(region, name)| format!("\"{name}\" = \"{region}\"")).collect();
        let text = format!(
            "resource \"terraform_data\" \"resource\" {{\n  for_each = {{\n{}\n  }}\n  provisioner \"local-exec\" {{\n    \
             command = \"{} {url} ${{each.value}} ${{each.key}}\"\n  }}\n}}\n",
            entries.join("\n"),
            self.create.display()
        );
        fs::write(folder.join("main.tf"), text)?;
        let mut init = Command::new("terraform");
        init.args(["init", "-input=false", "-no-color"]).current_dir(folder);
        measure("terraform init", &mut init, self.bench.limit, self.bench.stop)?;
        let mut command = Command::new("terraform");
        command.args(["apply", "-auto-approve", "-input=false", "-no-color"]);
        command.arg(format!("-parallelism={width}"));
        Ok(command)
    }

    /// The file says what the cloud allows, that nobody else calls it, and what a resource asks for; nothing else differs.
    fn pccl(&self, folder: &Path, url: &str) -> Result<Command> {
        let regions: Vec<String> = (1..=REGIONS).map(|number| format!("region{number:02}")).collect();
        let entries: Vec<String> = self
            .resources
            .iter()
            .map(|(region, name)| format!("    - {{ name: {name}, target: {region} }}\n"))
            .collect();
        let speed = self.speed;
        let text = format!(
            "name: cloud\ntargets: [{}]\nlists:\n  resources:\n{}limits:\n  - scope: arm\n    share: 1\n    buckets:\n      \
             write: {{ burst: {}, refill: {}/s }}\n      read: {{ burst: {}, refill: {}/s }}\nphases:\n  \
             - name: resources\n    for_each: resources\n    run: {{ command: {{ run: ['{}', '{url}', \
             '{{{{ item.target }}}}', '{{{{ item.name }}}}'] }} }}\n    takes: {{ mean: {:.0}ms, cv: 0.4 }}\n    calls:\n      \
             - {{ scope: arm, kind: write, count: 1 }}\n      - {{ scope: arm, kind: read, count: 2 }}\n      \
             - {{ scope: arm, kind: read, count: 1, every: {:.0}ms }}\n",
            regions.join(", "),
            entries.concat(),
            WRITES.0,
            WRITES.1 * speed,
            READS.0,
            READS.1 * speed,
            self.create.display(),
            25_000.0 / speed,
            (10_000.0 / speed).max(1000.0),
        );
        fs::write(folder.join("deploy.yaml"), text)?;
        let mut command = Command::new(&self.bench.pccl);
        command.args(["deploy", "run", "--quiet"]);
        Ok(command)
    }
}

/// A cloud that nobody else uses.
struct Cloud {
    _server: Guarded,
    url: String,
}

impl Cloud {
    fn start(folder: &Path, speed: f64) -> Result<Self> {
        let mut command = Command::new(folder.join("pccl-cloud"));
        command.args(["--speed", &speed.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = Guarded(command.process_group(0).spawn().context("cannot start pccl-cloud")?);
        let mut out = BufReader::new(server.0.stdout.take().context("pccl-cloud has no output")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ").context("pccl-cloud does not listen")?.to_owned();
        thread::spawn(move || out.read_to_end(&mut Vec::new()));
        Ok(Self { _server: server, url })
    }

    fn calls(&self, speed: f64) -> Result<Calls> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", &format!("{}/limits", self.url)]);
        let counts: Value = serde_json::from_str(&crate::stage::read(curl)?)?;
        Calls::of(&counts, speed)
    }
}

/// What became of the calls to a cloud.
#[derive(Clone, Copy, Debug)]
struct Calls {
    /// Writes that were served.
    created: u64,
    /// Calls of all kinds.
    refused: u64,
    /// Seconds in which the calls that were served can be served at best, if nobody ever waits for anything else.
    bound: f64,
}

impl Calls {
    /// From what the cloud tells, with its seconds in one of ours.
    fn of(counts: &Value, speed: f64) -> Result<Self> {
        let counts = counts.as_array().context("pccl-cloud counts nothing")?;
        let sum = |name: &str, kinds: &[&str]| -> u64 {
            let of_kind = counts.iter().filter(|one| kinds.iter().any(|kind| one["kind"] == *kind));
            of_kind.filter_map(|one| one[name].as_u64()).sum()
        };
        let bound = |kind, (burst, refill): (f64, f64)| {
            (sum("served", &[kind]) as f64 - burst).max(0.0) / (refill * speed)
        };
        Ok(Self {
            created: sum("served", &["write"]),
            refused: sum("refused", &["read", "write", "delete"]),
            bound: bound("read", READS).max(bound("write", WRITES)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_kind_of_call_bounds_the_time() {
        let counts = serde_json::json!([
            { "kind": "read", "served": 750, "refused": 2 },
            { "kind": "write", "served": 240, "refused": 1 },
            { "kind": "delete", "served": 0, "refused": 0 },
        ]);
        let calls = Calls::of(&counts, 10.0).unwrap();
        assert_eq!((calls.created, calls.refused), (240, 3));
        assert!((calls.bound - 2.0).abs() < 1e-9, "500 reads at 250 a second: {}", calls.bound);
        let slower = Calls::of(&counts, 1.0).unwrap();
        assert!((slower.bound - 20.0).abs() < 1e-9, "{}", slower.bound);
        assert!(Calls::of(&Value::Null, 1.0).is_err());
    }
}
