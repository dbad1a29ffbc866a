//! Calls with one answer: heads, proofs, checkpoints, what is served.

use core::future::Future;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use stele_api::refusal::from_status;
use stele_api::v1;
use stele_api::v1::log_client::LogClient;
use stele_proof::checkpoint::{Checkpoint, Origin};
use stele_proof::policy::{Policy, VerifiedCheckpoint};
use stele_proof::proof_file::{ProofFile, ProofFileError};
use stele_proof::record::{Record, SelfHash};
use stele_proof::tree::{Hash, empty_root, verify_consistency};
use stele_proof::{LeafIndex, TreeSize};
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status};

use crate::appender::{Appender, AppenderOptions};
use crate::backoff::Backoff;
use crate::chain_writer::ChainHead;
use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::credentials::Wire;
use crate::error::{CallError, ConfigError, Violation, hash, is_final};
use crate::reader::{Assurance, ReadRange, Reader};
use crate::record::ChainName;
use crate::router::{Router, log_client};

/// How often a node that lags is asked again.
const MAX_LAGGING: u32 = 4;

/// A log, as one client sees it. Clones share connections and the knowledge of who leads.
#[derive(Clone)]
pub struct Client {
    router: Arc<Router>,
}

/// A checkpoint that meets a policy, with the note that says so.
#[derive(Clone, Debug)]
pub struct SignedCheckpoint {
    note: String,
    verified: VerifiedCheckpoint,
}

impl SignedCheckpoint {
    /// Reads a note that is kept somewhere: what [`SignedCheckpoint::note`] gave.
    ///
    /// # Errors
    /// [`CallError::PolicyNotMet`].
    pub fn verify(note: String, policy: &Policy) -> Result<Self, CallError> {
        let verified = policy.verify_checkpoint(note.as_bytes())?;
        Ok(Self { note, verified })
    }

    /// A note that was verified.
    pub(crate) const fn new(note: String, verified: VerifiedCheckpoint) -> Self {
        Self { note, verified }
    }

    /// The signed note.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// What it says.
    pub fn checkpoint(&self) -> &Checkpoint {
        self.verified.checkpoint()
    }

    /// Who signed it.
    pub const fn verified(&self) -> &VerifiedCheckpoint {
        &self.verified
    }
}

/// A record with the proof that it is in the log, under a checkpoint that meets the caller's policy.
#[derive(Clone, Debug)]
pub struct ProvenRecord {
    /// The canonical record.
    pub canonical: Bytes,
    /// The proof.
    pub proof: ProofFile,
    /// Its checkpoint.
    pub checkpoint: VerifiedCheckpoint,
}

impl Client {
    /// Connects to the first endpoint that answers and serves the log.
    ///
    /// # Errors
    /// [`CallError`]: the configuration, nobody answers, or nobody serves the log.
    pub async fn connect(config: ClientConfig) -> Result<Self, CallError> {
        let client = Self::new(config)?;
        client.describe().await?;
        Ok(client)
    }

    /// Connects when something is asked.
    ///
    /// # Errors
    /// [`ConfigError`] where a bound does not hold.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { router: Arc::new(Router::new(config)) })
    }

    /// The log.
    pub fn log(&self) -> &Origin {
        &self.router.config().log
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.router.backoff()
    }

    /// How long one server may take to answer.
    pub(crate) fn patience(&self) -> Duration {
        self.router.config().timeouts.answer
    }

    /// The node that is asked has less than others have, or hangs: the next one is asked, after a wait.
    pub(crate) async fn leave(&self, wait: Duration) {
        self.router.moved_on(&self.router.target());
        sleep(wait).await;
    }

    /// Starts to append; must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`ConfigError`] where the bounds do not fit this machine.
    pub fn appender(&self, options: AppenderOptions) -> Result<Appender, ConfigError> {
        Appender::start(Arc::clone(&self.router), options)
    }

    /// Reads a range; see [`Reader`].
    pub fn read(&self, range: ReadRange, assurance: Assurance) -> Reader {
        Reader::range(self.clone(), range, assurance)
    }

    /// Reads everything from an index on, and follows; see [`Reader`].
    pub fn tail(&self, from: LeafIndex, payloads: crate::reader::Payloads, assurance: Assurance) -> Reader {
        Reader::tail(self.clone(), from, payloads, assurance)
    }

    /// The calls of operators.
    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.clone())
    }

    /// What the server says about the log. Nothing of it is proved.
    ///
    /// # Errors
    /// [`CallError`]; `NotFound` where the log is not served.
    pub async fn describe(&self) -> Result<v1::LogDescription, CallError> {
        let log = self.log().as_str().to_owned();
        let request = v1::DescribeRequest { log: log.clone() };
        let response = self.call(|mut log, request| async move { log.describe(request).await }, request).await?;
        let mut logs = response.logs.into_iter();
        let not_found = || CallError::NotFound { text: format!("log {log} is not served here") };
        logs.find(|description| description.origin == log).ok_or_else(not_found)
    }

    /// Where a chain ends; `None` where it has no record. The head is read back and checked: it is the record that
    /// the server says it is.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn head(&self, chain: &ChainName) -> Result<Option<ChainHead>, CallError> {
        let log = self.log().as_str().to_owned();
        let ChainName { writer_id, stream } = chain.clone();
        let request = v1::HeadRequest { log, writer_id, stream };
        let response = self.call(|mut log, request| async move { log.head(request).await }, request).await?;
        let Some(head) = response.head else { return Ok(None) };
        let index = LeafIndex::new(head.index);
        let self_hash = hash(&head.self_hash).map(SelfHash::new).ok_or(Violation::Missing { what: "self_hash" })?;
        let mut reader = self.read(ReadRange::one(index), Assurance::Canonical);
        let found = reader.next().await?.ok_or(Violation::Missing { what: "the head of the chain" })?;
        let wrong = |reason: &str| Violation::Record { index, reason: reason.to_owned() };
        let record = Record::parse(&found.canonical).map_err(|error| wrong(&error.to_string()))?;
        let same = record.seq() == head.seq
            && found.self_hash == self_hash
            && *record.writer_id().decode() == *chain.writer_id
            && *record.stream().decode() == *chain.stream;
        if !same {
            return Err(wrong("it is not the head of the chain that was asked for").into());
        }
        Ok(Some(ChainHead { seq: head.seq, self_hash }))
    }

    /// A record and the proof that it is in the log, under a checkpoint of at least this size, where one is given.
    ///
    /// # Errors
    /// [`CallError`]; `PolicyNotMet` where the newest checkpoint that covers the record lacks signatures: ask later.
    pub async fn prove(
        &self,
        index: LeafIndex,
        least: Option<TreeSize>,
        policy: &Policy,
    ) -> Result<ProvenRecord, CallError> {
        let log = self.log().as_str().to_owned();
        let request = v1::ProveRequest { log, index: index.get(), size: least.map(TreeSize::get) };
        let response = self.call(|mut log, request| async move { log.prove(request).await }, request).await?;
        let broken = |error: ProofFileError| Violation::Proof { reason: error.to_string() };
        let proof = ProofFile::parse(response.proof.as_bytes()).map_err(broken)?;
        if proof.index() != index {
            return Err(Violation::IndexGap { expected: index, found: proof.index() }.into());
        }
        let canonical = response.record;
        let record =
            Record::parse(&canonical).map_err(|error| Violation::Record { index, reason: error.to_string() })?;
        let checkpoint = match proof.verify(&record.leaf_hash(), policy) {
            Ok(checkpoint) => checkpoint,
            Err(ProofFileError::Policy(error)) => return Err(error.into()),
            Err(error) => return Err(broken(error).into()),
        };
        self.ours(checkpoint.checkpoint(), least)?;
        Ok(ProvenRecord { canonical, proof, checkpoint })
    }

    /// The newest checkpoint, if it meets the policy.
    ///
    /// # Errors
    /// [`CallError`]; `PolicyNotMet` where it lacks signatures: ask later.
    pub async fn checkpoint(&self, policy: &Policy) -> Result<SignedCheckpoint, CallError> {
        let request = v1::CheckpointRequest { log: self.log().as_str().to_owned() };
        let note = self.call(|mut log, request| async move { log.checkpoint(request).await }, request).await?.note;
        let checkpoint = SignedCheckpoint::verify(note, policy)?;
        self.ours(checkpoint.checkpoint(), None)?;
        Ok(checkpoint)
    }

    /// The hashes that prove the smaller of two trees a prefix of the larger (RFC 6962 2.1.2), checked against both roots.
    ///
    /// # Errors
    /// [`CallError`]: `Fork` where the two contradict each other, `NotConsistent` where the proof does not hold, both
    /// with both notes; `NotFound` where nobody who was asked has so many records.
    pub async fn consistency(&self, old: &SignedCheckpoint, new: &SignedCheckpoint) -> Result<Vec<Hash>, CallError> {
        let (mut first, mut second) = (old.checkpoint(), new.checkpoint());
        // Checkpoints of another log would contradict those of this one by right.
        self.ours(first, None)?;
        self.ours(second, None)?;
        let notes = || (old.note.clone(), new.note.clone());
        let fork = || {
            let (old, new) = notes();
            CallError::Fork { old, new }
        };
        // Every history begins with the same tree.
        let begins = |checkpoint: &Checkpoint| checkpoint.size.get() > 0 || checkpoint.root == empty_root();
        if !begins(first) || !begins(second) {
            return Err(fork());
        }
        if first.size == second.size {
            return if first.root == second.root { Ok(Vec::new()) } else { Err(fork()) };
        }
        if first.size > second.size {
            (first, second) = (second, first);
        }
        if first.size.get() == 0 {
            return Ok(Vec::new());
        }
        let log = self.log().as_str().to_owned();
        let request = v1::ConsistencyRequest { log, old: first.size.get(), new: second.size.get() };
        let response = self.call_patiently(|mut log, request| async move { log.consistency(request).await }, request);
        let response = response.await?;
        let read = |bytes: &Bytes| hash(bytes).map(Hash::new).ok_or(Violation::Missing { what: "a hash of 32 bytes" });
        let hashes: Vec<Hash> = response.hashes.iter().map(read).collect::<Result<_, _>>()?;
        // A proof that does not hold shows that the server has none, not yet that the notes contradict each other.
        verify_consistency(first.size, &first.root, second.size, &second.root, &hashes).map_err(|error| {
            let (old, new) = notes();
            CallError::NotConsistent { old, new, reason: error.to_string() }
        })?;
        Ok(hashes)
    }

    /// Goes on from a checkpoint that is believed to the newest one, which must contain it.
    ///
    /// The answer is `old` itself where the server has nothing newer; what it has instead must be contained in `old`,
    /// unless it has too few records to prove that.
    ///
    /// # Errors
    /// [`CallError`]; after `Fork` and `NotConsistent` nothing newer than `old` is to be believed: keep both notes.
    pub async fn follow(&self, old: &SignedCheckpoint, policy: &Policy) -> Result<SignedCheckpoint, CallError> {
        let new = self.checkpoint(policy).await?;
        match self.consistency(old, &new).await {
            Ok(_) if new.checkpoint().size > old.checkpoint().size => Ok(new),
            Ok(_) => Ok(old.clone()),
            Err(CallError::NotFound { .. }) if new.checkpoint().size < old.checkpoint().size => Ok(old.clone()),
            Err(error) => Err(error),
        }
    }

    /// Whether a checkpoint is of this log and large enough.
    fn ours(&self, checkpoint: &Checkpoint, least: Option<TreeSize>) -> Result<(), Violation> {
        if checkpoint.origin == *self.log() && least.is_none_or(|least| checkpoint.size >= least) {
            return Ok(());
        }
        let origin = checkpoint.origin.as_str().to_owned();
        Err(Violation::OtherCheckpoint { origin, size: checkpoint.size })
    }

    /// Asks until there is an answer, follows whoever leads, and gives up after the time for one call.
    pub(crate) async fn call<Q, A, F>(&self, ask: impl Fn(LogClient<Wire>, Q) -> F, request: Q) -> Result<A, CallError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        Ok(self.ask(|channel| ask(log_client(channel), request.clone())).await?.into_inner())
    }

    /// As [`Client::call`], of what others have: where a node does not have it yet, the next one is asked, a few times.
    async fn call_patiently<Q, A, F>(&self, ask: impl Fn(LogClient<Wire>, Q) -> F, request: Q) -> Result<A, CallError>
    where
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut backoff = self.router.backoff();
        for failed in 0..MAX_LAGGING {
            match self.call(&ask, request.clone()).await {
                Err(CallError::NotFound { .. }) => self.leave(backoff.delay(failed)).await,
                answered => return answered,
            }
        }
        self.call(&ask, request).await
    }

    /// As [`Client::call`], for any service.
    pub(crate) async fn ask<A, F>(&self, ask: impl Fn(Wire) -> F) -> Result<A, CallError>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let mut last = Status::unavailable("no attempt was over");
        match timeout(self.router.config().timeouts.call, self.attempts(ask, &mut last)).await {
            Ok(answer) => answer,
            Err(_) => Err(out_of_time(&last)),
        }
    }

    async fn attempts<A, F>(&self, ask: impl Fn(Wire) -> F, last: &mut Status) -> Result<A, CallError>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let (mut backoff, mut failed) = (self.router.backoff(), 0_u32);
        loop {
            let address = self.router.target();
            let attempt = async {
                let channel = self.router.channel(&address).await;
                ask(channel.map_err(|error| Status::unavailable(error.to_string()))?).await
            };
            // A server that hangs is one attempt, not all of them.
            let attempt = timeout(self.patience(), attempt).await;
            let status = match attempt {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable(format!("{address} did not answer")),
            };
            let wait = self.after(&address, &status, failed)?;
            *last = status;
            if wait == Wait::Skipped {
                failed = failed.max(1);
            } else {
                sleep(backoff.delay(failed)).await;
                failed = failed.saturating_add(1);
            }
        }
    }

    /// What follows from a status: an error that is final, or another attempt.
    fn after(&self, address: &crate::config::Address, status: &Status, failed: u32) -> Result<Wait, CallError> {
        let refusal = from_status(status);
        if let Some(refusal) = &refusal {
            match refusal.code() {
                v1::RefusalCode::NotLeader => {
                    self.router.redirected(address, refusal.leader.as_ref())?;
                    let named = refusal.leader.as_ref().is_some_and(|leader| !leader.address.is_empty());
                    return Ok(if named && failed == 0 { Wait::Skipped } else { Wait::Needed });
                }
                v1::RefusalCode::Busy => {}
                // A leader that has lost its majority says so for as long as that lasts: others know better.
                v1::RefusalCode::Unavailable => self.router.moved_on(address),
                _ => return Err(CallError::Refused(refusal.into())),
            }
        }
        if is_final(status.code()) {
            return Err(final_error(status));
        }
        if refusal.is_none() {
            self.router.failed(address);
        }
        Ok(Wait::Needed)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Needed,
    Skipped,
}

/// The error for a status that did not change until the time was over.
pub(crate) fn out_of_time(last: &Status) -> CallError {
    let text = last.message().to_owned();
    match last.code() {
        Code::DeadlineExceeded => CallError::DeadlineExceeded { text },
        _ => CallError::Unavailable { last: text },
    }
}

/// The error for a status that will be the same the next time.
pub(crate) fn final_error(status: &Status) -> CallError {
    let text = status.message().to_owned();
    match status.code() {
        Code::NotFound => CallError::NotFound { text },
        code => CallError::Status { code, text },
    }
}
