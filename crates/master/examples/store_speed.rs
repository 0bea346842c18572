//! How long a write of the embedded store takes on the disk of a directory:
//! `cargo run --release -p pccl-master --example store_speed -- /var/lib/pccl`

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pccl_master::{EmbeddedStore, StateStore};
use pccl_proto::ids::{Epoch, PeerGroup, RunId, SessionId, Term};
use pccl_proto::lease::Candidate;
use pccl_proto::record::{GroupRecord, Member, MemberRecord, StoreReply, StoreRequest};

const WRITES: u64 = 200;

fn group(epoch: u64, members: u32) -> GroupRecord {
    let member = |n| MemberRecord {
        member: Member {
            session: SessionId::new(Term(1), n),
            addr: SocketAddr::new(Ipv4Addr::new(203, 0, 113, 7).into(), 7118),
            site: "northeurope".into(),
        },
        key: u64::MAX - u64::from(n),
        joined: Epoch(1),
    };
    GroupRecord { epoch: Epoch(epoch), members: (0..members).map(member).collect(), ..GroupRecord::default() }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    println!("{:>8} {:>10} {:>10} {:>10} {:>10}", "members", "bytes", "median ms", "p99 ms", "max ms");
    for members in [8, 128, 1024, 4096] {
        let path = directory.join(format!("store-speed-{}.state", std::process::id()));
        let mut store = EmbeddedStore::open(&path)?;
        let candidate = Candidate { lease_ms: 1500, ..Candidate::default() };
        store.execute(&StoreRequest::TakeTerm { id: 0, new_run: RunId(1), replaces: None, candidate });
        let mut times: Vec<Duration> = Vec::new();
        for epoch in 1..=WRITES {
            let record = Box::new(group(epoch, members));
            let replaces = Epoch(epoch - 1);
            let request =
                StoreRequest::Write { id: epoch, term: Term(1), group: PeerGroup(0), replaces, record };
            let begin = Instant::now();
            let reply = store.execute(&request);
            times.push(begin.elapsed());
            if reply != (StoreReply::Written { id: epoch }) {
                return Err(format!("the write was answered by {reply:?}").into());
            }
        }
        times.sort_unstable();
        let bytes = std::fs::metadata(&path)?.len();
        let ms = |at: usize| times[at].as_secs_f64() * 1e3;
        let last = times.len() - 1;
        println!(
            "{members:>8} {bytes:>10} {:>10.2} {:>10.2} {:>10.2}",
            ms(last / 2),
            ms(last * 99 / 100),
            ms(last)
        );
        drop(store);
        std::fs::remove_file(&path)?;
        std::fs::remove_file(path.with_extension("state.lock"))?;
    }
    Ok(())
}
