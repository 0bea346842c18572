//! What a run is made of, as a function of its seed: settings, network, program of the peers.

use pccl_proto::ids::{PeerGroup, Seeded, Tag};
use pccl_proto::message::VoteKind;
use pccl_proto::rules::Rule;
use pccl_proto::settings::{Recovery, RunSettings};
use pccl_proto::vocabulary::{Algorithm, Collective, DataType, Fingerprint, Quantization, ReduceOp};

use crate::state::Shape;
use crate::sync::SyncPlan;

/// Delay and capacity of the network.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    /// Least one-way delay, microseconds.
    pub(crate) delay_us: u64,
    /// Up to so much more.
    pub(crate) jitter_us: u64,
    /// Bytes that a connection takes before its reader does, each way.
    pub(crate) capacity: usize,
    /// Most bytes of one read or write.
    pub(crate) fragment: usize,
    /// Datagrams of a thousand that are lost.
    pub(crate) lost: u64,
    /// Datagrams of a thousand that arrive twice.
    pub(crate) doubled: u64,
    /// Connections that the way between two peers' hosts carries at once.
    pub(crate) most: usize,
}

/// Everything that the seed decides before the run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) settings: RunSettings,
    pub(crate) links: Links,
    /// Peers at the beginning; peer `slot` is in group `slot % groups`.
    pub(crate) peers: usize,
    pub(crate) groups: u32,
    /// Peers that come later, at most.
    pub(crate) spare: usize,
    pub(crate) eager_bytes: u64,
    pub(crate) piece_bytes: u64,
    /// Tags that peers count attempts of before they ask for another epoch.
    pub(crate) most_tags: usize,
    /// Longest tensor, elements.
    pub(crate) longest: u64,
    /// Longest pause of a program between two calls, microseconds.
    pub(crate) think_us: u64,
    /// Store requests take up to so long, microseconds.
    pub(crate) store_us: u64,
    /// Whether callers differ now and then.
    pub(crate) mismatches: bool,
    /// Faults happen for so long, microseconds; zero: never.
    pub(crate) faults_us: u64,
    /// About one fault in so many microseconds.
    pub(crate) fault_every_us: u64,
    /// Whether large packets are lost now and then where small ones are not.
    pub(crate) holes: bool,
    /// Whether further masters are started while one lives.
    pub(crate) rivals: bool,
    /// The masters' lease, milliseconds; zero: none, and every start of a master takes a term.
    pub(crate) lease_ms: u32,
    /// Whether the store knows when the holder of the lease has ended.
    pub(crate) locks: bool,
    /// Faults of a hundred that leave the peers without a master, about as long as they wait for one.
    pub(crate) absences: u64,
    /// A story: nothing happens that its script does not say.
    pub(crate) told: bool,
    /// The rule that is not in force.
    pub(crate) broken: Option<Rule>,
    /// Only all-reduce, only one op a round.
    pub(crate) simple: bool,
    /// Rounds of a hundred in which the programs synchronize.
    pub(crate) syncs: u64,
    /// All-reduces of a hundred that are quantized, of those that can be.
    pub(crate) quantized: u64,
    /// Of those that are quantized, so many of a hundred are compressed.
    pub(crate) compressed: u64,
    /// The tensors that they share.
    pub(crate) shape: Shape,
    /// Of a thousand writes, so many are spoiled on their way.
    pub(crate) spoiled_per_mille: u64,
}

/// The small worlds in which every process ends at every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Ops recover inside their call.
    Inside,
    /// Their callers do it.
    Caller,
    /// They recover inside their call, and are quantized where they can be.
    Quantized,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Inside, Self::Caller, Self::Quantized];

    /// By its name: `inside`, `caller`, `quantized`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.to_string() == name)
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inside => "inside",
            Self::Caller => "caller",
            Self::Quantized => "quantized",
        })
    }
}

/// An op of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpPlan {
    pub(crate) tag: Tag,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) in_place: bool,
    /// Quantized as a run with compression does: what that takes away comes with the next op of the tag.
    pub(crate) compressed: bool,
    /// The slot whose caller calls something else.
    pub(crate) stubborn: Option<usize>,
}

/// What all peers of a group do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Round {
    Vote(VoteKind),
    Sync(SyncPlan),
    Ops(Vec<OpPlan>),
}

fn pick<T: Copy>(random: &mut Seeded, all: &[T]) -> T {
    all[random.below(all.len() as u64) as usize]
}

fn chance(random: &mut Seeded, of_a_hundred: u64) -> bool {
    random.below(100) < of_a_hundred
}

impl Plan {
    /// A random run.
    pub(crate) fn random(seed: u64) -> Self {
        let r = &mut Seeded::new(seed ^ 0x05ee_d0f5_eed5);
        let delay_us = pick(r, &[50, 50, 1_000, 20_000, 60_000]);
        let calm = chance(r, 5);
        let groups = if chance(r, 20) { 2 } else { 1 };
        let store_us = pick(r, &[100, 3_000, 50_000, 400_000]);
        let lease_ms = if store_us > 100_000 { 3_000 } else { pick(r, &[400, 600, 1_500]) };
        let mut settings = Self::settings(r);
        // By the seed alone, as `quantized` below.
        let more = if seed % 23 == 7 { 4 + (seed / 23 % 5) as usize } else { 0 };
        let few = seed % 7 == 5;
        if few {
            settings.connections_per_link = 3;
        }
        Self {
            seed,
            settings,
            links: Links {
                delay_us,
                jitter_us: delay_us * pick(r, &[0, 1, 4]) / 2,
                // Narrow and long at once would take days.
                capacity: pick(r, &[64, 700, 5_000, 1 << 17]).max(delay_us as usize / 4),
                fragment: pick(r, &[1 << 17, 1 << 17, 1 << 12, 100, 23]),
                lost: pick(r, &[0, 0, 20, 200]),
                doubled: pick(r, &[0, 50]),
                most: if few { 1 + (seed / 7 % 2) as usize } else { usize::MAX },
            },
            peers: (2 + r.below(4)) as usize * groups + more,
            groups: groups as u32,
            spare: r.below(3) as usize,
            eager_bytes: pick(r, &[64 << 10, 200, 64, 0]),
            piece_bytes: pick(r, &[256 << 10, 256, 64]),
            most_tags: if calm || chance(r, 80) { 1 << 18 } else { 3 },
            longest: pick(r, &[8, 60, 400]),
            think_us: pick(r, &[100, 10_000, 60_000]),
            store_us,
            lease_ms: if chance(r, 50) { lease_ms } else { 0 },
            locks: chance(r, 50),
            mismatches: chance(r, 15),
            faults_us: if calm { 0 } else { 1_000_000 + r.below(6_000_000) },
            fault_every_us: pick(r, &[100_000, 400_000, 1_000_000, 2_000_000]),
            // By the seed alone.
            holes: seed % 9 == 3,
            rivals: chance(r, 40),
            absences: pick(r, &[0, 0, 2]),
            told: false,
            broken: None,
            simple: false,
            syncs: pick(r, &[0, 10, 10, 40]),
            // By the seed alone: what the others do stays as it was when they found something.
            quantized: if seed % 5 == 2 { 40 } else { 0 },
            compressed: if seed % 10 == 2 { 80 } else { 0 },
            shape: Self::shape(r),
            spoiled_per_mille: 0,
        }
    }

    fn shape(r: &mut Seeded) -> Shape {
        let longest = pick(r, &[8, 100, 600]);
        let tensors = (0..=r.below(3)).map(|_| r.below(longest + 1) as usize).collect();
        Shape { block_bytes: pick(r, &[16, 64]), tensors }
    }

    /// A short run in which much happens: for the search of what goes wrong without a rule.
    pub(crate) fn troubled(seed: u64) -> Self {
        let r = &mut Seeded::new(seed ^ 0x7e5ed);
        let delay_us = pick(r, &[1_000, 20_000, 60_000]);
        let base = Self::random(seed);
        Self {
            settings: RunSettings {
                master_timeout_ms: pick(r, &[1_000, 3_000]),
                max_recovery_attempts: 100,
                ..base.settings
            },
            links: Links {
                delay_us,
                jitter_us: 2 * delay_us,
                capacity: 1 << 17,
                fragment: 1 << 17,
                ..base.links
            },
            peers: 3 + r.below(2) as usize,
            groups: 1,
            think_us: 10_000,
            mismatches: false,
            faults_us: 4_000_000,
            fault_every_us: 60_000,
            rivals: true,
            absences: pick(r, &[0, 0, 2]),
            ..base
        }
    }

    /// A short run whose masters are away most of the time, for as long as the peers wait for one.
    pub(crate) fn orphaned(seed: u64) -> Self {
        let r = &mut Seeded::new(seed ^ 0x0af4);
        let base = Self::troubled(seed);
        let settings = RunSettings { master_timeout_ms: 700, ..base.settings };
        Self { settings, absences: pick(r, &[10, 40]), fault_every_us: pick(r, &[60_000, 200_000]), ..base }
    }

    fn settings(r: &mut Seeded) -> RunSettings {
        RunSettings {
            master_timeout_ms: pick(r, &[2_000, 5_000, 15_000]),
            enable_buffer_backup: !chance(r, 15),
            max_recovery_attempts: pick(r, &[0, 1, 3, 100]),
            recovery: pick(r, &[Recovery::InsideCall, Recovery::InsideCall, Recovery::ByCaller]),
            connections_per_link: pick(r, &[0, 1, 1, 2, 3]),
            op_timeout_ms: pick(r, &[0, 0, 0, 10_000]),
            ..RunSettings::default()
        }
    }

    /// The small world of `peers` peers whose processes end.
    pub(crate) fn ending(peers: usize, ending: Ending) -> Self {
        match ending {
            Ending::Inside => Self::small(peers, Recovery::InsideCall),
            Ending::Caller => Self::small(peers, Recovery::ByCaller),
            Ending::Quantized => {
                Self { quantized: 100, compressed: 50, ..Self::small(peers, Recovery::InsideCall) }
            }
        }
    }

    /// A small world without chance: `peers` peers that all-reduce.
    pub(crate) fn small(peers: usize, recovery: Recovery) -> Self {
        Self {
            settings: RunSettings { recovery, master_timeout_ms: 5_000, ..RunSettings::default() },
            links: Links {
                delay_us: 200,
                jitter_us: 0,
                capacity: 1 << 17,
                fragment: 1 << 17,
                lost: 0,
                doubled: 0,
                most: usize::MAX,
            },
            peers,
            groups: 1,
            spare: 0,
            eager_bytes: 64 << 10,
            piece_bytes: 256 << 10,
            most_tags: 1 << 18,
            longest: 40,
            think_us: 30_000,
            store_us: 500,
            mismatches: false,
            lease_ms: 0,
            faults_us: 0,
            fault_every_us: 0,
            rivals: false,
            absences: 0,
            simple: true,
            syncs: 0,
            quantized: 0,
            compressed: 0,
            spoiled_per_mille: 0,
            ..Self::random(1)
        }
    }

    /// The group of the peer in a slot.
    pub(crate) fn group(&self, slot: usize) -> PeerGroup {
        PeerGroup(slot as u32 % self.groups)
    }

    /// What the peers of a group do in round `number`; `calls`: no votes.
    pub(crate) fn round(&self, group: PeerGroup, number: u64, calls: bool) -> Round {
        let name = (self.seed << 20) ^ (u64::from(group.0) << 60) ^ number;
        let r = &mut Seeded::new(name.wrapping_mul(0x9e37_79b9));
        let dice = r.below(100);
        // Newcomers wait for a vote: the program has one now and then, whatever the dice say.
        if !calls && (dice < 12 || (number % 10 == 9 && !self.simple)) {
            return Round::Vote(VoteKind::UpdateTopology);
        }
        if !calls && dice < 16 && !self.simple {
            return Round::Vote(VoteKind::PeersPending);
        }
        if !calls && dice >= 16 && dice < 16 + self.syncs {
            return Round::Sync(SyncPlan::random(r));
        }
        let count = if self.simple { 1 } else { 1 + r.below(4) };
        let tags = if self.simple { 1 } else { 6 };
        let first = r.below(tags);
        Round::Ops((0..count).map(|i| self.op(r, Tag((first + i) % tags))).collect())
    }

    fn op(&self, r: &mut Seeded, tag: Tag) -> OpPlan {
        let collective =
            if self.simple || chance(r, 60) { Collective::AllReduce } else { pick(r, Collective::ALL) };
        let dtype = pick(
            r,
            &[DataType::I32, DataType::U8, DataType::F32, DataType::F32, DataType::BF16, DataType::F64],
        );
        let algorithms = [
            None,
            Some(Algorithm::Direct),
            Some(Algorithm::Ring),
            Some(Algorithm::Doubling),
            Some(Algorithm::Star),
        ];
        let count = match r.below(10) {
            0 => r.below(4),
            _ => 1 + r.below(self.longest),
        };
        let fingerprint = Fingerprint {
            collective,
            dtype,
            op: pick(r, ReduceOp::ALL),
            count: if collective == Collective::Barrier { 0 } else { count },
            root: 0,
            algorithm: pick(r, &algorithms),
            quantization: None,
        };
        let (fingerprint, compressed) = self.quantized(fingerprint, r);
        let in_place = matches!(collective, Collective::AllReduce | Collective::Broadcast) && chance(r, 60);
        let stubborn = (self.mismatches && chance(r, 4)).then(|| r.below(self.peers as u64) as usize);
        OpPlan { tag, fingerprint, in_place, compressed, stubborn }
    }
}

/// A quantized op has so many more elements: a block takes 256 of them.
const QUANTIZED_TIMES: u64 = 20;
/// Elements of a compressed op: always the same, so that what one leaves is for the next one of its tag.
const COMPRESSED_COUNT: u64 = 1_100;

impl Plan {
    /// The op as it is, or quantized, and whether that is by compression.
    fn quantized(&self, mut f: Fingerprint, r: &mut Seeded) -> (Fingerprint, bool) {
        let owned = !matches!(f.algorithm, Some(Algorithm::Ring | Algorithm::Doubling));
        let float = matches!(f.dtype, DataType::F32 | DataType::BF16 | DataType::F64);
        let may = self.quantized > 0 && f.collective == Collective::AllReduce && owned && float;
        if may && chance(r, self.quantized) {
            f.quantization = Some(pick(r, Quantization::ALL));
            f.count *= QUANTIZED_TIMES;
            if self.compressed > 0
                && chance(r, self.compressed)
                && matches!(f.op, ReduceOp::Sum | ReduceOp::Avg)
            {
                let quantization = Some(Quantization::ZeroPointU8);
                return (
                    Fingerprint { quantization, dtype: DataType::F32, count: COMPRESSED_COUNT, ..f },
                    true,
                );
            }
        }
        (f, false)
    }
}

impl OpPlan {
    /// What the caller in `slot` calls, in a world of `world`. The root is the oldest member, or the youngest.
    pub(crate) fn call(&self, slot: usize, world: u32) -> Fingerprint {
        let mut f = self.fingerprint;
        if f.collective == Collective::Broadcast && f.count % 2 == 1 {
            f.root = world - 1;
        }
        if self.stubborn == Some(slot) {
            f.count += 1;
        }
        f
    }
}
