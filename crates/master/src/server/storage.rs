//! The thread that asks the store, so that a slow disk or a far database does not keep the master from its peers.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use pccl_net::Wakeup;
use pccl_proto::record::{StoreReply, StoreRequest};

use crate::store::StateStore;

/// Pauses after a failure, so that a full disk does not make a busy loop of master and store.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Short enough for a lease to be renewed in time once the store is back.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The store's thread as the master sees it.
pub(super) struct Storage {
    requests: Sender<StoreRequest>,
    replies: Receiver<StoreReply>,
    _stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

/// The thread has ended, which it does not by itself.
#[derive(Debug)]
pub(super) struct Gone;

pub(super) fn start(store: Box<dyn StateStore>, wakeup: Wakeup) -> io::Result<Storage> {
    let (requests, asked) = mpsc::channel();
    let (answers, replies) = mpsc::channel();
    let (stop, stopped) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("pccl-store".into())
        .spawn(move || serve(store, &asked, &answers, &stopped, &wakeup))?;
    Ok(Storage { requests, replies, _stop: stop, thread: Some(thread) })
}

impl Storage {
    /// Where requests go. One that cannot be sent is lost; the next `poll` says why.
    pub(super) fn requests(&self) -> Sender<StoreRequest> {
        self.requests.clone()
    }

    /// An answer, if there is one.
    pub(super) fn poll(&self) -> Result<Option<StoreReply>, Gone> {
        match self.replies.try_recv() {
            Ok(reply) => Ok(Some(reply)),
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err(Gone),
        }
    }

    /// Waits for an answer, for a while.
    pub(super) fn wait(&self, limit: Duration) -> Result<Option<StoreReply>, Gone> {
        match self.replies.recv_timeout(limit) {
            Ok(reply) => Ok(Some(reply)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Gone),
        }
    }

    /// Lets the request end that is being carried out, and ends the thread. The store's lock is free afterwards.
    pub(super) fn end(self) {
        let Self { requests, replies, _stop: stop, thread } = self;
        drop((requests, replies, stop));
        if let Some(thread) = thread {
            // A panic has been seen by `poll`.
            let _ = thread.join();
        }
    }
}

fn serve(
    mut store: Box<dyn StateStore>,
    asked: &Receiver<StoreRequest>,
    answers: &Sender<StoreReply>,
    stopped: &Receiver<()>,
    wakeup: &Wakeup,
) {
    let mut pause = Duration::ZERO;
    for request in asked {
        let ended = match stopped.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
        };
        if ended {
            return;
        }
        let reply = store.execute(&request);
        match reply {
            StoreReply::Unknown { .. } | StoreReply::Rejected { .. } => {
                pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            }
            StoreReply::Taken { .. } | StoreReply::Renewed { .. } | StoreReply::Written { .. } => {
                pause = Duration::ZERO;
            }
            // After a failed write the master reads; that this works says nothing about the next write.
            StoreReply::Record { .. } => {}
        }
        if answers.send(reply).is_err() {
            return;
        }
        wakeup.wake();
    }
}
