//! The service `stele.v1.Log`.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use stele_api::v1::{
    AppendRequest, AppendResponse, CheckpointRequest, CheckpointResponse, ConsistencyRequest, ConsistencyResponse,
    DescribeRequest, DescribeResponse, Head, HeadRequest, HeadResponse, LogDescription, ProveRequest, ProveResponse,
    ReadRequest, ReadResponse, RefusalCode, TailRequest, log_server,
};
use stele_engine::error::LogError;
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_proof::record::{Record, Salt, canonical_text};
use stele_proof::{LeafIndex, TreeSize};
use stele_raft::rights::Names;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::append::append;
use super::convert::record;
use crate::access::{Caller, Role};
use crate::cosigning::Signed;
use crate::proving::proofs;
use crate::serving::Serving;

/// Records of one piece of a read.
const PIECE_RECORDS: usize = 1024;
/// Bytes from which on a piece ends; a record and its payload may come on top.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that wait for the client to take them.
const MAX_UNREAD: usize = 2;

/// Who may read.
const READS: &[Role] = &[Role::Reader, Role::Auditor];
/// Who may look at the chains that it writes, at least.
const READS_OR_WRITES: &[Role] = &[Role::Reader, Role::Auditor, Role::Writer];

type Answered<T> = Result<Response<T>, Status>;
type Pieces = BoxStream<'static, Result<ReadResponse, Status>>;

/// The service.
#[derive(Clone)]
pub struct LogService(pub Arc<Serving>);

#[tonic::async_trait]
impl log_server::Log for LogService {
    type AppendStream = ReceiverStream<Result<AppendResponse, Status>>;
    type ReadStream = Pieces;
    type TailStream = Pieces;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Answered<Self::AppendStream> {
        let may_write = self.0.allow(&request, &[Role::Writer])?.may_write();
        Ok(Response::new(append(Arc::clone(&self.0), may_write, request.into_inner())))
    }

    async fn head(&self, request: Request<HeadRequest>) -> Answered<HeadResponse> {
        let caller = self.0.allow(&request, READS_OR_WRITES)?;
        let HeadRequest { log, writer_id, stream } = request.into_inner();
        // A writer goes on with its own chains only.
        if let Err(denied) = caller.has(READS)
            && !caller.may_write().allows_names(&Names { writer_id: &writer_id, stream: &stream })
        {
            return Err(self.0.deny(denied));
        }
        self.0.log(&log)?;
        self.0.linearize().await?;
        let (stream, writer_id) = (canonical_text(&stream).into_owned(), canonical_text(&writer_id).into_owned());
        let found = self.0.view.with(|replica| replica.chains().head_at(&stream, &writer_id));
        let head = found.ok_or_else(|| self.0.stopping())?.map(|(head, index)| Head {
            seq: head.seq,
            self_hash: Bytes::copy_from_slice(head.self_hash.as_bytes()),
            index: index.get(),
        });
        Ok(Response::new(HeadResponse { head }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Answered<Pieces> {
        let caller = self.0.allow(&request, READS_OR_WRITES)?;
        let ReadRequest { log, start, end, max_records, with_payload, linearizable } = request.into_inner();
        // A writer that goes on with its chain looks at the head, to see that it is one.
        if let Err(denied) = caller.has(READS)
            && !self.is_own(&caller, start, end).await?
        {
            return Err(self.0.deny(denied));
        }
        self.0.log(&log)?;
        if linearizable {
            self.0.linearize().await?;
        }
        let size = self.0.visible()?.size().get();
        if end.is_some_and(|end| end < start) {
            return Err(self.0.fail(Status::invalid_argument("the range ends before it starts")));
        }
        if start > size || (start == size && end != Some(start)) {
            let what = format!("there is no record {start}: {size} are visible at this node");
            return Err(self.0.fail(Status::not_found(what)));
        }
        let most = if max_records == 0 { u64::MAX } else { max_records };
        let end = end.unwrap_or(size).min(size).min(start.saturating_add(most));
        let (pieces, received) = channel(MAX_UNREAD);
        let (sending, whole) = Sending::new(&self.0, payloads(with_payload), pieces);
        tokio::spawn(async move { sending.range(start, end).await });
        Ok(Response::new(until_whole(received, whole)))
    }

    async fn tail(&self, request: Request<TailRequest>) -> Answered<Pieces> {
        self.0.allow(&request, READS)?;
        let TailRequest { log, from, with_payload } = request.into_inner();
        self.0.log(&log)?;
        let (pieces, received) = channel(MAX_UNREAD);
        let (sending, whole) = Sending::new(&self.0, payloads(with_payload), pieces);
        tokio::spawn(async move { sending.follow(from).await });
        Ok(Response::new(until_whole(received, whole)))
    }

    async fn prove(&self, request: Request<ProveRequest>) -> Answered<ProveResponse> {
        self.0.allow(&request, READS)?;
        let ProveRequest { log, index, size } = request.into_inner();
        self.0.log(&log)?;
        let index = LeafIndex::new(index);
        let least = index.size_with().map(|covering| covering.get()).ok_or_else(|| self.beyond(index.get()))?;
        let signed = self.checkpoint_of(size.unwrap_or_default().max(least)).await?;
        let read = move |reader: &LogReader| {
            let (mut canonical, next) = (Bytes::new(), LeafIndex::new(index.get() + 1));
            reader.read(index, next, Payloads::Leave, &mut |read: ReadRecord| {
                canonical = read.canonical.into();
                Ok::<_, LogError>(())
            })?;
            Ok(canonical)
        };
        let record = self.0.readers.run(TreeSize::new(least), read).await;
        let record = record.map_err(|trouble| self.0.read_failed(trouble))?;
        let proof = proofs(&self.0, &[index], &signed).await.pop().flatten();
        let proof = proof.ok_or_else(|| self.0.fail(Status::internal(format!("record {index} cannot be proved"))))?;
        let proof = proof.to_string();
        Ok(Response::new(ProveResponse { proof, record }))
    }

    async fn consistency(&self, request: Request<ConsistencyRequest>) -> Answered<ConsistencyResponse> {
        self.0.allow(&request, READS)?;
        let ConsistencyRequest { log, old, new } = request.into_inner();
        self.0.log(&log)?;
        if old == 0 || new < old {
            return Err(self.0.fail(Status::invalid_argument("sizes must be 1 <= old <= new")));
        }
        if new > self.0.visible()?.size().get() {
            return Err(self.beyond(new - 1));
        }
        let (old, new) = (TreeSize::new(old), TreeSize::new(new));
        let read = self.0.readers.run(new, move |reader| reader.prove_consistency(old, new)).await;
        let hashes = read.map_err(|trouble| self.0.read_failed(trouble))?;
        let hashes = hashes.iter().map(|hash| Bytes::copy_from_slice(hash.as_bytes())).collect();
        Ok(Response::new(ConsistencyResponse { hashes }))
    }

    async fn checkpoint(&self, request: Request<CheckpointRequest>) -> Answered<CheckpointResponse> {
        self.0.allow(&request, READS)?;
        self.0.log(&request.into_inner().log)?;
        let cosigning = &self.0.cosigning;
        let now = cosigning.covering(self.0.visible()?.size()).await.or_else(|| cosigning.newest());
        let note = now.ok_or_else(|| self.unsigned())?.note.to_string();
        Ok(Response::new(CheckpointResponse { note }))
    }

    async fn describe(&self, request: Request<DescribeRequest>) -> Answered<DescribeResponse> {
        self.0.allow(&request, &Role::ALL)?;
        let asked = request.into_inner().log;
        let genesis = if asked.is_empty() { self.0.genesis()? } else { self.0.log(&asked)? };
        let description = LogDescription {
            origin: genesis.origin.clone(),
            log_id: Bytes::copy_from_slice(genesis.log_id.as_bytes()),
            size: self.0.visible()?.size().get(),
            leader: self.0.current_leader(),
            policy: genesis.policy.clone(),
            cluster: Bytes::copy_from_slice(self.0.cluster.as_bytes()),
            block_height: genesis.block_height.get().into(),
            frame_align: genesis.frame_align.get(),
        };
        Ok(Response::new(DescribeResponse { logs: vec![description] }))
    }
}

const fn payloads(with_payload: bool) -> Payloads {
    if with_payload { Payloads::Read } else { Payloads::Leave }
}

impl LogService {
    /// Whether a range is one record, which the caller might have written.
    async fn is_own(&self, caller: &Caller, start: u64, end: Option<u64>) -> Result<bool, Status> {
        let (may_write, next) = (caller.may_write(), start.saturating_add(1));
        if end != Some(next) || next > self.0.visible()?.size().get() {
            return Ok(false);
        }
        let look = move |reader: &LogReader| {
            let mut own = false;
            reader.read(LeafIndex::new(start), LeafIndex::new(next), Payloads::Leave, &mut |read: ReadRecord| {
                own = Record::parse(&read.canonical).is_ok_and(|record| may_write.allows(&record));
                Ok::<_, LogError>(())
            })?;
            Ok(own)
        };
        let read = self.0.readers.run(TreeSize::new(next), look).await;
        read.map_err(|trouble| self.0.read_failed(trouble))
    }

    fn beyond(&self, index: u64) -> Status {
        self.0.fail(Status::not_found(format!("there is no record {index} at this node")))
    }

    /// A checkpoint of at least so many records; short of signatures where no quorum of sites gives them in time.
    pub(crate) async fn checkpoint_of(&self, size: u64) -> Result<Signed, Status> {
        if size > self.0.visible()?.size().get() {
            return Err(self.beyond(size - 1));
        }
        let (cosigning, size) = (&self.0.cosigning, TreeSize::new(size));
        let covering = cosigning.covering(size).await.or_else(|| cosigning.partial(size));
        covering.ok_or_else(|| self.unsigned())
    }

    fn unsigned(&self) -> Status {
        self.0.refuse(RefusalCode::Unavailable, "no checkpoint was signed in time")
    }
}

/// Records on their way to a client.
struct Sending {
    serving: Arc<Serving>,
    payloads: Payloads,
    pieces: Sender<Result<ReadResponse, Status>>,
    /// Told when everything that was asked for has been handed over.
    whole: oneshot::Sender<()>,
}

/// What is sent, and in the end that it is not all, unless it is: a stream that just ended would be taken for whole.
fn until_whole(received: Receiver<Result<ReadResponse, Status>>, whole: oneshot::Receiver<()>) -> Pieces {
    let end = futures_util::stream::once(async move {
        let cut = Status::deadline_exceeded("the records were not taken in time; ask again from where they ended");
        whole.await.err().map(|_dropped| Err(cut))
    });
    Box::pin(ReceiverStream::new(received).chain(end.filter_map(std::future::ready)))
}

impl Sending {
    fn new(
        serving: &Arc<Serving>,
        payloads: Payloads,
        pieces: Sender<Result<ReadResponse, Status>>,
    ) -> (Self, oneshot::Receiver<()>) {
        let (whole, told) = oneshot::channel();
        (Self { serving: Arc::clone(serving), payloads, pieces, whole }, told)
    }

    /// Sends a range, piece after piece.
    async fn range(self, mut next: u64, end: u64) {
        while next < end {
            match self.piece(next, end).await {
                Some(after) => next = after,
                None => return,
            }
        }
        // Where the client is gone, nobody is told.
        let _gone = self.whole.send(());
    }

    /// Sends everything from an index on, until the client or the node has enough.
    async fn follow(&self, mut next: u64) {
        loop {
            let wanted = TreeSize::new(next.saturating_add(1));
            let waited = tokio::select! {
                waited = self.serving.wait_visible(wanted) => waited,
                () = self.pieces.closed() => return,
            };
            let end = match waited {
                Ok(visible) => visible.get(),
                Err(status) => {
                    self.send(Err(status)).await;
                    return;
                }
            };
            match self.piece(next, end).await {
                Some(after) => next = after,
                None => return,
            }
        }
    }

    /// Sends a piece; the index after it, or `None` where the stream has ended.
    async fn piece(&self, start: u64, end: u64) -> Option<u64> {
        let payloads = self.payloads;
        let needs = TreeSize::new(end);
        let read = self.serving.readers.run(needs, move |reader| Ok(read_piece(reader, (start, end), payloads))).await;
        let (records, failed) = match read {
            Ok(piece) => piece,
            Err(trouble) => {
                self.send(Err(self.serving.read_failed(trouble))).await;
                return None;
            }
        };
        let after = records.last().map(|record| record.index.get() + 1);
        if after.is_some() {
            let records = records.into_iter().map(record).collect();
            if !self.send(Ok(ReadResponse { records })).await {
                return None;
            }
        }
        match failed {
            Some(error) => {
                self.send(Err(self.serving.log_failed(&error))).await;
                None
            }
            None => after,
        }
    }

    async fn send(&self, piece: Result<ReadResponse, Status>) -> bool {
        matches!(timeout(self.serving.limits.request_timeout, self.pieces.send(piece)).await, Ok(Ok(())))
    }
}

/// Why reading a piece ended early.
enum Stop {
    Full,
    Failed(LogError),
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

/// Reads a piece; what was good before damage is handed out with it.
fn read_piece(reader: &LogReader, range: (u64, u64), payloads: Payloads) -> (Vec<ReadRecord>, Option<LogError>) {
    let mut records: Vec<ReadRecord> = Vec::new();
    let mut bytes = 0;
    let (start, end) = (LeafIndex::new(range.0), LeafIndex::new(range.1));
    let read = reader.read(start, end, payloads, &mut |read: ReadRecord| {
        bytes += read.canonical.len() + read.payload.as_ref().map_or(0, |(_, payload)| Salt::LEN + payload.len());
        records.push(read);
        if bytes >= PIECE_BYTES || records.len() >= PIECE_RECORDS { Err(Stop::Full) } else { Ok(()) }
    });
    match read {
        Ok(()) | Err(Stop::Full) => (records, None),
        Err(Stop::Failed(error)) => (records, Some(error)),
    }
}
