//! Consensus over Stele's segment store: openraft decides the order, the segment store is the Raft log.
//!
//! There is no second log and no copy of the data in a state machine: an entry that openraft appends is a frame of
//! a segment file, with the bytes that crossed the wire.
//!
//! | module | what |
//! |---|---|
//! | `doubt` | a last group in doubt is asked for |
//! | [`draft`] | records that the leader finishes |
//! | [`entry`] | what openraft replicates, as the segment store knows it |
//! | [`gate`] | what peers remember is asked before consensus begins |
//! | [`intake`] | what clients send, bounded |
//! | [`heirs`] | to whom leadership may go |
//! | [`joining`] | copying sealed segments before following |
//! | `leading` | the leader's task: packs, proposes, answers |
//! | [`machine`] | openraft's state machine: the replica |
//! | [`node`] | a running node |
//! | [`peer`] | the network between nodes |
//! | [`raft_log`] | the segment store as openraft's log storage |
//! | [`rights`] | whose records a caller may append |
//! | [`sites`] | which memberships survive the loss of a site |
//! | [`standing`] | what nodes remember of each other |
//! | [`starting`] | a node's start, phase by phase |
//! | [`stored`] | the entries of a node, by index |
//!
//! I-RAFT-1: `accepted >= appended >= durable`, and openraft is told of `durable` in order, after the flush.
//! I-RAFT-2: nothing waits for a disk on openraft's core task but a vote.

mod doubt;
pub mod draft;
pub mod entry;
pub mod gate;
pub mod heirs;
pub mod intake;
pub mod joining;
mod leading;
pub mod machine;
pub mod node;
pub mod peer;
pub mod raft_log;
pub mod rights;
pub mod sites;
pub mod standing;
pub mod starting;
pub mod stored;
