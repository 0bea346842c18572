//! What a peer has to say: lines of the log, each with run, epoch and session, and the flight record.

use std::sync::Arc;
use std::time::Duration;

use pccl_observe::flight;
use pccl_proto::ids::SessionId;
use pccl_proto::peer::{Completion, EndReason, Peer, PeerEvent};
use pccl_proto::record::Removal;

use crate::buffer::Buffers;
use crate::kernels::Cpu;

type Machine = Peer<Buffers, Cpu>;

/// A peer's voice.
pub(crate) struct Journal {
    /// Its session, as text.
    who: Arc<str>,
    session: Option<SessionId>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { who: "unregistered".into(), session: None }
    }

    /// Something happened: a line in the log, and one in the flight record.
    pub(crate) fn say(&mut self, peer: &Machine, event: &PeerEvent) {
        let session = peer.session().map(|s| s.id);
        if session.is_some() && session != self.session {
            self.session = session;
            self.who = session.map(|s| s.to_string()).unwrap_or_default().into();
        }
        let (run, epoch) = (peer.run(), peer.view().map_or(0, |v| v.epoch.0));
        let (warns, about) = weigh(event);
        let about = about.map(|s| s.to_string());
        flight::note(&self.who, warns, about.clone(), epoch, event.to_string());
        let (run, about) = (format!("{:032x}", run.0), about.unwrap_or_default());
        if warns {
            tracing::warn!(target: "pccl::peer", run, epoch, session = &*self.who, peer = about, "{event}");
        } else {
            tracing::info!(target: "pccl::peer", run, epoch, session = &*self.who, peer = about, "{event}");
        }
    }

    /// A caller called an op.
    pub(crate) fn op_began(&self, peer: &Machine, tag: u64, bytes: u64) {
        flight::op_began(&self.who, tag, peer.view().map_or(0, |v| v.epoch.0), bytes);
    }

    /// An op has ended. One that failed writes the flight record down.
    pub(crate) fn op_ended(&self, peer: &Machine, done: &Completion<Buffers>, took: Duration) {
        let tag = done.tag.0;
        match &done.result {
            Ok(info) => flight::op_ended(&self.who, tag, info.epoch.0, took, info.recoveries, None),
            Err(error) => {
                let (run, epoch) = (peer.run(), peer.view().map_or(0, |v| v.epoch.0));
                let why = error.to_string();
                flight::op_ended(&self.who, tag, epoch, took, 0, Some(why.clone()));
                let run = format!("{:032x}", run.0);
                tracing::warn!(target: "pccl::peer", run, epoch, session = &*self.who, tag, "an op failed: {why}");
                flight::dump_after_error(&format!("peer {}: the op of tag {tag} failed: {why}", self.who));
            }
        }
    }
}

/// Whether it is trouble, and whom it is about.
fn weigh(event: &PeerEvent) -> (bool, Option<SessionId>) {
    match event {
        PeerEvent::LinkDown { peer, .. }
        | PeerEvent::LinkFruitless { peer, .. }
        | PeerEvent::Mismatch { peer, .. } => (true, Some(*peer)),
        PeerEvent::LinkUp { peer, .. } => (false, Some(*peer)),
        PeerEvent::EpochChanged { removed, .. } => {
            let lost = removed.iter().find(|(_, why)| !matches!(why, Removal::Left | Removal::CameBack));
            (lost.is_some(), lost.map(|(session, _)| *session))
        }
        PeerEvent::Ended(why) => (*why != EndReason::Left, None),
        PeerEvent::MasterAway { .. } => (true, None),
        _ => (false, None),
    }
}
