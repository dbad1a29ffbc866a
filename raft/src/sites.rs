//! Which memberships survive the loss of a site.
//!
//! I-SITES-1: every set of voters that is proposed keeps a majority when the nodes of any one site are gone.
//!
//! A joint configuration needs a majority of each of its halves (Raft section 6), so each half is judged alone. The
//! half that is in force already is excused where it breaks the rule: leaving it is the way out, and while both
//! count, the loss of a site stops nothing that it would not have stopped before.

use std::collections::{BTreeMap, BTreeSet};

use stele_engine::number::SiteName;

use crate::entry::Membership;

/// What is asked of a membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topology {
    /// It goes on without any one site.
    SurvivesLossOfASite,
    /// Nothing: one machine, or a state on the way that somebody has thought about.
    Any,
}

/// A membership that is not proposed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsafeMembership {
    /// Nobody would vote.
    #[error("no voter is left; name at least one")]
    NoVoters,
    /// A voter that is no node of the cluster.
    #[error("node {0} is not a node of this cluster; add it as a learner first")]
    Unknown(u64),
    /// A site that must not be lost.
    #[error(
        "{in_site} of the {voters} voters {} stand at site {site}: without it {} are left, and {majority} are needed; \
         spread the voters over more sites, or allow an unsafe topology",
        list(.half), voters - in_site
    )]
    OneSiteDecides {
        /// The site.
        site: SiteName,
        /// How many voters stand there.
        in_site: usize,
        /// How many there are.
        voters: usize,
        /// How many must agree.
        majority: usize,
        /// All of them.
        half: BTreeSet<u64>,
    },
}

fn list(nodes: &BTreeSet<u64>) -> String {
    let names: Vec<String> = nodes.iter().map(u64::to_string).collect();
    format!("({})", names.join(", "))
}

/// Judges one set of voters.
///
/// # Errors
/// [`UnsafeMembership`].
pub fn check_voters(
    voters: &BTreeSet<u64>,
    sites: &BTreeMap<u64, SiteName>,
    topology: Topology,
) -> Result<(), UnsafeMembership> {
    if voters.is_empty() {
        return Err(UnsafeMembership::NoVoters);
    }
    let mut counts: BTreeMap<&SiteName, usize> = BTreeMap::new();
    for voter in voters {
        *counts.entry(sites.get(voter).ok_or(UnsafeMembership::Unknown(*voter))?).or_default() += 1;
    }
    let majority = voters.len() / 2 + 1;
    let decisive = counts.into_iter().find(|(_, in_site)| voters.len() - in_site < majority);
    match decisive {
        Some((site, in_site)) if topology == Topology::SurvivesLossOfASite => Err(UnsafeMembership::OneSiteDecides {
            site: site.clone(),
            in_site,
            voters: voters.len(),
            majority,
            half: voters.clone(),
        }),
        _ => Ok(()),
    }
}

/// Judges a change: what is in force now, and the voters that shall be. The one place that lets changes through.
///
/// # Errors
/// [`UnsafeMembership`].
pub fn check_change(now: &Membership, voters: &BTreeSet<u64>, topology: Topology) -> Result<(), UnsafeMembership> {
    let sites: BTreeMap<u64, SiteName> = now.nodes().map(|(id, peer)| (*id, peer.site.clone())).collect();
    check_voters(voters, &sites, topology)?;
    // A half that somebody else's change left behind is finished first; it was judged when it was proposed.
    for half in now.get_joint_config() {
        check_voters(half, &sites, Topology::Any)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a majority is among those that are left, by looking at all sets of nodes.
    fn majority_is_left(voters: &[u64], left: &BTreeSet<u64>) -> bool {
        (0_u32..1 << voters.len()).any(|chosen| {
            let chosen: Vec<u64> =
                voters.iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1).map(|(_, voter)| *voter).collect();
            2 * chosen.len() > voters.len() && chosen.iter().all(|voter| left.contains(voter))
        })
    }

    #[test]
    fn exactly_those_voters_are_refused_that_one_site_can_stop() {
        let names = ["a", "b", "c", "d"].map(|name| SiteName::new(name).unwrap());
        let mut refused = 0;
        for count in 1..=6_usize {
            for placing in 0..4_usize.pow(u32::try_from(count).unwrap()) {
                let site_of = |voter: usize| &names[placing / 4_usize.pow(u32::try_from(voter).unwrap()) % 4];
                let voters: Vec<u64> = (1..=count as u64).collect();
                let sites: BTreeMap<u64, SiteName> =
                    voters.iter().zip(0..).map(|(id, voter)| (*id, site_of(voter).clone())).collect();
                let survives = names.iter().all(|lost| {
                    let left = voters.iter().filter(|voter| sites[voter] != *lost).copied().collect();
                    majority_is_left(&voters, &left)
                });
                let set: BTreeSet<u64> = voters.iter().copied().collect();
                let judged = check_voters(&set, &sites, Topology::SurvivesLossOfASite);
                assert_eq!(judged.is_ok(), survives, "{sites:?}: {judged:?}");
                assert_eq!(check_voters(&set, &sites, Topology::Any), Ok(()));
                refused += usize::from(!survives);
            }
        }
        assert!(refused > 0);
    }

    fn membership(halves: &[&[u64]], sites: &[(u64, &str)]) -> Membership {
        let peer = |site: &str| crate::entry::Peer { site: SiteName::new(site).unwrap(), ..Default::default() };
        let nodes: BTreeMap<u64, _> = sites.iter().map(|(id, site)| (*id, peer(site))).collect();
        Membership::new(halves.iter().map(|half| half.iter().copied().collect()).collect(), nodes).unwrap()
    }

    #[test]
    fn a_change_is_judged_by_where_it_leads() {
        let change =
            |now: &Membership, voters: &[u64], topology| check_change(now, &voters.iter().copied().collect(), topology);
        let safe = Topology::SurvivesLossOfASite;
        let laptop = membership(&[&[1]], &[(1, "a"), (2, "b"), (3, "c"), (4, "a")]);
        assert_eq!(change(&laptop, &[1, 2, 3], safe), Ok(()), "a single node may grow to three sites");
        for (voters, site) in [(&[1, 2][..], "a"), (&[1, 2, 4], "a"), (&[1], "a"), (&[1, 2, 3, 4], "a")] {
            let refused = change(&laptop, voters, safe).unwrap_err();
            assert!(matches!(&refused, UnsafeMembership::OneSiteDecides { site: found, .. } if found.as_str() == site));
            assert_eq!(change(&laptop, voters, Topology::Any), Ok(()));
        }
        assert_eq!(change(&laptop, &[1, 2, 9], Topology::Any), Err(UnsafeMembership::Unknown(9)));
        assert_eq!(change(&laptop, &[], Topology::Any), Err(UnsafeMembership::NoVoters));
    }

    #[test]
    fn the_refusal_says_what_is_wrong_and_what_to_do() {
        let now = membership(&[&[1, 2, 3]], &[(1, "a"), (2, "b"), (3, "c"), (4, "a")]);
        let refused = check_change(&now, &[1, 2, 4].into(), Topology::SurvivesLossOfASite).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "2 of the 3 voters (1, 2, 4) stand at site a: without it 1 are left, and 2 are needed; spread the voters \
             over more sites, or allow an unsafe topology"
        );
    }
}
