//! Whether what was copied is the log: nodes that have signed a tree that extends it, until they meet the policy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stele_engine::number::NodeId;
use stele_proof::TreeSize;
use stele_proof::policy::Policy;
use stele_proof::tree::{Hash, verify_consistency};
use tokio::time::{Instant, sleep};

use super::board::Board;
use super::{CopySettings, Donor};
use crate::peer::client::PeerError;
use crate::peer::message::Failure;
use crate::peer::segments::Vouched;

/// Between two rounds through the donors.
const REST: Duration = Duration::from_millis(500);

/// What the donors say of a tree.
pub(super) enum Verdict {
    /// It is the log's, as far as it goes.
    Met,
    /// Nodes have signed trees that do not extend it; why.
    Contradicted(String),
    /// Too few do not answer, or answer what is of no use.
    Unmet(BTreeMap<NodeId, String>),
    /// Too few have so many records yet.
    Ahead,
}

/// What one donor says.
enum Voice {
    /// These witnesses of the policy have signed a tree that extends it.
    For(Vec<String>),
    /// It has signed one that does not.
    Against(String),
    /// It has not so many records.
    Behind,
    /// Nothing of use.
    Useless(String),
    /// Nothing.
    Silent(String),
}

pub(super) struct Vouching<'a> {
    pub(super) donors: &'a [Donor],
    pub(super) settings: &'a CopySettings,
    pub(super) policy: &'a Policy,
    pub(super) board: &'a Board,
}

impl Vouching<'_> {
    /// Asks until the policy is met, or it is known that it will not be.
    pub(super) async fn ask(&self, origin: &str, head: (TreeSize, Hash)) -> Verdict {
        let give_up = Instant::now() + self.settings.patience;
        let mut voices: BTreeMap<NodeId, Voice> = BTreeMap::new();
        loop {
            for donor in self.donors.iter().filter(|donor| self.board.is_believed(donor.node)) {
                if matches!(voices.get(&donor.node), Some(Voice::For(_))) {
                    continue;
                }
                voices.insert(donor.node, self.ask_one(donor, origin, head).await);
                if self.is_met(&voices) {
                    for (node, voice) in &voices {
                        if let Voice::Against(why) = voice {
                            self.board.blame(*node, why);
                        }
                    }
                    return Verdict::Met;
                }
            }
            let late = Instant::now() >= give_up;
            if let Some(verdict) = judge(&voices, late) {
                return verdict;
            }
            sleep(REST).await;
        }
    }

    fn is_met(&self, voices: &BTreeMap<NodeId, Voice>) -> bool {
        let mut witnesses = BTreeSet::new();
        let mut heard = false;
        for voice in voices.values() {
            if let Voice::For(names) = voice {
                heard = true;
                witnesses.extend(names.iter().cloned());
            }
        }
        heard && self.policy.is_met_by(&witnesses)
    }

    async fn ask_one(&self, donor: &Donor, origin: &str, (size, root): (TreeSize, Hash)) -> Voice {
        let Vouched { note, proof } = match donor.segments.vouch(size, self.settings.wait).await {
            Ok(vouched) => vouched,
            Err(PeerError::Failed(_, Failure::NoCheckpoint)) => return Voice::Behind,
            Err(error) => return Voice::Silent(error.to_string()),
        };
        let read = match self.policy.read_checkpoint(&note) {
            Ok(read) => read,
            Err(error) => return Voice::Useless(format!("its checkpoint is not accepted: {error}")),
        };
        let checkpoint = read.checkpoint();
        if checkpoint.origin.as_str() != origin || checkpoint.size < size {
            return Voice::Useless(format!(
                "its checkpoint is of {} records of {}",
                checkpoint.size, checkpoint.origin
            ));
        }
        match verify_consistency(size, &root, checkpoint.size, &checkpoint.root, &proof) {
            Ok(()) => Voice::For(read.witnesses().to_vec()),
            Err(error) => Voice::Against(format!(
                "node {} signed a tree of {} records that does not begin with these {size}: {error}",
                donor.node, checkpoint.size
            )),
        }
    }
}

/// What can be said without the policy being met; `None` where it is worth to wait.
fn judge(voices: &BTreeMap<NodeId, Voice>, late: bool) -> Option<Verdict> {
    let waits = voices.values().any(|voice| matches!(voice, Voice::Silent(_) | Voice::Behind));
    if waits && !late {
        return None;
    }
    let against: Vec<&str> = voices
        .values()
        .filter_map(|voice| match voice {
            Voice::Against(why) => Some(why.as_str()),
            _ => None,
        })
        .collect();
    if !against.is_empty() {
        return Some(Verdict::Contradicted(against.join("; ")));
    }
    let is_behind = voices.values().any(|voice| matches!(voice, Voice::Behind));
    if is_behind && !voices.values().any(|voice| matches!(voice, Voice::Silent(_) | Voice::Useless(_))) {
        return Some(Verdict::Ahead);
    }
    let reason = |(node, voice): (&NodeId, &Voice)| {
        let why = match voice {
            Voice::For(_) => "vouches".to_owned(),
            Voice::Behind => "has not so many records yet".to_owned(),
            Voice::Against(why) | Voice::Useless(why) | Voice::Silent(why) => why.clone(),
        };
        (*node, why)
    };
    Some(Verdict::Unmet(voices.iter().map(reason).collect()))
}
