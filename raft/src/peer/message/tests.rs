use openraft::entry::RaftPayload;
use openraft::impls::leader_id_std::LeaderId;
use openraft::vote::RaftVote;
use proptest::prelude::*;
use stele_engine::batch::{BatchBuilder, MAX_PAYLOAD_BYTES};
use stele_engine::frame::{EntryKind, MAX_BODY_BYTES};
use stele_engine::number::{LIMIT, RaftIndex, Term};
use stele_proof::record::Salt;
use stele_proof::tree::Hash;
use stele_proof::{LeafIndex, TreeSize};

use super::*;
use crate::entry::{CommittedLeader, Entry, Membership, Payload, Peer, Vote, log_id};
use crate::peer::entries::{MAX_ENTRIES, fitting};
use crate::peer::hello::{Greeting, Hello, HelloFault, Refusal};
use crate::peer::wire::LENGTH_BYTES;

const CLASSES: [Class; 4] = [Class::Log, Class::Control, Class::Segments, Class::Recovery];

fn vote(term: u64, node: u64) -> Vote {
    Vote::from_leader_id(LeaderId { term, voted_for: node }, true)
}

fn id(term: u64, index: u64) -> LogId {
    log_id(Term::new(term), RaftIndex::new(index))
}

/// The bytes of a frame, as they cross the wire.
fn wire(mut frame: Frame) -> Bytes {
    frame.copy_to_bytes(frame.remaining())
}

/// The message of a frame, whose length is right.
fn message(frame: Frame) -> Bytes {
    let mut bytes = wire(frame);
    assert_eq!(bytes.get_u32_le() as usize, bytes.len());
    bytes
}

fn batch(records: &[usize], payload: Option<&[u8]>) -> Payload {
    let mut builder = BatchBuilder::default();
    for len in records {
        let start = builder.buffer().len();
        builder.buffer().resize(start + len, b'r');
        let salt = Salt::new([7; Salt::LEN]);
        builder.push(start, payload.map(|payload| (&salt, payload)));
    }
    let (body, slots) = builder.cut(Term::new(3), LeafIndex::new(9));
    Payload { kind: EntryKind::Batch, body, slots }
}

fn append(payloads: Vec<Payload>) -> Append {
    Append { request: entries(payloads), flushed: RaftIndex::new(6) }
}

fn entries(payloads: Vec<Payload>) -> AppendEntriesRequest<TypeConfig> {
    let entries = payloads.into_iter().zip(5..).map(|(payload, index)| Entry {
        leader: CommittedLeader::new(3),
        index: RaftIndex::new(index),
        payload,
    });
    AppendEntriesRequest {
        vote: vote(3, 1),
        prev_log_id: Some(id(2, 4)),
        entries: entries.collect(),
        leader_commit: Some(id(2, 3)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden_request(class: Class, request: &Request, golden: &str) {
    let golden: String = golden.split_whitespace().collect();
    let bytes = message(request.encode());
    assert_eq!(hex(&bytes), golden, "{request:?}");
    let decoded = Request::decode(class, bytes).unwrap();
    assert_eq!(format!("{decoded:?}"), format!("{request:?}"));
}

fn golden_answer(answer: &Answer, golden: &str) {
    let golden: String = golden.split_whitespace().collect();
    let bytes = message(answer.encode());
    assert_eq!(hex(&bytes), golden, "{answer:?}");
    assert_eq!(Answer::decode(bytes).unwrap(), *answer);
}

const VOTE_3_1: &str = "0300000000000000 0100000000000000 01";
const ID_2_4: &str = "01 0200000000000000 0400000000000000";
const ID_2_3: &str = "01 0200000000000000 0300000000000000";
const NO_ID: &str = "00 0000000000000000 0000000000000000";

#[test]
fn an_append_is_these_bytes_and_these_bytes_are_an_append() {
    let seal =
        Payload { kind: EntryKind::Seal, body: Bytes::from_static(&[9, 0, 0, 0, 0, 0, 0, 0]), slots: Bytes::new() };
    let append = append(vec![Payload::blank(), seal]);
    let entries = "01 0300000000000000 00000000 00000000  04 0300000000000000 08000000 00000000  0900000000000000";
    golden_request(
        Class::Log,
        &Request::Append(append),
        &format!("01 {VOTE_3_1} {ID_2_4} {ID_2_3} 0600000000000000 02000000 {entries}"),
    );
    let request = AppendEntriesRequest { vote: vote(3, 1), prev_log_id: None, entries: vec![], leader_commit: None };
    let heartbeat = Append { request, flushed: RaftIndex::new(0) };
    golden_request(
        Class::Control,
        &Request::Append(heartbeat),
        &format!("01 {VOTE_3_1} {NO_ID} {NO_ID} 0000000000000000 00000000"),
    );
}

#[test]
fn an_offer_is_these_bytes_and_what_is_offered() {
    for (wanted, byte) in [(Wanted::Position, "00"), (Wanted::Entries, "01")] {
        golden_request(Class::Recovery, &Request::Offer { last: id(2, 4), wanted }, &format!("0a {ID_2_4} {byte}"));
    }
    let entry = Entry { leader: CommittedLeader::new(3), index: RaftIndex::new(5), payload: Payload::blank() };
    let offer = Offer { last: Some(id(3, 5)), holds: Holds::It, entries: vec![entry] };
    let blank = "01000000 01 0300000000000000 00000000 00000000";
    golden_answer(
        &Answer::Offered(Offered { before: id(2, 4), offer }),
        &format!("8a 01 0300000000000000 0500000000000000 {ID_2_4} 01 {blank}"),
    );
    let nothing = Offer { last: None, holds: Holds::Not, entries: Vec::new() };
    golden_answer(
        &Answer::Offered(Offered { before: id(2, 4), offer: nothing }),
        &format!("8a {NO_ID} {ID_2_4} 00 00000000"),
    );
}

#[test]
fn what_is_offered_is_of_no_later_term_than_the_last_entry_of_its_log() {
    let entry =
        |term| Entry { leader: CommittedLeader::new(term), index: RaftIndex::new(5), payload: Payload::blank() };
    for (term, last) in [(3, Some(id(2, 9))), (3, None), (1, Some(id(9, 9)))] {
        let offered = Offered { before: id(2, 4), offer: Offer { last, holds: Holds::It, entries: vec![entry(term)] } };
        let read = Answer::decode(message(Answer::Offered(offered).encode()));
        assert_eq!(read, Err(MessageError::Entry(RaftIndex::new(5))), "term {term}, {last:?}");
    }
}

#[test]
fn the_other_requests_are_these_bytes() {
    let mut asked = VoteRequest::new(vote(3, 1), Some(id(2, 4)));
    golden_request(Class::Control, &Request::Vote(asked.clone()), &format!("02 {VOTE_3_1} {ID_2_4} 00"));
    asked.leadership_transfer = true;
    golden_request(Class::Control, &Request::PreVote(asked), &format!("03 {VOTE_3_1} {ID_2_4} 01"));
    let transfer = TransferLeaderRequest::new(vote(3, 1), 2, None);
    golden_request(
        Class::Control,
        &Request::TransferLeader(transfer),
        &format!("04 {VOTE_3_1} 0200000000000000 {NO_ID}"),
    );
    let segment = SegmentNumber::new(6);
    golden_request(Class::Segments, &Request::ListSegments { from: segment }, "05 0600000000000000");
    let file = SegmentFile::Payloads(segment, PayloadPart::new(2));
    golden_request(
        Class::Segments,
        &Request::ReadSegment { file, offset: 5, len: 1 << 20 },
        "06 02 0600000000000000 02000000 0500000000000000 00001000",
    );
    golden_request(Class::Segments, &Request::Vouch { size: TreeSize::new(258) }, "09 0201000000000000");
    let none = Request::decode(Class::Segments, [&[9][..], &[0; 8]].concat().into());
    assert_eq!(none.unwrap_err(), MessageError::Field("size"), "nobody vouches for nothing");
    let incarnation = Request::Stale(Stale::Incarnation { seen: 8, shown: 0 });
    let acknowledged = Request::Stale(Stale::Acknowledged { term: Term::new(3), index: RaftIndex::new(9) });
    for class in [Class::Log, Class::Control, Class::Segments] {
        golden_request(class, &incarnation, "07 01 0800000000000000 0000000000000000");
        golden_request(class, &acknowledged, "07 02 0300000000000000 0900000000000000");
    }
    let head = SignedHead { size: TreeSize::new(6), root: Hash::new([0xcd; 32]) };
    golden_request(
        Class::Control,
        &Request::Cosign(CosignRequest { head, wait: Duration::from_millis(2000) }),
        &format!("08 0600000000000000 {} d0070000", "cd".repeat(32)),
    );
}

#[test]
fn the_answers_are_these_bytes() {
    golden_answer(&Answer::Appended(Ok(Some(id(2, 4)))), &format!("81 00 {ID_2_4}"));
    golden_answer(&Answer::Appended(Err(StreamAppendError::Conflict(id(2, 3)))), &format!("81 01 {ID_2_3}"));
    golden_answer(&Answer::Appended(Err(StreamAppendError::HigherVote(vote(3, 1)))), &format!("81 02 {VOTE_3_1}"));
    let voted = VoteResponse::new(vote(3, 1), Some(id(2, 4)), true);
    golden_answer(&Answer::Voted(voted), &format!("82 {VOTE_3_1} 01 {ID_2_4}"));
    golden_answer(&Answer::Transferred(Ok(())), &format!("84 00 {}", "00".repeat(34)));
    let changed = TransferError::VoteChanged { expected: vote(3, 1), actual: vote(3, 1) };
    golden_answer(&Answer::Transferred(Err(changed)), &format!("84 01 {VOTE_3_1} {VOTE_3_1}"));
    let behind = TransferError::LogNotFlushed { expected: Some(id(2, 4)), actual: None };
    golden_answer(&Answer::Transferred(Err(behind)), &format!("84 02 {ID_2_4} {NO_ID}"));
    let sealed = SealedSegment { number: SegmentNumber::new(6), frames_bytes: 258, payload_bytes: vec![7, 8] };
    golden_answer(
        &Answer::Segments(vec![sealed]),
        "85 01000000 0600000000000000 0201000000000000 02000000 0700000000000000 0800000000000000",
    );
    golden_answer(&Answer::Bytes(Bytes::from_static(b"abc")), "86 616263");
    let proof = vec![Hash::new([1; 32]), Hash::new([2; 32])];
    golden_answer(
        &Answer::Vouched(Vouched { note: Bytes::from_static(b"abc"), proof }),
        &format!("89 02000000 {} {} 616263", "01".repeat(32), "02".repeat(32)),
    );
    golden_answer(&Answer::Failed(Failure::Stopped), "ff01");
    golden_answer(&Answer::Failed(Failure::NotSealed), "ff02");
    golden_answer(&Answer::Failed(Failure::Unreadable), "ff03");
    golden_answer(&Answer::Failed(Failure::NoSigner), "ff04");
    golden_answer(&Answer::Cosigned(Cosigned::Signed("abc\n".to_owned())), "88 00 6162630a");
    golden_answer(&Answer::Cosigned(Cosigned::NotYet(TreeSize::new(6))), "88 01 0600000000000000");
    let other = Cosigned::Differs(Hash::new([0xcd; 32]));
    golden_answer(&Answer::Cosigned(other), &format!("88 02 {}", "cd".repeat(32)));
    let passed = Cosigned::Passed { size: TreeSize::new(6), note: "abc".to_owned() };
    golden_answer(&Answer::Cosigned(passed), "88 03 0600000000000000 616263");
    golden_answer(&Answer::Cosigned(Cosigned::Same), "88 04");
}

#[test]
fn signatures_are_text_of_bounded_length() {
    let decode = |kind: u8, rest: &[u8]| Answer::decode([&[0x88, kind], rest].concat().into());
    let lines = vec![b'x'; MAX_LINES_BYTES + 1];
    assert!(decode(0, &lines[1..]).is_ok());
    for bad in [&lines[..], b"", b"\xff"] {
        assert_eq!(decode(0, bad), Err(MessageError::Field("signature lines")));
    }
    let note = [&[0; 8][..], &vec![b'x'; MAX_COSIGNED_NOTE_BYTES + 1]].concat();
    assert!(decode(3, &note[..note.len() - 1]).is_ok());
    assert_eq!(decode(3, &note), Err(MessageError::Field("note")));
    let largest = decode(3, &note[..note.len() - 1]).unwrap();
    assert!(message(largest.encode()).len() <= max_answer_bytes(Class::Control));
    let head = SignedHead { size: TreeSize::new(6), root: Hash::new([0; 32]) };
    let mut patient = message(Request::Cosign(CosignRequest { head, wait: MAX_COSIGN_WAIT }).encode()).to_vec();
    assert!(Request::decode(Class::Control, patient.clone().into()).is_ok());
    patient[41] += 1;
    assert_eq!(Request::decode(Class::Control, patient.into()).unwrap_err(), MessageError::Field("wait"));
    golden_answer(&Answer::Failed(Failure::NoCheckpoint), "ff05");
}

#[test]
fn a_peer_of_another_version_is_told_so_whatever_else_it_says() {
    let mut later = b"STELPEER\x03\x00".to_vec();
    assert_eq!(Hello::decode(&later), Err(HelloFault::Version));
    later.extend([0xff; 200]);
    assert_eq!(Hello::decode(&later), Err(HelloFault::Version));
    later.truncate(19);
    later[18] = 0;
    assert_eq!(Greeting::decode(&later).unwrap().verdict, Err(Refusal::Version(3)));
}

#[test]
fn a_large_body_is_never_copied() {
    let payload = batch(&[4000], Some(&[1; 5000]));
    let append = append(vec![Payload::blank(), payload.clone()]);
    let mut frame = Request::Append(append).encode();
    let mut pieces = Vec::new();
    while frame.has_remaining() {
        pieces.push((frame.chunk().as_ptr(), frame.chunk().len()));
        frame.advance(frame.chunk().len());
    }
    assert_eq!(
        pieces[1..],
        [(payload.body.as_ptr(), payload.body.len()), (payload.slots.as_ptr(), payload.slots.len())]
    );

    let bytes = message(Request::Append(self::append(vec![payload])).encode());
    let range = bytes.as_ptr_range();
    let Request::Append(received) = Request::decode(Class::Log, bytes).unwrap() else { panic!("an append") };
    let received = &received.request.entries[0].payload;
    assert!(range.contains(&received.body.as_ptr()) && range.contains(&received.slots.as_ptr()));
}

#[test]
fn small_pieces_leave_in_one() {
    let frame = Request::Append(append(vec![batch(&[100], None); 5])).encode();
    assert_eq!(frame.chunk().len(), frame.remaining());
}

#[test]
fn the_largest_entry_fits_a_message_and_a_larger_append_is_cut() {
    let largest = Payload {
        kind: EntryKind::Batch,
        body: Bytes::from(vec![0; MAX_BODY_BYTES]),
        slots: Bytes::from(vec![0; MAX_PAYLOAD_BYTES]),
    };
    let sent = |entries: &[Entry]| {
        let request = AppendEntriesRequest { entries: entries.to_vec(), ..self::entries(vec![]) };
        wire(Request::Append(Append { request, flushed: RaftIndex::new(6) }).encode()).len() - LENGTH_BYTES
    };
    let entries = entries(vec![largest.clone(), largest, Payload::blank()]).entries;
    assert_eq!(fitting(&entries), 1);
    let blanks = self::entries(vec![Payload::blank(); MAX_ENTRIES + 1]).entries;
    assert_eq!(fitting(&blanks), MAX_ENTRIES);
    assert!(sent(&entries[..1]) <= max_request_bytes(Class::Log));
    assert!(sent(&blanks[..MAX_ENTRIES]) <= max_request_bytes(Class::Log));
}

#[test]
fn an_entry_that_no_log_takes_is_no_message() {
    let full = Payload { kind: EntryKind::Blank, body: Bytes::from_static(b"x"), slots: Bytes::new() };
    let trim = Payload { kind: EntryKind::Trim, ..Payload::blank() };
    let membership = Payload { kind: EntryKind::Membership, body: Bytes::from_static(b"m"), slots: Bytes::new() };
    let torn = Payload { body: batch(&[10], None).body.slice(1..), ..batch(&[10], None) };
    let robbed = Payload { slots: Bytes::new(), ..batch(&[10], Some(b"payload")) };
    for payload in [full, trim, membership, torn, robbed] {
        let bytes = message(Request::Append(append(vec![payload.clone()])).encode());
        let decoded = Request::decode(Class::Log, bytes).unwrap_err();
        assert_eq!(decoded, MessageError::Entry(RaftIndex::new(5)), "{payload:?}");
    }
    for term in [1, 4] {
        let mut wrong = append(vec![Payload::blank()]);
        wrong.request.entries[0].leader = CommittedLeader::new(term);
        let bytes = message(Request::Append(wrong).encode());
        assert_eq!(Request::decode(Class::Log, bytes).unwrap_err(), MessageError::Entry(RaftIndex::new(5)));
    }
}

#[test]
fn a_message_counts_only_on_its_own_connection() {
    let samples = [
        (Request::Append(append(vec![Payload::blank()])), [true, false, false]),
        (Request::Append(append(vec![])), [true, true, false]),
        (Request::Vote(VoteRequest::new(vote(1, 1), None)), [false, true, false]),
        (Request::ListSegments { from: SegmentNumber::new(0) }, [false, false, true]),
        (cosign(6, [1; 32], 5), [false, true, false]),
    ];
    for (request, counts) in samples {
        for (class, counts) in CLASSES.into_iter().zip(counts) {
            assert_eq!(Request::decode(class, message(request.encode())).is_ok(), counts, "{request:?} {class:?}");
        }
    }
}

#[test]
fn a_count_allocates_nothing_that_did_not_arrive() {
    let mut bytes = message(Request::Append(append(vec![])).encode()).to_vec();
    for count in [1u32, 1 << 16, u32::MAX] {
        bytes[60..64].copy_from_slice(&count.to_le_bytes());
        assert!(Request::decode(Class::Log, bytes.clone().into()).is_err());
    }
    for place in [1, 17] {
        let sealed = SealedSegment { number: SegmentNumber::new(0), frames_bytes: 1, payload_bytes: vec![] };
        let mut bytes = message(Answer::Segments(vec![sealed]).encode()).to_vec();
        bytes[place..place + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Answer::decode(bytes.into()).is_err());
    }
}

/// Whatever is decoded is what the encoder writes for it.
fn accepted_only_as_written(bytes: &Bytes) {
    for class in CLASSES {
        if let Ok(request) = Request::decode(class, bytes.clone()) {
            assert_eq!(message(request.encode()), *bytes, "{request:?}");
        }
    }
    if let Ok(answer) = Answer::decode(bytes.clone()) {
        assert_eq!(message(answer.encode()), *bytes, "{answer:?}");
    }
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(message(hello.encode()), *bytes);
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..5, 0..LIMIT]
}

fn cosign(size: u64, root: [u8; 32], millis: u64) -> Request {
    let head = SignedHead { size: TreeSize::new(size), root: Hash::new(root) };
    Request::Cosign(CosignRequest { head, wait: Duration::from_millis(millis) })
}

fn any_cosigned() -> impl Strategy<Value = Cosigned> {
    prop_oneof![
        "[a-z\u{2014}\n]{1,40}".prop_map(Cosigned::Signed),
        Just(Cosigned::Same),
        number().prop_map(|visible| Cosigned::NotYet(TreeSize::new(visible))),
        any::<[u8; 32]>().prop_map(|root| Cosigned::Differs(Hash::new(root))),
        (number(), "[a-z\u{2014}\n]{0,40}")
            .prop_map(|(size, note)| Cosigned::Passed { size: TreeSize::new(size), note }),
    ]
}

fn any_id() -> impl Strategy<Value = Option<LogId>> {
    proptest::option::of((number(), number()).prop_map(|(term, index)| id(term, index)))
}

fn any_vote() -> impl Strategy<Value = Vote> {
    (number(), number(), any::<bool>())
        .prop_map(|(term, node, committed)| Vote::from_leader_id(LeaderId { term, voted_for: node }, committed))
}

fn any_payload() -> impl Strategy<Value = Payload> {
    let some_bytes = || proptest::collection::vec(any::<u8>(), 0..60);
    let membership = || {
        let nodes = [1, 2].map(|node| (node, Peer { addresses: vec![format!("host-{node}:1")], ..Peer::default() }));
        let membership = Membership::new(vec![[1].into()], std::collections::BTreeMap::from(nodes)).unwrap();
        Payload::blank().with_membership(membership)
    };
    let batch = (proptest::collection::vec(1usize..900, 1..4), proptest::option::of(some_bytes()));
    prop_oneof![
        Just(Payload::blank()),
        Just(membership()),
        any::<[u8; 8]>().prop_map(|segment| Payload {
            kind: EntryKind::Seal,
            body: Bytes::copy_from_slice(&segment),
            slots: Bytes::new()
        }),
        batch.prop_map(|(records, payload)| self::batch(&records, payload.as_deref())),
    ]
}

fn any_append() -> impl Strategy<Value = Request> {
    (any_vote(), any_id(), any_id(), number(), proptest::collection::vec((any_payload(), 0u64..3), 0..5)).prop_map(
        |(vote, prev_log_id, leader_commit, flushed, payloads)| {
            let mut term = prev_log_id.map_or(0, |before| before.leader_id.term);
            let mut entries = Vec::new();
            for ((payload, more), index) in payloads.into_iter().zip(prev_log_id.map_or(0, |before| before.index + 1)..)
            {
                term += more;
                entries.push(Entry { leader: CommittedLeader::new(term), index: RaftIndex::new(index), payload });
            }
            let leader = LeaderId { term: vote.leader_id.term.max(term), voted_for: vote.leader_id.voted_for };
            let vote = Vote::from_leader_id(leader, vote.committed);
            let request = AppendEntriesRequest { vote, prev_log_id, entries, leader_commit };
            Request::Append(Append { request, flushed: RaftIndex::new(flushed) })
        },
    )
}

fn any_request() -> impl Strategy<Value = Request> {
    let ask = || {
        (any_vote(), any_id(), any::<bool>()).prop_map(|(vote, last, transfer)| {
            let mut request = VoteRequest::new(vote, last);
            request.leadership_transfer = transfer;
            request
        })
    };
    let file =
        (number(), any::<u32>(), 0..4).prop_map(|(segment, part, kind)| match (SegmentNumber::new(segment), kind) {
            (segment, 0) => SegmentFile::Frames(segment),
            (segment, 1) => SegmentFile::Payloads(segment, PayloadPart::new(part)),
            (segment, 2) => SegmentFile::Tiles(segment),
            (segment, _) => SegmentFile::Hashes(segment),
        });
    prop_oneof![
        any_append(),
        (number(), number(), any::<bool>()).prop_map(|(term, index, entries)| {
            let wanted = if entries { Wanted::Entries } else { Wanted::Position };
            Request::Offer { last: id(term, index), wanted }
        }),
        ask().prop_map(Request::Vote),
        ask().prop_map(Request::PreVote),
        (any_vote(), number(), any_id())
            .prop_map(|(from, to, last)| Request::TransferLeader(TransferLeaderRequest::new(from, to, last))),
        (any::<u32>(), any::<u32>()).prop_map(|(seen, shown)| Request::Stale(Stale::Incarnation { seen, shown })),
        number().prop_map(|from| Request::ListSegments { from: SegmentNumber::new(from) }),
        (number(), any::<[u8; 32]>(), 0u64..=60_000).prop_map(|(size, root, millis)| cosign(size, root, millis)),
        (file, number(), 1u32..=1 << 20).prop_map(|(file, offset, len)| Request::ReadSegment { file, offset, len }),
    ]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let segment = (number(), proptest::collection::vec(number(), 0..4));
    let list = proptest::collection::btree_map(number(), segment, 0..5).prop_map(|list| {
        let sealed = |(number, (frames_bytes, payload_bytes))| SealedSegment {
            number: SegmentNumber::new(number),
            frames_bytes,
            payload_bytes,
        };
        Answer::Segments(list.into_iter().map(sealed).collect())
    });
    prop_oneof![
        any_id().prop_map(|matching| Answer::Appended(Ok(matching))),
        (number(), number()).prop_map(|(term, at)| Answer::Appended(Err(StreamAppendError::Conflict(id(term, at))))),
        any_vote().prop_map(|vote| Answer::Appended(Err(StreamAppendError::HigherVote(vote)))),
        (any_vote(), any_id(), any::<bool>())
            .prop_map(|(vote, last, granted)| Answer::Voted(VoteResponse::new(vote, last, granted))),
        Just(Answer::Transferred(Ok(()))),
        (any_vote(), any_vote())
            .prop_map(|(expected, actual)| Answer::Transferred(Err(TransferError::VoteChanged { expected, actual }))),
        (any_id(), any_id())
            .prop_map(|(expected, actual)| Answer::Transferred(Err(TransferError::LogNotFlushed { expected, actual }))),
        list,
        proptest::collection::vec(any::<u8>(), 0..50).prop_map(|bytes| Answer::Bytes(bytes.into())),
        any_cosigned().prop_map(Answer::Cosigned),
        (any_append(), any_id()).prop_map(|(append, last)| {
            let Request::Append(Append { request: append, .. }) = append else { unreachable!("an append") };
            let before = append.prev_log_id.unwrap_or(id(0, 0));
            let entries: Vec<Entry> = if append.prev_log_id.is_some() { append.entries } else { Vec::new() };
            let last = entries.last().map_or(last, |entry| Some(id(entry.leader.term, entry.index.get())));
            Answer::Offered(Offered { before, offer: Offer { last, holds: Holds::It, entries } })
        }),
        prop_oneof![
            Just(Failure::Stopped),
            Just(Failure::NotSealed),
            Just(Failure::Unreadable),
            Just(Failure::NoSigner)
        ]
        .prop_map(Answer::Failed),
    ]
}

fn class_of(request: &Request) -> Class {
    match request {
        Request::Append(_) => Class::Log,
        Request::ListSegments { .. } | Request::ReadSegment { .. } => Class::Segments,
        Request::Offer { .. } => Class::Recovery,
        _ => Class::Control,
    }
}

proptest! {
    #[test]
    fn every_request_is_read_as_it_was_meant(request in any_request()) {
        let bytes = message(request.encode());
        prop_assert!(bytes.len() <= max_request_bytes(class_of(&request)));
        let decoded = Request::decode(class_of(&request), bytes).unwrap();
        prop_assert_eq!(format!("{decoded:?}"), format!("{request:?}"));
    }

    #[test]
    fn every_answer_is_read_as_it_was_meant(answer in any_answer()) {
        prop_assert_eq!(Answer::decode(message(answer.encode())).unwrap(), answer);
    }

    #[test]
    fn a_cut_request_is_none(request in any_request(), at in any::<prop::sample::Index>()) {
        let bytes = message(request.encode());
        let cut = bytes.slice(..at.index(bytes.len()));
        prop_assert!(CLASSES.iter().all(|class| Request::decode(*class, cut.clone()).is_err()));
    }

    #[test]
    fn flipped_bits_are_refused_or_are_another_message(
        request in any_request(),
        answer in any_answer(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ) {
        for bytes in [message(request.encode()), message(answer.encode())] {
            let mut bytes = bytes.to_vec();
            for (at, bit) in &flips {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            accepted_only_as_written(&bytes.into());
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_are_a_message(
        first in prop_oneof![any::<u8>(), 1u8..8, 0x81u8..0x88],
        rest in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..3], 0..120),
    ) {
        let bytes: Vec<u8> = std::iter::once(first).chain(rest).collect();
        accepted_only_as_written(&bytes.into());
    }
}
