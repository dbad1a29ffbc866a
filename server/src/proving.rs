//! Proofs of records under a checkpoint: from memory for what was just appended, else from the files.

use stele_engine::reader::LogReader;
use stele_proof::LeafIndex;
use stele_proof::proof_file::ProofFile;
use stele_proof::tree::Hash;

use crate::cosigning::Signed;
use crate::serving::Serving;

/// Proofs that are made while the copy of the log is held: some hundred hashes.
const AT_ONCE: usize = 32;

/// A proof file of each record, in the order of the indexes; `None` for those that could not be proved.
pub(crate) async fn proofs(serving: &Serving, indexes: &[LeafIndex], signed: &Signed) -> Vec<Option<ProofFile>> {
    let mut hashes: Vec<Option<Vec<Hash>>> = Vec::with_capacity(indexes.len());
    for some in indexes.chunks(AT_ONCE) {
        let found = serving.view.with(|replica| {
            let recent = replica.recent();
            some.iter().map(|index| recent.prove_inclusion(*index, signed.size)).collect::<Vec<_>>()
        });
        hashes.extend(found.unwrap_or_else(|| vec![None; some.len()]));
    }
    let missing: Vec<LeafIndex> =
        indexes.iter().zip(&hashes).filter(|(_, hashes)| hashes.is_none()).map(|(index, _)| *index).collect();
    if !missing.is_empty() {
        let size = signed.size;
        let read = move |reader: &LogReader| missing.iter().map(|index| reader.prove_inclusion(*index, size)).collect();
        let read: Vec<Vec<Hash>> = serving.readers.run(size, read).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "records cannot be proved");
            Vec::new()
        });
        for (place, proof) in hashes.iter_mut().filter(|hashes| hashes.is_none()).zip(read) {
            *place = Some(proof);
        }
    }
    let whole = |(index, hashes): (&LeafIndex, Option<Vec<Hash>>)| {
        ProofFile::new(None, *index, hashes?, signed.note.to_string())
            .inspect_err(|error| tracing::error!(%error, "a proof is none"))
            .ok()
    };
    indexes.iter().zip(hashes).map(whole).collect()
}
