//! The decision: what the first bad place of the unsealed files means (FAULTS.md, "Torn tail or rot").
//!
//! A place is *bad* if no valid, linking frame stands there and either it lies below the newest
//! slot's `end` or a byte behind it is not zero. Zeros end the log only where neither holds.
//!
//! | the first bad place lies | slot of the file the log ends in | clean mark | its entry | so |
//! |---|---|---|---|---|
//! | - | none | - | - | rot |
//! | nowhere | readable | - | - | the log ends here |
//! | below the newest slot's start | readable | - | - | rot |
//! | at or behind it | readable | matches the ring | - | rot |
//! | at or behind it | readable | does not match | below the slot's committed | last group in doubt, and committed |
//! | at or behind it | readable | does not match | not below it | last group in doubt |
//!
//! Every file is born with a full ring, of which a crash can tear one slot (I-RING-3): a ring without any has
//! rotted, and with it what tells how much of the file was durable. A clean mark that is newer than every
//! slot that can be read stands for the slot that it was made behind.
//!
//! A file is born whole, with its header, before anything in it counts: a segment file that is missing,
//! or whose header is bad or another file's, is a bad place below the newest slot's start.
//!
//! What is done about it depends on who else holds the log: [`Outcome::alone`] is for a log that nobody
//! else holds. Where others do, a last group in doubt is cut behind a [`Doubt`](crate::hard_state::Doubt), which keeps
//! the node from taking part until they have been asked for it. Whether the bad frame still has a good header does not decide what the place is, only
//! which frame may replace it: see [`super::quarantine::IdentifiedBy`].

use core::fmt;

/// Where the first bad place lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstBad {
    /// Nothing is bad.
    Nowhere,
    /// Before the newest slot's group: a flush that returned made it durable.
    BelowStart,
    /// In the newest slot's group or behind it: no flush of it is known to have returned.
    AtOrBehindStart,
}

/// Whether the flush ring of the file in which the log ends tells anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Newest {
    /// It holds a slot, or a clean mark stands for it.
    Readable,
    /// It holds none.
    NoSlot,
}

/// Whether the log was closed at the end that the ring tells, and not written since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Group, segment and end of the clean mark are those of the newest slot.
    Matches,
    /// It is not set, damaged, or of another moment.
    Differs,
}

/// Whether the entry that should begin at the bad place is known to be committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadEntry {
    /// Its index lies below the newest slot's `committed`.
    Committed,
    /// It may be, or not.
    Unknown,
}

/// What was found, as far as it decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// Where the first bad place lies.
    pub first_bad: FirstBad,
    /// Whether there is a slot.
    pub newest: Newest,
    /// Whether the stop was clean.
    pub mark: Mark,
    /// Whether the entry there was committed.
    pub entry: BadEntry,
}

/// What the first bad place means. A log whose copies others hold asks them where it is in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing is bad: the log ends behind its last valid frame.
    EndsHere,
    /// It was durable and is no longer what was written. Never cut.
    Rot,
    /// Torn, or rotten before its confirming slot: cut only where nobody offers it.
    InDoubt,
    /// The same, but it is known to be committed: a node does not go on without it.
    InDoubtCommitted,
}

/// What a log that nobody else holds makes of an [`Outcome`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alone {
    /// Opens it.
    Open,
    /// Cuts the last group: nobody offers it, and it was not acknowledged.
    Cut,
    /// Keeps it and refuses to write.
    Refuse,
}

/// A line of the table; `None` stands for "whatever it is".
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Where the first bad place lies.
    pub first_bad: Option<FirstBad>,
    /// Whether there is a slot.
    pub newest: Newest,
    /// Whether the stop was clean.
    pub mark: Option<Mark>,
    /// Whether the entry there was committed.
    pub entry: Option<BadEntry>,
    /// What it means.
    pub outcome: Outcome,
}

/// The table of the module documentation, line by line.
pub const TABLE: [Row; 6] = [
    Row { first_bad: None, newest: Newest::NoSlot, mark: None, entry: None, outcome: Outcome::Rot },
    Row {
        first_bad: Some(FirstBad::Nowhere),
        newest: Newest::Readable,
        mark: None,
        entry: None,
        outcome: Outcome::EndsHere,
    },
    Row {
        first_bad: Some(FirstBad::BelowStart),
        newest: Newest::Readable,
        mark: None,
        entry: None,
        outcome: Outcome::Rot,
    },
    Row {
        first_bad: Some(FirstBad::AtOrBehindStart),
        newest: Newest::Readable,
        mark: Some(Mark::Matches),
        entry: None,
        outcome: Outcome::Rot,
    },
    Row {
        first_bad: Some(FirstBad::AtOrBehindStart),
        newest: Newest::Readable,
        mark: Some(Mark::Differs),
        entry: Some(BadEntry::Committed),
        outcome: Outcome::InDoubtCommitted,
    },
    Row {
        first_bad: Some(FirstBad::AtOrBehindStart),
        newest: Newest::Readable,
        mark: Some(Mark::Differs),
        entry: Some(BadEntry::Unknown),
        outcome: Outcome::InDoubt,
    },
];

impl Row {
    /// Whether the row is about this evidence.
    pub fn matches(&self, evidence: &Evidence) -> bool {
        self.first_bad.is_none_or(|first_bad| first_bad == evidence.first_bad)
            && self.newest == evidence.newest
            && self.mark.is_none_or(|mark| mark == evidence.mark)
            && self.entry.is_none_or(|entry| entry == evidence.entry)
    }
}

impl Evidence {
    /// What it means.
    ///
    /// # Panics
    /// Never: every evidence is in exactly one row.
    pub fn outcome(&self) -> Outcome {
        match TABLE.iter().find(|row| row.matches(self)) {
            Some(row) => row.outcome,
            None => unreachable!("no row of the recovery table is about {self:?}"),
        }
    }
}

impl Outcome {
    /// What a log does that has no peers to ask.
    pub const fn alone(self) -> Alone {
        match self {
            Self::EndsHere => Alone::Open,
            Self::InDoubt => Alone::Cut,
            Self::Rot | Self::InDoubtCommitted => Alone::Refuse,
        }
    }
}

impl fmt::Display for FirstBad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nowhere => "nowhere",
            Self::BelowStart => "below the newest slot's start",
            Self::AtOrBehindStart => "at or behind it",
        })
    }
}

impl fmt::Display for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Readable => "readable",
            Self::NoSlot => "none",
        })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Matches => "matches the ring",
            Self::Differs => "does not match",
        })
    }
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Committed => "below the slot's committed",
            Self::Unknown => "not below it",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndsHere => "the log ends here",
            Self::Rot => "rot",
            Self::InDoubt => "last group in doubt",
            Self::InDoubtCommitted => "last group in doubt, and committed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST_BAD: [FirstBad; 3] = [FirstBad::Nowhere, FirstBad::BelowStart, FirstBad::AtOrBehindStart];
    const NEWEST: [Newest; 2] = [Newest::Readable, Newest::NoSlot];
    const MARK: [Mark; 2] = [Mark::Matches, Mark::Differs];
    const ENTRY: [BadEntry; 2] = [BadEntry::Committed, BadEntry::Unknown];

    /// The cells of the lines of the table whose head begins so, head and rule left out.
    fn documented(head: &str) -> Vec<Vec<String>> {
        include_str!("table.rs")
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .skip_while(|line| !line.trim().starts_with(head))
            .map_while(|line| line.trim().strip_prefix('|')?.strip_suffix('|'))
            .skip(2)
            .map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
            .collect()
    }

    fn cell(value: Option<&dyn fmt::Display>) -> String {
        value.map_or_else(|| "-".to_owned(), ToString::to_string)
    }

    #[test]
    fn the_documentation_is_the_table() {
        let rows: Vec<Vec<String>> = TABLE
            .iter()
            .map(|row| {
                vec![
                    cell(row.first_bad.as_ref().map(|value| value as &dyn fmt::Display)),
                    row.newest.to_string(),
                    cell(row.mark.as_ref().map(|value| value as &dyn fmt::Display)),
                    cell(row.entry.as_ref().map(|value| value as &dyn fmt::Display)),
                    row.outcome.to_string(),
                ]
            })
            .collect();
        assert_eq!(documented("| the first bad place lies |"), rows);
    }

    #[test]
    fn all_evidence_is_in_exactly_one_row() {
        let mut hits = [0; TABLE.len()];
        for first_bad in FIRST_BAD {
            for newest in NEWEST {
                for mark in MARK {
                    for entry in ENTRY {
                        let evidence = Evidence { first_bad, newest, mark, entry };
                        let rows: Vec<usize> = (0..TABLE.len()).filter(|row| TABLE[*row].matches(&evidence)).collect();
                        assert_eq!(rows.len(), 1, "{evidence:?}");
                        hits[rows[0]] += 1;
                        assert_eq!(evidence.outcome(), TABLE[rows[0]].outcome);
                    }
                }
            }
        }
        assert_eq!(hits, [12, 4, 4, 2, 1, 1], "every row is about something");
    }

    /// What was durable or committed is cut by nobody; what is sound is refused by nobody.
    #[test]
    fn only_doubt_about_what_was_not_committed_is_cut() {
        for row in TABLE {
            let cut = row.outcome.alone() == Alone::Cut;
            let doubt = row.first_bad == Some(FirstBad::AtOrBehindStart)
                && row.newest == Newest::Readable
                && row.mark == Some(Mark::Differs)
                && row.entry == Some(BadEntry::Unknown);
            assert_eq!(cut, doubt, "{row:?}");
            assert_eq!(row.outcome.alone() == Alone::Open, row.first_bad == Some(FirstBad::Nowhere), "{row:?}");
        }
    }
}
