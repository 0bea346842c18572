//! The cost model: which algorithm an op takes, from what the master publishes and nothing else, so that all peers
//! choose alike.

use super::LinkModel;
use crate::vocabulary::{Algorithm, Collective, Fingerprint};

/// Largest op for which doubling is considered: it sends and adds log₂N times the tensor, one after the other, and needs
/// as many buffers.
const DOUBLING_LIMIT_BYTES: u64 = 256 << 10;
/// The same between two peers, where it sends no more than the others, and in one step instead of two (on one host 512
/// KiB take 0.84 times the time of direct, 1 MiB 0.90, 2 MiB 1.1: it adds all of it, not half).
const PAIR_DOUBLING_LIMIT_BYTES: u64 = 1 << 20;
/// Largest op for which star is considered: one peer adds everything.
const STAR_LIMIT_BYTES: u64 = 256 << 10;
/// Largest world in which direct is considered: it needs a message to everybody for every piece.
const DIRECT_LIMIT_PEERS: u32 = 32;

/// What the bytes of a direct op cost more than those of a ring where peers share a host: all its flows are in memory at
/// once, where a ring's stay in the cache (measured 1.2 to 1.7 for 1 to 64 MiB among 4 and 8 peers on one host).
const CROWDED: f64 = 1.3;

/// Expected time of an all-reduce, microseconds.
///
/// direct 2α + k·(2(N−1)o + 2(N−1)/N·S·β); ring 2(N−1)(α + k·o) + k times the same bytes; doubling
/// ⌈log₂N⌉(α + k·(o + S·β)); star 2α + 2(N−1)(o + S·β) (Thakur, Rabenseifner, Gropp: Optimization of Collective
/// Communication Operations in MPICH, 2005; o is the cost of a message at its two ends). The k peers of a host share its
/// cores, so what all send at the same moment costs k times as much; in a star one peer sends after the other.
fn all_reduce_us(algorithm: Algorithm, bytes: u64, world: u32, links: &LinkModel) -> f64 {
    let (n, s) = (f64::from(world), bytes as f64 / f64::from(1 << 20));
    let (alpha, o, beta) =
        (f64::from(links.alpha_us), f64::from(links.message_ns) / 1000.0, f64::from(links.mib_us));
    let k = f64::from(links.peers_per_host.max(1));
    let shared_bytes = k * 2.0 * (n - 1.0) / n * s * beta;
    match algorithm {
        Algorithm::Direct => {
            let crowded = if k > 1.0 && world > 2 { CROWDED } else { 1.0 };
            2.0 * alpha + k * 2.0 * (n - 1.0) * o + crowded * shared_bytes
        }
        Algorithm::Ring => 2.0 * (n - 1.0) * (alpha + k * o) + shared_bytes,
        Algorithm::Doubling => n.log2().ceil() * (alpha + k * (o + s * beta)),
        Algorithm::Star => 2.0 * alpha + 2.0 * (n - 1.0) * (o + s * beta),
    }
}

/// The algorithm for an op in a world of `world` peers: the caller's, else the cheapest one.
pub fn choose(f: &Fingerprint, world: u32, links: &LinkModel) -> Algorithm {
    if let Some(algorithm) = f.algorithm {
        return algorithm;
    }
    if f.collective != Collective::AllReduce {
        return if world <= DIRECT_LIMIT_PEERS { Algorithm::Direct } else { Algorithm::Ring };
    }
    let bytes = f.travelling_bytes();
    let owned = f.quantization.is_some();
    let allowed = |a: &Algorithm| match a {
        Algorithm::Direct => owned || world <= DIRECT_LIMIT_PEERS,
        Algorithm::Ring => !owned,
        Algorithm::Doubling if world == 2 => !owned && bytes <= PAIR_DOUBLING_LIMIT_BYTES,
        Algorithm::Doubling => !owned && bytes <= DOUBLING_LIMIT_BYTES,
        Algorithm::Star => bytes <= STAR_LIMIT_BYTES,
    };
    let cost = |a: &Algorithm| all_reduce_us(*a, bytes, world, links);
    let candidates = [Algorithm::Direct, Algorithm::Ring, Algorithm::Doubling, Algorithm::Star];
    let best = candidates.into_iter().filter(allowed).min_by(|a, b| cost(a).total_cmp(&cost(b)));
    best.unwrap_or(Algorithm::Ring)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{DataType, ReduceOp};

    fn all_reduce(bytes: u64) -> Fingerprint {
        Fingerprint {
            collective: Collective::AllReduce,
            dtype: DataType::F32,
            op: ReduceOp::Sum,
            count: bytes / 4,
            root: 0,
            algorithm: None,
            quantization: None,
        }
    }

    #[test]
    fn small_ops_double_large_ones_go_direct_and_large_worlds_ring() {
        let links = LinkModel::default();
        let one_host = LinkModel { peers_per_host: 8, ..links };
        assert_eq!(choose(&all_reduce(4 << 10), 8, &one_host), Algorithm::Star);
        assert_eq!(choose(&all_reduce(4 << 10), 8, &links), Algorithm::Doubling);
        assert_eq!(choose(&all_reduce(64 << 20), 8, &links), Algorithm::Direct);
        assert_eq!(choose(&all_reduce(1 << 20), 8, &one_host), Algorithm::Ring);
        let pair = LinkModel { peers_per_host: 2, ..links };
        assert_eq!(choose(&all_reduce(1 << 20), 2, &pair), Algorithm::Doubling);
        assert_eq!(choose(&all_reduce(2 << 20), 2, &pair), Algorithm::Direct);
        assert_eq!(choose(&all_reduce(64 << 20), 8, &one_host), Algorithm::Ring);
        assert_eq!(choose(&all_reduce(256 << 20), 64, &links), Algorithm::Ring);
    }

    #[test]
    fn on_a_long_link_latency_decides_up_to_tens_of_megabytes() {
        let wan = LinkModel { alpha_us: 45_000, mib_us: 8_000, ..LinkModel::default() };
        assert_eq!(choose(&all_reduce(16 << 20), 18, &wan), Algorithm::Direct);
        assert!(
            all_reduce_us(Algorithm::Ring, 16 << 20, 18, &wan)
                > 3.0 * all_reduce_us(Algorithm::Direct, 16 << 20, 18, &wan)
        );
    }

    #[test]
    fn the_callers_choice_wins() {
        let asked = Fingerprint { algorithm: Some(Algorithm::Ring), ..all_reduce(4) };
        assert_eq!(choose(&asked, 2, &LinkModel::default()), Algorithm::Ring);
    }
}
