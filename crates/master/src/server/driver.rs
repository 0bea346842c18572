//! The thread of a master: waits for sockets, timers and the store, and lets the machine decide.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pccl_net::{Net, Waiter};
use pccl_proto::master::{Authority, Master, MasterConfig, MasterEvent};
use pccl_proto::message::{Command, Status};

use super::EndError;
use super::fault::{self, Watch};
use super::storage::{Gone, Storage};
use crate::journal::Journal;

/// How long the store may take for its first answer before peers are told that the master is not active yet.
/// Until then they wait in the listening socket's queue.
const FIRST_ANSWER: Duration = Duration::from_millis(250);
/// How long a master that is told to end tries to give its lease back.
const HANDOVER: Duration = Duration::from_secs(2);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(10);

pub(super) struct Driver {
    net: Net,
    waiter: Waiter,
    storage: Storage,
    master: Master,
    journal: Journal,
    active: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    questions: Receiver<Sender<Status>>,
    watch: Watch,
    /// Other masters may share its store.
    shares: bool,
    /// Since when it has been trying to end.
    handing_over: Option<Instant>,
    told_to_give_way: bool,
}

impl From<Gone> for EndError {
    fn from(_: Gone) -> Self {
        Self::Panicked { thread: "store" }
    }
}

impl Driver {
    pub(super) fn new(
        net: Net,
        waiter: Waiter,
        storage: Storage,
        config: MasterConfig,
        active: Arc<AtomicBool>,
        (stop, questions): (Arc<AtomicBool>, Receiver<Sender<Status>>),
    ) -> Self {
        let shares = config.lease.lease_ms > 0;
        let master = Master::new(net.now(), config);
        Self {
            net,
            waiter,
            storage,
            master,
            journal: Journal::default(),
            active,
            stop,
            questions,
            watch: Watch::default(),
            shares,
            handing_over: None,
            told_to_give_way: false,
        }
    }

    /// Runs until it is stopped or cannot go on; `last` is the master's status then.
    pub(super) fn run(mut self, last: &Mutex<Status>) -> Result<(), EndError> {
        let end = self.serve();
        if let Err(e) = &end {
            tracing::error!(target: "pccl::master", "{e}");
        }
        *last.lock().unwrap_or_else(PoisonError::into_inner) = self.master.status(self.net.now());
        let _ = self.net.close_all();
        self.storage.end();
        end
    }

    fn serve(&mut self) -> Result<(), EndError> {
        self.begin()?;
        loop {
            self.report()?;
            if self.stop.load(Ordering::Acquire) && self.has_handed_over() {
                return Ok(());
            }
            let mut left = self.net.time_left(&self.master);
            if self.handing_over.is_some() {
                left = Some(left.map_or(LOOK, |left| left.min(LOOK)));
            }
            self.waiter.wait_eagerly(left).map_err(|e| EndError::Sockets { why: e.to_string() })?;
            while let Some(reply) = self.storage.poll()? {
                self.watch.replied(&reply);
                self.master.handle_store(self.net.now(), reply);
            }
            for question in self.questions.try_iter() {
                // Whoever asked may have gone.
                let _ = question.send(self.master.status(self.net.now()));
            }
            let requests = self.storage.requests();
            let store = &mut |request| drop(requests.send(request));
            fault::watched(&mut self.master, &mut self.watch, |m| self.net.handle(m, &self.waiter, store))
                .map_err(|e| EndError::Sockets { why: e.to_string() })?;
        }
    }

    /// Finds out whether it leads before anybody is answered, if the store does not take too long.
    fn begin(&mut self) -> Result<(), Gone> {
        let until = Instant::now() + FIRST_ANSWER;
        while self.go_on()
            && let Some(reply) = self.storage.wait(until.saturating_duration_since(Instant::now()))?
        {
            self.watch.replied(&reply);
            self.master.handle_store(self.net.now(), reply);
        }
        Ok(())
    }

    /// Carries out what the master has decided; whether it has asked the store.
    fn go_on(&mut self) -> bool {
        let requests = self.storage.requests();
        let mut asked = false;
        let store = &mut |request| {
            asked = true;
            drop(requests.send(request));
        };
        fault::watched(&mut self.master, &mut self.watch, |m| self.net.go_on(m, store));
        asked
    }

    /// Whether this master may end: it leads no more, so that another one need not wait for the end of its lease, or it
    /// has tried for long enough.
    fn has_handed_over(&mut self) -> bool {
        let begun = *self.handing_over.get_or_insert_with(Instant::now);
        let is_over = self.master.authority() == Authority::Standby || self.master.has_given_back();
        if !self.shares || is_over || begun.elapsed() > HANDOVER {
            return true;
        }
        if !self.told_to_give_way {
            self.told_to_give_way = true;
            // A refusal says that there is nothing to hand over.
            let refused = self.master.command(self.net.now(), Command::StepDown).is_err();
            self.go_on();
            return refused;
        }
        false
    }

    /// Says what happened, and ends the master if another one has taken over.
    fn report(&mut self) -> Result<(), EndError> {
        let mut deposed = None;
        while let Some(event) = self.master.poll_event() {
            self.journal.say((self.master.record().run, self.master.term()), &event);
            fault::happened(&event);
            if let MasterEvent::GroupRefused { from, why } = &event {
                self.net.note_refused_group(*from, why.clone());
            }
            // Where masters share a store, this one stands by.
            if let MasterEvent::Deposed { term, newer } = event
                && !self.shares
            {
                deposed = Some(EndError::Deposed { term, newer });
            }
        }
        self.active.store(self.master.authority() == Authority::Active, Ordering::Relaxed);
        deposed.map_or(Ok(()), Err)
    }
}
