//! `pccl average`: run on each of several machines, it leaves the same averaged model on all of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use pccl::{Call, Communicator, DataType, OpInfo, ReduceOp};
use safetensors::tensor::{SafeTensors, TensorView};
use safetensors::{Dtype, serialize};

use crate::error::CliError;
use crate::exit::{self, Exit};
use crate::output::{complain, print};
use crate::peer::{self, PeerArgs};
use crate::settings;
use crate::worker::load::refused;
use pccl_config::ByteSize;

/// Tags: the layout is compared by the first, each element type has one after it.
const LAYOUT_TAG: u64 = 0;
const GATHER_TAG: u64 = u64::MAX;
/// Between two looks for others.
const LOOK: Duration = Duration::from_millis(50);

/// Options of `pccl average`.
#[derive(Args, Clone, Debug)]
#[command(after_help = exit::help(&[
    ("on each of three machines, at about the same time",
     "pccl average --master 10.0.0.7:7117 --op avg model.safetensors -o averaged.safetensors"),
    ("the same, beginning as soon as all three are there, and never without one of them",
     "pccl average --master 10.0.0.7:7117 --peers 3 model.safetensors -o averaged.safetensors"),
]))]
pub(crate) struct AverageArgs {
    #[command(flatten)]
    peer: PeerArgs,

    /// Machines that take part: nothing begins before all are there [default: whoever comes, two at least]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    peers: Option<u32>,

    /// Without `--peers`: begin when nobody has come for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with = "peers")]
    wait: u32,

    /// How values are combined: avg, sum, prod, max or min
    #[arg(long, value_name = "OP", default_value = "avg")]
    op: ReduceOp,

    /// The model of this machine; the others' tensors must have the same names, types and shapes
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,

    /// Where the result goes; replaced as a whole, or not at all
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
}

/// A model in memory: the elements of each type side by side, so that one op combines all of them.
struct Model {
    /// Name, type, shape, and where the content is.
    tensors: Vec<(String, Dtype, Vec<usize>, Place)>,
    /// Elements that are combined, by the code of their type.
    parts: BTreeMap<u8, Vec<u8>>,
    /// Contents of types that cannot be combined, and must be the same everywhere.
    carried: Vec<u8>,
    metadata: Option<HashMap<String, String>>,
}

/// Where a tensor's content is.
struct Place {
    part: Option<u8>,
    start: usize,
    len: usize,
}

/// Runs on this machine.
pub(crate) fn run(args: &AverageArgs) -> Result<Exit, CliError> {
    let config = args.peer.config.load()?;
    let _log = settings::start_log("average", &config)?;
    // Read, and the output's place looked at, before anybody waits for us.
    let mut model = Model::read(&args.input)?;
    let output = place_of(&args.output)?;
    let security = settings::security(&config)?;
    let comm = Communicator::connect(&peer::options(&args.peer, &config, security.as_ref())?)?;
    let wanted = gather(&comm, args)?;
    compare_layouts(&comm, &model)?;
    let mut world = comm.membership().world_size;
    for (code, bytes) in &mut model.parts {
        let Some(dtype) = DataType::from_code(*code) else { continue };
        let call = Call::new(LAYOUT_TAG + 1 + u64::from(*code)).op(args.op).uncompressed();
        let OpInfo { world: took_part, .. } = comm.all_reduce_bytes_in_place(dtype, bytes, &call)?;
        world = world.min(took_part);
    }
    model.write(&output)?;
    comm.leave();
    let bytes = ByteSize(model.parts.values().map(|p| p.len() as u64).sum());
    print(&[format!(
        "{} tensors, {bytes}, {} of {world} machines -> {} ({:032x})",
        model.tensors.len(),
        args.op,
        args.output.display(),
        model.hash(),
    )]);
    if world < wanted {
        return Err(CliError::new(
            Exit::Failed,
            format!(
                "{} of {wanted} machines were lost on the way: the result is that of the others",
                wanted - world
            ),
        )
        .hint("the survivors all have this same result; run it again to have everybody's"));
    }
    Ok(Exit::Success)
}

/// Waits for the others; how many machines take part.
fn gather(comm: &Communicator, args: &AverageArgs) -> Result<u32, CliError> {
    if let Some(peers) = args.peers {
        let mut said = 0;
        loop {
            let here = comm.membership().world_size;
            if here >= peers {
                return Ok(peers);
            }
            if std::mem::replace(&mut said, here) != here {
                complain(format_args!(
                    "{here} of {peers} machines are here; waiting for {} more",
                    peers - here
                ));
            }
            comm.update_topology()?;
        }
    }
    let wait = Duration::from_secs(args.wait.into());
    let (mut world, mut since) = (0, Instant::now());
    loop {
        let now = comm.membership().world_size;
        if now != world {
            (world, since) = (now, Instant::now());
            let wait = args.wait;
            print(&[format!(
                "{world} here so far; it begins with two or more when nobody has come for {wait} s"
            )]);
        }
        // All begin at the same moment: when the first of them has waited for long enough.
        let mut over = [u8::from(since.elapsed() >= wait)];
        let took_part = comm.all_reduce_in_place(&mut over, &Call::new(GATHER_TAG).op(ReduceOp::Max))?.world;
        if took_part > 1 && over[0] == 1 {
            return Ok(took_part);
        }
        std::thread::sleep(LOOK);
        comm.update_topology()?;
    }
}

impl Model {
    fn read(path: &Path) -> Result<Self, CliError> {
        let bytes = fs::read(path)
            .map_err(|error| CliError::input(path, error).hint("name a file that this user may read"))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| refused(path, &bytes, &error))?;
        let metadata = SafeTensors::read_metadata(&bytes).ok().and_then(|(_, m)| m.metadata().clone());
        let mut model = Self { tensors: Vec::new(), parts: BTreeMap::new(), carried: Vec::new(), metadata };
        let mut tensors = file.tensors();
        tensors.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (name, view) in tensors {
            let part = combined(view.dtype()).map(DataType::code);
            let content = match part {
                Some(code) => model.parts.entry(code).or_default(),
                None => &mut model.carried,
            };
            let place = Place { part, start: content.len(), len: view.data().len() };
            content.extend_from_slice(view.data());
            model.tensors.push((name, view.dtype(), view.shape().to_vec(), place));
        }
        Ok(model)
    }

    fn content(&self, place: &Place) -> &[u8] {
        let all = place.part.map_or(&self.carried, |code| &self.parts[&code]);
        &all[place.start..place.start + place.len]
    }

    /// 128 bits of names, types, shapes, and of what is only carried along.
    fn layout(&self) -> u128 {
        let lines: Vec<String> = self
            .tensors
            .iter()
            .map(|(name, dtype, shape, _)| format!("{name:?} {dtype:?} {shape:?}"))
            .collect();
        let mut text = lines.join("\n").into_bytes();
        text.extend_from_slice(&pccl::hash_bytes(&self.carried).to_le_bytes());
        pccl::hash_bytes(&text)
    }

    fn hash(&self) -> u128 {
        let all: Vec<u8> = self.parts.values().flat_map(|p| pccl::hash_bytes(p).to_le_bytes()).collect();
        pccl::hash_bytes(&all)
    }

    /// Writes a whole new file beside the old one, and only then puts it in its place.
    fn write(&self, path: &Path) -> Result<(), CliError> {
        let failed = |why: &dyn std::fmt::Display| unwritable(Exit::System, path, why);
        let views = self.tensors.iter().map(|(name, dtype, shape, place)| {
            TensorView::new(*dtype, shape.clone(), self.content(place)).map(|view| (name.as_str(), view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|e| failed(&e))?;
        let bytes = serialize(views, self.metadata.clone()).map_err(|e| failed(&e))?;
        pccl::replace_file(path, &bytes).map_err(|error| failed(&error))
    }
}

/// Where the output goes: known to be writable before anybody waits for us.
fn place_of(output: &Path) -> Result<PathBuf, CliError> {
    pccl::replaceable(output).map_err(|error| {
        let exit = if error.kind() == ErrorKind::InvalidInput { Exit::Usage } else { Exit::System };
        unwritable(exit, output, &error)
    })
}

fn unwritable(exit: Exit, path: &Path, why: &dyn std::fmt::Display) -> CliError {
    CliError::new(exit, format!("failed to write {}: {why}", path.display())).hint(
        "what was there is as it was; make room, or name a file in a folder that this user may write to",
    )
}

/// Everybody must have the same tensors; who has others is named.
fn compare_layouts(comm: &Communicator, model: &Model) -> Result<(), CliError> {
    let layout = model.layout();
    let mine = [layout as u64, (layout >> 64) as u64];
    let mut all = Vec::new();
    comm.all_gather(&mine, &mut all, &Call::new(LAYOUT_TAG))?;
    let members = comm.membership().members;
    let odd: Vec<String> = all
        .chunks_exact(2)
        .zip(&members)
        .filter(|(theirs, _)| **theirs != mine)
        .map(|(_, member)| format!("peer {} at {}", member.session, member.addr))
        .collect();
    if odd.is_empty() {
        return Ok(());
    }
    let what = format!(
        "failed to average: {} {} tensors of other names, types or shapes than this machine",
        odd.join(", "),
        if odd.len() == 1 { "has" } else { "have" },
    );
    Err(CliError::new(Exit::Input, what)
        .hint("give every machine a file of the same model; nothing was written"))
}

fn combined(dtype: Dtype) -> Option<DataType> {
    match dtype {
        Dtype::U8 => Some(DataType::U8),
        Dtype::I8 => Some(DataType::I8),
        Dtype::I16 => Some(DataType::I16),
        Dtype::U16 => Some(DataType::U16),
        Dtype::U32 => Some(DataType::U32),
        Dtype::I32 => Some(DataType::I32),
        Dtype::U64 => Some(DataType::U64),
        Dtype::I64 => Some(DataType::I64),
        Dtype::F16 => Some(DataType::F16),
        Dtype::BF16 => Some(DataType::BF16),
        Dtype::F32 => Some(DataType::F32),
        Dtype::F64 => Some(DataType::F64),
        _ => None,
    }
}
