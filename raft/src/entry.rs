//! What openraft replicates, in the form in which it lies in frames: its body is never encoded again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::impls::leader_id_std::LeaderId;
use openraft::vote::RaftLeaderId;
use stele_engine::frame::EntryKind;
use stele_engine::membership as stored;
use stele_engine::number::{NodeId, RaftIndex, SiteName, Term};
use stele_proof::LeafIndex;

openraft::declare_raft_types!(
    /// The types that this log gives to openraft.
    pub TypeConfig:
        D = Proposal,
        R = Outcome,
        Node = Peer,
        LeaderId = LeaderId<u64, u64>,
        Payload = Payload,
        Entry = Entry,
);

/// The term of an entry, as openraft names the leader that made it.
pub type CommittedLeader = <LeaderId<u64, u64> as RaftLeaderId>::Committed;
/// Term and index of an entry.
pub type LogId = openraft::LogId<CommittedLeader>;
/// A vote.
pub type Vote = openraft::impls::Vote<LeaderId<u64, u64>>;
/// Voters and learners.
pub type Membership = openraft::Membership<u64, Peer>;
/// A membership and where in the Raft log it stands.
pub type StoredMembership = openraft::StoredMembership<CommittedLeader, u64, Peer>;

/// The id of an entry of this term at this index.
pub fn log_id(term: Term, index: RaftIndex) -> LogId {
    LogId::new(CommittedLeader::new(term.get()), index.get())
}

/// A node as the others know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The failure domain it stands in.
    pub site: SiteName,
    /// Where it is reached: by peers at `host:port`, by clients at a URI.
    pub addresses: Vec<String>,
    /// Its verifier keys.
    pub keys: Vec<String>,
}

impl Peer {
    /// Where peers reach it.
    pub fn peer_addresses(&self) -> impl Iterator<Item = &str> {
        self.addresses.iter().map(String::as_str).filter(|address| !address.contains("://"))
    }

    /// Where clients reach it: a URI.
    pub fn client_address(&self) -> Option<&str> {
        self.addresses.iter().map(String::as_str).find(|address| address.contains("://"))
    }
}

impl Default for Peer {
    /// A node of site `unnamed` that nobody can reach: what openraft fills in where it is given a number alone.
    fn default() -> Self {
        let site = SiteName::new("unnamed").expect("`unnamed` is a site name");
        Self { site, addresses: Vec::new(), keys: Vec::new() }
    }
}

/// What a leader proposes: an entry of the log's own kinds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// [`EntryKind::Batch`] or [`EntryKind::Seal`].
    pub kind: EntryKind,
    /// The body of the frame.
    pub body: Bytes,
    /// The payload slots of a batch; empty otherwise.
    pub payload: Bytes,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} and {} bytes", self.kind, self.body.len(), self.payload.len())
    }
}

/// What became of an entry that was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A batch that counts: its first record is this leaf.
    Leaves(LeafIndex),
    /// A batch or a seal entry that does not: another one came first.
    Void,
    /// An entry without leaves.
    Done,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaves(first) => write!(f, "leaves from {first}"),
            Self::Void => f.write_str("void"),
            Self::Done => f.write_str("done"),
        }
    }
}

/// The content of an entry: a frame's kind, body and payload slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload {
    /// What the body is.
    pub kind: EntryKind,
    /// The body of the frame.
    pub body: Bytes,
    /// The payload slots of a batch; empty otherwise.
    pub slots: Bytes,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} and {} bytes", self.kind, self.body.len(), self.slots.len())
    }
}

impl RaftPayload for Payload {
    type D = Proposal;
    type NodeId = u64;
    type Node = Peer;

    fn blank() -> Self {
        Self { kind: EntryKind::Blank, body: Bytes::new(), slots: Bytes::new() }
    }

    fn with_normal(self, data: Proposal) -> Self {
        Self { kind: data.kind, body: data.body, slots: data.payload }
    }

    fn with_membership(self, membership: Membership) -> Self {
        Self { kind: EntryKind::Membership, body: encode_membership(&membership), slots: Bytes::new() }
    }

    fn get_membership(&self) -> Option<Membership> {
        (self.kind == EntryKind::Membership).then(|| decode_membership(&self.body)).flatten()
    }
}

/// An entry of the Raft log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its term.
    pub leader: CommittedLeader,
    /// Its index.
    pub index: RaftIndex,
    /// Its content.
    pub payload: Payload,
}

impl Entry {
    /// What the segment store appends.
    pub fn into_stored(self) -> stele_engine::store::Entry {
        let Payload { kind, body, slots } = self.payload;
        stele_engine::store::Entry { term: Term::new(self.leader.term), kind, body, payload: slots }
    }

    /// What the segment store holds at an index.
    pub fn from_stored(index: RaftIndex, stored: stele_engine::store::Entry) -> Self {
        let stele_engine::store::Entry { term, kind, body, payload } = stored;
        Self { leader: CommittedLeader::new(term.get()), index, payload: Payload { kind, body, slots: payload } }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of term {}: {}", self.index, self.leader.term, self.payload)
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = CommittedLeader;
    type Payload = Payload;

    fn new(log_id: LogId, payload: Payload) -> Self {
        Self { leader: log_id.leader_id, index: RaftIndex::new(log_id.index), payload }
    }

    fn log_id_parts(&self) -> (&CommittedLeader, u64) {
        (&self.leader, self.index.get())
    }

    fn set_log_id(&mut self, new: LogId) {
        (self.leader, self.index) = (new.leader_id, RaftIndex::new(new.index));
    }

    fn get_membership(&self) -> Option<Membership> {
        self.payload.get_membership()
    }
}

/// The body of a membership entry. Only the first entry of a log has a token; it tells clusters apart.
fn encode_membership(membership: &Membership) -> Bytes {
    let set = |set: &BTreeSet<u64>| set.iter().copied().map(NodeId::new).collect();
    let node = |(id, peer): (&u64, &Peer)| {
        let Peer { site, addresses, keys } = peer.clone();
        stored::Node { id: NodeId::new(*id), site, addresses, keys }
    };
    let stored = stored::Membership {
        token: [0; 32],
        voters: membership.get_joint_config().iter().map(set).collect(),
        nodes: membership.nodes().map(node).collect(),
    };
    stored.encode().into()
}

/// Reads the body of a membership entry; `None` where the bytes are none.
pub fn decode_membership(body: &[u8]) -> Option<Membership> {
    let stored = stored::Membership::decode(body).ok()?;
    let voters = stored.voters.iter().map(|set| set.iter().map(|id| id.get()).collect()).collect();
    let nodes: BTreeMap<u64, Peer> = stored
        .nodes
        .into_iter()
        .map(|stored::Node { id, site, addresses, keys }| (id.get(), Peer { site, addresses, keys }))
        .collect();
    Membership::new(voters, nodes).ok()
}
