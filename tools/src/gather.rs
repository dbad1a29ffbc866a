//! Checkpoints and proofs of a cluster that meet a policy.
//!
//! A node answers with the signatures that it has. Where those of one node do not meet the policy, all nodes are
//! asked, and the signatures of those who signed the same checkpoint stand under one note: nothing is believed, the
//! note is checked against the policy as any other.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;
use stele_api::v1::{CheckpointRequest, ProveRequest};
use stele_client::{CallError, SignedCheckpoint};
use stele_proof::LeafIndex;
use stele_proof::note::Note;
use stele_proof::policy::Policy;
use stele_proof::proof_file::ProofFile;
use stele_proof::record::Record;
use tokio::time::{Instant, sleep};

use crate::exit::{Exit, Failure};
use crate::remote::{Connected, call};

/// How long signatures are waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(50);

/// A record and its proof, which meets the policy.
pub struct Proven {
    /// The canonical record.
    pub canonical: Vec<u8>,
    /// The proof.
    pub proof: ProofFile,
}

/// Proves a record under a checkpoint that meets the policy.
///
/// # Errors
/// [`Failure`]: exit code 5 where no such checkpoint comes about, 6 where there is no such record.
pub async fn prove(connected: &Connected, index: LeafIndex, policy: &Policy) -> Result<Proven, Failure> {
    match connected.client.prove(index, None, policy).await {
        Ok(proven) => return Ok(Proven { canonical: proven.canonical.to_vec(), proof: proven.proof }),
        Err(CallError::PolicyNotMet(_)) => {}
        Err(error) => return Err(call(error)),
    }
    let log = connected.client.log().as_str().to_owned();
    let give_up = Instant::now() + PATIENCE;
    loop {
        let mut found = BTreeMap::new();
        for address in nodes(connected).await? {
            let Ok(mut node) = connected.node(&address).await else { continue };
            let request = ProveRequest { log: log.clone(), index: index.get(), size: None };
            let Ok(answer) = node.prove(request).await else { continue };
            let answer = answer.into_inner();
            let Ok(proof) = ProofFile::parse(answer.proof.as_bytes()) else { continue };
            let note = proof.checkpoint().to_owned();
            add(&mut found, &note, (proof, answer.record));
        }
        for (note, (proof, record)) in found.into_values() {
            let Ok(whole) = ProofFile::new(None, index, proof.hashes().to_vec(), note) else { continue };
            let Ok(parsed) = Record::parse(&record) else { continue };
            if proof.index() == index && whole.verify(&parsed.leaf_hash(), policy).is_ok() {
                return Ok(Proven { canonical: record.to_vec(), proof: whole });
            }
        }
        rest(give_up).await?;
    }
}

/// The newest checkpoint that meets the policy.
///
/// # Errors
/// [`Failure`]: exit code 5 where none comes about.
pub async fn checkpoint(connected: &Connected, policy: &Policy) -> Result<String, Failure> {
    match connected.client.checkpoint(policy).await {
        Ok(checkpoint) => return Ok(checkpoint.note().to_owned()),
        Err(CallError::PolicyNotMet(_)) => {}
        Err(error) => return Err(call(error)),
    }
    let log = connected.client.log().as_str().to_owned();
    let give_up = Instant::now() + PATIENCE;
    loop {
        let mut found = BTreeMap::new();
        for address in nodes(connected).await? {
            let Ok(mut node) = connected.node(&address).await else { continue };
            let Ok(answer) = node.checkpoint(CheckpointRequest { log: log.clone() }).await else { continue };
            add(&mut found, &answer.into_inner().note, ());
        }
        for (note, ()) in found.into_values() {
            if SignedCheckpoint::verify(note.clone(), policy)
                .is_ok_and(|checkpoint| checkpoint.checkpoint().origin == *connected.client.log())
            {
                return Ok(note);
            }
        }
        rest(give_up).await?;
    }
}

/// Where the nodes are reached, as one of them says.
async fn nodes(connected: &Connected) -> Result<Vec<String>, Failure> {
    let status = connected.client.cluster().status().await.map_err(call)?;
    Ok(status.nodes.into_iter().map(|node| node.client_address).filter(|address| !address.is_empty()).collect())
}

/// Puts the signatures of notes with the same text under one.
fn add<T>(found: &mut BTreeMap<String, (String, T)>, note: &str, with: T) {
    let Ok(parsed) = Note::parse(note.as_bytes()) else { return };
    match found.get_mut(parsed.text()) {
        None => drop(found.insert(parsed.text().to_owned(), (note.to_owned(), with))),
        Some((whole, _)) => {
            let lines: Vec<&str> = note[parsed.text().len()..].lines().filter(|line| !line.is_empty()).collect();
            for line in lines {
                if !whole.lines().any(|known| known == line) {
                    whole.push_str(line);
                    whole.push('\n');
                }
            }
        }
    }
}

async fn rest(give_up: Instant) -> Result<(), Failure> {
    if give_up.checked_duration_since(Instant::now()).is_none() {
        let why = anyhow!(
            "no checkpoint came about that meets the policy: too few sites sign, or they sign different sizes because \
             the log is being written; try again"
        );
        return Err(Failure::new(Exit::Forbidden, why));
    }
    sleep(PAUSE).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use stele_proof::key::{KeyKind, KeyName, SigningKey};
    use stele_proof::note::sign;

    use super::*;

    #[test]
    fn signatures_under_the_same_text_stand_under_one_note_and_those_under_another_do_not() {
        let key = |seed| SigningKey::from_seed(KeyName::new("example.com/log").unwrap(), KeyKind::Ed25519, [seed; 32]);
        let (first, second) = (key(1), key(2));
        let mut found = BTreeMap::new();
        for (text, key) in [("a\n1\n", &first), ("a\n2\n", &first), ("a\n1\n", &second), ("a\n1\n", &second)] {
            add(&mut found, &sign(text, &[key]).unwrap(), ());
        }
        let (whole, ()) = &found["a\n1\n"];
        let note = Note::parse(whole.as_bytes()).unwrap();
        assert_eq!((note.signatures().len(), found.len()), (2, 2));
        assert_eq!(note.verify(&[first.verifier_key().clone(), second.verifier_key().clone()]).unwrap().len(), 2);
    }
}
