//! Shared state: the caller's offer, the blocks that differ, and the word of the master that it stands.
//!
//! A vote to synchronize is a promise to accept the content that is offered under the revision that is elected. So the
//! synchronization has succeeded here when the master says that the group has agreed on what this peer has (or has
//! received all of), and on a newer revision than before the call. Whatever else happens, an epoch change or another
//! master, the peer votes again; what it has received is kept.

use std::collections::{BTreeMap, VecDeque};

use super::stream::Place;
use super::{EndReason, Peer};
use crate::execute::{Kernels, OpMemory};
use crate::ids::{ConnId, Epoch, SessionId, Time};
use crate::message::{Ending, LinkMessage, ToMaster, Vote, VoteKind, VoteOutcome};
use crate::shared_state::{Agreed, Election, Fetch, MANIFEST, NoCandidate, Offer, Piece, StateMemory};
use crate::wire::{MAX_DATA_BYTES, StateHeader};

/// Blocks that another peer may have asked for and not got.
const MAX_ASKED: usize = 1024;

/// How a synchronization went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synchronized {
    /// What the group has agreed on.
    pub agreed: Agreed,
    /// Whether newcomers were let in during the call.
    pub joined: bool,
    /// Tensor bytes sent.
    pub sent_bytes: u64,
    /// Tensor bytes received.
    pub received_bytes: u64,
    /// Elections after the first one.
    pub recoveries: u32,
}

/// Why a synchronization did not succeed. The caller's tensors are as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncFailure {
    /// Nobody's content could win.
    Nobody(NoCandidate),
    /// Members wait for different things.
    Mismatch {
        /// Who waits for what.
        waits: Vec<(SessionId, String)>,
    },
    /// The peer's life ended first.
    Ended(EndReason),
}

/// A call that cannot become a synchronization.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyncStartError {
    /// Not a member.
    #[error("this peer is not a member of an epoch yet")]
    NotAMember,
    /// The peer's life has ended.
    #[error("{0}")]
    Ended(EndReason),
    /// A vote of this peer has not ended.
    #[error("this peer waits in another vote")]
    Busy,
    /// Ops have not ended.
    #[error("{0} ops of this peer are in flight; wait for them first")]
    PendingOps(usize),
}

/// A synchronization that has ended, with the caller's memory.
pub struct SyncEnd {
    /// How it went.
    pub result: Result<Synchronized, SyncFailure>,
    /// The caller's memory; after success what was received is to be taken from it.
    pub memory: Box<dyn StateMemory>,
}

enum Stage {
    /// The offer is made.
    Voted,
    /// The master has said whose content won.
    Elected {
        id: u64,
        election: Election,
        /// What is missing, at a receiver.
        fetch: Option<Fetch>,
        /// The fetch is that of the manifest.
        manifest: bool,
    },
}

/// A synchronization on its way.
pub(super) struct Sync {
    offer: Offer,
    memory: Box<dyn StateMemory>,
    number: u32,
    stage: Stage,
    /// The master that we are attached to knows of the election.
    confirmed: bool,
    /// Blocks to send, with the first byte not sent, by receiver.
    serving: BTreeMap<SessionId, VecDeque<(u32, u32)>>,
    /// Holders that sent us something else than they say they have, in this election; a master that we attach to again
    /// may not have heard it.
    accused: Vec<(SessionId, String)>,
    /// Asked for in an election that we have not heard of.
    early: Vec<(SessionId, u64, Vec<u32>)>,
    /// The offer is what has been received, not what was there before.
    has_received: bool,
    joined: bool,
    recoveries: u32,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Sync {
    fn is_fetching(&self) -> bool {
        matches!(&self.stage, Stage::Elected { fetch: Some(fetch), .. } if !fetch.is_complete())
    }

    /// The election under way, if it has this name.
    fn is_in(&self, sync: u64) -> bool {
        matches!(&self.stage, Stage::Elected { id, .. } if *id == sync)
    }

    /// The content that this peer has all of.
    fn has(&self) -> Option<Agreed> {
        match &self.stage {
            Stage::Elected { election, .. } => (!self.is_fetching()).then_some(election.agreed),
            Stage::Voted => Some(Agreed { revision: self.offer.revision, content: self.offer.content }),
        }
    }

    pub(super) fn bytes(&self, piece: Piece) -> &[u8] {
        let (start, end) = (piece.offset as usize, (piece.offset + piece.len) as usize);
        &self.memory.bytes(piece.block)[start..end]
    }

    pub(super) fn incoming(&mut self, piece: Piece) -> &mut [u8] {
        let (start, end) = (piece.offset as usize, (piece.offset + piece.len) as usize);
        &mut self.memory.incoming(piece.block)[start..end]
    }
}

impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// Joins a synchronization. Its end comes from [`Peer::poll_synchronized`]; a call that fails gives the memory back.
    pub fn synchronize(
        &mut self,
        offer: Offer,
        memory: Box<dyn StateMemory>,
    ) -> Result<(), (SyncStartError, Box<dyn StateMemory>)> {
        if let Err(why) = self.may_synchronize() {
            return Err((why, memory));
        }
        self.sync = Some(Sync {
            offer: Offer { counts: offer.counts && !self.behind, ..offer },
            memory,
            number: 0,
            stage: Stage::Voted,
            confirmed: true,
            serving: BTreeMap::new(),
            accused: Vec::new(),
            early: Vec::new(),
            has_received: false,
            joined: false,
            recoveries: 0,
            sent_bytes: 0,
            received_bytes: 0,
        });
        self.count_vote();
        self.vote_to_synchronize();
        if self.control.is_attached() {
            self.repeat_offer();
        }
        Ok(())
    }

    fn may_synchronize(&self) -> Result<(), SyncStartError> {
        if let super::Phase::Ended(why) = &self.phase {
            return Err(SyncStartError::Ended(why.clone()));
        }
        if self.is_settling() {
            return Err(SyncStartError::Ended(super::EndReason::MasterLost));
        }
        if self.view.is_none() {
            return Err(SyncStartError::NotAMember);
        }
        if self.sync.is_some() || self.vote.is_some() {
            return Err(SyncStartError::Busy);
        }
        if !self.ops.is_empty() {
            return Err(SyncStartError::PendingOps(self.ops.len()));
        }
        Ok(())
    }

    /// The synchronization that has ended.
    pub fn poll_synchronized(&mut self) -> Option<SyncEnd> {
        self.synchronized.take()
    }

    /// Whether it waits for blocks of others.
    pub(super) fn needs_blocks(&self) -> bool {
        self.sync.as_ref().is_some_and(Sync::is_fetching)
    }

    /// Whether it may come from this member.
    pub(super) fn fetches_from(&self, peer: SessionId) -> bool {
        self.sync.as_ref().is_some_and(|s| match &s.stage {
            Stage::Elected { election, .. } => s.is_fetching() && election.holders.contains(&peer),
            Stage::Voted => false,
        })
    }

    /// Takes a new vote with the current offer, not yet told.
    fn vote_to_synchronize(&mut self) {
        let vote = self.new_vote(VoteKind::Synchronize);
        let Some(sync) = &mut self.sync else { return };
        sync.number = vote.number;
        sync.stage = Stage::Voted;
        self.vote = Some(vote);
    }

    /// Newcomers have come into an epoch during the synchronization. They call it too: to all it is the first vote since.
    fn recount_sync(&mut self, since: Epoch) {
        if self.sync.is_none() || since <= self.votes.0 {
            return;
        }
        self.votes = (since, 1);
        let (since, ordinal) = self.votes;
        if let Some(vote) = &mut self.vote {
            (vote.since, vote.ordinal) = (since, ordinal);
            let vote = ToMaster::Vote(*vote);
            self.tell_master_if_attached(&vote);
        }
    }

    /// Tells the master the offer and the vote, if they stand.
    pub(super) fn repeat_offer(&mut self) {
        let Some(sync) = self.sync.as_ref().filter(|s| matches!(s.stage, Stage::Voted)) else { return };
        let Some(vote) = self.vote else { return };
        let offer = ToMaster::Offer { number: vote.number, offer: sync.offer.clone() };
        self.tell_master(&offer);
        self.tell_master(&ToMaster::Vote(vote));
    }

    /// A connection to a master begins: what an earlier one knew must be confirmed.
    pub(super) fn sync_unconfirmed(&mut self) {
        if let Some(sync) = &mut self.sync {
            sync.confirmed = false;
        }
    }

    /// Attached: a master that does not know of our election gets our vote again.
    pub(super) fn sync_attached(&mut self) {
        let Some(sync) = &self.sync else { return };
        let Stage::Elected { id, .. } = &sync.stage else { return self.repeat_offer() };
        if !sync.confirmed {
            self.elect_again();
            return self.repeat_offer();
        }
        let id = *id;
        let done = (!sync.is_fetching()).then_some(ToMaster::Synchronized { sync: id });
        let accuse = |(holder, tensor): &(SessionId, String)| {
            let (holder, tensor) = (*holder, tensor.clone());
            ToMaster::BadBlock { sync: id, holder, tensor }
        };
        let accusations: Vec<ToMaster> = sync.accused.iter().map(accuse).collect();
        for message in accusations.into_iter().chain(done) {
            self.tell_master(&message);
        }
    }

    /// The election is void. What has been received in full is ours to offer; of what has not, we cannot speak.
    fn elect_again(&mut self) {
        self.detach_state();
        let me = self.session_id();
        let Some(sync) = &mut self.sync else { return };
        let fetching = sync.is_fetching();
        if let Stage::Elected { election, .. } = &sync.stage
            && election.receivers.contains(&me)
        {
            if fetching {
                sync.offer.counts = false;
            } else {
                sync.offer.revision = election.agreed.revision;
                sync.offer.content = election.agreed.content;
                sync.offer.counts = true;
                sync.has_received = true;
            }
        }
        sync.serving.clear();
        sync.early.clear();
        sync.recoveries += 1;
        self.vote_to_synchronize();
    }

    /// A new epoch: an election of the old one is void. A vote stands.
    pub(super) fn sync_enters_epoch(&mut self, agreed: Option<Agreed>, joined: bool) {
        let since = self.view.as_ref().map_or(Epoch::default(), |v| v.joined);
        self.recount_sync(since);
        if let Some(sync) = &mut self.sync {
            sync.joined |= joined;
        }
        if let Some(agreed) = agreed {
            self.agreed(agreed, since);
        }
        let Some(sync) = &self.sync else { return };
        if matches!(sync.stage, Stage::Elected { .. }) {
            self.elect_again();
            if self.control.is_attached() {
                self.repeat_offer();
            }
        }
    }

    /// The master says what the store has.
    pub(super) fn agreed(&mut self, agreed: Agreed, since: Epoch) {
        // What the group had before we came may be forgotten with its last member, and revisions begin anew.
        let foreign = self.view.is_none();
        if foreign || self.agreed.is_some_and(|before| agreed.revision <= before.revision) {
            return;
        }
        self.agreed = Some(agreed);
        let Some(sync) = &mut self.sync else { return };
        let ours = sync.has().is_some_and(|a| a.content == agreed.content && a.revision <= agreed.revision);
        if ours {
            if self.votes.0 < since {
                // Heard before the epoch of the newcomers that this call has let in.
                self.votes = (since, 1);
            }
            self.behind = false;
            let received = matches!(&sync.stage, Stage::Elected { fetch: Some(_), .. });
            if !received && !sync.has_received {
                sync.memory.discard();
            }
            let done = Synchronized {
                agreed,
                joined: sync.joined,
                sent_bytes: sync.sent_bytes,
                received_bytes: sync.received_bytes,
                recoveries: sync.recoveries,
            };
            self.end_sync(Ok(done));
        }
    }

    pub(super) fn nobody_elected(&mut self, number: u32, why: NoCandidate) {
        if let Some(sync) = self.sync.as_ref().filter(|s| s.number == number) {
            self.behind |= !sync.offer.counts;
            let (since, ordinal) = self.votes;
            let vote = Vote { kind: VoteKind::Synchronize, number, since, ordinal };
            self.last_vote = Some((vote, Ending::NobodyElected(why.clone())));
            self.end_sync(Err(SyncFailure::Nobody(why)));
        }
    }

    /// The vote has ended without an election. False if it was not one to synchronize.
    pub(super) fn sync_vote_ended(&mut self, number: u32, outcome: &VoteOutcome) -> bool {
        let Some(sync) = self.sync.as_ref().filter(|s| s.number == number) else { return false };
        if let (VoteOutcome::Mismatch { waits }, Stage::Voted) = (outcome, &sync.stage) {
            self.uncount_vote();
            self.end_sync(Err(SyncFailure::Mismatch { waits: waits.clone() }));
        }
        true
    }

    pub(super) fn end_sync(&mut self, result: Result<Synchronized, SyncFailure>) {
        self.detach_state();
        if let Some(sync) = self.sync.take() {
            self.vote = None;
            self.synchronized = Some(SyncEnd { result, memory: sync.memory });
        }
    }

    /// Whose content won: holders send, receivers ask.
    pub(super) fn elected(&mut self, now: Time, number: u32, id: u64, epoch: Epoch, election: Election) {
        let (me, here) = (self.session_id(), self.epoch());
        let Some(sync) = &mut self.sync else { return };
        if sync.is_in(id) {
            sync.confirmed = true;
            return;
        }
        if !matches!(sync.stage, Stage::Voted) || sync.number != number || epoch != here {
            return;
        }
        self.vote = None;
        let receives = election.receivers.contains(&me);
        let fetch = receives.then(|| Fetch::new([(MANIFEST, sync.memory.len_of(MANIFEST))]));
        if receives {
            sync.has_received = false;
        } else if !sync.has_received {
            sync.memory.discard();
        }
        sync.confirmed = true;
        sync.accused.clear();
        sync.stage = Stage::Elected { id, election, fetch, manifest: true };
        self.add_holders();
        let early = self.sync.as_mut().map(|s| std::mem::take(&mut s.early)).unwrap_or_default();
        for (from, sync, blocks) in early {
            self.serve(now, None, from, sync, &blocks);
        }
        self.ask_blocks();
    }
}

/// Blocks on their way.
impl<M: OpMemory, K: Kernels> Peer<M, K> {
    /// The holders that are connected can be asked.
    fn add_holders(&mut self) {
        let Some(Sync { stage: Stage::Elected { election, fetch: Some(fetch), .. }, .. }) = &mut self.sync
        else {
            return;
        };
        for holder in &election.holders {
            let link = self.links.table.get(holder);
            if link.is_some_and(|l| l.stripes.iter().any(|s| s.conn.is_some())) {
                fetch.add_holder(*holder);
            }
        }
    }

    /// Asks the holders for what they may be asked for now.
    fn ask_blocks(&mut self) {
        let Some(Sync { stage: Stage::Elected { id, fetch: Some(fetch), .. }, .. }) = &mut self.sync else {
            return;
        };
        let sync = *id;
        for (holder, blocks) in fetch.ask() {
            self.say_to(holder, &LinkMessage::StateAsk { sync, blocks });
        }
    }

    /// A connection of a link has come up or gone: what was asked over it is asked again.
    pub(super) fn sync_link_changed(&mut self, peer: SessionId) {
        if let Some(Sync { stage: Stage::Elected { fetch: Some(fetch), .. }, .. }) = &mut self.sync {
            fetch.remove_holder(peer);
            self.drop_incoming_state(|from, _| from == peer);
            self.add_holders();
            self.ask_blocks();
        }
    }

    /// Another member needs blocks.
    pub(super) fn state_asked(
        &mut self,
        now: Time,
        conn: ConnId,
        from: SessionId,
        sync: u64,
        blocks: &[u32],
    ) {
        self.serve(now, Some(conn), from, sync, blocks);
    }

    fn serve(&mut self, now: Time, conn: Option<ConnId>, from: SessionId, sync: u64, blocks: &[u32]) {
        let me = self.session_id();
        let Some(state) = &mut self.sync else { return };
        let mut fits = blocks.len() <= MAX_ASKED;
        match &state.stage {
            _ if !fits => {}
            Stage::Elected { id, election, .. } if *id == sync => {
                let queue = state.serving.entry(from).or_default();
                for block in blocks {
                    // Asked again: from the start.
                    queue.retain(|(b, _)| b != block);
                    queue.push_back((*block, 0));
                    fits &= *block == MANIFEST || *block < state.memory.blocks();
                }
                fits &= queue.len() <= MAX_ASKED && election.holders.contains(&me);
                if !fits {
                    queue.clear();
                }
            }
            Stage::Elected { id, .. } if *id > sync => {}
            _ => {
                let waiting: usize = state.early.iter().filter(|e| e.0 == from).map(|e| 1 + e.2.len()).sum();
                fits = waiting + blocks.len() < MAX_ASKED;
                if fits {
                    state.early.push((from, sync, blocks.to_vec()));
                }
            }
        }
        if !fits {
            if let Some(conn) = conn {
                self.close_link_conn(now, conn, "it asked for blocks that it cannot need from us");
            }
            return;
        }
        let conns =
            self.links.table.get(&from).into_iter().flat_map(|l| l.stripes.iter().filter_map(|s| s.conn));
        self.writable.extend(conns);
    }

    /// The next piece for a receiver.
    pub(super) fn next_state_piece(&mut self, to: SessionId) -> Option<(StateHeader, Piece)> {
        let state = self.sync.as_mut()?;
        let Stage::Elected { id, .. } = &state.stage else { return None };
        let queue = state.serving.get_mut(&to)?;
        let (block, offset) = queue.front_mut()?;
        let (piece_block, start) = (*block, *offset);
        let left = state.memory.len_of(piece_block) - start;
        let len = left.min(MAX_DATA_BYTES as u32);
        *offset += len;
        if len == left {
            queue.pop_front();
        }
        if piece_block != MANIFEST {
            state.sent_bytes += u64::from(len);
        }
        let header = StateHeader { sync: *id, block: piece_block, offset: start, len };
        Some((header, Piece { block: piece_block, offset: start, len }))
    }

    /// Where a piece goes.
    pub(super) fn place_of_state(&self, from: SessionId, header: StateHeader) -> Place {
        let piece = Piece { block: header.block, offset: header.offset, len: header.len };
        match &self.sync {
            Some(Sync { stage: Stage::Elected { id, fetch: Some(fetch), .. }, .. })
                if *id == header.sync && fetch.expects(from, piece) =>
            {
                Place::State(piece)
            }
            _ => Place::Nowhere,
        }
    }

    /// A piece is there.
    pub(super) fn piece_arrived(&mut self, from: SessionId, piece: Piece) {
        let Some(state) = &mut self.sync else { return };
        let Stage::Elected { fetch: Some(fetch), .. } = &mut state.stage else { return };
        if !fetch.expects(from, piece) {
            return;
        }
        if piece.block != MANIFEST {
            state.received_bytes += u64::from(piece.len);
        }
        let whole = fetch.arrived(piece);
        if let Some(link) = self.links.table.get_mut(&from) {
            link.fruitless = None;
        }
        if whole {
            self.drop_incoming_state(|_, block| block == piece.block);
            self.block_arrived(piece.block);
            self.ask_blocks();
            self.tell_if_complete();
        }
    }

    fn block_arrived(&mut self, block: u32) {
        let Some(state) = &mut self.sync else { return };
        let Stage::Elected { id, election, fetch: slot, manifest } = &mut state.stage else { return };
        let Some(fetch) = slot else { return };
        if *manifest {
            if let Some(differ) = state.memory.accept_manifest(election.agreed.content) {
                *manifest = false;
                let blocks: Vec<(u32, u32)> =
                    differ.into_iter().map(|b| (b, state.memory.len_of(b))).collect();
                *slot = Some(Fetch::new(blocks));
                return self.add_holders();
            }
        } else if state.memory.accept(block) {
            return fetch.accept(block);
        }
        let tensor = if block == MANIFEST { "(all hashes)".into() } else { state.memory.name_of(block) };
        if let Some(holder) = fetch.reject(block) {
            state.accused.push((holder, tensor.clone()));
            let bad = ToMaster::BadBlock { sync: *id, holder, tensor };
            self.tell_master_if_attached(&bad);
            self.drop_incoming_state(|from, _| from == holder);
        }
    }

    fn tell_if_complete(&mut self) {
        let Some(Sync { stage: Stage::Elected { id, fetch: Some(fetch), manifest: false, .. }, .. }) =
            &self.sync
        else {
            return;
        };
        if fetch.is_complete() {
            let done = ToMaster::Synchronized { sync: *id };
            self.tell_master_if_attached(&done);
        }
    }
}
