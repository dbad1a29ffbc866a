//! Records that the leader finishes.

use bytes::Bytes;
use stele_api::v1::record_answer::Answer;
use stele_api::v1::{Draft, Payload, ReadRequest, RecordAnswer, RefusalCode, Submission, submission};
use stele_proof::record::{Record, Salt, SelfHash};

use crate::process::{Cluster, ORIGIN, Writer, append_one, code, submit};

fn draft(writer: &str, attrs: &'static str) -> Draft {
    Draft {
        writer_id: writer.to_owned(),
        stream: "s".to_owned(),
        kind: "K".to_owned(),
        attrs: Some(Bytes::from_static(attrs.as_bytes())),
        ..Draft::default()
    }
}

fn submission(draft: Draft, payload: Option<Payload>) -> Submission {
    Submission { record: Some(submission::Record::Draft(draft)), payload }
}

/// Index, canonical record and salt of an answer; the hash that comes with it must be the record's.
fn finished(answer: &RecordAnswer) -> (u64, Bytes, Bytes) {
    let Some(Answer::Receipt(receipt)) = &answer.answer else { panic!("{answer:?}") };
    let made = receipt.finished.clone().expect("what the leader made of the draft");
    assert_eq!(receipt.self_hash, SelfHash::of(&made.record).as_bytes()[..]);
    (receipt.index, made.record, made.salt)
}

#[tokio::test]
async fn the_leader_finishes_drafts_and_answers_what_it_made() {
    let mut cluster = Cluster::new(1);
    cluster.start(1).await;
    let mut writer = Writer::new("w");
    writer.write(&cluster, 1).await;
    let mut log = cluster.log(1).await;
    let payload = |salt: &'static [u8]| Payload { salt: Bytes::from_static(salt), bytes: Bytes::from_static(b"pay") };
    let answers = append_one(
        &mut log,
        vec![
            submission(draft("d", "{\"z\":1,\"a\":\"e\u{301}\"}"), None),
            submit(&writer.finished(1)),
            submission(Draft { ts_ms: Some(5), ..draft("d", "{}") }, Some(payload(b""))),
            submission(draft("d", "{\"a\":1.5}"), None),
            submission(draft("d", "{\"a\":1,\"a\":2}"), None),
            submission(draft("stele/x", "{}"), None),
            submission(draft("d", "{}"), Some(payload(&[7; 32]))),
            submission(Draft { kind: "1K".to_owned(), ..draft("d", "{}") }, None),
            submission(draft("w", "{}"), None),
        ],
    )
    .await;
    let codes: Vec<RefusalCode> = answers.iter().map(code).collect();
    let (good, schema) = (RefusalCode::Unspecified, RefusalCode::Schema);
    assert_eq!(codes, [good, good, good, schema, schema, RefusalCode::Reserved, RefusalCode::Payload, schema, good]);
    let (first, second, behind) = (finished(&answers[0]), finished(&answers[2]), finished(&answers[8]));
    let record = |bytes: &'_ Bytes| Record::parse(bytes).map(|record| (record.seq(), record.prev())).unwrap();
    assert_eq!(record(&first.1), (1, None));
    assert_eq!(record(&second.1), (2, Some(SelfHash::of(&first.1))));
    assert_eq!(record(&behind.1).0, 3, "a draft goes behind the finished records of its chain");
    let text = String::from_utf8(first.1.to_vec()).unwrap();
    assert!(text.contains("\"attrs\":{\"a\":\"\u{e9}\",\"z\":1}"), "{text}");
    let commitment = Record::parse(&second.1).unwrap().payload().expect("a commitment");
    let salt = Salt::new(second.2[..].try_into().unwrap());
    assert!(commitment.opens_with(&salt, b"pay") && salt != Salt::ZERO);
    // What was answered is what the log holds, with its payload.
    let records = cluster.read_all(1).await;
    for (index, made, _) in [&first, &second, &behind] {
        assert_eq!(records[usize::try_from(*index).unwrap()], *made);
    }
    let request = ReadRequest {
        log: ORIGIN.to_owned(),
        start: second.0,
        end: Some(second.0 + 1),
        with_payload: true,
        ..ReadRequest::default()
    };
    let mut read = log.read(request).await.unwrap().into_inner();
    let read = read.message().await.unwrap().unwrap().records.remove(0).payload.unwrap();
    assert_eq!((read.salt, &read.bytes[..]), (second.2, &b"pay"[..]));
}
