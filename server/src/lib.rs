//! `steled`: a node of a Stele log that serves clients.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | file, environment, flags; checked before anything starts |
//! | [`access`] | who may do what |
//! | [`keys`] | the node's own keys |
//! | [`birth`] | what a new log begins with |
//! | [`joining`] | a new node takes sealed segments from others |
//! | `donor` | and others from this one |
//! | [`view`] | the node's copy of the log, for those who answer from it |
//! | [`reading`] | threads that read records and proofs |
//! | [`lag`] | how far the others are behind |
//! | [`signing`] | checkpoints |
//! | [`signing`] | this node's own signatures |
//! | [`cosigning`] | checkpoints that a quorum of sites signs |
//! | `proving` | proofs under them |
//! | [`serving`] | what the services answer from |
//! | [`service`] | the services |
//! | [`client_tls`] | TLS with clients |
//! | [`welcome`] | connections of clients, bounded |
//! | [`run`] | the process from start to stop |
//! | [`counters`] | what was refused |
//! | [`deadline`] | a time for every call |

pub mod access;
pub mod birth;
pub mod client_tls;
pub mod config;
pub mod cosigning;
pub mod counters;
pub mod deadline;
mod donor;
pub mod joining;
pub mod keys;
pub mod lag;
mod proving;
pub mod reading;
pub mod run;
pub mod service;
pub mod serving;
pub mod signing;
pub mod view;
pub mod welcome;
