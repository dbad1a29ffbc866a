//! Under a policy, nothing is handed out that is not under a checkpoint that meets it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use core::time::Duration;
use std::sync::Arc;

use stele_api::v1;
use stele_client::error::Violation;
use stele_client::reader::Payloads;
use stele_client::{Assurance, CallError, ReadRange, Reader, SignedCheckpoint, VerifiedRecord};
use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::key::{KeyKind, KeyName, SigningKey};
use stele_proof::note::sign;
use stele_proof::policy::Policy;
use stele_proof::tree::{Hash, empty_root};
use stele_proof::{LeafIndex, TreeSize};
use support::{Fault, PROVE, READ, all, append, filled, filled_at, policy, strict_policy};

fn proven() -> Assurance {
    Assurance::Proven(Arc::new(policy()))
}

async fn rest(reader: &mut Reader) -> Result<Vec<VerifiedRecord>, CallError> {
    let mut records = Vec::new();
    while let Some(record) = reader.next().await? {
        records.push(record);
    }
    Ok(records)
}

fn range(start: u64, end: u64) -> ReadRange {
    ReadRange { start: LeafIndex::new(start), end: Some(TreeSize::new(end)), ..all(Payloads::With) }
}

#[tokio::test(start_paused = true)]
async fn every_range_is_proved_with_two_proofs_at_most() {
    let (_cluster, node, client) = filled(9).await;
    for (start, end) in (0..9).flat_map(|start| (start + 1..=9).map(move |end| (start, end))) {
        node.lock().unwrap().proofs = 0;
        let records = rest(&mut client.read(range(start, end), proven())).await.unwrap();
        let indexes: Vec<u64> = records.iter().map(|record| record.index.get()).collect();
        assert_eq!(indexes, (start..end).collect::<Vec<_>>());
        assert!(records.iter().all(|record| record.proven.as_ref().unwrap().checkpoint().size.get() == 9));
        assert_eq!(node.lock().unwrap().proofs, if end - start == 1 { 1 } else { 2 }, "{start}..{end}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_record_as_good_as_any_is_refused_wherever_it_is_and_passes_where_nothing_is_proved() {
    let (_cluster, node, client) = filled(6).await;
    for (start, end) in [(0, 6), (2, 6), (1, 4), (3, 4)] {
        for at in start..end {
            let lie = || node.lock().unwrap().faults.insert(READ + at, Fault::OtherRecord);
            lie();
            let mut reader = client.read(range(start, end), proven());
            match reader.next().await {
                Err(CallError::Violation(Violation::NotInLog { first, last, size })) => {
                    assert!((first.get()..=last.get()).contains(&at), "{first} to {last}, not {at}");
                    assert_eq!(size.get(), 6);
                }
                other => panic!("{start}..{end}, lie at {at}: {other:?}"),
            }
            assert_eq!(reader.position().get(), start, "the reader stands where it stood");
            assert_eq!(rest(&mut reader).await.unwrap().len() as u64, end - start, "the truth is told now");
            lie();
            let told = rest(&mut client.read(range(start, end), Assurance::Canonical)).await.unwrap();
            assert!(told.iter().all(|record| record.proven.is_none()));
            let wrong = &told[usize::try_from(at - start).unwrap()].canonical;
            assert!(String::from_utf8_lossy(wrong).contains("\"reason\":\"no\""));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_tail_is_proved_as_it_comes_with_one_proof_each_time() {
    let (_cluster, node, client) = filled(3).await;
    let mut reader = client.tail(LeafIndex::new(1), Payloads::Without, proven());
    for at in 1..3 {
        assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
    }
    append(&client, 2).await;
    for at in 3..5 {
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!((record.index.get(), record.proven.unwrap().checkpoint().size.get()), (at, 5));
    }
    assert_eq!(node.lock().unwrap().proofs, 4, "the fake sends each record in a message of its own");
    append(&client, 1).await;
    node.lock().unwrap().faults.insert(READ + 5, Fault::OtherRecord);
    let lied = reader.next().await;
    assert!(matches!(lied, Err(CallError::Violation(Violation::NotInLog { .. }))), "{lied:?}");
    assert_eq!(reader.next().await.unwrap().unwrap().index.get(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_long_range_is_handed_out_row_by_row_and_what_was_good_before_a_lie_first() {
    let (cluster, node, client) = filled(0).await;
    {
        let mut table = cluster.table.lock().unwrap();
        let draft = v1::Draft { writer_id: "d".into(), stream: "s".into(), kind: "K".into(), ..v1::Draft::default() };
        let record = v1::submission::Record::Draft(draft);
        let submission = v1::Submission { record: Some(record), payload: None };
        (0..4200).for_each(|_| drop(table.append(&submission)));
    }
    assert_eq!(rest(&mut client.read(all(Payloads::Without), proven())).await.unwrap().len(), 4200);
    assert_eq!(node.lock().unwrap().proofs, 3);
    node.lock().unwrap().faults.insert(READ + 4100, Fault::OtherRecord);
    let mut reader = client.read(all(Payloads::Without), proven());
    let mut good = 0;
    let error = loop {
        match reader.next().await {
            Ok(record) => good += u64::from(record.is_some()),
            Err(error) => break error,
        }
    };
    assert_eq!((good, reader.position().get()), (4096, 4096));
    assert!(matches!(error, CallError::Violation(Violation::NotInLog { .. })), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_damaged_record_is_proved_and_handed_out_first() {
    let (_cluster, node, client) = filled(5).await;
    node.lock().unwrap().faults.insert(READ + 3, Fault::WrongHash);
    let mut reader = client.read(all(Payloads::Without), proven());
    for at in 0..3 {
        let record = reader.next().await.unwrap().unwrap();
        assert_eq!((record.index.get(), record.proven.is_some()), (at, true));
    }
    let damaged = reader.next().await;
    assert!(matches!(damaged, Err(CallError::Violation(Violation::Record { .. }))), "{damaged:?}");
    assert_eq!(rest(&mut reader).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn records_wait_for_signatures_and_for_a_node_that_lags_and_a_proof_that_does_not_hold_is_an_error() {
    let (_cluster, node, client) = filled(4).await;
    let mut reader = client.read(all(Payloads::Without), proven());
    node.lock().unwrap().faults.insert(PROVE + 3, Fault::Unsigned);
    let unsigned = reader.next().await;
    assert!(matches!(unsigned, Err(CallError::PolicyNotMet(_))), "{unsigned:?}");
    node.lock().unwrap().faults.insert(PROVE + 3, Fault::NotThere);
    assert_eq!(rest(&mut reader).await.unwrap().len(), 4, "they were held, and are proved when it is asked again");
    for at in [0, 3] {
        node.lock().unwrap().faults.insert(PROVE + at, Fault::WrongHash);
        let mut reader = client.read(all(Payloads::Without), proven());
        let broken = reader.next().await;
        assert!(matches!(broken, Err(CallError::Violation(Violation::Proof { .. }))), "{broken:?}");
    }
    let never = client.read(all(Payloads::Without), Assurance::Proven(Arc::new(strict_policy()))).next().await;
    assert!(matches!(never, Err(CallError::PolicyNotMet(_))), "{never:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tail_that_changes_to_another_history_ends_with_the_notes_of_both() {
    let (ours, _, client) = filled(4).await;
    let (theirs, _, _) = filled(6).await;
    let mut reader = client.tail(LeafIndex::new(0), Payloads::Without, proven());
    for at in 0..4 {
        assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
    }
    let old = ours.table.lock().unwrap().note();
    core::mem::swap(&mut *ours.table.lock().unwrap(), &mut *theirs.table.lock().unwrap());
    match reader.next().await {
        Err(CallError::NotConsistent { old: known, new, .. }) => {
            assert_eq!((known, new), (old, ours.table.lock().unwrap().note()));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_ends_nowhere_before_its_end_and_the_checkpoint_in_hand() {
    let (_cluster, node, client) = filled(9).await;
    // Wherever streams end, also twice in a row, the rest is asked for; there is nothing behind the checkpoint.
    for end in [5, 9, 12] {
        for at in 1..9 {
            node.lock().unwrap().faults.extend([(READ + at, Fault::EndBefore), (READ + 8, Fault::EndBefore)]);
            let records = rest(&mut client.read(range(0, end), proven())).await.unwrap();
            assert_eq!(records.len() as u64, end.min(9), "0..{end}, ended before {at}");
        }
    }
    node.lock().unwrap().faults.clear();
    for (ends, end, is_found) in [(1, 9, true), (4, 5, false), (8, 9, false), (8, 12, true), (3, 12, false)] {
        // It says that the range ends there, or that there is no such record.
        match is_found {
            true => node.lock().unwrap().ends = Some(ends),
            false => node.lock().unwrap().lags = Some((ends, u32::MAX)),
        }
        let mut reader = client.read(range(0, end), proven());
        for at in 0..ends {
            assert_eq!(reader.next().await.unwrap().unwrap().index.get(), at);
        }
        for _ in 0..2 {
            match reader.next().await {
                Err(CallError::Violation(Violation::EndedEarly { due, size })) => {
                    assert_eq!((due.get(), size.get()), (ends, 9));
                }
                other => panic!("0..{end}, ends at {ends}: {other:?}"),
            }
        }
        let told = rest(&mut client.read(range(0, end), Assurance::Canonical)).await.unwrap();
        assert_eq!(told.len() as u64, ends, "where nothing is proved, it is the server's word");
        (node.lock().unwrap().ends, node.lock().unwrap().lags) = (None, None);
        assert_eq!(rest(&mut reader).await.unwrap().len() as u64, end.min(9) - ends, "the truth is told now");
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_that_ends_early_at_one_node_is_read_to_its_end_at_another() {
    let (_cluster, [first, _], client) = filled_at([1, 2], 9).await;
    for ends in 1..9 {
        first.lock().unwrap().ends = Some(ends);
        assert_eq!(rest(&mut client.read(range(0, 9), proven())).await.unwrap().len(), 9, "ended at {ends}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_come_count_for_their_stream_also_while_they_are_held_back() {
    let (_cluster, node, client) = filled(30).await;
    for at in 1..30 {
        node.lock().unwrap().faults.insert(READ + at, Fault::CutBefore);
    }
    assert_eq!(rest(&mut client.read(range(0, 30), proven())).await.unwrap().len(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_proves_less_than_another_one_is_left() {
    let (_cluster, [first, second], client) = filled_at([1, 2], 6).await;
    let small = client.checkpoint(&policy()).await.unwrap();
    append(&client, 3).await;
    let large = client.checkpoint(&policy()).await.unwrap();
    for behind in [&first, &second] {
        behind.lock().unwrap().behind = Some(6);
        assert_eq!(rest(&mut client.read(range(0, 9), proven())).await.unwrap().len(), 9);
        // Whoever is asked at first.
        for _ in 0..4 {
            client.consistency(&small, &large).await.unwrap();
        }
        behind.lock().unwrap().behind = None;
    }
    for node in [first, second] {
        node.lock().unwrap().behind = Some(6);
    }
    let nobody = tokio::time::timeout(Duration::from_secs(600), client.consistency(&small, &large)).await.unwrap();
    assert!(matches!(nobody, Err(CallError::NotFound { .. })), "{nobody:?}");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_nothing_with_the_root_of_something_contradicts_every_other() {
    let (_cluster, _, client) = filled(3).await;
    let signed = |root| {
        let checkpoint = Checkpoint { origin: Origin::new(support::LOG).unwrap(), size: TreeSize::new(0), root };
        SignedCheckpoint::verify(sign(&checkpoint.to_string(), &[&support::log_key()]).unwrap(), &policy()).unwrap()
    };
    let newest = client.checkpoint(&policy()).await.unwrap();
    client.consistency(&signed(empty_root()), &newest).await.unwrap();
    let forged = signed(Hash::new([5; 32]));
    for (old, new) in [(&forged, &newest), (&newest, &forged), (&forged, &forged)] {
        let forked = client.consistency(old, new).await;
        assert!(matches!(forked, Err(CallError::Fork { .. })), "{forked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn following_goes_on_to_what_contains_the_old_checkpoint_and_never_back() {
    let (cluster, _, client) = filled(3).await;
    let policy = policy();
    let mut known = vec![client.checkpoint(&policy).await.unwrap()];
    for more in [1, 4, 5] {
        append(&client, more).await;
        let last = known.last().unwrap();
        let next = client.follow(last, &policy).await.unwrap();
        assert_eq!(next.checkpoint().size.get(), last.checkpoint().size.get() + more);
        assert_eq!(client.follow(&next, &policy).await.unwrap().note(), next.note());
        known.push(next);
    }
    // A node that has less, and cannot prove that it is contained.
    cluster.table.lock().unwrap().leaves.truncate(8);
    let newest = known.last().unwrap();
    assert_eq!(client.follow(newest, &policy).await.unwrap().note(), newest.note());
}

#[tokio::test(start_paused = true)]
async fn two_histories_end_following_with_both_notes_whichever_is_longer() {
    let policy = policy();
    for (ours, theirs) in [(3, 3), (5, 3), (3, 5)] {
        let (cluster, _, client) = filled(ours).await;
        // The salts differ, so the same events make other records.
        let (other, _, _) = filled(theirs).await;
        let note = other.table.lock().unwrap().note();
        let known = SignedCheckpoint::verify(note.clone(), &policy).unwrap();
        let seen = cluster.table.lock().unwrap().note();
        match (client.follow(&known, &policy).await, ours == theirs) {
            (Err(CallError::Fork { old, new }), true) | (Err(CallError::NotConsistent { old, new, .. }), false) => {
                assert_eq!((old, new), (note, seen));
            }
            // Who has less than is known cannot be asked for a proof of it, and is not believed.
            (Ok(still), false) if ours < theirs => assert_eq!(still.note(), note),
            (other, _) => panic!("{ours} after {theirs}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_smaller_checkpoint_that_a_node_cannot_lead_on_to_what_is_known_ends_following() {
    let (cluster, _, client) = filled(3).await;
    let policy = policy();
    append(&client, 3).await;
    let known = client.checkpoint(&policy).await.unwrap();
    // Of another history, signed by the log, shown by a node that has all of this one.
    let checkpoint =
        Checkpoint { origin: Origin::new(support::LOG).unwrap(), size: TreeSize::new(3), root: Hash::new([5; 32]) };
    let forged = sign(&checkpoint.to_string(), &[&support::log_key()]).unwrap();
    cluster.table.lock().unwrap().shown = Some(forged.clone());
    match client.follow(&known, &policy).await {
        Err(CallError::NotConsistent { old, new, .. }) => assert_eq!((old.as_str(), new), (known.note(), forged)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_another_log_is_none_of_this_one_and_no_fork() {
    let (_cluster, _, client) = filled(3).await;
    let name = "example.com/other";
    let key = SigningKey::from_seed(KeyName::new(name).unwrap(), KeyKind::Ed25519, [4; 32]);
    let both = format!("log {}\nlog {}\nquorum none\n", support::log_key().verifier_key(), key.verifier_key());
    let both = Policy::parse(both.as_bytes()).unwrap();
    let checkpoint =
        Checkpoint { origin: Origin::new(name).unwrap(), size: TreeSize::new(3), root: Hash::new([5; 32]) };
    let note = sign(&checkpoint.to_string(), &[&key]).unwrap();
    let other = SignedCheckpoint::verify(note, &both).unwrap();
    let followed = client.follow(&other, &both).await;
    assert!(matches!(followed, Err(CallError::Violation(Violation::OtherCheckpoint { .. }))), "{followed:?}");
}

/// What the fake says of a consistent log holds by the definition: else the tests above show nothing.
#[tokio::test(start_paused = true)]
async fn the_fake_proves_what_is_consistent() {
    let (cluster, _, client) = filled(1).await;
    let policy = policy();
    let mut notes = Vec::new();
    for _ in 0..9 {
        notes.push(client.checkpoint(&policy).await.unwrap());
        append(&client, 1).await;
    }
    for old in &notes {
        for new in &notes {
            client.consistency(old, new).await.unwrap();
        }
    }
    assert_eq!(cluster.table.lock().unwrap().leaves.len(), 10);
}
