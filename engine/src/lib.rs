//! The segment store of Stele: the files that are at once the Raft log, the audit log and the Merkle
//! leaves (DESIGN.md section 6).
//!
//! Synchronous; all I/O goes through [`disk::Disk`], time and randomness through
//! [`environment::Environment`].
//!
//! | module | owns |
//! |---|---|
//! | [`number`] | counts and positions |
//! | [`disk`] | the I/O seam |
//! | [`environment`] | clock and randomness |
//! | [`segment`] | names and headers of segment and payload files |
//! | [`frame`] | one Raft entry in a segment file |
//! | [`batch`] | the body of a batch |
//! | [`membership`] | the body of a membership entry |
//! | [`tiles`] | the tile sidecar of a sealed segment: frame table and hashes |
//! | [`reserved`] | the bodies of the records the log writes itself |
//! | [`ring`] | the flush ring: what is durable |
//! | [`generation`] | small guarded files |
//! | [`hard_state`] | vote, incarnation, clean mark, peers |
//! | [`signing_state`] | the last signed tree head |
//! | [`directory`] | where each file of a log lies |
//! | [`error`] | what can go wrong, by what to do about it |
//! | [`scan`], [`walk`] | reading frames one after the other |
//! | [`recovery`] | what of the unsealed files is the log |
//! | `replay` | following a log from its newest state file to its end |
//! | [`chains`] | the head of every chain, recent identities |
//! | [`state`] | state files: what the log up to a seal adds up to |
//! | [`read_back`] | reading a segment back and recomputing it |
//! | [`seal`] | sealing |
//! | [`birth`] | making a log |
//! | [`checkpointing`] | signing checkpoints |
//! | [`intake`] | what is asked of a record |
//! | [`interop`] | exports of a chain for other programs, and their import |
//! | [`local`] | a log on one machine |
//! | [`sequencer`] | a leader's intake: chains, batches, ahead of what is committed |
//! | [`replica`] | a copy of a log whose order consensus decides |
//! | [`reader`] | records and proofs without the lock |
//! | [`recent`] | the newest nodes of the tree, in memory |
//! | [`index`] | finding records by stream, writer, time and hash; derived |
//! | [`repair`] | restoring damaged files of a log from a copy of it |
//! | [`adopt`] | taking sealed segments over from other nodes |
//! | [`scrub`] | reading a log again, slowly, to find what has rotted |
//! | [`verify`] | checking every byte of a log, offline |
//! | [`writer`] | the writer: group commit, rolling, truncation |
//! | [`flushes`] | how long flushes took |
//! | [`prepare`] | space for the next segment file, zeroed ahead |
//! | [`store`] | the segment store as a Raft log store |
//! | [`entries`] | entries by raft index, from the files |
//! | [`sink`] | sinks for programs that embed the log |

pub mod adopt;
pub mod batch;
pub mod birth;
pub mod chains;
pub mod checkpointing;
pub mod directory;
pub mod disk;
mod driver;
pub mod entries;
pub mod environment;
pub mod error;
pub mod flushes;
pub mod frame;
pub mod generation;
pub mod hard_state;
pub mod index;
pub mod intake;
pub mod interop;
pub mod local;
pub mod membership;
pub mod number;
pub mod prepare;
mod queue;
pub mod read_back;
pub mod reader;
pub mod recent;
pub mod recovery;
pub mod repair;
mod replay;
pub mod replica;
pub mod reserved;
pub mod ring;
pub mod scan;
pub mod scrub;
pub mod seal;
mod sealer;
pub mod segment;
pub mod sequencer;
pub mod signing_state;
pub mod sink;
pub mod state;
pub mod store;
mod sync;
pub mod tiles;
pub mod verify;
pub mod walk;
pub mod writer;
