//! The world: processes, a clock, a queue of things to come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};

use pccl_proto::execute::OpMemory as _;
use pccl_proto::ids::{ConnId, Seeded, Time};
use pccl_proto::machine::{Action, Machine};
use pccl_proto::master::Master;
use pccl_proto::peer::Peer;
use pccl_proto::record::{StoreReply, StoreRequest};
use pccl_proto::rules::Rule;

use crate::app::App;
use crate::check::Check;
use crate::faults::{Cut, Fault, Hole};
use crate::memory::{Arithmetic, Memory};
use crate::net::{SockId, Socket};
use crate::plan::Plan;
use crate::scenario::Script;
use crate::stats::Stats;
use crate::store::Store;
use crate::trace::Trace;

pub(crate) type ProcId = usize;
/// A machine with an IP address; masters live on hosts from [`MASTER_HOST`] on.
pub(crate) type Host = u8;

/// A run that takes more has caught itself in a circle.
const MOST_EVENTS: u64 = 8_000_000;
/// Length of a run in which bytes are spoiled, virtual microseconds.
const SPOILED_US: u64 = 20_000_000;
pub(crate) const MASTER_HOST: Host = 200;
/// Addresses at which masters may live.
pub(crate) const MASTER_HOSTS: u8 = 3;

pub(crate) enum Event {
    Timer(ProcId, u64),
    App(ProcId),
    /// The first bytes on their way to the socket are there.
    Arrive(SockId),
    /// A connection attempt reaches its target (or tries again).
    Knock(SockId, u32),
    Service(SockId),
    /// There may be room again for what the socket writes.
    Room(SockId),
    Datagram {
        to: Host,
        from: SocketAddr,
        bytes: Vec<u8>,
    },
    Ask {
        from: ProcId,
        request: Box<StoreRequest>,
        late: bool,
    },
    Answer {
        to: ProcId,
        reply: Box<StoreReply>,
    },
    Fault(Fault),
    Watch,
}

pub(crate) enum Body {
    Peer(Box<Peer<Memory, Arithmetic>>),
    Master(Box<Master>),
}

impl Body {
    pub(crate) fn machine(&mut self) -> &mut dyn Machine {
        match self {
            Self::Peer(peer) => &mut **peer,
            Self::Master(master) => &mut **master,
        }
    }
}

/// One life of a process.
pub(crate) struct Proc {
    pub(crate) name: String,
    pub(crate) host: Host,
    /// None: it is no more.
    pub(crate) body: Option<Body>,
    pub(crate) app: Option<App>,
    pub(crate) conns: BTreeMap<ConnId, SockId>,
    /// Its clock is ahead of the world's by this.
    pub(crate) clock: u64,
    pub(crate) paused: bool,
    /// Since when it has not stood still, and is a member if it is a peer.
    pub(crate) awake: u64,
    pub(crate) timer: Option<u64>,
    /// Sockets to look after when it goes on.
    pub(crate) waiting: BTreeSet<SockId>,
    pub(crate) inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(crate) answers: VecDeque<StoreReply>,
}

/// A process ends at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) step: u64,
    pub(crate) victim: ProcId,
    /// Whether a new life begins a while after.
    pub(crate) again: bool,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    next: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub(crate) random: Seeded,
    pub(crate) procs: Vec<Proc>,
    pub(crate) socks: Vec<Socket>,
    pub(crate) living: BTreeMap<Host, ProcId>,
    pub(crate) dark: BTreeSet<Host>,
    pub(crate) cuts: Vec<Cut>,
    pub(crate) holes: Vec<Hole>,
    pub(crate) store: Store,
    /// None begins for a while.
    pub(crate) no_masters: bool,
    pub(crate) steps: u64,
    pub(crate) kill: Option<Kill>,
    pub(crate) healed: Option<u64>,
    pub(crate) check: Check,
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
    pub(crate) script: Option<Script>,
    pub(crate) over: bool,
}

/// Writes a line if anybody reads it.
macro_rules! say {
    ($world:expr, $($text:tt)*) => {
        if $world.trace.is_on() {
            let text = format!($($text)*);
            $world.trace.add($world.now, &text);
        }
    };
}
pub(crate) use say;

pub(crate) fn address(host: Host) -> SocketAddr {
    let port = if host >= MASTER_HOST { 7117 } else { 7118 };
    (Ipv4Addr::new(10, 0, 0, host), port).into()
}

pub(crate) fn host_of(addr: SocketAddr) -> Host {
    match addr {
        SocketAddr::V4(v4) => v4.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    }
}

impl World {
    pub(crate) fn new(plan: Plan, trace: Trace) -> Self {
        let mut world = Self {
            now: 1_000_000,
            next: 0,
            queue: BTreeMap::new(),
            random: Seeded::new(plan.seed),
            procs: Vec::new(),
            socks: Vec::new(),
            living: BTreeMap::new(),
            dark: BTreeSet::new(),
            cuts: Vec::new(),
            holes: Vec::new(),
            store: Store { unfenced: plan.broken == Some(Rule::TermFences), ..Store::default() },
            no_masters: false,
            steps: 0,
            kill: None,
            healed: None,
            check: Check::new(plan.groups),
            stats: Stats::default(),
            trace,
            script: None,
            over: false,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.stats.runs = 1;
        self.start_master(MASTER_HOST);
        if self.plan.lease_ms > 0 && self.plan.rivals {
            self.start_master(MASTER_HOST + 1);
        }
        for slot in 0..self.plan.peers {
            let after = self.random.below(30_000);
            self.after(after, Event::Fault(Fault::Newcomer(slot)));
        }
        self.plan_faults();
        self.after(100_000, Event::Watch);
    }

    pub(crate) fn chance(&mut self, of_a_hundred: u64) -> bool {
        self.random.below(100) < of_a_hundred
    }

    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.next += 1;
        self.queue.insert((time, self.next), event);
    }

    pub(crate) fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Runs to the end; the error is what went wrong.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while !self.over {
            let Some(((time, _), event)) = self.queue.pop_first() else { break };
            self.now = self.now.max(time);
            self.happen(event);
            self.follow();
            if self.stats.events > MOST_EVENTS || self.steps > 10 * MOST_EVENTS {
                self.check.fail("a livelock: too many events".into());
            }
            if let Some(wrong) = self.check.violation.take() {
                say!(self, "VIOLATION: {wrong}");
                if self.plan.spoiled_per_mille == 0 {
                    return Err(wrong);
                }
            }
            if self.plan.spoiled_per_mille > 0 && self.now > SPOILED_US {
                // A lie that was believed may keep them waiting for ever.
                return Ok(());
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        self.stats.events += 1;
        match event {
            Event::Timer(p, at) => self.timer(p, at),
            Event::App(p) => self.app_turn(p),
            Event::Arrive(s) => self.arrive(s),
            Event::Knock(s, times) => self.knock(s, times),
            Event::Service(s) => self.service(s),
            Event::Room(s) => self.room(s),
            Event::Datagram { to, from, bytes } => self.datagram(to, from, bytes),
            Event::Ask { from, request, late } => self.ask(from, &request, late),
            Event::Answer { to, reply } => {
                self.procs[to].answers.push_back(*reply);
                self.take_answers(to);
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Watch => self.watch(),
        }
    }

    // ---- processes ----

    pub(crate) fn spawn(&mut self, name: String, host: Host, body: Body, app: Option<App>) -> ProcId {
        let id = self.procs.len();
        let clock = 0;
        self.procs.push(Proc {
            name,
            host,
            body: Some(body),
            app,
            conns: BTreeMap::new(),
            clock,
            paused: false,
            awake: self.now,
            timer: None,
            waiting: BTreeSet::new(),
            inbox: VecDeque::new(),
            answers: VecDeque::new(),
        });
        self.living.insert(host, id);
        id
    }

    /// The process's own time.
    pub(crate) fn time(&self, p: ProcId) -> Time {
        Time(self.now + self.procs[p].clock)
    }

    pub(crate) fn is_running(&self, p: ProcId) -> bool {
        self.procs[p].body.is_some() && !self.procs[p].paused
    }

    /// Lets the machine of a process do something, and then does what it asks for.
    pub(crate) fn with(&mut self, p: ProcId, act: impl FnOnce(&mut dyn Machine, Time)) {
        let now = self.time(p);
        if let Some(body) = &mut self.procs[p].body {
            act(body.machine(), now);
            self.drive(p);
        }
    }

    fn timer(&mut self, p: ProcId, at: u64) {
        if self.procs[p].timer != Some(at) || self.procs[p].body.is_none() {
            return;
        }
        if self.procs[p].paused {
            return;
        }
        self.procs[p].timer = None;
        self.with(p, |m, now| m.handle_timeout(now));
    }

    /// One more thing that could have been the last. False if it was.
    fn step(&mut self, p: ProcId) -> bool {
        self.steps += 1;
        if let Some(kill) = self.kill
            && kill.step == self.steps
        {
            self.crash(kill.victim, kill.again);
        }
        self.procs[p].body.is_some()
    }

    /// Does what the machine asks for, one thing after the other.
    pub(crate) fn drive(&mut self, p: ProcId) {
        while self.step(p) {
            let mut did = self.random.below(2) == 0 && self.write_one(p);
            did = did || self.act_one(p) || self.write_one(p);
            if !did {
                break;
            }
        }
        if self.procs[p].body.is_some() {
            self.look_at(p);
            self.note_decider(p);
            self.set_timer(p);
        }
    }

    fn write_one(&mut self, p: ProcId) -> bool {
        let Some(conn) = self.procs[p].body.as_mut().and_then(|b| b.machine().poll_writable()) else {
            return false;
        };
        self.write(p, conn);
        true
    }

    fn act_one(&mut self, p: ProcId) -> bool {
        let Some(action) = self.procs[p].body.as_mut().and_then(|b| b.machine().poll_action()) else {
            return false;
        };
        match action {
            Action::Dial { conn, addr } => self.dial(p, conn, addr),
            Action::Close { conn, last } => self.close(p, conn, &last),
            Action::ResumeReading { conn } => {
                if let Some(s) = self.procs[p].conns.get(&conn).copied() {
                    self.after(0, Event::Service(s));
                }
            }
            Action::Datagram { to, bytes } => self.send_datagram(p, to, &bytes),
            Action::Store(request) => self.request(p, request),
        }
        true
    }

    pub(crate) fn set_timer(&mut self, p: ProcId) {
        let clock = self.procs[p].clock;
        let Some(body) = &mut self.procs[p].body else { return };
        let Some(at) = body.machine().poll_timeout() else { return };
        // A timer is a little late, and now and then very.
        let late =
            if self.random.below(200) == 0 { self.random.below(30_000) } else { self.random.below(300) };
        let at = at.0.saturating_sub(clock).max(self.now) + late;
        if self.procs[p].timer.is_none_or(|t| t > at || t < self.now) {
            self.procs[p].timer = Some(at);
            self.at(at, Event::Timer(p, at));
        }
    }

    /// What the machine has to say, after everything it does.
    fn look_at(&mut self, p: ProcId) {
        let mut lines = Vec::new();
        match &mut self.procs[p].body {
            Some(Body::Peer(peer)) => {
                while let Some(event) = peer.poll_event() {
                    self.check.peer_said(p, &event);
                    lines.push(event.to_string());
                }
            }
            Some(Body::Master(master)) => {
                while let Some(event) = master.poll_event() {
                    lines.push(event.to_string());
                }
                self.check.master(p, master);
                self.one_decides(p);
            }
            None => return,
        }
        for line in lines {
            say!(self, "{}: {line}", self.procs[p].name);
        }
        self.look_at_app(p);
    }

    // ---- datagrams ----

    fn send_datagram(&mut self, p: ProcId, to: SocketAddr, bytes: &[u8]) {
        let from = SocketAddr::new(address(self.procs[p].host).ip(), 40_000);
        let links = self.plan.links.clone();
        let mut copies = 1;
        if self.healed.is_none() {
            let dice = self.random.below(1000);
            copies = if dice < links.lost { 0 } else { 1 + u64::from(dice < links.lost + links.doubled) };
        }
        for _ in 0..copies {
            let delay = links.delay_us + self.random.below(links.jitter_us * 2 + 1);
            let event = Event::Datagram { to: host_of(to), from, bytes: bytes.to_vec() };
            self.after(delay, event);
        }
    }

    fn datagram(&mut self, to: Host, from: SocketAddr, bytes: Vec<u8>) {
        let Some(p) = self.living.get(&to).copied() else { return };
        if self.is_cut(host_of(from), to) {
            return;
        }
        let inbox = &mut self.procs[p].inbox;
        inbox.push_back((from, bytes));
        if inbox.len() > 50 {
            inbox.pop_front();
        }
        self.take_datagrams(p);
    }

    fn take_datagrams(&mut self, p: ProcId) {
        while self.is_running(p) {
            let Some((from, bytes)) = self.procs[p].inbox.pop_front() else { return };
            self.with(p, |m, now| m.handle_datagram(now, from, &bytes));
        }
    }

    // ---- store ----

    fn request(&mut self, p: ProcId, request: StoreRequest) {
        let delay = 50 + self.random.below(self.plan.store_us + 1);
        let request = Box::new(request);
        if self.store.silent || self.store.late_us.is_some() {
            let reply = Box::new(StoreReply::Unknown { id: request.id(), why: "timed out".into() });
            if let Some(late) = self.store.late_us {
                self.after(late, Event::Ask { from: p, request, late: true });
            }
            return self.after(50_000, Event::Answer { to: p, reply });
        }
        if !self.store.troubled || self.chance(30) {
            return self.after(delay, Event::Ask { from: p, request, late: false });
        }
        // Nobody knows: it may have been lost, or land now, or much later.
        let id = request.id();
        say!(self, "store: the request {id} of {} times out", self.procs[p].name);
        self.stats.fault("store trouble");
        if self.chance(60) {
            let late = self.random.below(3_000_000);
            self.after(late, Event::Ask { from: p, request, late: true });
        }
        let reply = Box::new(StoreReply::Unknown { id, why: "timed out".into() });
        let after = 20_000 + self.random.below(300_000);
        self.after(after, Event::Answer { to: p, reply });
    }

    fn ask(&mut self, from: ProcId, request: &StoreRequest, late: bool) {
        let (mut reply, begun) = self.store.apply(request);
        if let StoreReply::Record { record, holder_is_gone, .. } = &mut reply {
            let holder = (record.lease.holder.0 as usize).checked_sub(1).and_then(|p| self.procs.get(p));
            *holder_is_gone = self.plan.locks && holder.is_some_and(|p| p.body.is_none());
        }
        say!(
            self,
            "store: {}{} for {}",
            describe(&reply),
            if late { " (late)" } else { "" },
            self.procs[from].name
        );
        if let (StoreRequest::Write { group, record, .. }, StoreReply::Written { .. }) = (request, &reply)
            && let Some(agreed) = record.agreed()
        {
            self.check.syncs.written.insert((*group, agreed.revision, agreed.content));
        }
        match begun {
            Err(wrong) => self.check.fail(wrong),
            Ok(Some(begun)) => self.epoch_begun(&begun),
            Ok(None) => {}
        }
        if !late && self.procs[from].body.is_some() {
            let delay = 50 + self.random.below(self.plan.store_us + 1);
            self.after(delay, Event::Answer { to: from, reply: Box::new(reply) });
        }
    }

    fn take_answers(&mut self, p: ProcId) {
        while self.is_running(p) {
            let Some(reply) = self.procs[p].answers.pop_front() else { return };
            let now = self.time(p);
            if let Some(Body::Master(master)) = &mut self.procs[p].body {
                master.handle_store(now, reply);
            }
            self.drive(p);
        }
    }

    /// A paused process goes on.
    pub(crate) fn go_on(&mut self, p: ProcId) {
        if self.procs[p].body.is_none() || !self.procs[p].paused {
            return;
        }
        say!(self, "{} goes on", self.procs[p].name);
        self.procs[p].paused = false;
        self.procs[p].awake = self.now;
        let mut waiting: Vec<SockId> = std::mem::take(&mut self.procs[p].waiting).into_iter().collect();
        if self.chance(50) {
            waiting.reverse();
        }
        if self.chance(50) {
            self.with(p, |m, now| m.handle_timeout(now));
        }
        for s in waiting {
            self.service(s);
        }
        self.take_datagrams(p);
        self.take_answers(p);
        self.with(p, |m, now| m.handle_timeout(now));
        self.after(0, Event::App(p));
    }

    pub(crate) fn memory_is_unchanged(memory: &Memory, input: &[u8]) -> bool {
        memory.tensor().input() == input
    }
}

fn describe(reply: &StoreReply) -> String {
    match reply {
        StoreReply::Taken { record, .. } => format!("term {} taken", record.term),
        StoreReply::Renewed { lease, .. } => format!("lease of term {} renewed", lease.term),
        StoreReply::Written { id } => format!("request {id} written"),
        StoreReply::Rejected { id } => format!("request {id} rejected"),
        StoreReply::Record { id, .. } => format!("request {id} read"),
        StoreReply::Unknown { id, .. } => format!("request {id} unknown"),
    }
}
