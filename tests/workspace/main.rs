//! What must hold of the workspace as a whole.

#![allow(clippy::unwrap_used, reason = "a test")]

mod arrows;
mod quickstart;
