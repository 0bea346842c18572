//! The systems that are compared, and how one measurement of each is run.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use super::{
    anchors::{self, Missing, Places},
    loopback,
    process::{Crew, Deadline, Stop},
    row::{self, Row},
};

/// What a timed loop should take; start-up and warm-up come on top.
const LOOP_SECONDS: &str = "0.5";
/// An anchor program that we somehow failed to end ends itself this much after its time.
const ALARM_SLACK_S: u64 = 5;

/// One column of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum System {
    /// `pccl bench`, out of place.
    Ours,
    /// `pccl bench --in-place`.
    OursInPlace,
    /// Gloo's ring over TCP.
    GlooRing,
    /// Gloo's bcube over TCP.
    GlooBcube,
    /// Open MPI over TCP.
    MpiTcp,
    /// Open MPI over shared memory, for information.
    MpiShm,
    /// The library given by `--libpccl`.
    Libpccl,
    /// What loopback TCP itself can carry.
    Bound,
}

impl System {
    /// All columns, in the table's order.
    pub(super) const ALL: [Self; 8] = [
        Self::Ours,
        Self::OursInPlace,
        Self::GlooRing,
        Self::GlooBcube,
        Self::MpiTcp,
        Self::MpiShm,
        Self::Libpccl,
        Self::Bound,
    ];

    /// The column's heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursInPlace => "in place",
            Self::GlooRing => "Gloo ring",
            Self::GlooBcube => "Gloo bcube",
            Self::MpiTcp => "MPI TCP",
            Self::MpiShm => "MPI shm",
            Self::Libpccl => "libpccl",
            Self::Bound => "TCP bound",
        }
    }

    /// Whether it is our own program.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursInPlace)
    }
}

/// A system that will not be measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Skipped {
    /// Which.
    pub(super) system: System,
    /// Why.
    pub(super) why: String,
    /// What would change that.
    pub(super) fix: String,
}

/// The programs that do the measuring, built.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs {
    ours: Option<PathBuf>,
    gloo: Option<PathBuf>,
    mpi: Option<PathBuf>,
    peer: Option<PathBuf>,
    libpccl: Option<PathBuf>,
    timeout: Duration,
}

/// Builds what `wanted` needs. Returns the programs, the systems that can be measured, and the others.
pub(super) fn prepare(
    wanted: &[System],
    libpccl: Option<&Path>,
    timeout: Duration,
) -> Result<(Programs, Vec<System>, Vec<Skipped>)> {
    let places = Places::find()?;
    let mut programs = Programs { timeout, ..Programs::default() };
    if wanted.iter().any(|system| system.is_ours()) {
        programs.ours = Some(places.build_ours()?);
    }
    if let Some(path) = libpccl {
        let absolute =
            path.canonicalize().with_context(|| format!("--libpccl: there is no {}", path.display()))?;
        programs.libpccl = Some(absolute);
    }
    let (mut ready, mut skipped) = (Vec::new(), Vec::new());
    for &system in wanted {
        match programs.build_for(system, &places)? {
            Ok(()) => ready.push(system),
            Err(Missing { why, fix }) => skipped.push(Skipped { system, why, fix }),
        }
    }
    Ok((programs, ready, skipped))
}

impl Programs {
    fn build_for(&mut self, system: System, places: &Places) -> Result<Result<(), Missing>> {
        let (slot, anchor) = match system {
            System::Ours | System::OursInPlace | System::Bound => return Ok(Ok(())),
            System::Libpccl if self.libpccl.is_none() => {
                let why = "no library was named".to_owned();
                return Ok(Err(Missing { why, fix: "name one: --libpccl PATH/libpccl.so".to_owned() }));
            }
            System::GlooRing | System::GlooBcube => (&mut self.gloo, anchors::GLOO),
            System::MpiTcp | System::MpiShm => (&mut self.mpi, anchors::MPI),
            System::Libpccl => (&mut self.peer, anchors::LIBPCCL),
        };
        if slot.is_none() {
            match anchor.build(places)? {
                Ok(program) => *slot = Some(program),
                Err(missing) => return Ok(Err(missing)),
            }
        }
        Ok(Ok(()))
    }

    /// One measurement of `system`. No process of it is left when this returns.
    pub(super) fn measure(&self, system: System, peers: u32, bytes: u64, stop: &Stop) -> Result<Row> {
        let directory =
            tempfile::Builder::new().prefix("pccl-bench-").tempdir().context("no temporary directory")?;
        let cell = Cell {
            peers,
            bytes,
            timeout_s: self.timeout.as_secs() + ALARM_SLACK_S,
            deadline: Deadline::after(self.timeout, stop),
            directory: directory.path(),
        };
        match system {
            System::Ours | System::OursInPlace => cell.ours(built(self.ours.as_ref())?, system),
            System::GlooRing => cell.gloo(built(self.gloo.as_ref())?, "ring"),
            System::GlooBcube => cell.gloo(built(self.gloo.as_ref())?, "bcube"),
            System::MpiTcp => {
                cell.mpi(built(self.mpi.as_ref())?, &["tcp,self", "--mca", "btl_tcp_if_include", "lo"])
            }
            System::MpiShm => cell.mpi(built(self.mpi.as_ref())?, &["vader,self"]),
            System::Libpccl => cell.libpccl(built(self.peer.as_ref())?, built(self.libpccl.as_ref())?),
            System::Bound => loopback::measure(peers, bytes, &cell.deadline),
        }
    }
}

fn built(program: Option<&PathBuf>) -> Result<&Path> {
    program.map(PathBuf::as_path).context("this system was not prepared")
}

/// One measurement.
struct Cell<'a> {
    peers: u32,
    bytes: u64,
    timeout_s: u64,
    deadline: Deadline,
    directory: &'a Path,
}

impl Cell<'_> {
    /// A program that keeps its temporary files where they will be removed.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env("TMPDIR", self.directory).current_dir(self.directory);
        command
    }

    /// The options of every anchor program that measures.
    fn options(&self) -> [String; 6] {
        let Self { bytes, timeout_s, .. } = self;
        ["--bytes", &bytes.to_string(), "--seconds", LOOP_SECONDS, "--timeout-s", &timeout_s.to_string()]
            .map(str::to_owned)
    }

    /// Anchor programs of which each peer is one process.
    fn peer(&self, program: &Path, rank: u32) -> Command {
        let mut command = self.command(program);
        command.args(self.options());
        command.args(["--rank", &rank.to_string(), "--peers", &self.peers.to_string()]);
        command
    }

    fn finish(&self, mut crew: Crew, measuring: &[usize], rows: usize) -> Result<Row> {
        let mut output = String::new();
        for &number in measuring {
            output += &crew.wait_for_end(number, &self.deadline)?;
        }
        row::fold(&row::parse(&output)?, self.peers, self.bytes, rows)
    }

    fn ours(&self, program: &Path, system: System) -> Result<Row> {
        let mut command = self.command(program);
        command.args(["bench", "--peers", &self.peers.to_string(), "--bytes", &self.bytes.to_string()]);
        command.args(["--op", "sum", "--dtype", "f32", "--json"]);
        if system == System::OursInPlace {
            command.arg("--in-place");
        }
        let mut crew = Crew::new();
        let number = crew.spawn("`pccl bench`", &mut command)?;
        self.finish(crew, &[number], 1)
    }

    fn gloo(&self, program: &Path, algorithm: &str) -> Result<Row> {
        let store = self.directory.join("store");
        std::fs::create_dir(&store).with_context(|| format!("cannot create {}", store.display()))?;
        let mut crew = Crew::new();
        let mut numbers = Vec::new();
        for rank in 0..self.peers {
            let mut command = self.peer(program, rank);
            command.args(["--algorithm", algorithm]).arg("--store").arg(&store);
            numbers.push(crew.spawn(format!("Gloo's rank {rank}"), &mut command)?);
        }
        self.finish(crew, &numbers, numbers.len())
    }

    /// All ranks yield while they wait: they share the cores with each other.
    fn mpi(&self, program: &Path, transport: &[&str]) -> Result<Row> {
        let mut command = self.command("mpirun");
        command.args([
            "-np",
            &self.peers.to_string(),
            "--oversubscribe",
            "--allow-run-as-root",
            "--bind-to",
            "none",
        ]);
        command
            .args(["--mca", "mpi_yield_when_idle", "1", "--mca", "pml", "ob1", "--mca", "btl"])
            .args(transport);
        command.arg(program).args(self.options());
        let mut crew = Crew::new();
        let number = crew.spawn("mpirun", &mut command)?;
        self.finish(crew, &[number], self.peers as usize)
    }

    /// The peers start one after the other: each is a member before the next one asks.
    fn libpccl(&self, program: &Path, library: &Path) -> Result<Row> {
        let port = free_port()?.to_string();
        let mut crew = Crew::new();
        let mut command = self.command(program);
        command.args(["--role", "master", "--port", &port, "--timeout-s", &self.timeout_s.to_string()]);
        command.arg("--library").arg(library);
        let (master, input) = crew.spawn_with_input("the PCCL master", &mut command)?;
        crew.wait_for_line(master, "ready", &self.deadline)?;
        let mut numbers = Vec::new();
        for rank in 0..self.peers {
            let mut command = self.peer(program, rank);
            command.args(["--role", "peer", "--port", &port]).arg("--library").arg(library);
            let number = crew.spawn(format!("PCCL's rank {rank}"), &mut command)?;
            crew.wait_for_line(number, "joined", &self.deadline)?;
            numbers.push(number);
        }
        let measured = self.finish(crew, &numbers, numbers.len());
        drop(input);
        measured
    }
}

/// A port that nobody uses now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free TCP port on loopback")?;
    Ok(listener.local_addr()?.port())
}

/// Refuses sizes that are no number of f32, and worlds of one.
pub(super) fn check_cell(peers: u32, bytes: u64) -> Result<()> {
    if peers < 2 {
        bail!("--peers {peers}: an all-reduce needs at least 2 peers");
    }
    if bytes == 0 || !bytes.is_multiple_of(4) {
        bail!("--bytes {bytes}: expected a positive multiple of 4, the size of an f32");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_command_line_and_in_json_are_the_same() {
        for system in System::ALL {
            let json = serde_json::to_value(system).unwrap();
            let value = system.to_possible_value().unwrap();
            assert_eq!(json.as_str(), Some(value.get_name()));
        }
    }

    #[test]
    fn cells_that_make_no_sense_are_refused() {
        assert!(check_cell(2, 4096).is_ok());
        assert!(check_cell(1, 4096).unwrap_err().to_string().contains("at least 2"));
        for bytes in [0, 4097] {
            assert!(check_cell(2, bytes).unwrap_err().to_string().contains("multiple of 4"));
        }
    }

    #[test]
    fn without_a_library_libpccl_is_skipped_and_says_so() {
        let (_, ready, skipped) =
            prepare(&[System::Libpccl, System::Bound], None, Duration::from_secs(1)).unwrap();
        assert_eq!(ready, [System::Bound]);
        assert_eq!(skipped[0].system, System::Libpccl);
        assert!(skipped[0].fix.contains("--libpccl"));
    }
}
