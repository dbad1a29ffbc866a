//! A log that is about to be spoiled, and what must come of it: the oracle of `bits.rs`.
//!
//! Two questions are asked of every change: which *units* of a file does it touch (a header, a page of a
//! ring, a frame, a payload slot, a copy), and what may then be said and read. Everything else must be as
//! before.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use stele_engine::batch::Batch;
use stele_engine::directory::LogDirectory;
use stele_engine::error::LogError;
use stele_engine::frame::{FrameHeader, HEADER_BYTES};
use stele_engine::number::{Alignment, Offset};
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_engine::ring::Slot;
use stele_engine::segment::{FRAMES_START, PAGE_BYTES, PAYLOADS_START, RING_START, SegmentFile};
use stele_engine::verify::{LogReport, VerifyOptions, verify_log};
use stele_proof::LeafIndex;
use stele_proof::tree::Hash;
use stele_simulator::fake_disk::FakeDisk;

use crate::small_log::{LOG, bytes_of, environment, names, open, read_all};

/// The bytes of files by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What the table of a log's directory says of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Class {
    /// Every changed bit is found.
    Guarded,
    /// Found, or rebuilt.
    Derived,
    /// Put there by people: told.
    Given,
    /// Made here once: told.
    Kept,
    /// Holds nothing.
    Lock,
}

/// A log's directory: a pattern, in which `*` stands for one name's rest, and what the file is.
pub(crate) const TABLE: [(&str, &str, Class); 13] = [
    ("log.toml", "", Class::Derived),
    ("segments/", ".seg", Class::Guarded),
    ("segments/", ".pay", Class::Guarded),
    ("segments/", ".tiles", Class::Derived),
    ("segments/", ".hashes", Class::Derived),
    ("hard-state", "", Class::Guarded),
    ("signing-state", "", Class::Guarded),
    ("state/", "", Class::Derived),
    ("keys/log", "", Class::Guarded),
    ("keys/cosigner", "", Class::Guarded),
    ("policy", "", Class::Given),
    ("checkpoint", "", Class::Kept),
    ("lock", "", Class::Lock),
];

/// The row of a file.
pub(crate) fn row_of(name: &str) -> usize {
    let fits = |(start, end, _): &(&str, &str, Class)| match (start.ends_with('/'), name.strip_prefix(start)) {
        (true, Some(rest)) => rest.ends_with(end),
        (false, Some(rest)) => rest.is_empty(),
        (_, None) => false,
    };
    let rows: Vec<usize> = (0..TABLE.len()).filter(|row| fits(&TABLE[*row])).collect();
    let [row] = rows[..] else { panic!("{name} stands in {} rows of the table", rows.len()) };
    row
}

pub(crate) fn class_of(name: &str) -> Class {
    TABLE[row_of(name)].2
}

/// What a part of a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// The header of a segment or payload file.
    Header,
    /// A page of the flush ring.
    Ring,
    /// A frame with its padding, a payload slot, the padding behind a group of these.
    Content,
    /// Behind the last frame or payload.
    Behind,
    /// A copy in a file of generations.
    Copy,
    /// A file that is one unit.
    Whole,
}

/// A part of a file that is damaged as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) part: Part,
    pub(crate) bytes: Range<usize>,
    /// Where damage of it may be placed.
    near: Range<usize>,
    /// Records that cannot be read without it.
    leaves: Range<u64>,
}

impl Unit {
    fn new(part: Part, bytes: Range<usize>, leaves: Range<u64>) -> Self {
        Self { part, near: bytes.clone(), bytes, leaves }
    }
}

/// How a log stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopped {
    /// With a mark that it was closed.
    Closed,
    /// It was killed.
    Killed,
}

/// A good log and all that is known of it.
pub(crate) struct Image {
    pub(crate) name: &'static str,
    pub(crate) disk: FakeDisk,
    pub(crate) files: Files,
    /// What the files held when the log was younger.
    pub(crate) younger: Vec<Files>,
    pub(crate) stopped: Stopped,
    pub(crate) units: BTreeMap<String, Vec<Unit>>,
    truth: Vec<ReadRecord>,
    root: Hash,
    /// The segment that is not sealed.
    open: String,
    newest: Slot,
    /// What is told of the good log.
    told: BTreeSet<String>,
}

/// What was done to a log.
pub(crate) struct Spoiled {
    pub(crate) what: String,
    pub(crate) disk: FakeDisk,
    /// The units that changed, by file.
    pub(crate) touched: BTreeMap<String, Vec<Unit>>,
    /// Files that are gone.
    pub(crate) missing: BTreeSet<String>,
    /// Whether it was more than a bit.
    pub(crate) extent: Extent,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    Bit,
    More,
}

pub(crate) fn files_of(disk: &FakeDisk) -> Files {
    names(disk).into_iter().map(|name| (name.clone(), bytes_of(disk, &name).unwrap())).collect()
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// The units of a segment file, and those of its payload files.
fn segment_units(files: &Files, name: &str) -> BTreeMap<String, Vec<Unit>> {
    let bytes = &files[name];
    let Some(SegmentFile::Frames(segment)) = SegmentFile::parse(name.strip_prefix("segments/").unwrap()) else {
        panic!("{name} is no segment file")
    };
    let mut found: BTreeMap<String, Vec<Unit>> = BTreeMap::new();
    let mut own = vec![Unit::new(Part::Header, 0..PAGE_BYTES, 0..0)];
    let (ring, mut at) = (to_usize(RING_START), to_usize(FRAMES_START.get()));
    own.extend((ring..at).step_by(PAGE_BYTES).map(|page| Unit::new(Part::Ring, page..page + PAGE_BYTES, 0..0)));
    while let Some(head) = bytes.get(at..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) {
        let Ok(header) = FrameHeader::decode(head, segment, Offset::new(at as u64)) else { break };
        let first = header.first_leaf.get();
        let end = at + to_usize(header.frame_len(Alignment::WORD));
        own.push(Unit::new(Part::Content, at..end, first..first + u64::from(header.leaf_count)));
        if let Some(place) = header.payload {
            let name = format!("segments/{}", SegmentFile::Payloads(segment, place.part).name());
            let units = found
                .entry(name)
                .or_insert_with(|| vec![Unit::new(Part::Header, 0..to_usize(PAYLOADS_START.into()), 0..0)]);
            let body = &bytes[at + HEADER_BYTES..][..header.body_len as usize];
            let start = place.offset as usize;
            let padded = to_usize(Alignment::WORD.round_up(place.end()));
            for (leaf, record) in (first..).zip(Batch::parse(body).unwrap().records()) {
                let from = start + record.slot.0 as usize;
                let bytes = from..from + record.slot.1 as usize;
                units.push(Unit { near: start..padded, ..Unit::new(Part::Content, bytes, leaf..leaf + 1) });
            }
            let rest = to_usize(place.end())..padded;
            units.push(Unit { near: start..padded, ..Unit::new(Part::Content, rest, 0..0) });
        }
        at = end;
    }
    own.push(Unit::new(Part::Behind, at..usize::MAX, 0..0));
    for units in found.values_mut() {
        let end = units.last().unwrap().bytes.end;
        units.push(Unit::new(Part::Behind, end..usize::MAX, 0..0));
    }
    found.insert(name.to_owned(), own);
    found
}

fn units_of(files: &Files) -> BTreeMap<String, Vec<Unit>> {
    let mut units = BTreeMap::new();
    for name in files.keys() {
        if name.ends_with(".seg") {
            units.append(&mut segment_units(files, name));
        } else if name.ends_with("-state") {
            let pages = (0..4).map(|page| page * PAGE_BYTES..(page + 1) * PAGE_BYTES);
            let mut pages: Vec<_> = pages.map(|bytes| Unit::new(Part::Copy, bytes, 0..0)).collect();
            pages.push(Unit::new(Part::Behind, 4 * PAGE_BYTES..usize::MAX, 0..0));
            units.insert(name.clone(), pages);
        } else if !name.ends_with(".pay") {
            units.insert(name.clone(), vec![Unit::new(Part::Whole, 0..usize::MAX, 0..0)]);
        }
    }
    units
}

/// Everything that a verification tells.
fn verify(disk: &FakeDisk) -> Result<LogReport, LogError> {
    verify_log(disk, &LogDirectory::new(LOG), &VerifyOptions::default(), &mut |_| ())
}

fn texts(report: &LogReport) -> BTreeSet<String> {
    report.findings.iter().map(ToString::to_string).chain(report.notes.iter().cloned()).collect()
}

impl Image {
    /// What is on the disk, which must be good.
    pub(crate) fn new(name: &'static str, disk: FakeDisk, stopped: Stopped, younger: Vec<Files>) -> Self {
        disk.settle();
        let files = files_of(&disk);
        let units = units_of(&files);
        let truth = read_all(&disk).unwrap();
        let reader = LogReader::open(&environment(&disk), Path::new(LOG)).unwrap();
        let root = reader.root_at(reader.size()).unwrap();
        let open = reader.inventory().last;
        assert!(reader.inventory().sealed == open && open.get() > 2, "only the last segment is open");
        let open_name = format!("segments/{}", SegmentFile::Frames(open).name());
        let slots = files[&open_name][to_usize(RING_START)..to_usize(FRAMES_START.get())]
            .chunks(PAGE_BYTES)
            .filter_map(|page| Slot::decode(page, open));
        let newest = slots.max_by_key(|slot| slot.group).unwrap();
        let report = verify(&disk).unwrap();
        assert_eq!(report.records.get(), truth.len() as u64);
        let told = texts(&report);
        Self { name, disk, files, younger, stopped, units, truth, root, open: open_name, newest, told }
    }

    /// Whether what lies there was never known to be durable: the last group of a log that was killed.
    fn in_doubt(&self, name: &str, unit: &Unit) -> bool {
        self.stopped == Stopped::Killed
            && name == self.open
            && matches!(unit.part, Part::Content | Part::Behind)
            && unit.bytes.start >= to_usize(self.newest.start.get())
    }

    /// The flush ring of the open segment says what was durable. Where it cannot be read, more is in doubt,
    /// and that is all: nothing is lost by it, and it is told unless a kill leaves the same.
    fn ring_may_be_silent(&self, name: &str, unit: &Unit, extent: Extent) -> bool {
        if name != self.open || unit.part != Part::Ring {
            return false;
        }
        let (newest, next) = (Slot::place(self.newest.group), Slot::place(self.newest.group.next()));
        let page = unit.bytes.start as u64;
        match (self.stopped, extent) {
            // The mark of the clean stop names the newest slot; zeros or an older slot in place of one
            // that is not the newest are what a younger ring holds.
            (Stopped::Closed, Extent::More) => page != newest,
            (Stopped::Closed, Extent::Bit) => false,
            // Nothing says that there was a newest one.
            (Stopped::Killed, Extent::More) => true,
            (Stopped::Killed, Extent::Bit) => page == newest || page == next,
        }
    }

    /// An older second copy beside a newer first one is what an interrupted save leaves.
    fn copy_may_be_silent(&self, spoiled: &Spoiled, name: &str, unit: &Unit) -> bool {
        let page = |index: usize| &self.files[name][index * PAGE_BYTES..][..PAGE_BYTES];
        let generation = |page: &[u8]| u64::from_le_bytes(*page[16..].first_chunk().unwrap());
        let index = unit.bytes.start / PAGE_BYTES;
        if unit.part != Part::Copy || index.is_multiple_of(2) || spoiled.extent == Extent::Bit {
            return false;
        }
        let now = bytes_of(&spoiled.disk, name).unwrap_or_default();
        let Some(found) = now.get(unit.bytes.clone()) else { return false };
        let is_younger = self.younger.iter().any(|files| {
            files.get(name).and_then(|bytes| bytes.get(unit.bytes.clone())).is_some_and(|bytes| bytes == found)
        });
        is_younger && generation(found) + 2 == generation(page(index))
    }

    /// Whether the file belongs to the segment that is not sealed.
    fn is_open(&self, name: &str) -> bool {
        name.strip_prefix(self.open.trim_end_matches("seg")).is_some_and(|rest| rest == "seg" || rest.ends_with(".pay"))
    }

    /// Behind the payloads of the open segment a group may have been torn, closed cleanly since or not.
    fn is_behind_payloads(&self, name: &str, unit: &Unit) -> bool {
        unit.part == Part::Behind && self.is_open(name) && name.ends_with(".pay")
    }

    /// A key without its line feed is the same key; zeros behind the end of an open file are no content.
    fn means_the_same(&self, spoiled: &Spoiled, name: &str, unit: &Unit) -> bool {
        let now = bytes_of(&spoiled.disk, name).unwrap_or_default();
        let line = self.files[name].strip_suffix(b"\n");
        let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        (name.starts_with("keys/") && line == Some(&now))
            || (unit.part == Part::Behind && self.is_open(name) && now.get(unit.bytes.start..).is_some_and(is_zero))
    }

    /// Judges what a verification says; nothing but what was touched may be blamed.
    fn judge_report(&self, spoiled: &Spoiled, report: &Result<LogReport, LogError>, files: &BTreeSet<&str>) {
        let what = &spoiled.what;
        let report = match report {
            Ok(report) => report,
            Err(LogError::Damaged(_) | LogError::Version { .. }) if spoiled.extent == Extent::More => return,
            Err(error) => panic!("{what}: verify: {error}"),
        };
        let names = |text: &String, name: &str| text.contains(name);
        let news: BTreeSet<String> = texts(report).difference(&self.told).cloned().collect();
        for (name, units) in spoiled.touched.iter().filter(|(name, _)| files.contains(name.as_str())) {
            let found = report.findings.iter().any(|finding| {
                let at = to_usize(finding.offset);
                finding.file == *name
                    && !self.told.contains(&finding.to_string())
                    && (spoiled.missing.contains(name)
                        || units.iter().any(|unit| unit.near.contains(&at) || unit.near.start == at)
                        // A slot in a sealed file's ring makes it look open; then its digest tells.
                        || (at == 0 && units.iter().all(|unit| unit.part == Part::Ring)))
            });
            let noted = news.iter().any(|text| names(text, name));
            let silent = |unit: &Unit| {
                self.ring_may_be_silent(name, unit, spoiled.extent)
                    || self.copy_may_be_silent(spoiled, name, unit)
                    || self.means_the_same(spoiled, name, unit)
            };
            let noted_only = |unit: &Unit| self.in_doubt(name, unit) || self.is_behind_payloads(name, unit);
            let ok = match class_of(name) {
                Class::Lock => true,
                // The good log has the state file that was made by hand told of already.
                Class::Derived if self.told.iter().any(|text| text.contains(name)) => true,
                Class::Given | Class::Kept | Class::Derived => noted || spoiled.missing.contains(name),
                Class::Guarded if name.starts_with("keys/") && spoiled.missing.contains(name) => noted,
                Class::Guarded if units.iter().all(silent) => true,
                Class::Guarded if units.iter().all(|unit| silent(unit) || noted_only(unit)) => noted,
                Class::Guarded => found,
            };
            assert!(ok, "{what}: {name} is not told of: {:?} {:?}", report.findings, report.notes);
        }
        if spoiled.touched.keys().any(|name| class_of(name) == Class::Given) || spoiled.extent == Extent::More {
            return;
        }
        for finding in report.findings.iter().filter(|finding| !self.told.contains(&finding.to_string())) {
            assert!(spoiled.touched.contains_key(&finding.file), "{what}: {finding}, which is not so");
        }
    }

    /// Leaves that may be unreadable, and whether the log may be refused as a whole.
    fn allowance(&self, spoiled: &Spoiled) -> (BTreeSet<u64>, bool) {
        let mut leaves = BTreeSet::new();
        let mut refused = false;
        for (name, units) in &spoiled.touched {
            let is_first = name.starts_with("segments/0000000000000000.");
            for unit in units {
                leaves.extend(unit.leaves.clone());
                let is_log = name.ends_with(".seg");
                refused |= match unit.part {
                    // Alignment and block height are read from the first file, and genesis from leaf 0.
                    Part::Header => is_log && (is_first || *name == self.open),
                    Part::Content if unit.leaves.contains(&0) || (is_first && unit.leaves.is_empty()) => true,
                    // Rot in the open file: where the log ends is not known.
                    Part::Content | Part::Behind => *name == self.open && !self.in_doubt(name, unit),
                    Part::Ring | Part::Copy | Part::Whole => false,
                };
            }
        }
        refused |= spoiled.missing.iter().any(|name| name.ends_with(".seg"));
        refused |= spoiled.missing.contains("segments/0000000000000000.0.pay");
        // Without its sidecar a segment is read again from its frames, all of them.
        refused |= spoiled.missing.iter().any(|name| name.ends_with(".tiles")) && !leaves.is_empty();
        (leaves, refused)
    }

    /// The fewest records that must be there: those before the last group, where that was hit.
    fn fewest(&self, spoiled: &Spoiled) -> u64 {
        let units = spoiled.touched.iter().flat_map(|(name, units)| units.iter().map(move |unit| (name, unit)));
        let doubtful = units.filter(|(name, unit)| self.in_doubt(name, unit) && !unit.leaves.is_empty());
        doubtful.map(|(_, unit)| unit.leaves.start).min().unwrap_or(self.truth.len() as u64)
    }

    /// Reads everything: a record is the true one, or an error says that it is damaged.
    fn judge_reading(&self, spoiled: &Spoiled, disk: &FakeDisk) {
        let what = &spoiled.what;
        let (may_fail, may_be_refused) = self.allowance(spoiled);
        let fewest = self.fewest(spoiled);
        let is_clear = |error: &LogError| match error {
            LogError::Damaged(_) | LogError::Version { .. } => true,
            LogError::Disk(error) => !spoiled.missing.is_empty() && error.source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        };
        let reader = match LogReader::open(&environment(disk), Path::new(LOG)) {
            Ok(reader) => reader,
            Err(error) => {
                assert!(may_be_refused && is_clear(&error), "{what}: reading is refused: {error}");
                return;
            }
        };
        let size = reader.size().get();
        // Rot hides what lies behind it in the open file, and reading says so.
        let hidden = may_be_refused && reader.whole().is_err_and(|error| is_clear(&error));
        let fewest = if hidden { 0 } else { fewest };
        assert!((fewest..=self.truth.len() as u64).contains(&size), "{what}: {size} records are read");
        if hidden && size < self.truth.len() as u64 {
            let beyond = reader.beyond_end(LeafIndex::new(size));
            assert!(matches!(beyond, LogError::Damaged(_)), "{what}: behind the damage: {beyond}");
        }
        let next = Cell::new(0);
        while next.get() < size {
            let mut each = |record: ReadRecord| -> Result<(), LogError> {
                let index = next.get();
                assert!(record == self.truth[to_usize(index)], "{what}: record {index} is another");
                next.set(index + 1);
                Ok(())
            };
            let read = reader.read(LeafIndex::new(next.get()), LeafIndex::new(u64::MAX), Payloads::Read, &mut each);
            let index = next.get();
            match read {
                Ok(()) => assert_eq!(index, size, "{what}: reading ended early"),
                Err(error) => {
                    let allowed = may_be_refused || may_fail.contains(&index);
                    assert!(is_clear(&error) && allowed, "{what}: record {index}: {error}");
                    next.set(index + 1);
                }
            }
        }
        if size == self.truth.len() as u64 {
            match reader.root_at(reader.size()) {
                Ok(root) => assert_eq!(root, self.root, "{what}: the root is another"),
                Err(error) => assert!(is_clear(&error), "{what}: the root: {error}"),
            }
        }
    }

    /// Opens the log for writing: as before, or refused with a word.
    fn judge_opening(&self, spoiled: &Spoiled) {
        let what = &spoiled.what;
        let disk = spoiled.disk.snapshot();
        let must_open = spoiled.missing.is_empty()
            && spoiled.touched.iter().all(|(name, units)| {
                !name.starts_with("segments/") && (spoiled.extent == Extent::Bit || class_of(name) != Class::Guarded)
                    || name.ends_with(".tiles")
                    || units.iter().all(|unit| unit.part == Part::Ring && *name == self.open)
            });
        let log = match open(&disk) {
            Ok(log) => log,
            Err(error) => {
                let clear = match &error {
                    LogError::Damaged(_)
                    | LogError::Version { .. }
                    | LogError::Generation(_)
                    | LogError::File { .. } => true,
                    LogError::Disk(error) => {
                        !spoiled.missing.is_empty() && error.source.kind() == std::io::ErrorKind::NotFound
                    }
                    _ => false,
                };
                assert!(clear && !must_open, "{what}: opening: {error}");
                return;
            }
        };
        let size = log.size().get();
        let all = self.truth.len() as u64;
        let torn = log.torn_tail();
        drop(log);
        assert!((self.fewest(spoiled)..=all).contains(&size), "{what}: opened with {size} of {all} records");
        assert!(size == all || torn.is_some(), "{what}: {} records were cut without a word", all - size);
        self.judge_reading(spoiled, &disk);
        // What an open log writes itself is written anew; everything else is as it was, or is still told.
        let mut changed = BTreeSet::new();
        for (name, units) in &spoiled.touched {
            let now = bytes_of(&disk, name);
            let written = |unit: &Unit| {
                unit.part == Part::Ring
                    || (name == "hard-state" && unit.part == Part::Copy)
                    || self.in_doubt(name, unit)
            };
            if now.as_ref() != self.files.get(name) && !units.iter().all(written) {
                changed.insert(name.as_str());
            }
        }
        if !changed.is_empty() {
            self.judge_report(spoiled, &verify(&disk), &changed);
        }
    }

    /// The whole judgement.
    pub(crate) fn judge(&self, spoiled: &Spoiled) {
        let all = spoiled.touched.keys().map(String::as_str).collect();
        self.judge_report(spoiled, &verify(&spoiled.disk), &all);
        self.judge_reading(spoiled, &spoiled.disk);
        self.judge_opening(spoiled);
    }

    /// The log with one bit flipped.
    pub(crate) fn flip(&self, name: &str, byte: usize, bit: u32) -> Spoiled {
        let disk = self.disk.snapshot();
        disk.flip_bit(&Path::new(LOG).join(name), byte, bit);
        let touched = self.units[name].iter().filter(|unit| unit.bytes.contains(&byte)).cloned().collect();
        Spoiled {
            what: format!("{}: {name}, byte {byte}, bit {bit}", self.name),
            disk,
            touched: [(name.to_owned(), touched)].into(),
            missing: BTreeSet::new(),
            extent: Extent::Bit,
        }
    }

    /// The log with other files; `None` where nothing differs.
    pub(crate) fn replace(&self, what: &str, changes: &[(&str, Option<&[u8]>)]) -> Option<Spoiled> {
        let disk = self.disk.snapshot();
        let (mut touched, mut missing) = (BTreeMap::new(), BTreeSet::new());
        for (name, content) in changes {
            crate::small_log::put(&disk, name, *content);
            let old = &self.files[*name];
            let new = content.unwrap_or_default();
            if content.is_none() {
                missing.insert((*name).to_owned());
            }
            let differs = |unit: &&Unit| {
                let of = |bytes: &[u8]| -> Vec<u8> {
                    let end = unit.bytes.end.min(bytes.len());
                    bytes.get(unit.bytes.start.min(end)..end).unwrap_or_default().to_vec()
                };
                of(old) != of(new)
            };
            let units: Vec<Unit> = self.units[*name].iter().filter(differs).cloned().collect();
            if !units.is_empty() {
                touched.insert((*name).to_owned(), units);
            }
        }
        let what = format!("{}: {what}", self.name);
        (!touched.is_empty()).then_some(Spoiled { what, disk, touched, missing, extent: Extent::More })
    }
}
