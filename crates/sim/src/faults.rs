//! Faults first, then healing.

use std::collections::BTreeSet;

use pccl_proto::ids::RunId;
use pccl_proto::lease::{Candidate, MasterId};
use pccl_proto::master::{Authority, Master, MasterConfig};
use pccl_proto::message::{Command, Session};
use pccl_proto::peer::{Peer, PeerConfig};

use crate::app::App;
use crate::memory::Arithmetic;
use crate::plan::Plan;
use crate::sync::Kept;
use crate::world::{Body, Event, Host, MASTER_HOST, MASTER_HOSTS, ProcId, World, address, say};

const COMMANDED: &str = "command to a master";

/// Something happens to the world.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// A process begins in a slot, if there is none.
    Newcomer(usize),
    /// A master begins on a host, if none lives there.
    Master(Host),
    /// Something bad, by chance.
    Any,
    GoOn(ProcId),
    EndCut(u64),
    StoreWorks,
    /// A host is back.
    Light(Host),
    /// Masters may begin again, and the store answers again.
    Masters,
    /// A script goes on.
    Follow,
    Heal,
}

/// Hosts that do not hear each other.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    id: u64,
    these: BTreeSet<Host>,
    /// Only what these send is lost.
    one_way: bool,
    /// If set, the only one that they do not hear.
    only: Option<Host>,
}

/// A way from host to host on which writes of more than `most` bytes are lost.
#[derive(Debug, Clone)]
pub(crate) struct Hole {
    pub(crate) id: u64,
    pub(crate) from: Host,
    pub(crate) to: Host,
    pub(crate) most: usize,
}

impl Cut {
    pub(crate) fn new(id: u64, these: BTreeSet<Host>, one_way: bool) -> Self {
        Self { id, these, one_way, only: None }
    }

    /// Two hosts do not hear each other.
    pub(crate) fn between(a: Host, b: Host) -> Self {
        Self { id: 0, these: BTreeSet::from([a]), one_way: false, only: Some(b) }
    }

    pub(crate) fn cuts(&self, from: Host, to: Host) -> bool {
        if self.only.is_some_and(|b| b != from && b != to) {
            return false;
        }
        match (self.these.contains(&from), self.these.contains(&to)) {
            (true, false) => true,
            (false, true) => !self.one_way,
            _ => false,
        }
    }
}

impl World {
    pub(crate) fn plan_faults(&mut self) {
        if self.plan.told {
            return;
        }
        if self.plan.faults_us == 0 {
            return self.after(500_000, Event::Fault(Fault::Heal));
        }
        let end = self.now + 300_000 + self.plan.faults_us;
        let mut at = self.now + self.random.below(600_000);
        while at < end {
            self.at(at, Event::Fault(Fault::Any));
            at += 1 + self.random.below(2 * self.plan.fault_every_us);
        }
        for spare in 0..self.plan.spare {
            let at = self.now + self.random.below(self.plan.faults_us);
            self.at(at, Event::Fault(Fault::Newcomer(self.plan.peers + spare)));
        }
        self.at(end, Event::Fault(Fault::Heal));
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Newcomer(slot) => self.start_peer(slot, None, None),
            Fault::Master(host) => self.start_master(host),
            Fault::Any if self.healed.is_none() => self.any_fault(),
            Fault::Any | Fault::Follow => {}
            Fault::GoOn(p) => self.go_on(p),
            Fault::EndCut(id) => {
                self.cuts.retain(|c| c.id != id);
                self.holes.retain(|h| h.id != id);
                say!(self, "cut {id} is mended");
            }
            Fault::StoreWorks => self.store.troubled = false,
            Fault::Light(host) => {
                self.dark.remove(&host);
            }
            Fault::Masters => {
                self.no_masters = false;
                self.store.silent = false;
            }
            Fault::Heal => self.heal(),
        }
    }

    fn heal(&mut self) {
        say!(self, "everything is healed");
        self.healed = Some(self.now);
        self.cuts.clear();
        self.holes.clear();
        self.dark.clear();
        self.store.troubled = false;
        self.store.silent = false;
        self.no_masters = false;
        for p in 0..self.procs.len() {
            self.go_on(p);
        }
        let commanded = self.stats.faults.contains_key(COMMANDED) && !self.plan.told;
        if let Some(p) = self.anybody(true).filter(|_| commanded) {
            // Those that were demoted lead again only if they are told to.
            self.command(p, Command::Promote);
        }
    }

    /// An operator commands a master.
    pub(crate) fn command(&mut self, p: ProcId, command: Command) {
        let now = self.time(p);
        let Some(Body::Master(master)) = &mut self.procs[p].body else { return };
        let outcome = master.command(now, command);
        say!(self, "{} is told to {command}: {outcome:?}", self.procs[p].name);
        self.drive(p);
    }

    fn any_command(&mut self) {
        let Some(p) = self.anybody(true).filter(|p| self.is_running(*p)) else { return };
        let command = match self.random.below(4) {
            0 => Command::StepDown,
            1 => Command::Demote,
            _ => Command::Promote,
        };
        self.stats.fault(COMMANDED);
        self.command(p, command);
    }

    // ---- lives ----

    pub(crate) fn start_master(&mut self, host: Host) {
        if self.living.contains_key(&host) || self.no_masters {
            return;
        }
        let id = self.procs.len();
        let config = MasterConfig {
            settings: self.plan.settings.clone(),
            new_run: RunId(7),
            seed: self.plan.seed ^ (id as u64) << 32,
            link_timeout_ms: 1500,
            lease: Candidate {
                id: MasterId(id as u64 + 1),
                addr: Some(address(host)),
                lease_ms: self.plan.lease_ms,
            },
            ..MasterConfig::default()
        };
        let clock = pccl_proto::ids::Time(self.now);
        let mut master = Master::new(clock, config);
        master.set_rules(self.rules());
        let count = self.procs.iter().filter(|p| p.host >= MASTER_HOST).count();
        let name = format!("master{count}");
        say!(self, "{name} starts");
        let p = self.spawn(name, host, Body::Master(Box::new(master)), None);
        self.drive(p);
    }

    pub(crate) fn rules(&self) -> pccl_proto::rules::Rules {
        let Plan { eager_bytes, piece_bytes, most_tags, broken, .. } = self.plan;
        pccl_proto::rules::Rules::simulated(eager_bytes, piece_bytes, most_tags, broken)
    }

    pub(crate) fn start_peer(&mut self, slot: usize, ended: Option<Session>, kept: Option<Kept>) {
        let host = slot as Host + 1;
        // Nobody votes any more to let it in once the program has an end.
        let late = self.check.group(self.plan.group(slot)).stop.is_some();
        if late || self.living.contains_key(&host) {
            return;
        }
        let id = self.procs.len();
        let first = self.random.below(u64::from(MASTER_HOSTS)) as u8;
        let masters = (0..MASTER_HOSTS).map(|i| address(MASTER_HOST + (first + i) % MASTER_HOSTS)).collect();
        let config = PeerConfig {
            group: self.plan.group(slot),
            advertised: address(host),
            site: String::new(),
            masters,
            expects: pccl_proto::settings::Expectations::default(),
            ended,
            seed: self.plan.seed ^ (id as u64) << 40,
        };
        let mut peer = Peer::new(pccl_proto::ids::Time(self.now), config, Arithmetic);
        peer.set_rules(self.rules());
        let name = format!("peer{slot}{}", "'".repeat(self.procs.iter().filter(|p| p.host == host).count()));
        say!(self, "{name} starts");
        let kept = kept.unwrap_or_else(|| Kept { revision: 0, bytes: self.first_tensors(slot) });
        let app = App::new(slot, self.plan.group(slot), kept);
        let p = self.spawn(name, host, Body::Peer(Box::new(peer)), Some(app));
        self.drive(p);
    }

    /// A process ends without a word.
    pub(crate) fn crash(&mut self, p: ProcId, again: bool) {
        // Not born yet, or gone already.
        if self.procs.get(p).is_none_or(|p| p.body.is_none()) {
            return;
        }
        say!(self, "{} crashes", self.procs[p].name);
        let host = self.procs[p].host;
        let dark = self.healed.is_none() && self.kill.is_none() && !self.plan.told && self.chance(15);
        self.bury(p, dark);
        if dark {
            // The power of the whole host is gone.
            self.dark.insert(host);
            let back = self.random.below(4_000_000);
            self.after(back, Event::Fault(Fault::Light(host)));
        }
        if again {
            let wait = if self.kill.is_some() { 50_000 } else { self.random.below(3_000_000) };
            let fault =
                if host >= MASTER_HOST { Fault::Master(host) } else { Fault::Newcomer(host as usize - 1) };
            self.after(wait, Event::Fault(fault));
        }
    }

    pub(crate) fn bury(&mut self, p: ProcId, silently: bool) {
        let proc = &mut self.procs[p];
        proc.body = None;
        proc.paused = false;
        proc.inbox.clear();
        let host = proc.host;
        if self.living.get(&host) == Some(&p) {
            self.living.remove(&host);
        }
        self.abandon_sockets(p, silently);
    }

    fn pause(&mut self, p: ProcId, long: u64) {
        if self.procs[p].body.is_some() && !self.procs[p].paused {
            say!(self, "{} stands still for {} ms", self.procs[p].name, long / 1000);
            self.procs[p].paused = true;
            self.after(long, Event::Fault(Fault::GoOn(p)));
        }
    }

    // ---- chance ----

    /// Short, about as long as a timeout, or longer than all of them.
    fn a_while(&mut self) -> u64 {
        match self.random.below(10) {
            0..4 => self.random.below(300_000),
            4..8 => self.random.below(2_000_000),
            _ => self.random.below(9_000_000),
        }
    }

    fn anybody(&mut self, master: bool) -> Option<ProcId> {
        let all: Vec<ProcId> =
            self.living.iter().filter(|(h, _)| (**h >= MASTER_HOST) == master).map(|(_, p)| *p).collect();
        (!all.is_empty()).then(|| all[self.random.below(all.len() as u64) as usize])
    }

    fn any_fault(&mut self) {
        if self.plan.absences > 0 && self.chance(self.plan.absences) {
            return self.masters_away();
        }
        let dice = self.random.below(100);
        match dice {
            0..15 => {
                let Some(p) = self.anybody(false) else { return };
                self.stats.fault("peer crash");
                let again = self.chance(70);
                self.crash(p, again);
            }
            15..25 => {
                let Some(p) = self.anybody(true) else { return };
                self.stats.fault("master crash");
                let again = self.chance(80);
                self.crash(p, again);
            }
            25..40 => {
                let master = self.chance(30);
                let Some(p) = self.anybody(master) else { return };
                self.stats.fault(if master { "master pause" } else { "peer pause" });
                let long = self.a_while();
                self.pause(p, long);
            }
            40..55 => self.any_cut(),
            55..80 => {
                let Some(s) = self.any_socket() else { return };
                let one_end = self.chance(35);
                self.stats.fault(if one_end { "half-open connection" } else { "broken connection" });
                let (p, q) = (self.socks[s].proc, self.socks[s].other.map(|o| self.socks[o].proc));
                say!(self, "a connection of {} breaks (to {:?}, one end: {one_end})", self.procs[p].name, q);
                self.break_socket(s, one_end);
            }
            80..86 => {
                let master = self.chance(40);
                let Some(p) = self.anybody(master) else { return };
                self.stats.fault("clock jump");
                let far = self.a_while();
                self.check.clocks_agree &= !master;
                say!(self, "the clock of {} jumps by {} ms", self.procs[p].name, far / 1000);
                self.procs[p].clock += far;
                self.with(p, |m, now| m.handle_timeout(now));
            }
            86..89 if self.plan.lease_ms > 0 => self.any_command(),
            86..92 => {
                self.store.troubled = true;
                let long = self.a_while();
                self.after(long, Event::Fault(Fault::StoreWorks));
            }
            _ => self.another_master(),
        }
    }

    /// Nobody decides until the peers have lost patience, most often: all masters end, or their store is silent.
    fn masters_away(&mut self) {
        if self.no_masters || self.store.silent {
            return;
        }
        let long = u64::from(self.plan.settings.master_timeout_ms) * 1000;
        let long = long * 3 / 4 + self.random.below(long);
        if self.plan.lease_ms > 0 && self.chance(50) {
            // The lease must be over, and everybody's patience at an end.
            let long = long + self.random.below(6_000_000);
            self.after(long, Event::Fault(Fault::Masters));
            self.stats.fault("store silent for long");
            say!(self, "the store is silent for {} ms", long / 1000);
            self.store.silent = true;
            return;
        }
        self.stats.fault("no master for long");
        let masters: Vec<ProcId> =
            self.living.iter().filter(|(h, _)| **h >= MASTER_HOST).map(|(_, p)| *p).collect();
        for p in masters {
            self.crash(p, false);
        }
        self.no_masters = true;
        self.after(long, Event::Fault(Fault::Masters));
        say!(self, "no master for {} ms", long / 1000);
    }

    fn another_master(&mut self) {
        if !self.plan.rivals {
            return;
        }
        let host = MASTER_HOST + self.random.below(u64::from(MASTER_HOSTS)) as u8;
        if !self.living.contains_key(&host) {
            self.stats.fault("rival master");
            self.start_master(host);
        }
    }

    /// Large packets are lost on the way from one host to another.
    fn any_hole(&mut self, hosts: &[Host]) {
        let [from, to] = [0, 1].map(|_| hosts[self.random.below(hosts.len() as u64) as usize]);
        let hole = Hole { id: self.stats.events, from, to, most: 40 + self.random.below(300) as usize };
        say!(self, "{hole:?}");
        self.stats.fault("large packets lost");
        let long = 2 * self.a_while();
        self.after(long, Event::Fault(Fault::EndCut(hole.id)));
        self.holes.push(hole);
    }

    fn any_cut(&mut self) {
        let hosts: Vec<Host> = self.living.keys().copied().collect();
        if self.plan.holes && !hosts.is_empty() && self.chance(60) {
            return self.any_hole(&hosts);
        }
        let mut these = BTreeSet::new();
        if self.chance(60) && !hosts.is_empty() {
            these.insert(hosts[self.random.below(hosts.len() as u64) as usize]);
        } else {
            for host in hosts {
                if self.chance(50) {
                    these.insert(host);
                }
            }
        }
        let id = self.stats.events;
        let cut = Cut::new(id, these, self.chance(25));
        say!(self, "cut {id}: {cut:?}");
        self.stats.fault("partition");
        self.cuts.push(cut);
        let long = self.a_while();
        self.after(long, Event::Fault(Fault::EndCut(id)));
    }

    /// Somebody sees to it that a master lives: whoever runs the service.
    pub(crate) fn supervise(&mut self) {
        if self.plan.told && self.healed.is_none() {
            return;
        }
        let mut useful = false;
        let masters: Vec<ProcId> =
            self.living.iter().filter(|(h, _)| **h >= MASTER_HOST).map(|(_, p)| *p).collect();
        for p in masters {
            // Whose lease is over is stopped sooner or later; until then it still talks.
            let deposed = match &self.procs[p].body {
                // With leases it stands by. Without them whoever waits for its first term has none yet.
                Some(Body::Master(master)) if self.plan.lease_ms == 0 => {
                    let (term, active) = (master.term(), master.authority() == Authority::Active);
                    (active && term < self.store.record.term) || (!active && term.0 > 0)
                }
                _ => false,
            };
            if !deposed {
                useful = true;
            } else if !self.procs[p].paused && self.chance(if self.healed.is_some() { 100 } else { 10 }) {
                say!(self, "{} is stopped: it has been deposed", self.procs[p].name);
                self.bury(p, false);
            }
        }
        let wanted = self.healed.is_some() || (!self.plan.told && self.chance(3));
        if !useful && wanted && (self.kill.is_none() || self.chance(20)) {
            let host = MASTER_HOST + self.random.below(u64::from(MASTER_HOSTS)) as u8;
            self.start_master(host);
        }
    }
}
