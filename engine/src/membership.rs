//! The body of a membership entry: who votes, and where everybody is.
//!
//! | bytes | field |
//! |---|---|
//! | 1 | codec version, 1 |
//! | 32 | cluster token |
//! | 1 | number of voter sets: 1, or 2 in a joint configuration |
//! | 2 + 8 each, per set | number of voters, node ids ascending |
//! | 2 | number of nodes |
//! | per node, ids ascending | |
//! | .. 8 | node id |
//! | .. text | site |
//! | .. 2 + text each | addresses |
//! | .. 2 + text each | verifier keys |
//!
//! Little-endian; a text is 2 bytes of length and UTF-8. The body of entry 0 is the initial cluster.

use std::collections::BTreeSet;

use crate::number::{NodeId, SiteName};

const VERSION: u8 = 1;
/// Most nodes of a cluster.
pub const MAX_NODES: usize = 1024;
const MAX_TEXTS: usize = 64;

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its number, never used twice.
    pub id: NodeId,
    /// The failure domain it stands in.
    pub site: SiteName,
    /// Where peers reach it.
    pub addresses: Vec<String>,
    /// Its verifier keys.
    pub keys: Vec<String>,
}

/// A cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// Tells clusters with the same nodes apart.
    pub token: [u8; 32],
    /// One set of voters, or two in a joint configuration (Raft section 6).
    pub voters: Vec<BTreeSet<NodeId>>,
    /// Voters and learners, by ascending id.
    pub nodes: Vec<Node>,
}

/// Bytes are not a membership.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the bytes are not a membership")]
pub struct MembershipError;

impl Membership {
    /// Writes the body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.token);
        out.push(u8::try_from(self.voters.len()).unwrap_or(u8::MAX));
        for set in &self.voters {
            count(set.len(), &mut out);
            for node in set {
                out.extend_from_slice(&node.get().to_le_bytes());
            }
        }
        count(self.nodes.len(), &mut out);
        for node in &self.nodes {
            out.extend_from_slice(&node.id.get().to_le_bytes());
            text(node.site.as_str(), &mut out);
            for texts in [&node.addresses, &node.keys] {
                count(texts.len(), &mut out);
                for each in texts {
                    text(each, &mut out);
                }
            }
        }
        out
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`MembershipError`] for anything the encoder would not have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, MembershipError> {
        let mut reader = Reader(bytes);
        let membership = reader.membership().ok_or(MembershipError)?;
        let good = reader.0.is_empty()
            && (1..=2).contains(&membership.voters.len())
            && membership.nodes.len() <= MAX_NODES
            && membership.nodes.windows(2).all(|pair| pair[0].id < pair[1].id)
            && membership.voters.iter().all(|set| {
                !set.is_empty() && set.iter().all(|voter| membership.nodes.iter().any(|node| node.id == *voter))
            })
            && membership.encode() == bytes;
        if good { Ok(membership) } else { Err(MembershipError) }
    }
}

fn count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
}

fn text(text: &str, out: &mut Vec<u8>) {
    count(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*chunk)
    }

    fn count(&mut self, most: usize) -> Option<usize> {
        let count = usize::from(u16::from_le_bytes(self.take()?));
        (count <= most).then_some(count)
    }

    fn id(&mut self) -> Option<NodeId> {
        Some(NodeId::new(u64::from_le_bytes(self.take()?)))
    }

    fn text(&mut self) -> Option<String> {
        let len = self.count(usize::from(u16::MAX))?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        core::str::from_utf8(bytes).ok().map(str::to_owned)
    }

    fn texts(&mut self) -> Option<Vec<String>> {
        (0..self.count(MAX_TEXTS)?).map(|_| self.text()).collect()
    }

    fn membership(&mut self) -> Option<Membership> {
        if self.take()? != [VERSION] {
            return None;
        }
        let token = self.take()?;
        let [sets] = self.take()?;
        let mut voters = Vec::new();
        for _ in 0..sets.min(3) {
            voters.push((0..self.count(MAX_NODES)?).map(|_| self.id()).collect::<Option<_>>()?);
        }
        let mut nodes = Vec::new();
        for _ in 0..self.count(MAX_NODES)? {
            let id = self.id()?;
            let site = SiteName::new(&self.text()?)?;
            nodes.push(Node { id, site, addresses: self.texts()?, keys: self.texts()? });
        }
        Some(Membership { token, voters, nodes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Membership {
        Membership {
            token: [7; 32],
            voters: vec![BTreeSet::from([NodeId::new(1)])],
            nodes: vec![Node {
                id: NodeId::new(1),
                site: SiteName::new("s").unwrap(),
                addresses: vec!["h:1".to_owned()],
                keys: vec!["k".to_owned()],
            }],
        }
    }

    #[test]
    fn golden_bytes_both_ways() {
        let golden = [
            &[1][..],
            &[7; 32],
            &[1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, b's', 1, 0, 3, 0, b'h', b':', b'1', 1, 0, 1, 0, b'k'],
        ]
        .concat();
        assert_eq!(sample().encode(), golden);
        assert_eq!(Membership::decode(&golden), Ok(sample()));
    }

    #[test]
    fn only_what_is_written_is_read() {
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            assert!(Membership::decode(&bytes[..len]).is_err(), "cut to {len}");
        }
        assert!(Membership::decode(&[&bytes[..], &[0]].concat()).is_err());
        let mut stranger = sample();
        stranger.voters[0].insert(NodeId::new(9));
        assert!(Membership::decode(&stranger.encode()).is_err(), "a voter that is no node");
        let mut empty = sample();
        empty.voters[0].clear();
        assert!(Membership::decode(&empty.encode()).is_err(), "no voter");
    }
}
