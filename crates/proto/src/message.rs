//! The messages between peers and masters, and between peers.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptName, Epoch, PeerGroup, RunId, SessionId, Tag, Term};
use crate::record::{Change, Member, Removal};
use crate::schedule::LinkModel;
use crate::settings::{Disagreement, Expectations, RunSettings};
use crate::shared_state::{Agreed, Election, NoCandidate, Offer};
use crate::vocabulary::Fingerprint;

/// A session and what proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// What the master gave with it.
    pub key: u64,
}

/// An attempt that a peer has started and whose verdict it has not heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedAttempt {
    /// Tag and number in the report's epoch.
    pub tag: Tag,
    /// Number.
    pub n: u32,
    /// What the caller called.
    pub fingerprint: Fingerprint,
    /// Whether the peer promises that its result is complete.
    pub done: bool,
    /// Whether it can give the input back (in place without a backup it cannot).
    pub restorable: bool,
    /// Why it can never be complete here, if so.
    pub impossible: Option<String>,
}

/// What a master must read of a member before it decides anything: see DESIGN, "Commit" and "Epoch change".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The newest epoch that the peer has applied.
    pub epoch: Epoch,
    /// Attempts of that epoch that it has started, without a verdict.
    pub started: Vec<StartedAttempt>,
    /// Attempts of that epoch that it has heard *committed*, and does not know that everybody has.
    pub committed: Vec<(Tag, u32)>,
    /// Round trip of its slowest link, microseconds, as measured; zero if nothing is.
    pub rtt_us: u32,
    /// Time for one MiB sent, microseconds, in the fastest large op so far; zero if there was none.
    pub mib_us: u32,
}

/// What all members of a group can ask for together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VoteKind {
    /// Let the registered newcomers in.
    UpdateTopology,
    /// Are newcomers waiting?
    PeersPending,
    /// Make the shared state equal, after letting the newcomers in.
    Synchronize,
    /// Let the cost model use what the members have measured of their links since the last epoch.
    OptimizeTopology,
}

impl fmt::Display for VoteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpdateTopology => "update_topology",
            Self::PeersPending => "peers_pending",
            Self::Synchronize => "synchronize",
            Self::OptimizeTopology => "optimize_topology",
        })
    }
}

/// A member's vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// What for.
    pub kind: VoteKind,
    /// Counts the peer's votes, so that one that has ended is not counted again.
    pub number: u32,
    /// The newest epoch that newcomers came into, as the voter knows it: before it there were other votes.
    pub since: Epoch,
    /// Votes of the members since then, this one included, without those that ended with a mismatch: the same number
    /// on all of them.
    pub ordinal: u32,
}

impl Vote {
    /// Whether it is the same vote, whoever's voice it is.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.kind, self.since, self.ordinal) == (other.kind, other.since, other.ordinal)
    }
}

/// How a vote ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoteOutcome {
    /// Done; are newcomers waiting (still)?
    Decided {
        /// Newcomers that are registered and not accepted.
        pending: u32,
        /// How large the groups were then.
        sizes: Sizes,
    },
    /// Members wait for different things, so that no wait can end.
    Mismatch {
        /// Who waits for what.
        waits: Vec<(SessionId, String)>,
    },
}

/// How a vote ended that all members had voted in: whoever has not heard it hears the same, whatever master it asks. (What
/// a synchronization has agreed on the store tells. After a mismatch everybody votes anew.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// As [`VoteOutcome::Decided`].
    Decided {
        /// Newcomers that are registered and not accepted.
        pending: u32,
        /// How large the groups were then.
        sizes: Sizes,
    },
    /// A synchronization in which nobody's content could win.
    NobodyElected(NoCandidate),
}

/// From a peer (or a `pccl status`) to a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMaster {
    /// A newcomer.
    Hello {
        /// Its group.
        group: PeerGroup,
        /// Where its peer-to-peer port can be reached; an unspecified IP means: as this connection comes from.
        addr: SocketAddr,
        /// Its site.
        site: String,
        /// The session that it had before, now ended.
        ended: Option<Session>,
        /// What its configuration says of the run's settings.
        expects: Expectations,
    },
    /// A registered peer or a member that connects again.
    Attach {
        /// Its group.
        group: PeerGroup,
        /// Its session.
        session: Session,
        /// The highest term it has heard of.
        term: Term,
        /// Where it stands.
        report: Report,
        /// The vote that its caller waits in.
        vote: Option<Vote>,
        /// The last one that has ended: others may not have heard how.
        ended: Option<(Vote, Ending)>,
    },
    /// The answer to `Prepare`.
    Report {
        /// As in `Prepare`.
        change: u64,
        /// Where the peer stands. It starts no attempt in this epoch any more.
        report: Report,
    },
    /// The peer has applied an epoch change.
    Applied {
        /// The epoch it is in now.
        epoch: Epoch,
    },
    /// A promise: the attempt's result is complete here.
    Done {
        /// The attempt.
        name: AttemptName,
        /// Digest of its fingerprint.
        digest: u32,
        /// Verdicts heard so far (see `Committed`).
        heard: u64,
    },
    /// The attempt cannot be: frames of another peer have another fingerprint, or the call does not fit the world.
    Mismatch {
        /// The attempt.
        name: AttemptName,
    },
    /// The caller has waited for this op for a while.
    Waiting {
        /// The attempt.
        name: AttemptName,
        /// What was called.
        fingerprint: Fingerprint,
        /// Since when, milliseconds.
        for_ms: u64,
    },
    /// The caller joined a vote.
    Vote(Vote),
    /// What the caller has to synchronize; the vote with this number follows.
    Offer {
        /// The vote's number.
        number: u32,
        /// What it has.
        offer: Offer,
    },
    /// A receiver has all of the elected shared state.
    Synchronized {
        /// As in `Elected`.
        sync: u64,
    },
    /// A holder sent something else than what it says it has.
    BadBlock {
        /// As in `Elected`.
        sync: u64,
        /// The holder.
        holder: SessionId,
        /// The tensor.
        tensor: String,
    },
    /// Which of the peers of `Introduce` are connected.
    Linked {
        /// As in `Introduce`.
        join: u64,
        /// Connected.
        up: Vec<SessionId>,
        /// Not, and why.
        down: Vec<(SessionId, String)>,
    },
    /// A connection to another member ended unexpectedly.
    Suspect {
        /// The other member.
        peer: SessionId,
    },
    /// Another member cannot be connected to for `heartbeat_timeout`.
    BrokenLink {
        /// The other member.
        peer: SessionId,
    },
    /// The peer has seen so many tags in this epoch that it would rather count anew: let there be another epoch, at a
    /// moment when nothing is in flight.
    Rollover {
        /// The epoch.
        epoch: Epoch,
    },
    /// The peer leaves.
    Leave,
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// What is going on? Needs no session.
    Status,
    /// Who shall lead. Needs no session; taken only from this host, or where the master's configuration allows it.
    Command(Command),
}

/// What an operator asks of a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Lead: the active master gives way to this one.
    Promote,
    /// Give way, and do not lead again until promoted.
    Demote,
    /// Give way; lead again if nobody else does.
    StepDown,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Promote => "promote",
            Self::Demote => "demote",
            Self::StepDown => "step-down",
        })
    }
}

/// From a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromMaster {
    /// The master's term.
    pub term: Term,
    /// What it says.
    pub message: MasterMessage,
}

/// What a master says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MasterMessage {
    /// The newcomer is registered and waits to be accepted.
    Registered {
        /// Its session.
        session: Session,
        /// The run.
        run: RunId,
        /// The run's settings.
        settings: RunSettings,
        /// Members of its group.
        members: u32,
    },
    /// The newcomer cannot take part.
    Refused {
        /// Why.
        why: Refusal,
    },
    /// The peer is attached.
    Attached {
        /// Verdicts are numbered anew from here.
        heard: u64,
        /// Whether the master's lease is valid (see `Mandate`).
        leased: bool,
        /// Whether the receiver's epoch goes on. If not it starts no attempt before it has heard what came after.
        goes_on: bool,
    },
    /// This master is not active.
    NotActive {
        /// Where the active one is, if known.
        active: Option<SocketAddr>,
    },
    /// The session has ended.
    Expelled {
        /// Why.
        why: Removal,
        /// How long ago, milliseconds.
        ago_ms: u64,
    },
    /// Start no attempt in this epoch any more, and report.
    Prepare {
        /// Names the change.
        change: u64,
        /// The epoch that ends.
        epoch: Epoch,
    },
    /// A new epoch, with everything decided since the receiver's.
    EpochChange {
        /// Changes from the receiver's epoch on; empty for a newcomer.
        changes: Vec<Change>,
        /// The newest epoch.
        view: View,
    },
    /// All members have promised.
    Committed {
        /// The attempt.
        name: AttemptName,
        /// Number of this verdict in this attachment's epoch.
        heard: u64,
        /// Everybody has heard the verdicts up to this one.
        closed: u64,
    },
    /// Connect to these peers, and accept their connections.
    Introduce {
        /// Names the join.
        join: u64,
        /// Who.
        peers: Vec<Member>,
        /// How long to try, milliseconds.
        timeout_ms: u32,
    },
    /// The newcomer was turned away.
    TurnedAway {
        /// Why, in words.
        why: String,
    },
    /// A vote has ended.
    VoteEnded {
        /// The number that the peer gave its vote.
        number: u32,
        /// How.
        outcome: VoteOutcome,
    },
    /// Whose shared state won. It stands once `Agreed` says so.
    Elected {
        /// The number that the peer gave its vote.
        number: u32,
        /// Names the synchronization; grows.
        sync: u64,
        /// The epoch in which it is.
        epoch: Epoch,
        /// Who has it, and who receives it.
        election: Election,
    },
    /// Nobody's shared state can win.
    NobodyElected {
        /// The number that the peer gave its vote.
        number: u32,
        /// Why.
        why: NoCandidate,
    },
    /// What the store says that the group last agreed on.
    Agreed {
        /// What it is.
        agreed: Agreed,
        /// The newest epoch that newcomers came into: the call that ends with this may be one of those they came in by.
        since: Epoch,
    },
    /// The leave is complete.
    Goodbye,
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// What is going on.
    Status(Box<Status>),
    /// Whether the master's lease is valid. Without one it still says *committed* and decides nothing else: for those who
    /// wait for a decision there is no master. Said when it changes.
    Mandate {
        /// Whether it is.
        valid: bool,
    },
    /// The answer to `Command`: done (or begun, and bound to end by itself), or why not.
    Commanded {
        /// How.
        outcome: Result<(), String>,
    },
}

/// Why a newcomer cannot take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its configuration contradicts the run's.
    Settings(Disagreement),
    /// The session that it named is unknown (the master was restarted meanwhile): register anew.
    UnknownSession,
    /// Too many peers.
    Full {
        /// The limit.
        limit: u32,
    },
    /// The message makes no sense here.
    Protocol {
        /// Why.
        what: String,
    },
    /// Its certificate does not allow its group.
    Group {
        /// The group.
        group: PeerGroup,
        /// The certificate, as people know it.
        certificate: String,
        /// The groups that the certificate allows.
        allowed: Vec<PeerGroup>,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(d) => write!(
                f,
                "the run's settings are the master's, and this peer's configuration contradicts them: {d}; \
                 remove the key here or change it at the master"
            ),
            Self::UnknownSession => f.write_str("the master does not know this session"),
            Self::Full { limit } => write!(f, "the run has its {limit} peers already"),
            Self::Protocol { what } => write!(f, "the master did not understand: {what}"),
            Self::Group { group, certificate, allowed } => {
                let allowed: Vec<_> = allowed.iter().map(|group| group.0.to_string()).collect();
                let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                write!(
                    f,
                    "the certificate {certificate} may not join peer group {} (it may join: {allowed})",
                    group.0
                )
            }
        }
    }
}

/// How large the groups of a run are: the same for all members of a group, as of an epoch or a vote of theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// The group's epoch when they were counted.
    pub epoch: Epoch,
    /// Members of all groups.
    pub global_world: u32,
    /// Groups with members.
    pub groups: u32,
    /// Members of the largest group.
    pub largest_group: u32,
}

/// An epoch as its members know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The epoch.
    pub epoch: Epoch,
    /// The newest epoch that newcomers came into.
    pub joined: Epoch,
    /// Its members, by rank.
    pub members: Vec<Member>,
    /// What everybody computes costs with.
    pub links: LinkModel,
    /// How large the groups were when it began.
    pub sizes: Sizes,
    /// Shared state that the group last agreed on.
    pub agreed: Option<Agreed>,
}

/// State of a run, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The run, hexadecimal.
    pub run: String,
    /// The master's term; a standby's: the newest.
    pub term: u64,
    /// Whether it leads: see [`Role`].
    pub role: Role,
    /// Where the active master is, as the store says.
    pub active: Option<SocketAddr>,
    /// How long its lease is valid if it is not renewed, milliseconds; absent for a standby, and for a master that shares
    /// its store with nobody.
    pub lease_left_ms: Option<u64>,
    /// What is wrong with the store, if anything; since when, milliseconds.
    pub store_trouble: Option<(String, u64)>,
    /// Peer groups.
    pub groups: Vec<GroupStatus>,
}

/// What a master is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It decides.
    #[default]
    Active,
    /// It has the newest term and no valid lease: it says *committed* and decides nothing else.
    Unleased,
    /// It follows what the active one does, and waits.
    Standby,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Unleased => "without a lease",
            Self::Standby => "standby",
        })
    }
}

/// State of a peer group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Which.
    pub group: u32,
    /// Its epoch.
    pub epoch: u64,
    /// Algorithms follow this model.
    pub alpha_us: u32,
    /// Shared-state revision.
    pub revision: u64,
    /// What the group waits for, if anything.
    pub activity: String,
    /// Its members and newcomers.
    pub peers: Vec<PeerStatus>,
    /// Ops that somebody has started and nobody has a verdict on.
    pub ops: Vec<OpStatus>,
}

/// State of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its session.
    pub session: String,
    /// Its rank; absent for newcomers.
    pub rank: Option<u32>,
    /// Its peer-to-peer address.
    pub addr: String,
    /// Its site.
    pub site: String,
    /// Member, newcomer, not attached.
    pub state: String,
    /// Since it was last heard, milliseconds.
    pub heard_ms_ago: u64,
    /// What its caller waits for.
    pub waits_for: Option<String>,
}

/// State of an op in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpStatus {
    /// Its tag.
    pub tag: u64,
    /// The attempt's number.
    pub n: u32,
    /// What was called, if known.
    pub call: String,
    /// Age as known to the master, milliseconds.
    pub age_ms: u64,
    /// Sessions that have not promised yet.
    pub missing: Vec<String>,
}

/// Between peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkMessage {
    /// The dialing side's first message.
    Hello {
        /// The run.
        run: RunId,
        /// Who dials.
        from: SessionId,
        /// Who is meant.
        to: SessionId,
        /// The epoch that the dialing side is in.
        epoch: Epoch,
        /// Which of the connections between the two.
        stripe: u16,
        /// Grows with every connection that replaces an earlier one.
        generation: u32,
        /// Data frames of earlier generations that the dialing side has accepted.
        accepted: u64,
    },
    /// The link is up.
    Welcome {
        /// The same of the accepting side.
        accepted: u64,
    },
    /// It is not.
    Refused {
        /// Why.
        why: LinkRefusal,
    },
    /// The sender's caller has started this attempt: send it all.
    Grant {
        /// The attempt.
        name: AttemptName,
    },
    /// The sender has more for this attempt than it may send before the receiver starts it.
    Want {
        /// The attempt.
        name: AttemptName,
    },
    /// Data frames accepted on this stripe.
    Accepted {
        /// So many, in all.
        frames: u64,
    },
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// The sender has lost its masters and settles: what became of this attempt?
    Ask {
        /// The attempt.
        name: AttemptName,
    },
    /// The sender needs these blocks of the shared state.
    StateAsk {
        /// As in `Elected`.
        sync: u64,
        /// Which.
        blocks: Vec<u32>,
    },
    /// The answer to `Ask`.
    Tell {
        /// The attempt.
        name: AttemptName,
        /// What became of it.
        answer: Settlement,
    },
}

/// What a peer knows of an attempt when the masters are lost (DESIGN, "No master").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settlement {
    /// It heard *committed*.
    Committed,
    /// It settles too, and its result is complete.
    Done,
    /// It settles too, and has restored, or will restore, its input.
    NotDone,
    /// It is in a later epoch: there the verdict was given, to those who are in it.
    Left {
        /// Which.
        epoch: Epoch,
    },
}

/// Why a link cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkRefusal {
    /// The dialing side was left behind.
    NotInEpoch {
        /// The session that is not a member (any more).
        session: SessionId,
        /// The epoch in which it is not.
        epoch: Epoch,
    },
    /// Another peer lives at this address.
    WrongPeer {
        /// Who lives here.
        here: SessionId,
    },
    /// Another run.
    WrongRun,
    /// Nobody has introduced the dialing side.
    Unknown,
}

impl fmt::Display for LinkRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInEpoch { session, epoch } => write!(f, "peer {session} is not in epoch {epoch}"),
            Self::WrongPeer { here } => write!(f, "peer {here} lives at this address"),
            Self::WrongRun => f.write_str("it belongs to another run"),
            Self::Unknown => f.write_str("nobody has introduced this peer"),
        }
    }
}

/// A heartbeat datagram, either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// First, so that other traffic is told apart.
    pub magic: u32,
    /// The run.
    pub run: RunId,
    /// The peer's session.
    pub session: SessionId,
    /// The highest term that the sender knows.
    pub term: Term,
    /// Counts up at the peer; the master's answer repeats it.
    pub sequence: u64,
}

impl Heartbeat {
    /// The value of `magic`.
    pub const MAGIC: u32 = 0x7cc1_b0a7;

    /// As a datagram.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// From a datagram.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes::<Self>(bytes) {
            Ok((beat, [])) if beat.magic == Self::MAGIC => Some(beat),
            _ => None,
        }
    }
}
