//! Offline verification: every byte of a log's guarded files, recomputed; reads only, takes no lock.
//!
//! | what | compared with |
//! |---|---|
//! | file headers | the name of the file and the geometry of the log |
//! | frames and their padding | what [`crate::frame::Tail::place`] writes for their content |
//! | records | the canonical form, their chains, the rules of the log's own streams |
//! | payload slots, padding, gaps | the commitments in the records, zeros |
//! | a sealed file | its seal record: length, digest, leaves, nodes, digest tree; its flush ring is zero |
//! | payload files | exact length once sealed; none without a frame that names it |
//! | tile sidecars, state files | the bytes that the frames give |
//! | unsealed files | what the flush ring and the clean mark prove durable ([`crate::recovery`]) |
//! | `hard-state`, `signing-state` | every copy by itself |
//! | signing state, `checkpoint` | the root of the tree at their sizes, the policy |
//! | `keys` | the policy |
//!
//! Not covered: `lock`, `index`, and the node's own numbers in `hard-state`. Without anything from outside a
//! log can only be checked to agree with itself: whoever may write all of its files and holds its keys can
//! make another one.
//!
//! In each segment the first damage is told; then the next segment follows, as far as it is known where it
//! begins, and chains are taken up again where they are found.

pub(crate) mod files;
pub(crate) mod flush;
mod heads;
mod records;
pub(crate) mod seals;
mod segment;
mod segments;
pub(crate) mod survey;

use std::collections::BTreeSet;
use std::path::Path;

use stele_proof::policy::Policy;
use stele_proof::{TreeSize, tree};

use crate::directory::LogDirectory;
use crate::disk::Disk;
use crate::environment::Workers;
use crate::error::{Damage, LogError};
use crate::number::SegmentNumber;

pub use segment::{SegmentReport, verify_segment};

/// What a log is held against, beside itself.
#[derive(Clone, Default, Debug)]
pub struct VerifyOptions {
    /// A policy from outside, for the checkpoint.
    pub policy: Option<Policy>,
    /// A signed checkpoint from outside; without one, the stored one is held against the policy.
    pub checkpoint: Option<Vec<u8>>,
    /// With threads, two of them share the reading of each segment.
    pub workers: Workers,
}

/// How far a verification is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes of segment and payload files that have been read.
    pub bytes: u64,
    /// Bytes that will have been read at the end.
    pub total: u64,
}

/// What from outside the tree was compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckedAgainst {
    /// Nothing: the log agrees with itself, or does not.
    Itself,
    /// A given checkpoint of that size, which was accepted under the log's own policy file.
    Checkpoint(TreeSize),
    /// The stored checkpoint of that size, which was accepted under a given policy.
    Policy(TreeSize),
    /// A given checkpoint of that size, which was accepted under a given policy.
    CheckpointAndPolicy(TreeSize),
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogReport {
    /// Records up to the end, or up to where checking had to stop.
    pub records: TreeSize,
    /// The root over them.
    pub root: tree::Hash,
    /// Segment files.
    pub segments: u64,
    /// Sealed ones among them.
    pub sealed: u64,
    /// Chains; where something is damaged, those behind it.
    pub chains: u64,
    /// Bytes of segment and payload files that were read.
    pub bytes: u64,
    /// What is damaged; empty for a good log.
    pub findings: Vec<Damage>,
    /// What is no damage and should be known.
    pub notes: Vec<String>,
    /// What from outside the tree was compared with; holds where there are no findings.
    pub checked_against: CheckedAgainst,
}

/// Verifies a whole log.
///
/// # Errors
/// [`LogError::NoLog`], [`LogError::Version`], [`LogError::Disk`]. Damage is no error: it is in the report; only where no
/// segment file, or none with a readable header, is left to look at, [`LogError::Damaged`].
pub fn verify_log(
    disk: &dyn Disk,
    directory: &LogDirectory,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<LogReport, LogError> {
    audit(disk, directory, options, None, progress).map(|(report, _)| report)
}

/// What was compared on the way and agreed.
#[derive(Clone, Default, Debug)]
pub(crate) struct Evidence {
    /// Segments that are what their seal records say.
    pub(crate) recorded: BTreeSet<SegmentNumber>,
    /// The largest tree that the log's own signing state or checkpoint tells, where the log has its root.
    pub(crate) signed: Option<TreeSize>,
    /// The segment in which looking had to stop; those behind it were not looked at.
    pub(crate) stopped: Option<SegmentNumber>,
}

/// Is handed each derived file that is not what it must be: how findings name it, where it lies, and its
/// bytes, or `None` where there must be none. What it was handed is no finding.
pub(crate) type Rewrite<'r> = dyn FnMut(String, &Path, Option<&[u8]>) -> Result<(), LogError> + 'r;

/// As [`verify_log`], and tells what it has compared.
///
/// # Errors
/// As [`verify_log`]; whatever `rewrite` answers.
pub(crate) fn audit<'a>(
    disk: &'a dyn Disk,
    directory: &'a LogDirectory,
    options: &VerifyOptions,
    rewrite: Option<&'a mut Rewrite<'a>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(LogReport, Evidence), LogError> {
    // What was signed is read first: everything that it covers was durable before.
    let mut heads = heads::Heads::read(disk, directory, options)?;
    let mut audit = segments::Audit::start(disk, directory, heads.sizes(), options.workers, rewrite)?;
    audit.run(progress)?;
    heads.compare(&mut audit)?;
    if audit.walked.tree.size().get() == 0 && audit.findings.is_empty() && !audit.flushed.writer {
        return Err(LogError::NoLog(directory.path().to_owned()));
    }
    let recorded = std::mem::take(&mut audit.recorded);
    let evidence =
        Evidence { recorded, signed: heads.signed(), stopped: audit.stopped.then_some(audit.walked.tail.segment) };
    let report = LogReport {
        records: audit.walked.tree.size(),
        root: audit.walked.tree.root(),
        segments: audit.survey.segments(),
        sealed: audit.survey.inventory.sealed.get(),
        chains: audit.records.chains(),
        bytes: audit.bytes,
        checked_against: heads.checked_against(),
        findings: audit.findings,
        notes: audit.notes,
    };
    Ok((report, evidence))
}
