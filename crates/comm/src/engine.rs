//! Who drives the machine: the calling thread while it waits, a thread of the library otherwise.
//!
//! A caller that blocks does the reading, reducing and sending itself: no thread has to be woken for an op to go on,
//! which is what small ops cost most. The library's thread takes over when no caller has driven for a moment, so that
//! heartbeats and requests are answered whatever the caller does.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pccl_net::{Net, Security, Waiter, Wakeup};
use pccl_observe::Metrics;
use pccl_proto::machine::{Closed, Machine};
use pccl_proto::message::VoteOutcome;
use pccl_proto::peer::{
    Completion, OpId, OpInfo, Peer, PeerConfig, PeerEvent, StartError, SyncEnd, SyncStartError,
};
use pccl_proto::shared_state::{Offer, StateMemory};
use pccl_proto::vocabulary::Fingerprint;

use crate::buffer::Buffers;
use crate::fault;
use crate::journal::Journal;
use crate::kernels::Cpu;
use crate::options::Call;
use crate::quantized::{Order, Spare};
use crate::residuals::Residuals;

/// How long the library's thread leaves the machine to callers after one has driven it.
const PARK: Duration = Duration::from_millis(5);
/// Largest op whose caller looks for events a while before it sleeps: of a larger one, the data take longer.
const EAGER_BYTES: u64 = 1 << 20;
/// Longest wait without looking after the machine.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// The result of an op, and its memory.
pub(crate) type Ended = Completion<Buffers>;

pub(crate) struct State {
    pub(crate) net: Net,
    pub(crate) peer: Peer<Buffers, Cpu>,
    results: BTreeMap<OpId, Ended>,
    /// Ops whose handle was dropped.
    forgotten: Vec<OpId>,
    pub(crate) vote: Option<VoteOutcome>,
    pub(crate) voting: bool,
    synchronized: Option<SyncEnd>,
    pub(crate) last_trouble: String,
    pub(crate) totals: Totals,
    metrics: Option<Metrics>,
    journal: Journal,
    started: BTreeMap<OpId, Begun>,
    caller_drives: bool,
    last_driven: Option<Instant>,
}

/// An op that has been started.
struct Begun {
    at: Instant,
    bytes: u64,
}

/// Sums over the life of a communicator.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) ops: u64,
    pub(crate) recoveries: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

pub(crate) struct Engine {
    state: Mutex<State>,
    waiter: Mutex<Waiter>,
    wakeup: Wakeup,
    /// Signalled when something has ended and callers wait without driving.
    ended: Condvar,
    waiting: AtomicUsize,
    park: Mutex<()>,
    parked: Condvar,
    stop: AtomicBool,
    spare: Spare,
    /// What compression has taken away.
    pub(crate) residuals: Arc<Residuals>,
    /// Whether the run compresses.
    compresses: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The process that has the library's thread.
    process: u32,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in another thread has not left half a change that matters more than going on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    pub(crate) fn start(
        listener: TcpListener,
        udp: Option<UdpSocket>,
        config: PeerConfig,
        metrics: Option<Metrics>,
        security: Option<Security>,
    ) -> io::Result<Arc<Self>> {
        let (mut net, waiter, wakeup) = pccl_net::pair()?;
        net.set_listener(listener)?;
        if let Some(metrics) = &metrics {
            net.set_metrics(metrics.clone());
        }
        if let Some(security) = security {
            net.set_security(security);
        }
        if let Some(udp) = udp {
            net.set_udp(udp)?;
        }
        let peer = Peer::new(net.now(), config, Cpu);
        let state = State {
            net,
            peer,
            results: BTreeMap::new(),
            forgotten: Vec::new(),
            vote: None,
            voting: false,
            synchronized: None,
            last_trouble: "no answer".into(),
            totals: Totals::default(),
            metrics,
            journal: Journal::new(),
            started: BTreeMap::new(),
            caller_drives: false,
            last_driven: None,
        };
        let engine = Arc::new(Self {
            state: Mutex::new(state),
            waiter: Mutex::new(waiter),
            wakeup,
            ended: Condvar::new(),
            waiting: AtomicUsize::new(0),
            park: Mutex::new(()),
            parked: Condvar::new(),
            stop: AtomicBool::new(false),
            spare: Spare::default(),
            residuals: Arc::default(),
            compresses: AtomicBool::new(false),
            thread: Mutex::new(None),
            process: std::process::id(),
        });
        let background = Arc::clone(&engine);
        let thread =
            std::thread::Builder::new().name("pccl-io".into()).spawn(move || background.background())?;
        *lock(&engine.thread) = Some(thread);
        Ok(engine)
    }

    /// Looks at, or changes, the machine; what it wants done is done at once.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let mut state = lock(&self.state);
        let result = f(&mut state);
        state.go_on();
        if state.take_in() && self.waiting.load(Ordering::Relaxed) > 0 {
            self.ended.notify_all();
        }
        result
    }

    /// Looks at the machine.
    pub(crate) fn look<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        f(&lock(&self.state))
    }

    /// Looks at the machine, unless it cannot be had for `patience`.
    pub(crate) fn look_within<R>(&self, patience: Duration, f: impl FnOnce(&State) -> R) -> Option<R> {
        let deadline = Instant::now() + patience;
        loop {
            match self.state.try_lock() {
                Ok(state) => return Some(f(&state)),
                Err(TryLockError::Poisoned(state)) => return Some(f(&state.into_inner())),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    /// What a call of an op comes to in this run.
    pub(crate) fn order(&self, f: Fingerprint, call: &Call) -> Order {
        Order::new(f, call, self.compresses.load(Ordering::Relaxed))
    }

    /// Starts an op. The memory comes back with the error, or by [`Engine::wait_for`].
    pub(crate) fn start_op(&self, order: &Order, memory: Buffers) -> Result<OpId, (StartError, Buffers)> {
        let mut memory = self.spare.memory_for(order, memory);
        let (tag, f) = (order.tag, order.f);
        let started = self.with(|state| {
            let now = state.net.now();
            if let Buffers::Quantized(memory) = &mut memory {
                memory.resume(order, &self.residuals);
            }
            let id = state.peer.start(now, tag, f, memory).map_err(|(why, mut memory)| {
                if let Buffers::Quantized(memory) = &mut memory {
                    memory.bring_back(false);
                }
                (why, memory)
            })?;
            pccl_net::fault::reached("started");
            state.journal.op_began(&state.peer, tag.0, f.bytes());
            state.started.insert(id, Begun { at: Instant::now(), bytes: f.bytes() });
            Ok(id)
        });
        started.map_err(|(why, memory): (StartError, Buffers)| (why, memory.not_started(&self.spare)))
    }

    /// An op that has ended, with its result where it belongs, and its tensor as its memory.
    pub(crate) fn finished(&self, mut ended: Ended) -> Ended {
        if let Buffers::Quantized(memory) = ended.memory {
            ended.memory = memory.finish(&ended.result, &self.spare);
        }
        ended
    }

    /// Lets the library's thread take over now: nobody is going to wait for an op that has been started.
    pub(crate) fn hand_over(&self) {
        lock(&self.state).last_driven = None;
        self.parked.notify_one();
        self.wakeup.wake();
    }

    /// Waits for an op to end.
    pub(crate) fn wait_for(&self, id: OpId) -> Ended {
        self.wait(None, |state| state.results.remove(&id))
            .unwrap_or_else(|| unreachable!("there is no deadline"))
    }

    /// Waits for an op to end, at most until `deadline`.
    pub(crate) fn wait_until(&self, id: OpId, deadline: Instant) -> Option<Ended> {
        self.wait(Some(deadline), |state| state.results.remove(&id))
    }

    /// Synchronizes, from start to end.
    pub(crate) fn synchronize(
        &self,
        offer: Offer,
        memory: Box<dyn StateMemory>,
    ) -> Result<SyncEnd, (SyncStartError, Box<dyn StateMemory>)> {
        self.with(|state| {
            if state.voting {
                return Err((SyncStartError::Busy, memory));
            }
            state.peer.synchronize(offer, memory)?;
            state.voting = true;
            Ok(())
        })?;
        let end = self.wait(None, |state| {
            let end = state.synchronized.take()?;
            state.voting = false;
            Some(end)
        });
        Ok(end.unwrap_or_else(|| unreachable!("there is no deadline")))
    }

    /// Whether the op has ended.
    pub(crate) fn has_ended(&self, id: OpId) -> bool {
        lock(&self.state).results.contains_key(&id)
    }

    /// Nobody will ask for this op's result.
    pub(crate) fn forget(&self, id: OpId) {
        if self.process != std::process::id() {
            // A child after `fork`: nobody will ever give back a lock that another thread held then.
            return;
        }
        let mut state = lock(&self.state);
        if state.results.remove(&id).is_none() {
            state.forgotten.push(id);
        }
    }

    /// Waits until `check` gives something, driving the machine meanwhile; at most until `deadline`.
    pub(crate) fn wait<R>(
        &self,
        deadline: Option<Instant>,
        mut check: impl FnMut(&mut State) -> Option<R>,
    ) -> Option<R> {
        let late = || deadline.is_some_and(|at| Instant::now() >= at);
        let mut state = lock(&self.state);
        loop {
            if let Some(result) = check(&mut state) {
                return Some(result);
            }
            if late() {
                return None;
            }
            if !state.caller_drives {
                state.caller_drives = true;
                drop(state);
                let result = self.drive(deadline, &mut check);
                if self.waiting.load(Ordering::Relaxed) > 0 {
                    // Somebody else has to drive now.
                    self.ended.notify_all();
                }
                return result;
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
            state = self.ended.wait_timeout(state, MAX_WAIT).unwrap_or_else(PoisonError::into_inner).0;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Drives until `check` gives something. `caller_drives` is ours.
    fn drive<R>(
        &self,
        deadline: Option<Instant>,
        check: &mut impl FnMut(&mut State) -> Option<R>,
    ) -> Option<R> {
        let mut waiter = self.waiter.try_lock().unwrap_or_else(|_| {
            self.wakeup.wake();
            lock(&self.waiter)
        });
        let mut state = lock(&self.state);
        loop {
            let result = check(&mut state);
            if result.is_some() || deadline.is_some_and(|at| Instant::now() >= at) {
                state.caller_drives = false;
                state.last_driven = Some(Instant::now());
                return result;
            }
            let left = deadline.map_or(MAX_WAIT, |at| at.saturating_duration_since(Instant::now()));
            let eager = state.started.values().all(|op| op.bytes <= EAGER_BYTES);
            state = self.turn(state, &mut waiter, left, eager);
        }
    }

    /// Waits for the sockets without the lock, and handles what happened with it.
    fn turn<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        waiter: &mut Waiter,
        limit: Duration,
        eager: bool,
    ) -> MutexGuard<'a, State> {
        let limit = state.net.time_left(&state.peer).map_or(limit, |left| left.min(limit));
        drop(state);
        let limit = Some(limit.min(MAX_WAIT));
        if let Err(e) = if eager { waiter.wait_eagerly(limit) } else { waiter.wait(limit) } {
            tracing::error!(target: "pccl::peer", "failed to wait for sockets: {e}");
        }
        let mut state = lock(&self.state);
        state.handle(waiter);
        if state.take_in() && self.waiting.load(Ordering::Relaxed) > 0 {
            self.ended.notify_all();
        }
        state
    }

    fn background(&self) {
        while !self.stop.load(Ordering::Acquire) {
            self.spare.expire();
            let leave_alone = {
                let state = lock(&self.state);
                state.caller_drives || state.last_driven.is_some_and(|at| at.elapsed() < PARK)
            };
            if leave_alone {
                let guard = lock(&self.park);
                drop(self.parked.wait_timeout(guard, PARK).unwrap_or_else(PoisonError::into_inner));
                continue;
            }
            let mut waiter = lock(&self.waiter);
            let state = lock(&self.state);
            if state.caller_drives {
                continue;
            }
            drop(self.turn(state, &mut waiter, MAX_WAIT, false));
        }
    }

    /// Ends the library's thread and closes every connection.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.parked.notify_all();
        self.wakeup.wake();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
        let mut state = lock(&self.state);
        // A peer that leaves has left when the master's connection is gone: its ops end, also if no master says goodbye,
        // and no thread that waits for one of them touches the memory of another.
        for conn in state.net.close_all() {
            let now = state.net.now();
            state.peer.handle_closed(now, conn, Closed::Eof);
        }
        state.take_in();
        self.ended.notify_all();
    }

    /// Begins a new life after the old one has ended.
    pub(crate) fn begin_again(&self, config: PeerConfig) {
        self.residuals.clear();
        self.with(|state| {
            state.go_on();
            state.take_in();
            state.peer = Peer::new(state.net.now(), config, Cpu);
            state.vote = None;
            state.voting = false;
        });
    }

    /// Takes over what the run's settings say of calls.
    pub(crate) fn heed_settings(&self) {
        let compresses = self.look(|state| state.peer.settings().enable_compression);
        self.compresses.store(compresses, Ordering::Relaxed);
    }

    /// The address of the listening socket as the others may reach it.
    pub(crate) fn session(&self) -> Option<pccl_proto::message::Session> {
        self.look(|state| state.peer.session())
    }
}

impl State {
    fn go_on(&mut self) {
        fault::watched(&mut self.peer, |peer| self.net.go_on(peer, &mut |_| {}));
    }

    fn handle(&mut self, waiter: &Waiter) {
        let handled = fault::watched(&mut self.peer, |peer| self.net.handle(peer, waiter, &mut |_| {}));
        if let Err(e) = handled {
            tracing::error!(target: "pccl::peer", "failed to handle sockets: {e}");
        }
    }

    /// Takes what the machine has to say. Returns whether a caller may have waited for it.
    fn take_in(&mut self) -> bool {
        let mut news = false;
        while let Some(event) = self.peer.poll_event() {
            news = true;
            self.log(&event);
        }
        while let Some(mut done) = self.peer.poll_completed() {
            pccl_net::fault::reached("verdict");
            news = true;
            self.count(&done);
            if let Buffers::Quantized(memory) = &mut done.memory {
                memory.settle(&done.result);
            }
            match self.forgotten.iter().position(|id| *id == done.id) {
                Some(i) => drop(self.forgotten.swap_remove(i)),
                None => drop(self.results.insert(done.id, done)),
            }
        }
        if let Some(end) = self.peer.poll_synchronized() {
            news = true;
            self.count_bytes(&end);
            self.synchronized = Some(end);
        }
        if let Some(outcome) = self.peer.poll_vote() {
            news = true;
            self.vote = Some(outcome);
        }
        news
    }

    fn count(&mut self, done: &Ended) {
        let took = self.started.remove(&done.id).map(|op| op.at.elapsed());
        self.journal.op_ended(&self.peer, done, took.unwrap_or_default());
        let Ok(OpInfo { recoveries, sent_bytes, received_bytes, .. }) = done.result else { return };
        self.totals.ops += 1;
        self.totals.recoveries += u64::from(recoveries);
        self.totals.sent_bytes += sent_bytes;
        self.totals.received_bytes += received_bytes;
        let Some(metrics) = &self.metrics else { return };
        if let Some(took) = took {
            metrics.record_op(took);
        }
        for _ in 0..recoveries {
            metrics.record_recovery();
        }
    }

    fn count_bytes(&mut self, end: &SyncEnd) {
        if let Ok(done) = &end.result {
            self.totals.sent_bytes += done.sent_bytes;
            self.totals.received_bytes += done.received_bytes;
        }
    }

    fn log(&mut self, event: &PeerEvent) {
        if let PeerEvent::MasterAway { why } = event {
            self.last_trouble.clone_from(why);
        }
        self.journal.say(&self.peer, event);
    }
}

/// An address for the others: this port wherever the master sees us.
pub(crate) fn anywhere(port: u16, v6: bool) -> SocketAddr {
    if v6 {
        (std::net::Ipv6Addr::UNSPECIFIED, port).into()
    } else {
        (std::net::Ipv4Addr::UNSPECIFIED, port).into()
    }
}
