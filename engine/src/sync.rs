//! The locks of the writer's queue. The loom models put loom's in their place (`tests/loom_queue.rs`).

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
