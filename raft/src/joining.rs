//! A new node copies sealed segments from several nodes at once, before it follows the log.
//!
//! | module | what |
//! |---|---|
//! | `board` | which segment is fetched from whom, and who is not believed any more |
//! | `fetch` | one task for each donor: segment after segment, piece after piece |
//! | `pace` | the bound on bytes a second, all donors together |
//! | `vouching` | whether the tree so far is the log's, by checkpoints that meet its policy |
//!
//! The engine examines each segment as a whole ([`stele_engine::adopt`]). Then donors are asked, until they meet the
//! policy, for a checkpoint that each has signed or got and for the proof that its tree extends the copied one: that
//! authenticates every record. What no record covers (terms, memberships, how records are batched), the seal record
//! of the segment does, which stands in a later one; what has none yet is compared by the replica, when it comes
//! with the entries that follow.
//!
//! A segment that is refused is fetched again, whole, from one donor that did not give it. Who alone gave what is
//! refused is not asked again, and named. A transfer that is cut goes on where it ended, from whoever is free.
//!
//! I-JOINING-1: at most `AHEAD` segments are staged and not held.
//! I-JOINING-2: no segment is held whose tree is not under a checkpoint that meets the policy.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stele_engine::adopt::{AdoptError, Adopted, Adoption, Begun, NewMember};
use stele_engine::environment::Environment;
use stele_engine::error::LogError;
use stele_engine::number::{NodeId, SegmentNumber};
use stele_proof::TreeSize;
use stele_proof::policy::Policy;
use tokio::task::{JoinError, JoinSet, spawn_blocking};

use crate::peer::client::SegmentClient;

mod board;
mod fetch;
pub(crate) mod pace;
mod vouching;

use board::{Board, Step};
use fetch::Fetching;
use pace::Pace;
use vouching::{Verdict, Vouching};

/// A node that gives segments.
#[derive(Clone)]
pub struct Donor {
    /// Which.
    pub node: NodeId,
    /// The way to it.
    pub segments: SegmentClient,
}

/// How segments are copied.
#[derive(Clone, Debug)]
pub struct CopySettings {
    /// Most bytes a second, all donors together, so that those who take records are not held up.
    pub rate: u64,
    /// How long one answer may take.
    pub wait: Duration,
    /// How long donors that do not answer are waited for, where without them the policy is not met.
    pub patience: Duration,
    /// What checkpoints must meet; without one, the policy of the genesis record.
    pub policy: Option<Policy>,
}

/// What was copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// What the directory holds; `None` where all was done before.
    pub adopted: Option<Adopted>,
    /// Who gave what the log does not have, and what that was.
    pub liars: BTreeMap<NodeId, String>,
}

/// Why a node has no copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The directory.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// Nobody is left to ask.
    #[error("no node gives segment {segment} as the log has it: {}", list(reasons))]
    NoDonor {
        /// The first that is missing.
        segment: SegmentNumber,
        /// What each gave.
        reasons: BTreeMap<NodeId, String>,
    },
    /// Too few vouch for what was copied.
    #[error(
        "the first {size} records were copied, and too few nodes vouch for them to meet the policy ({}); start it again \
         when more of them answer, or give a policy with the keys of those that are left",
        list(reasons)
    )]
    Unproven {
        /// Records.
        size: TreeSize,
        /// What each node answered.
        reasons: BTreeMap<NodeId, String>,
    },
    /// The policy of the genesis record cannot be read.
    #[error("the policy of the genesis record: {0}")]
    Policy(#[from] stele_proof::policy::PolicyTextError),
    /// A task died.
    #[error("copying died: {0}")]
    Died(#[from] JoinError),
}

impl From<LogError> for CopyError {
    fn from(error: LogError) -> Self {
        Self::Adopt(error.into())
    }
}

fn list(reasons: &BTreeMap<NodeId, String>) -> String {
    let each: Vec<String> = reasons.iter().map(|(node, why)| format!("node {node}: {why}")).collect();
    each.join("; ")
}

/// Copies what the donors have sealed into a directory that holds no log yet, and makes it a node's. It can be
/// interrupted, and goes on when it is called again.
///
/// # Errors
/// [`CopyError`].
pub async fn copy_segments(
    environment: &Environment,
    path: &Path,
    member: NewMember,
    donors: Vec<Donor>,
    settings: &CopySettings,
) -> Result<Copied, CopyError> {
    let (own, directory) = (environment.clone(), path.to_owned());
    let adoption = match spawn_blocking(move || Adoption::begin(&own, &directory, member)).await?? {
        Begun::Open(adoption) => adoption,
        Begun::Done => return Ok(Copied { adopted: None, liars: BTreeMap::new() }),
    };
    let board = Arc::new(Board::new(donors.iter().map(|donor| donor.node), adoption.next()));
    let fetching = Fetching {
        board: Arc::clone(&board),
        staging: adoption.staging(),
        pace: Arc::new(Pace::new(settings.rate)),
        wait: settings.wait,
    };
    // Aborted when this future is dropped.
    let mut tasks = JoinSet::new();
    for donor in &donors {
        let (donor, fetching) = (donor.clone(), fetching.clone());
        tasks.spawn(async move { fetching.serve(&donor).await });
    }
    let installing = Installing { board: &board, donors: &donors, settings, fetching: &fetching };
    let adopted = tokio::select! {
        adopted = installing.run(adoption) => adopted?,
        died = first_death(&mut tasks) => return Err(died.into()),
    };
    Ok(Copied { adopted: Some(adopted), liars: board.liars() })
}

/// A task that ends by itself has nothing more to do; one that dies ends everything.
async fn first_death(tasks: &mut JoinSet<()>) -> JoinError {
    while let Some(ended) = tasks.join_next().await {
        if let Err(died) = ended {
            return died;
        }
    }
    std::future::pending().await
}

/// Takes what was fetched, in order.
struct Installing<'a> {
    board: &'a Board,
    donors: &'a [Donor],
    settings: &'a CopySettings,
    fetching: &'a Fetching,
}

impl Installing<'_> {
    async fn run(&self, mut adoption: Box<Adoption>) -> Result<Adopted, CopyError> {
        let mut policy = self.settings.policy.clone();
        loop {
            let parts = match self.board.wait_for(adoption.next()).await {
                Step::Examine(parts) => parts,
                Step::End => break,
                Step::Hopeless(reasons) => return Err(CopyError::NoDonor { segment: adoption.next(), reasons }),
                Step::Failed(error) => return Err(error.into()),
            };
            let (kept, examined) = spawn_blocking(move || {
                let examined = adoption.examine(parts);
                (adoption, examined)
            })
            .await?;
            adoption = kept;
            let examined = match examined {
                Ok(examined) => examined,
                Err(error) => {
                    self.refuse(error).await?;
                    continue;
                }
            };
            if let (None, Some(genesis)) = (&policy, adoption.genesis().or_else(|| examined.genesis())) {
                policy = Some(Policy::parse(genesis.policy.as_bytes())?);
            }
            // Without a record there is nothing to vouch for.
            if let Some(policy) = policy.as_ref().filter(|_policy| examined.size().get() > 0) {
                let origin = adoption.genesis().or_else(|| examined.genesis()).map(|genesis| genesis.origin.clone());
                let head = (examined.size(), examined.root());
                let vouching = Vouching { donors: self.donors, settings: self.settings, policy, board: self.board };
                match vouching.ask(&origin.unwrap_or_default(), head).await {
                    Verdict::Met => {}
                    Verdict::Contradicted(why) => {
                        self.refuse(AdoptError::Refused { segment: examined.segment(), why }).await?;
                        continue;
                    }
                    Verdict::Unmet(reasons) => return Err(CopyError::Unproven { size: head.0, reasons }),
                    // Those that have so many records are too few yet; what is missing comes with the entries.
                    Verdict::Ahead => break,
                }
            }
            let (segment, sender) = (examined.segment(), self.board.senders(examined.segment()));
            let (kept, held) = spawn_blocking(move || {
                let held = adoption.hold(examined);
                (adoption, held)
            })
            .await?;
            adoption = kept;
            match held {
                Ok(_) => tracing::debug!(%segment, ?sender, "copied"),
                Err(error) => self.refuse(error).await?,
            }
            self.board.installed(adoption.installed());
        }
        self.board.end();
        Ok(spawn_blocking(move || adoption.finish()).await??)
    }

    /// Has a refused segment fetched again.
    async fn refuse(&self, error: AdoptError) -> Result<(), CopyError> {
        let AdoptError::Refused { segment, why } = error else { return Err(error.into()) };
        let discarded = self.board.refuse(segment, &why);
        let staging = self.fetching.staging.clone();
        let discard = move || discarded.into_iter().try_for_each(|(segment, parts)| staging.discard(segment, parts));
        spawn_blocking(discard).await?.map_err(LogError::from)?;
        self.board.discarded();
        Ok(())
    }
}
