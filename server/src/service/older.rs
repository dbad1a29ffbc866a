//! Records that are sent again after the leader has forgotten their identity: looked for in the log, all of a message at
//! once, beside the leader's task and on a thread of its own, so that nobody who reads or proves waits behind it.
//!
//! A record that stands in the log has its place. Where it does not, and its chain has come past its number, another
//! one stands under its identity: that is `Tamper`. As long as either cannot be told for sure, the answer is
//! `Unavailable`.

use stele_engine::index::older::{Bounds, FoundHashes, Whereabouts, find_hashes};
use stele_engine::local::Receipt;
use stele_proof::record::{Finished, Record, SelfHash};
use stele_raft::intake::{Answers, Refused};

use crate::serving::Serving;

/// What is read for one message; a page has 4 KiB.
const BOUNDS: Bounds = Bounds { leaves: 262_144, pages: 65_536 };

const LATER: Refused = Refused::Unavailable("the record is older than what is remembered, and cannot be looked up now");

/// Looks for what [`Refused::Older`] could not tell.
pub(super) async fn settle(serving: &Serving, answers: &mut Answers) {
    let mut asked: Vec<(usize, SelfHash)> = Vec::new();
    for (place, fate) in answers.iter_mut().enumerate() {
        let Err(Refused::Older { record, self_hash }) = fate else { continue };
        // A number that the applied chain has not come to may still be under way, or may get void.
        if is_past(serving, record) {
            asked.push((place, *self_hash));
        } else {
            *fate = Err(LATER);
        }
    }
    if asked.is_empty() {
        return;
    }
    let found = look(serving, asked.iter().map(|(_, hash)| *hash).collect()).await;
    for (at, (place, self_hash)) in asked.into_iter().enumerate() {
        let fate = match &found {
            Some(FoundHashes { whereabouts, .. }) => match whereabouts.get(at) {
                Some(Whereabouts::At(index)) => Ok(Receipt { index: *index, self_hash }),
                Some(Whereabouts::Nowhere) => Err(Refused::Tamper),
                Some(Whereabouts::Unknown) | None => Err(LATER),
            },
            None => Err(LATER),
        };
        if let Some(answer) = answers.get_mut(place) {
            *answer = fate;
        }
    }
}

/// Whether the applied chain of a finished record has come to its number.
fn is_past(serving: &Serving, finished: &[u8]) -> bool {
    let mut canonical = Vec::with_capacity(finished.len());
    let Some(split) = Finished::split(finished) else { return false };
    split.write_canonical(&mut canonical);
    let Ok(record) = Record::parse(&canonical) else { return false };
    let (stream, writer_id) = (record.stream().escaped(), record.writer_id().escaped());
    let head = serving.view.with(|replica| replica.chains().head_at(stream, writer_id)).flatten();
    head.is_some_and(|(head, _)| head.seq >= record.seq())
}

/// Looks through everything that is applied by now; `None` where that cannot be done.
async fn look(serving: &Serving, wanted: Vec<SelfHash>) -> Option<FoundHashes> {
    let applied = serving.view.with(|replica| replica.tail().leaves)?;
    let waited = tokio::time::timeout(serving.limits.request_timeout, serving.wait_visible(applied)).await;
    waited.ok()?.ok()?;
    let looked = serving.looks.run(applied, move |reader| find_hashes(reader, &wanted, BOUNDS));
    match tokio::time::timeout(serving.limits.request_timeout, looked).await {
        Ok(Ok(found)) => Some(found),
        Err(elapsed) => {
            tracing::warn!(%elapsed, "an old record was not looked up in time");
            None
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "an old record could not be looked up");
            None
        }
    }
}
