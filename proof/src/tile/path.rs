//! The paths of tiles: `tile/<L>/<N>[.p/<W>]` and `tile/entries/<N>[.p/<W>]`.

use core::fmt;

use super::{BundleId, TileId, TileWidth};

/// Every group of three digits is a directory, so that none has more than a few thousand entries.
const GROUP: u64 = 1000;
const GROUP_DIGITS: usize = 3;
/// The highest level that C2SP tlog-tiles knows.
const MAX_WRITTEN_LEVEL: u8 = 63;

/// The path of a hash tile or of an entry bundle below the prefix of a log (C2SP tlog-tiles).
///
/// `Display` writes the one path of it, without a slash in front.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TilePath {
    /// `tile/<L>/<N>[.p/<W>]`
    Tile(TileId),
    /// `tile/entries/<N>[.p/<W>]`
    Bundle(BundleId),
}

/// Why a text is not the path of a tile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TilePathError {
    /// It does not start with `tile/`, a level and a slash.
    #[error("a tile path starts with tile/, a level and a slash")]
    Shape,
    /// The level is neither `entries` nor a decimal number from 0 to 63.
    #[error("a tile level is `entries` or 0 to 63, without leading zeros")]
    Level,
    /// The index is not written as groups of three digits, or has a superfluous or one too many.
    #[error("a tile index is groups of three digits, all but the last after an x, the first not x000")]
    Index,
    /// The width of a partial tile is not 1 to 255.
    #[error("the width of a partial tile is 1 to 255, without leading zeros")]
    Width,
    /// Well written, but no tree of at most 2^64 - 1 leaves has it.
    #[error("no tree has tile {index} of level {level} with {} hashes", .width.get())]
    BeyondAnyTree {
        /// The tile level, 0 for an entry bundle.
        level: u8,
        /// The position on the level.
        index: u64,
        /// The width of the tile.
        width: TileWidth,
    },
}

impl TilePath {
    /// Reads exactly what `Display` writes.
    ///
    /// # Errors
    ///
    /// [`TilePathError`]: no file has this path.
    pub fn parse(text: &str) -> Result<Self, TilePathError> {
        let below = text.strip_prefix("tile/").ok_or(TilePathError::Shape)?;
        let (level, rest) = below.split_once('/').ok_or(TilePathError::Shape)?;
        let level = match level {
            "entries" => None,
            number => Some(parse_level(number)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            None => (rest, TileWidth::FULL),
            Some((index, width)) => (index, parse_partial(width)?),
        };
        let index = parse_index(index)?;
        let path = match level {
            Some(level) => TileId::new(level, index, width).map(Self::Tile),
            None => BundleId::new(index, width).map(Self::Bundle),
        };
        path.ok_or(TilePathError::BeyondAnyTree { level: level.unwrap_or(0), index, width })
    }

    /// The number of hashes or records in the file.
    pub const fn width(self) -> TileWidth {
        match self {
            Self::Tile(tile) => tile.width(),
            Self::Bundle(bundle) => bundle.width(),
        }
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tile(tile) => {
                write!(f, "tile/{}/", tile.level())?;
                write_index(tile.index(), f)?;
            }
            Self::Bundle(bundle) => {
                f.write_str("tile/entries/")?;
                write_index(bundle.index(), f)?;
            }
        }
        if self.width().is_full() { Ok(()) } else { write!(f, ".p/{}", self.width().get()) }
    }
}

fn write_index(index: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut unit = 1;
    while index / unit >= GROUP {
        unit *= GROUP;
    }
    while unit > 1 {
        write!(f, "x{:03}/", index / unit % GROUP)?;
        unit /= GROUP;
    }
    write!(f, "{:03}", index % GROUP)
}

fn parse_index(text: &str) -> Result<u64, TilePathError> {
    let mut index: u64 = 0;
    let mut groups = text.split('/').peekable();
    while let Some(group) = groups.next() {
        let digits = match groups.peek() {
            Some(_) => group.strip_prefix('x').ok_or(TilePathError::Index)?,
            None => group,
        };
        if digits.len() != GROUP_DIGITS || !is_digits(digits) {
            return Err(TilePathError::Index);
        }
        let value = digits.bytes().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
        index = index.checked_mul(GROUP).and_then(|index| index.checked_add(value)).ok_or(TilePathError::Index)?;
        if index == 0 && groups.peek().is_some() {
            return Err(TilePathError::Index);
        }
    }
    Ok(index)
}

fn parse_level(text: &str) -> Result<u8, TilePathError> {
    match decimal(text).map(u8::try_from) {
        Some(Ok(level)) if level <= MAX_WRITTEN_LEVEL => Ok(level),
        _ => Err(TilePathError::Level),
    }
}

fn parse_partial(text: &str) -> Result<TileWidth, TilePathError> {
    let width = decimal(text).and_then(TileWidth::new).filter(|width| !width.is_full());
    width.ok_or(TilePathError::Width)
}

/// A decimal number of at most three digits, without sign or leading zeros.
fn decimal(text: &str) -> Option<u16> {
    if text.is_empty() || text.len() > 3 || !is_digits(text) || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    Some(text.bytes().fold(0, |value, digit| value * 10 + u16::from(digit - b'0')))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}
