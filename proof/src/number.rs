//! Counts and positions, one type each, so that no two can be swapped.

/// Declares a newtype over `u64` with `new`, `get` and a decimal `Display`.
#[macro_export]
#[doc(hidden)]
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(u64);

        impl $name {
            /// Wraps the plain number.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The plain number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The position of a record in the log tree; the first leaf is 0.
    LeafIndex
}
number! {
    /// The number of leaves of a log tree.
    TreeSize
}
number! {
    /// Milliseconds since 1970-01-01 00:00:00 UTC, advisory.
    UnixMillis
}
number! {
    /// Seconds since 1970-01-01 00:00:00 UTC, as cosignatures carry them.
    UnixSeconds
}

impl LeafIndex {
    /// The size of the smallest tree that holds this leaf, or `None` past the last representable size.
    pub const fn size_with(self) -> Option<TreeSize> {
        match self.0.checked_add(1) {
            Some(size) => Some(TreeSize(size)),
            None => None,
        }
    }

    /// This index moved on by `count` leaves, or `None` on overflow.
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(index) => Some(Self(index)),
            None => None,
        }
    }
}

impl TreeSize {
    /// The index that the next leaf will get.
    pub const fn next_leaf(self) -> LeafIndex {
        LeafIndex(self.0)
    }

    /// Whether the leaf is part of a tree of this size.
    pub const fn contains(self, leaf: LeafIndex) -> bool {
        leaf.0 < self.0
    }

    /// The size after `count` more leaves, or `None` on overflow.
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(size) => Some(Self(size)),
            None => None,
        }
    }
}

impl UnixMillis {
    /// The same instant in whole seconds, rounded down.
    pub const fn seconds(self) -> UnixSeconds {
        UnixSeconds(self.0 / 1000)
    }
}
