//! Streams of appends that would take more memory, or more of a message, than they may.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prost::Message as _;
use stele_api::v1::record_answer::Answer;
use stele_api::v1::{AppendRequest, Draft, RecordAnswer, RefusalCode, Submission, submission};
use stele_api::{MAX_MESSAGE_BYTES, MAX_MESSAGE_RECORDS};
use tokio::time::timeout;

use crate::process::{Cluster, Extra, ORIGIN, PATIENCE, Writer, code, submit};

fn draft(attrs: &str) -> Submission {
    let draft = Draft {
        writer_id: "d".to_owned(),
        stream: "s".to_owned(),
        kind: "K".to_owned(),
        attrs: Some(Bytes::copy_from_slice(attrs.as_bytes())),
        ..Draft::default()
    };
    Submission { record: Some(submission::Record::Draft(draft)), payload: None }
}

fn request(request_id: u64, records: Vec<Submission>) -> AppendRequest {
    AppendRequest { log: ORIGIN.to_owned(), request_id, records, ack: 0 }
}

/// All answers to one request, and in how many messages they came.
async fn answers(cluster: &Cluster, request: AppendRequest) -> (Vec<RecordAnswer>, usize) {
    let (mut all, mut messages) = (Vec::new(), 0);
    let mut stream = cluster.log(1).await.append(tokio_stream::iter([request])).await.unwrap().into_inner();
    while let Some(response) = timeout(PATIENCE, stream.message()).await.unwrap().unwrap() {
        assert_eq!(response.first_record as usize, all.len(), "answers come in order");
        all.extend(response.answers);
        messages += 1;
    }
    (all, messages)
}

#[tokio::test]
async fn answers_that_one_message_does_not_hold_come_in_several() {
    let mut cluster = Cluster::new(1);
    cluster.start(1).await;
    Writer::new("w").write(&cluster, 1).await;
    // What the leader makes of a draft takes more than the draft.
    let attrs = format!("{{\"a\":\"{}\"}}", "x".repeat(300));
    let asked = request(1, vec![draft(&attrs); MAX_MESSAGE_RECORDS]);
    assert!(asked.encoded_len() < MAX_MESSAGE_BYTES);
    let (all, messages) = answers(&cluster, asked).await;
    assert_eq!(all.len(), MAX_MESSAGE_RECORDS);
    let bytes: usize = all.iter().map(RecordAnswer::encoded_len).sum();
    assert!(bytes > MAX_MESSAGE_BYTES && messages > 1, "{bytes} bytes in {messages} messages");
    let index = |answer: &RecordAnswer| match &answer.answer {
        Some(Answer::Receipt(receipt)) => receipt.index,
        other => panic!("{other:?}"),
    };
    assert!(all.windows(2).all(|pair| index(&pair[0]) + 1 == index(&pair[1])));

    // A refusal that says what was wrong does not say all of it again.
    let long = format!("{{\"{}\":1.5}}", "x".repeat(100_000));
    let (all, _) = answers(&cluster, request(2, vec![draft(&long); 30])).await;
    assert_eq!(all.len(), 30);
    for answer in &all {
        let Some(Answer::Refusal(refusal)) = &answer.answer else { panic!("{answer:?}") };
        assert!(refusal.code() == RefusalCode::Schema && (10..500).contains(&refusal.text.len()), "{}", refusal.text);
    }
}

#[tokio::test]
async fn a_stream_whose_answers_wait_is_read_up_to_a_bound_in_bytes() {
    // A leader that was left alone keeps its followers' word for so long, and what it was sent waits.
    let keys = "raft.heartbeat = \"100ms\"\nraft.election_min = \"1s\"\nraft.election_max = \"6s\"\n\
                limits.request_timeout = \"30s\"";
    let mut cluster = Cluster::configured(3, Extra { keys, ..Extra::default() });
    cluster.start_all().await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 1).await;
    let leader = cluster.leader().await;
    let mut log = cluster.log(leader).await;
    for other in (1..=3).filter(|node| *node != leader) {
        cluster.kill(other);
    }
    // The first waits; all behind it are refused, and wait for the answer to the first.
    let many = 600;
    let first = request(0, vec![submit(&writer.finished(1))]);
    let refused = vec![Submission { record: None, payload: None }; MAX_MESSAGE_RECORDS];
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let behind = (1..many).map(move |request_id| {
        counted.fetch_add(1, Ordering::Relaxed);
        request(request_id, refused.clone())
    });
    let requests = tokio_stream::iter(std::iter::once(first).chain(behind));
    let mut answers = timeout(PATIENCE, log.append(requests)).await.unwrap().unwrap().into_inner();
    let answered = timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
    // Those that were read, and what lies in the buffers of the connection: 16 KiB each.
    let sent = sent.load(Ordering::Relaxed);
    assert_eq!((answered.request_id, code(&answered.answers[0])), (0, RefusalCode::Unavailable));
    assert!((5..200).contains(&sent), "{sent} requests were read while the first waited");
    // Then it goes on.
    let next = timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((next.request_id, code(&next.answers[0])), (1, RefusalCode::Schema));
}
