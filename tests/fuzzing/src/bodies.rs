//! The bodies of the records that the log writes itself.

use stele_engine::reserved::{Genesis, MAX_BODY_BYTES, SegmentSealed, covering_nodes};

/// The genesis record.
pub(crate) fn genesis(data: &[u8]) {
    let Ok(genesis) = Genesis::decode(data) else { return };
    assert!(data.len() <= MAX_BODY_BYTES);
    assert_eq!(genesis.check(), Ok(()), "what decodes can be encoded");
    assert_eq!(genesis.encode(), data);
    // What the log writes beside it for people.
    let description = stele_engine::birth::description(&genesis);
    assert_eq!(description.lines().count(), 6, "an origin holds no line feed: {description}");
}

/// The seal record.
pub(crate) fn segment_sealed(data: &[u8]) {
    let Ok(sealed) = SegmentSealed::decode(data) else { return };
    assert!(data.len() <= MAX_BODY_BYTES);
    assert_eq!(sealed.encode(), data);
    assert!(sealed.first_index <= sealed.last_index && sealed.leaves.first <= sealed.leaves.end);
    let nodes = covering_nodes(sealed.leaves);
    assert_eq!(sealed.nodes.len(), nodes.len());
    let mut at = sealed.leaves.first;
    for node in nodes {
        assert_eq!(node.first_leaf(), at, "without gap");
        at = node.end().next_leaf();
    }
    assert_eq!(at, sealed.leaves.end);
}
