//! What a master shows of itself in metrics and to health checks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Weak};
use std::time::Duration;

use pccl_net::Wakeup;
use pccl_observe::{GroupSample, Health, MasterSample, Metrics, Sample, Source};
use pccl_proto::message::{GroupStatus, PeerStatus, Role, Status};

/// How long a scrape waits for the master's thread.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(1);
/// After this, the master's thread hangs.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);

/// A master as a source of metrics.
pub(super) struct MasterSource {
    questions: Sender<Sender<Status>>,
    wakeup: Wakeup,
    active: Arc<AtomicBool>,
}

impl MasterSource {
    pub(super) fn watch(
        questions: Sender<Sender<Status>>,
        wakeup: Wakeup,
        active: Arc<AtomicBool>,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let source = Arc::new(Self { questions, wakeup, active });
        let weak: Weak<Self> = Arc::downgrade(&source);
        metrics.watch(weak);
        source
    }

    fn ask(&self, patience: Duration) -> Option<Status> {
        let (answer, answers) = mpsc::channel();
        self.questions.send(answer).ok()?;
        self.wakeup.wake();
        answers.recv_timeout(patience).ok()
    }
}

/// A standby is ready too: it is there to be asked, and says who leads.
fn readiness(status: &Status) -> Result<String, String> {
    if let Some((why, since_ms)) = &status.store_trouble {
        return Err(format!("the store has been in trouble for {:.1} s: {why}", *since_ms as f64 * 1e-3));
    }
    match (status.role, status.active) {
        (Role::Active, _) => Ok(format!("the active master, term {}", status.term)),
        (Role::Unleased, _) => Err(format!("the master of term {}, without a valid lease", status.term)),
        (Role::Standby, _) if status.term == 0 => Err("the store has not answered yet".to_owned()),
        (Role::Standby, Some(at)) => {
            Ok(format!("a standby; the active master, term {}, is at {at}", status.term))
        }
        (Role::Standby, None) => Ok(format!("a standby; the newest term is {}", status.term)),
    }
}

fn group(status: &GroupStatus) -> GroupSample {
    let members = status.peers.iter().filter(|p| p.rank.is_some()).count() as u64;
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs_f64();
    GroupSample {
        epoch: status.epoch,
        members,
        newcomers: status.peers.len() as u64 - members,
        revision: status.revision,
        ops_in_flight: status.ops.len() as u64,
        oldest_op_seconds: seconds(status.ops.iter().map(|op| op.age_ms).max().unwrap_or(0)),
        heard: status.peers.iter().map(|p| (p.addr.clone(), seconds(p.heard_ms_ago))).collect(),
        awaited: awaited(status),
    }
}

/// How much waits for each member: ops that it has not promised, and a vote that others have joined and it has not.
fn awaited(status: &GroupStatus) -> BTreeMap<String, u64> {
    let members = || status.peers.iter().filter(|p| p.rank.is_some());
    let in_vote = |p: &&PeerStatus| p.waits_for.as_ref().is_some_and(|what| !what.starts_with("tag "));
    let vote = members().any(|p| in_vote(&p));
    let count = |p: &PeerStatus| {
        let ops = status.ops.iter().filter(|op| op.missing.contains(&p.session)).count() as u64;
        ops + u64::from(vote && !in_vote(&p))
    };
    members().map(|p| (p.addr.clone(), count(p))).collect()
}

impl Source for MasterSource {
    fn sample(&self) -> Option<Sample> {
        let status = self.ask(SCRAPE_PATIENCE)?;
        let groups: BTreeMap<u32, GroupSample> =
            status.groups.iter().map(|state| (state.group, group(state))).collect();
        let active = self.active.load(Ordering::Relaxed);
        Some(Sample::Master(MasterSample { active, term: status.term, groups }))
    }

    fn health(&self) -> Health {
        let Some(status) = self.ask(HEALTH_PATIENCE) else {
            let why = format!("the master has ended or not answered for {} s", HEALTH_PATIENCE.as_secs());
            return Health { alive: Err(why.clone()), ready: Err(why) };
        };
        let ready = readiness(&status);
        Health { alive: Ok(()), ready }
    }
}

#[cfg(test)]
mod tests {
    use pccl_proto::message::OpStatus;

    use super::*;

    fn peer(session: &str, waits_for: Option<&str>) -> PeerStatus {
        PeerStatus {
            session: session.to_owned(),
            rank: Some(0),
            addr: format!("addr of {session}"),
            waits_for: waits_for.map(str::to_owned),
            ..PeerStatus::default()
        }
    }

    fn awaited_of(peers: Vec<PeerStatus>, ops: Vec<OpStatus>) -> Vec<u64> {
        awaited(&GroupStatus { peers, ops, ..GroupStatus::default() }).into_values().collect()
    }

    #[test]
    fn who_has_not_promised_or_not_voted_is_awaited() {
        let op = OpStatus { missing: vec!["b".to_owned()], ..OpStatus::default() };
        let two = || vec![peer("a", Some("tag 3: a sum, for 200 ms")), peer("b", None)];
        assert_eq!(awaited_of(two(), vec![op]), [0, 1]);
        assert_eq!(awaited_of(two(), Vec::new()), [0, 0]);
        assert_eq!(awaited_of(vec![peer("a", Some("update_topology")), peer("b", None)], Vec::new()), [0, 1]);
    }
}
