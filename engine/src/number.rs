//! The engine's counts and positions, one type each, so that no two can be swapped.

use core::fmt;

/// No count, position or number that was ever written is as large: what is read from disk stays below, so
/// that going on from it cannot overflow.
pub const LIMIT: u64 = 1 << 62;

stele_proof::number! {
    /// The number of a segment file; the first is 0.
    SegmentNumber
}
stele_proof::number! {
    /// The index of an entry in the Raft log; the first is 0.
    RaftIndex
}
stele_proof::number! {
    /// A Raft term.
    Term
}
stele_proof::number! {
    /// The number of a node in its cluster; never used twice.
    NodeId
}
stele_proof::number! {
    /// A byte position in a segment file.
    Offset
}
stele_proof::number! {
    /// The number of a flush group: what one flush makes durable.
    Group
}

impl SegmentNumber {
    /// The segment after this one.
    pub const fn next(self) -> Self {
        Self::new(self.get() + 1)
    }
}

impl RaftIndex {
    /// The index after this one.
    pub const fn next(self) -> Self {
        Self::new(self.get() + 1)
    }
}

impl Group {
    /// The group after this one.
    pub const fn next(self) -> Self {
        Self::new(self.get() + 1)
    }

    /// The last group of the full ring that a file is born with behind this group.
    pub const fn born(self) -> Self {
        Self::new(self.get() + crate::segment::RING_SLOTS)
    }
}

/// The name of a failure domain that holds a copy: 1 to 64 letters, digits, `-`, `_` or `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SiteName(String);

impl SiteName {
    /// Takes a name; `None` where it is not of the form.
    pub fn new(name: &str) -> Option<Self> {
        let good = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        good.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The power of two that every frame and payload is padded to: 4,096, or 8 where the medium writes
/// a sector whole or not at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alignment(u32);

impl Alignment {
    /// No write ever touches a sector that holds durable bytes.
    pub const PAGE: Self = Self(4096);
    /// For quiet logs on media with sector-atomic writes.
    pub const WORD: Self = Self(8);

    /// Takes 4,096 or 8; `None` for all else.
    pub const fn new(bytes: u32) -> Option<Self> {
        match bytes {
            4096 | 8 => Some(Self(bytes)),
            _ => None,
        }
    }

    /// The alignment in bytes.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The next multiple at or after `bytes`.
    pub const fn round_up(self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.0 as u64)
    }
}

/// The binary logarithm of a block's leaves: 8 to 20.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHeight(u8);

impl BlockHeight {
    /// 65,536 leaves.
    pub const DEFAULT: Self = Self(16);

    /// Takes a height from 8 to 20; `None` for all else.
    pub const fn new(height: u8) -> Option<Self> {
        if height >= 8 && height <= 20 { Some(Self(height)) } else { None }
    }

    /// The height.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Leaves in a block.
    pub const fn leaves(self) -> u64 {
        1 << self.0
    }
}
