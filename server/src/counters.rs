//! What was refused, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

use stele_api::v1::RefusalCode;

/// Why a connection was closed before its first call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unwelcome {
    /// As many are connected as may be.
    Full,
    /// It does not begin as HTTP/2 or TLS does.
    Garbage,
    /// It did not say its first words in time.
    Late,
    /// No TLS came about, say for want of a certificate that the roots vouch for.
    Tls,
}

impl Unwelcome {
    const ALL: [Self; 4] = [Self::Full, Self::Garbage, Self::Late, Self::Tls];
}

/// What another node said that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Distrust {
    /// It has another root for a size that both have.
    OtherRoot,
    /// Its signature, or its checkpoint, does not hold.
    BadSignature,
}

/// Counters of one node; they only grow.
#[derive(Debug, Default)]
pub struct Counters {
    refusals: [AtomicU64; Self::CODES],
    calls: AtomicU64,
    unauthenticated: AtomicU64,
    connections: [AtomicU64; Unwelcome::ALL.len()],
    distrust: [AtomicU64; 2],
    unsigned: AtomicU64,
}

impl Counters {
    const CODES: usize = 14;

    /// A record, or a call, was refused.
    pub fn refused(&self, code: RefusalCode) {
        let place = usize::try_from(i32::from(code)).unwrap_or_default();
        if let Some(counter) = self.refusals.get(place) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call ended with a status other than OK.
    pub fn failed(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// A call came from nobody who is known.
    pub fn unauthenticated(&self) {
        self.unauthenticated.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was closed before its first call.
    pub fn unwelcome(&self, why: Unwelcome) {
        self.connections[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Another node said what cannot be.
    pub fn distrusted(&self, why: Distrust) {
        self.distrust[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// This node found its root in a tree head and did not sign it: the policy does not name its keys.
    pub fn unsigned(&self) {
        self.unsigned.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything that was counted, with its name.
    pub fn all(&self) -> Vec<(String, u64)> {
        let codes = self.refusals.iter().zip(0..).map(|(counter, code)| {
            let name = RefusalCode::try_from(code).map_or("UNKNOWN", |code| code.as_str_name());
            (name.to_owned(), counter)
        });
        let connections = Unwelcome::ALL.iter().map(|why| format!("CONNECTION_{why:?}")).zip(&self.connections);
        let calls = [
            ("COSIGNING_Unsigned", &self.unsigned),
            ("CALLS_FAILED", &self.calls),
            ("CALLS_UNAUTHENTICATED", &self.unauthenticated),
        ];
        let calls = calls.map(|(name, counter)| (name.to_owned(), counter));
        let distrust = [Distrust::OtherRoot, Distrust::BadSignature];
        let distrust = distrust.iter().map(|why| format!("COSIGNING_{why:?}")).zip(&self.distrust);
        let all = codes.chain(connections).chain(distrust).chain(calls);
        all.map(|(name, counter)| (name, counter.load(Ordering::Relaxed))).filter(|(_, count)| *count > 0).collect()
    }
}
