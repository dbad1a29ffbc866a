//! The node's copy of the log, for those who answer from it, as long as the node runs.

use std::sync::{Arc, Mutex, PoisonError};

use openraft::base::BoxFuture;
use stele_engine::replica::{Replica, Visible};
use stele_engine::store::MAX_UNFLUSHED_BYTES;
use stele_raft::machine::{SharedReplica, Shows};
use stele_raft::peer::server::Admission;
use tokio::sync::oneshot;

/// The replica, until it is closed: connections that will not end do not keep the log open.
#[derive(Clone)]
pub struct View(Arc<Mutex<Option<SharedReplica>>>);

impl View {
    /// Looks at this replica.
    pub fn new(replica: SharedReplica) -> Self {
        Self(Arc::new(Mutex::new(Some(replica))))
    }

    /// Looks, for a moment; `None` once the node stops.
    pub fn with<T>(&self, look: impl FnOnce(&mut Replica) -> T) -> Option<T> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(|replica| look(&mut replica.lock()))
    }

    /// Looks what is durable meanwhile; `None` once the node stops.
    pub fn look(&self) -> Option<Shows> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(SharedReplica::look)
    }

    /// What is applied and durable here.
    pub fn visible(&self) -> Option<Visible> {
        self.with(|replica| replica.visible().clone())
    }

    /// Looks no more.
    pub fn close(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Entries of a peer come in while not too many bytes wait for their flush.
impl Admission for View {
    fn admit(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                let (tell, told) = oneshot::channel();
                let full = self.with(|replica| {
                    let store = replica.store();
                    let full = store.unflushed_bytes() > MAX_UNFLUSHED_BYTES as u64;
                    if full {
                        store.notify(Box::new(move |result| drop(tell.send(result))));
                    }
                    full
                });
                // A store that has stopped says so at once; whoever appends next learns why.
                if full != Some(true) || !matches!(told.await, Ok(Ok(()))) {
                    return;
                }
            }
        })
    }
}
