//! Checkpoints, proofs and records of a cluster that meet the user's policy.
//!
//! A node answers with the signatures of the quorum that the log was made with. Where the user asks for more, those
//! that come later are waited for.

use std::time::Duration;

use anyhow::anyhow;
use stele_client::client::ProvenRecord;
use stele_client::{CallError, Reader, VerifiedRecord};
use stele_proof::LeafIndex;
use stele_proof::policy::Policy;
use tokio::time::{Instant, sleep};

use crate::exit::{Exit, Failure};
use crate::remote::{Connected, call};

/// How long signatures are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Proves a record under a checkpoint that meets the policy.
///
/// # Errors
/// [`Failure`]: exit code 5 where no such checkpoint comes about, 6 where there is no such record.
pub async fn prove(connected: &Connected, index: LeafIndex, policy: &Policy) -> Result<ProvenRecord, Failure> {
    ask(async || connected.client.prove(index, None, policy).await).await
}

/// The newest checkpoint that meets the policy.
///
/// # Errors
/// [`Failure`]: exit code 5 where none comes about.
pub async fn checkpoint(connected: &Connected, policy: &Policy) -> Result<String, Failure> {
    Ok(ask(async || connected.client.checkpoint(policy).await).await?.note().to_owned())
}

/// The next record; where the reader has a policy, under a checkpoint that meets it.
///
/// # Errors
/// [`Failure`]: exit code 5 where no such checkpoint comes about, 3 for a record that is not in the log.
pub async fn next(reader: &mut Reader) -> Result<Option<VerifiedRecord>, Failure> {
    ask(async || reader.next().await).await
}

async fn ask<T>(mut ask: impl AsyncFnMut() -> Result<T, CallError>) -> Result<T, Failure> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Err(CallError::PolicyNotMet(lacks)) if Instant::now() >= give_up => {
                let why = anyhow!(lacks).context(
                    "no checkpoint came about that meets the policy: too few sites answer and sign; look at `stele \
                     cluster status`, then try again",
                );
                return Err(Failure::new(Exit::Forbidden, why));
            }
            Err(CallError::PolicyNotMet(_)) => sleep(PAUSE).await,
            answered => return answered.map_err(call),
        }
    }
}
