//! Where the hosts meet, and what each of them does when told to.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use pccl_net::{SecureStream, Security};
use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::bandwidth;
use crate::control::{Described, Found, FromHost, MOST_FROM_HOST, MOST_TO_HOST, ToHost, VERSION, hear, say};
use crate::counters::{Moved, Watch};
use crate::error::CheckError;
use crate::host::{Host, Meeting};
use crate::mtu;
use crate::plan::{Settings, Task, rounds};
use crate::ports;
use crate::probing::{self, probe};
use crate::report::{HostReport, PairReport, Report, Way};
use crate::stats::{RoundTrips, loss_percent};
use crate::wire::Key;

/// Every host is connected to every port of every other.
pub(crate) const MOST_HOSTS: usize = 64;
/// Connections that have not said who they are.
const MOST_STRANGERS: usize = 64;
/// And how long they may take to.
const STRANGER_PATIENCE: Duration = Duration::from_secs(10);
/// What a round may take beside its probes.
const ROUND_PATIENCE: Duration = Duration::from_secs(180);
/// How often counters of a fleet are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at who has come.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// What is said must get through where long packets vanish: that is one of the things to be found.
const SHORT_SEGMENTS: u32 = 1100;
/// Packets of a train: as most links carry them; as all do, where nothing is known.
const USUAL_BYTES: u32 = 1500;
const ANYWHERE_BYTES: u32 = 1280;
const KEY_PURPOSE: &str = "datagrams of a check";

/// What every host has to know.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// What this host calls itself.
    pub name: String,
    /// Where others reach it, if not where its connection comes from.
    pub address: Option<IpAddr>,
    /// The UDP port of its datagrams. Beside a running fleet any port, if this one is taken.
    pub udp_port: u16,
    /// Ports that peers use.
    pub p2p_ports: RangeInclusive<u16>,
    /// Beside a running fleet.
    pub running: bool,
    /// Where workers on this host show their metrics.
    pub metrics: Vec<SocketAddr>,
    /// How connections are guarded.
    pub security: Option<Security>,
    /// How long to wait for the others.
    pub wait: Duration,
}

/// What the place to meet has to know beside.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where to wait for the others.
    pub listen: SocketAddr,
    /// Hosts, this one included.
    pub hosts: usize,
    /// What is measured.
    pub settings: Settings,
    /// This host's own part.
    pub own: JoinOptions,
}

/// How far it is, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The others may come.
    Waiting {
        /// Where to.
        at: SocketAddr,
        /// How many are missing.
        missing: usize,
    },
    /// Somebody came.
    Came {
        /// Who.
        name: String,
        /// How many are missing still.
        missing: usize,
    },
    /// Something is measured.
    Measuring {
        /// What.
        what: &'static str,
        /// The round.
        round: usize,
        /// Of so many.
        of: usize,
    },
}

/// A host that has come.
struct Guest {
    stream: SecureStream,
    host: Described,
}

/// Waits for the other hosts at `options.listen`, has everything measured, and gives the report to all.
pub fn serve(options: &ServeOptions, progress: &mut dyn FnMut(Progress)) -> Result<Report, CheckError> {
    if !(2..=MOST_HOSTS).contains(&options.hosts) {
        return Err(CheckError::Hosts(options.hosts));
    }
    let addr = options.listen;
    let listener = TcpListener::bind(addr).map_err(|source| CheckError::Listen { addr, source })?;
    let at = listener.local_addr().map_err(CheckError::system("look at a socket"))?;
    let own_way =
        SocketAddr::new(if at.ip().is_unspecified() { loopback(at.ip()) } else { at.ip() }, at.port());
    let others = options.hosts - 1;
    progress(Progress::Waiting { at, missing: others });
    SockRef::from(&listener).set_tcp_mss(SHORT_SEGMENTS).map_err(CheckError::system("set up a socket"))?;
    listener.set_nonblocking(true).map_err(CheckError::system("set up a socket"))?;
    let done = &AtomicBool::new(false);
    let guests = thread::scope(|scope| {
        let (guests, mut come) = mpsc::sync_channel(MOST_STRANGERS);
        scope.spawn(move || accept(&listener, options.own.security.as_ref(), &guests, done));
        let gathered = gather(options, &mut come, progress);
        // Whoever comes from now on finds nobody.
        done.store(true, Ordering::Release);
        gathered
    })?;
    thread::scope(|scope| {
        // This host takes part like the others, over a connection to itself that needs no security.
        let (ours, theirs) = connected().map_err(CheckError::system("connect to this host"))?;
        let own = scope.spawn(|| {
            let stream = SecureStream::client(theirs, own_way, None);
            stream
                .map_err(CheckError::system("connect to this host"))
                .and_then(|s| take_part(&options.own, s, own_way))
        });
        let mut ours =
            SecureStream::server(ours, own_way, None).map_err(CheckError::system("connect to this host"))?;
        let Ok(FromHost::Hello { host, .. }) = hear(&mut ours, MOST_FROM_HOST) else {
            // It could not begin, and says why.
            return own.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        };
        let mut all = vec![Guest { stream: ours, host }];
        all.extend(guests);
        let report = conduct(&mut all, options, progress);
        if let Err(error) = &report {
            for guest in &mut all {
                // Those that are still there learn it; the lost one does not.
                let _ = say(&mut guest.stream, &ToHost::Refuse { why: error.to_string() });
            }
        }
        drop(all);
        let _ = own.join();
        report
    })
}

fn loopback(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

/// Both ends of a connection of this host to itself, that nobody else can have got hold of.
fn connected() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (other, from) = listener.accept()?;
        if from == one.local_addr()? {
            return Ok((one, other));
        }
    }
}

/// Lets strangers say who they are, a bounded number at a time, each for a bounded time, until all are there.
fn accept(
    listener: &TcpListener,
    security: Option<&Security>,
    guests: &SyncSender<Guest>,
    done: &AtomicBool,
) {
    let strangers = AtomicUsize::new(0);
    let strangers = &strangers;
    thread::scope(|scope| {
        while !done.load(Ordering::Acquire) {
            let Ok((stream, from)) = listener.accept() else {
                thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            if strangers.load(Ordering::Acquire) >= MOST_STRANGERS {
                continue;
            }
            strangers.fetch_add(1, Ordering::AcqRel);
            scope.spawn(move || {
                if let Ok(guest) = introduce(stream, from, security) {
                    // If nobody waits any more, it sees its connection closed.
                    let _ = guests.try_send(guest);
                }
                strangers.fetch_sub(1, Ordering::AcqRel);
            });
        }
    });
}

fn introduce(stream: TcpStream, from: SocketAddr, security: Option<&Security>) -> io::Result<Guest> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STRANGER_PATIENCE))?;
    stream.set_write_timeout(Some(STRANGER_PATIENCE))?;
    let mut stream = SecureStream::server(stream, from, security)?;
    let FromHost::Hello { version, mut host } = hear(&mut stream, MOST_FROM_HOST)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if version != VERSION {
        let why = format!(
            "it speaks version {version} of a check, this program {VERSION}; use the same version of pccl"
        );
        say(&mut stream, &ToHost::Refuse { why })?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    host.name = host.name.chars().take(100).collect();
    if host.address.parse::<IpAddr>().is_err() {
        host.address = from.ip().to_canonical().to_string();
    }
    Ok(Guest { stream, host })
}

fn gather(
    options: &ServeOptions,
    come: &mut Receiver<Guest>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Guest>, CheckError> {
    let (deadline, others) = (Instant::now() + options.own.wait, options.hosts - 1);
    let mut guests: Vec<Guest> = Vec::new();
    while guests.len() < others {
        match come.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(mut guest) if guest.host.running != options.own.running => {
                let why = "it must have --running like the host it joins, or both must not".to_owned();
                // It is gone either way.
                let _ = say(&mut guest.stream, &ToHost::Refuse { why });
            }
            Ok(guest) => {
                let (name, missing) = (guest.host.name.clone(), others - guests.len() - 1);
                guests.push(guest);
                progress(Progress::Came { name, missing });
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(CheckError::Missing {
                    came: guests.len() + 1,
                    wanted: options.hosts,
                    seconds: options.own.wait.as_secs(),
                    names: std::iter::once(&options.own.name)
                        .chain(guests.iter().map(|guest| &guest.host.name))
                        .cloned()
                        .collect(),
                });
            }
        }
    }
    // The same order however they came.
    guests.sort_by(|a, b| (&a.host.name, &a.host.address).cmp(&(&b.host.name, &b.host.address)));
    Ok(guests)
}

/// Has everything measured.
fn conduct(
    all: &mut [Guest],
    options: &ServeOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, CheckError> {
    let settings = options.settings;
    let hosts: Vec<Described> = all.iter().map(|guest| guest.host.clone()).collect();
    let mut random = [0; 32];
    let entropy = SystemRandom::new().fill(&mut random);
    entropy
        .map_err(|_| CheckError::system("make a random key")(io::Error::other("the system gives none")))?;
    let probing_time = Duration::from_micros(settings.gap_us(hosts.len() - 1)) * settings.probes * 2;
    for (me, guest) in all.iter_mut().enumerate() {
        let patience = Some(probing_time + ROUND_PATIENCE);
        let first = ToHost::Begin { me, random, hosts: hosts.clone(), settings };
        let begun =
            guest.stream.socket().set_read_timeout(patience).and_then(|()| say(&mut guest.stream, &first));
        begun.map_err(|e| lost(guest, &e))?;
    }
    let mut hosts = hosts;
    if let Some(at) = all.get(1).and_then(|guest| guest.stream.socket().local_addr().ok()) {
        // Where this host is, as far as it can tell; the others know better, and use the address that they found it at.
        if hosts[0].address.is_empty() {
            hosts[0].address = at.ip().to_canonical().to_string();
        }
    }
    let mut pairs = Pairs::new(hosts.len());
    let plan = rounds(hosts.len(), &settings);
    for (round, tasks) in plan.iter().enumerate() {
        let what = tasks.first().map_or("nothing", |(_, task)| what(task));
        progress(Progress::Measuring { what, round: round + 1, of: plan.len() });
        let tasks: Vec<(usize, Task)> =
            tasks.iter().filter_map(|(host, task)| Some((*host, pairs.worth_trying(*host, task)?))).collect();
        for (host, task) in &tasks {
            let loss_percent = if let Task::Bandwidth(to) = task { pairs.loss(*host, *to) } else { 0.0 };
            let message = ToHost::Do { task: task.clone(), loss_percent };
            say(&mut all[*host].stream, &message).map_err(|e| lost(&all[*host], &e))?;
        }
        for (host, _) in &tasks {
            let guest = &mut all[*host];
            match hear(&mut guest.stream, MOST_FROM_HOST).map_err(|e| lost(guest, &e))? {
                FromHost::Done { found, moved } => pairs.take(*host, &found, &moved, &hosts),
                FromHost::Hello { .. } => return Err(lost(guest, &io::ErrorKind::InvalidData.into())),
            }
        }
    }
    let described = |host: &Described| HostReport {
        name: host.name.clone(),
        address: host.address.clone(),
        udp_port: host.udp_port,
        busy_ports: host.busy.clone(),
    };
    let report = Report::new(settings, hosts.iter().map(described).collect(), pairs.0);
    for guest in all.iter_mut() {
        let end = ToHost::End { report: Box::new(report.clone()) };
        say(&mut guest.stream, &end).map_err(|e| lost(guest, &e))?;
    }
    Ok(report)
}

fn lost(guest: &Guest, why: &io::Error) -> CheckError {
    CheckError::Lost { host: guest.host.name.clone(), why: why.to_string() }
}

fn what(task: &Task) -> &'static str {
    match task {
        Task::Ports(_) => "ports",
        Task::Probe(_) => "round trips, jitter, loss",
        Task::Mtu(_) => "MTU",
        Task::Bandwidth(_) => "bandwidth",
    }
}

/// What was found, pair by pair.
struct Pairs(Vec<PairReport>);

impl Pairs {
    fn new(hosts: usize) -> Self {
        let pair = |a: usize| (a + 1..hosts).map(move |b| PairReport { a, b, ..PairReport::default() });
        Self((0..hosts).flat_map(pair).collect())
    }

    fn pair(&mut self, one: usize, other: usize) -> Option<&mut PairReport> {
        let (a, b) = (one.min(other), one.max(other));
        self.0.iter_mut().find(|pair| (pair.a, pair.b) == (a, b))
    }

    fn way(&mut self, from: usize, to: usize) -> Option<&mut Way> {
        self.pair(from, to).map(|pair| if from < to { &mut pair.there } else { &mut pair.back })
    }

    fn loss(&mut self, from: usize, to: usize) -> f64 {
        let loss = |pair: &mut PairReport| if from < to { pair.loss_there } else { pair.loss_back };
        self.pair(from, to).and_then(loss).unwrap_or(0.0)
    }

    /// What is left of a task: where no datagram comes back nothing else is found by datagrams.
    fn worth_trying(&mut self, host: usize, task: &Task) -> Option<Task> {
        let mut answers =
            |to: &usize| self.pair(host, *to).is_some_and(|pair| pair.round_trips.is_some() && !pair.by_tcp);
        match task {
            Task::Ports(_) | Task::Probe(_) => Some(task.clone()),
            Task::Mtu(to) => {
                let to: Vec<usize> = to.iter().copied().filter(|to| answers(to)).collect();
                (!to.is_empty()).then_some(Task::Mtu(to))
            }
            Task::Bandwidth(to) => answers(to).then(|| task.clone()),
        }
    }

    /// Takes what a host says it has found; what is about nobody is nothing.
    fn take(&mut self, from: usize, found: &[Found], moved: &[Moved], hosts: &[Described]) {
        for found in found {
            self.take_one(from, found, hosts);
        }
        for moved in moved {
            for to in (0..hosts.len()).filter(|to| *to != from && hosts[*to].address == moved.to) {
                if let Some(way) = self.way(from, to) {
                    (way.mbps, way.from_counters) = (Some(moved.mbps), true);
                }
            }
        }
    }

    fn take_one(&mut self, from: usize, found: &Found, hosts: &[Described]) {
        match found {
            Found::Ports(reached) => {
                let Some(way) = self.way(from, reached.to) else { return };
                way.ports_tried.clone_from(&hosts[reached.to].listening);
                way.ports_open.clone_from(&reached.open);
                way.ports_silent.clone_from(&reached.silent);
                way.ports_refused.clone_from(&reached.refused);
            }
            Found::Probed(probed) => {
                let Some(pair) = self.pair(from, probed.to) else { return };
                pair.probes = probed.sent;
                pair.round_trips = probed.trips;
                // Without an answer nobody knows on which way they were lost.
                let heard = probed.heard.filter(|_| probed.trips.is_some());
                pair.loss_there = heard.and_then(|heard| loss_percent(probed.sent, heard));
                pair.loss_back = heard.and_then(|heard| loss_percent(heard, probed.returned));
            }
            Found::ByTcp { to, ms } => {
                let Some(pair) = self.pair(from, *to) else { return };
                if let Some(ms) = *ms {
                    pair.by_tcp = true;
                    pair.round_trips =
                        Some(RoundTrips { min_ms: ms, median_ms: ms, p99_ms: ms, ..RoundTrips::default() });
                }
            }
            Found::Mtu(fitting) => {
                let Some(way) = self.way(from, fitting.to) else { return };
                (way.mtu, way.mtu_sendable) = (fitting.through, fitting.sendable);
            }
            Found::Bandwidth(carried) => {
                let Some(way) = self.way(from, carried.to) else { return };
                (way.mbps, way.at_least) = (carried.mbps, carried.at_least);
            }
        }
    }
}

/// Joins a check at `addr`, does what it is told to, and gives the report that all get.
pub fn join(options: &JoinOptions, addr: SocketAddr) -> Result<Report, CheckError> {
    let connect = |source| CheckError::Connect { addr, source };
    let deadline = Instant::now() + options.wait;
    let stream = loop {
        match dial(addr) {
            Ok(stream) => break stream,
            // It may not have been started yet.
            Err(error) if Instant::now() >= deadline => return Err(connect(error)),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    };
    stream.set_nodelay(true).map_err(connect)?;
    stream.set_read_timeout(Some(STRANGER_PATIENCE)).map_err(connect)?;
    stream.set_write_timeout(Some(STRANGER_PATIENCE)).map_err(connect)?;
    let stream = SecureStream::client(stream, addr, options.security.as_ref());
    take_part(options, stream.map_err(|e| CheckError::Refused { addr, why: e.to_string() })?, addr)
}

fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_mss(SHORT_SEGMENTS)?;
    socket.connect_timeout(&addr.into(), Duration::from_secs(5))?;
    Ok(socket.into())
}

/// A host's part, over a connection to the place to meet at `addr`.
fn take_part(
    options: &JoinOptions,
    mut stream: SecureStream,
    addr: SocketAddr,
) -> Result<Report, CheckError> {
    let any: IpAddr =
        if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (socket, listeners) = sockets(options, any)?;
    let udp_port = socket.local_addr().map_err(CheckError::system("look at a socket"))?.port();
    let listening: Vec<u16> =
        listeners.iter().filter_map(|l| l.local_addr().ok()).map(|a| a.port()).collect();
    let tried = (!options.running).then(|| options.p2p_ports.clone()).into_iter().flatten();
    let described = Described {
        name: options.name.clone(),
        address: options.address.map(|ip| ip.to_string()).unwrap_or_default(),
        udp_port,
        busy: tried.filter(|port| !listening.contains(port)).collect(),
        listening,
        running: options.running,
    };
    let refused = |why: String| CheckError::Refused { addr, why };
    let hello = FromHost::Hello { version: VERSION, host: described };
    say(&mut stream, &hello).map_err(|e| refused(e.to_string()))?;
    // The others may come much later.
    let patience = options.wait + ROUND_PATIENCE;
    stream.socket().set_read_timeout(Some(patience)).map_err(|e| refused(e.to_string()))?;
    match hear(&mut stream, MOST_TO_HOST).map_err(|e| refused(e.to_string()))? {
        ToHost::Begin { me, random, hosts, settings } if me < hosts.len() && hosts.len() <= MOST_HOSTS => {
            let host = Host::new(socket).map_err(CheckError::system("set up a UDP socket"))?;
            let ips = addresses(&hosts, addr)?;
            let key =
                options.security.as_ref().and_then(|s| s.derive_key(KEY_PURPOSE, &random)).unwrap_or(random);
            let addresses =
                ips.iter().zip(&hosts).map(|(ip, host)| SocketAddr::new(*ip, host.udp_port)).collect();
            host.meet(Meeting { me, key: Key::new(&key), addresses });
            // A round of others takes its time too.
            let whole = Duration::from_micros(settings.gap_us(hosts.len())) * settings.probes * 2;
            let patience = whole + ROUND_PATIENCE * hosts.len() as u32;
            stream.socket().set_read_timeout(Some(patience)).map_err(|e| refused(e.to_string()))?;
            let work = Work {
                host: &host,
                hosts: &hosts,
                ips: &ips,
                settings,
                watch: Watch::new(options.metrics.clone()),
                open: BTreeMap::new(),
                through: BTreeMap::new(),
            };
            thread::scope(|scope| {
                let serving = scope.spawn(|| host.serve());
                let report = work.obey(&mut stream, addr);
                host.stop();
                match serving.join() {
                    Ok(Err(error)) => Err(CheckError::system("receive datagrams")(error)),
                    _ => report,
                }
            })
        }
        ToHost::Refuse { why } => Err(refused(why)),
        _ => Err(refused("it says something out of turn".to_owned())),
    }
}

fn sockets(options: &JoinOptions, any: IpAddr) -> Result<(UdpSocket, Vec<TcpListener>), CheckError> {
    let wanted = SocketAddr::new(any, options.udp_port);
    let bound = match UdpSocket::bind(wanted) {
        // The master beside which we are has it.
        Err(_) if options.running => UdpSocket::bind(SocketAddr::new(any, 0)),
        other => other,
    };
    let socket = bound.map_err(|source| CheckError::Listen { addr: wanted, source })?;
    let ports = (!options.running).then(|| options.p2p_ports.clone()).into_iter().flatten();
    Ok((socket, ports::listen(any, ports)))
}

/// Where this host reaches each: the place to meet at the address that it was found at.
fn addresses(hosts: &[Described], at: SocketAddr) -> Result<Vec<IpAddr>, CheckError> {
    let address = |(index, host): (usize, &Described)| match host.address.parse::<IpAddr>() {
        Ok(ip) => Ok(ip),
        Err(_) if index == 0 => Ok(at.ip()),
        Err(_) => Err(CheckError::Refused { addr: at, why: format!("it gives no address of {}", host.name) }),
    };
    hosts.iter().enumerate().map(address).collect()
}

struct Work<'a> {
    host: &'a Host,
    hosts: &'a [Described],
    ips: &'a [IpAddr],
    settings: Settings,
    watch: Watch,
    /// Ports of others that accept.
    open: BTreeMap<usize, Vec<u16>>,
    /// The longest packets that get to others.
    through: BTreeMap<usize, u32>,
}

impl Work<'_> {
    /// Does what it is told to until the report comes.
    fn obey(mut self, stream: &mut SecureStream, addr: SocketAddr) -> Result<Report, CheckError> {
        let refused = |why: String| CheckError::Refused { addr, why };
        loop {
            match hear(stream, MOST_TO_HOST).map_err(|e| refused(e.to_string()))? {
                ToHost::Do { task, loss_percent } => {
                    let found = self.work(&task, loss_percent);
                    let done = FromHost::Done { found, moved: self.watch.moved() };
                    say(stream, &done).map_err(|e| refused(e.to_string()))?;
                }
                ToHost::End { report } => return Ok(*report),
                ToHost::Refuse { why } => return Err(refused(why)),
                ToHost::Begin { .. } => return Err(refused("it begins twice".to_owned())),
            }
        }
    }

    fn work(&mut self, task: &Task, loss_percent: f64) -> Vec<Found> {
        let there = |targets: &[usize]| -> Vec<usize> {
            targets.iter().copied().filter(|to| *to < self.hosts.len()).collect()
        };
        match task {
            Task::Ports(to) => there(to).into_iter().map(|to| Found::Ports(self.reach(to))).collect(),
            Task::Probe(to) => self.probe(&there(to)),
            Task::Mtu(to) => {
                let fitting = mtu::find(self.host, &there(to));
                self.through.extend(fitting.iter().filter_map(|one| Some((one.to, one.through?))));
                fitting.into_iter().map(Found::Mtu).collect()
            }
            Task::Bandwidth(to) => {
                let packet = self.through.get(to).copied().unwrap_or(ANYWHERE_BYTES).min(USUAL_BYTES);
                vec![Found::Bandwidth(bandwidth::measure(
                    self.host,
                    *to,
                    &self.settings,
                    loss_percent,
                    packet,
                ))]
            }
        }
    }

    fn reach(&mut self, to: usize) -> ports::Reached {
        let reached = ports::reach(to, self.ips[to], &self.hosts[to].listening);
        self.open.insert(to, reached.open.clone());
        reached
    }

    /// Probes, and looks at the counters of the fleet beside.
    fn probe(&mut self, targets: &[usize]) -> Vec<Found> {
        let (host, settings, count) = (self.host, self.settings, self.hosts.len());
        let watch = &mut self.watch;
        let probed: Vec<probing::Probed> = thread::scope(|scope| {
            let probing = scope.spawn(|| probe(host, targets, &settings, count));
            let (begin, time) =
                (Instant::now(), Duration::from_micros(settings.gap_us(count - 1)) * settings.probes);
            while settings.running && (!probing.is_finished() || begin.elapsed() < time) {
                watch.look();
                thread::sleep(LOOK);
            }
            probing.join().unwrap_or_default()
        });
        let by_tcp = |probed: &probing::Probed| {
            let to = probed.to;
            probed.trips.is_none().then(|| Found::ByTcp {
                to,
                ms: ports::round_trip_ms(self.ips[to], self.open.get(&to).map_or(&[], Vec::as_slice)),
            })
        };
        let by_tcp: Vec<Found> = probed.iter().filter_map(by_tcp).collect();
        probed.into_iter().map(Found::Probed).chain(by_tcp).collect()
    }
}
