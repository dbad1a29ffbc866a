//! The bytes of one file: what reads see, what lies on the platter, and what is on its way there.
//!
//! I-CONTENT-1: a sector that is not under way and was not lost by a failed flush is the same in the
//! page cache and on the platter.
//! I-CONTENT-2: after a crash a sector that was not under way is what it was on the platter.

use std::collections::BTreeMap;

use crate::fake_disk::Media;
use crate::random::SplitMix64;

/// What a disk writes at once.
pub(crate) const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

/// The content of a file. Behind the end of either vector everything is zero.
#[derive(Clone, Default)]
pub(crate) struct Content {
    /// The page cache: what reads see.
    current: Vec<u8>,
    /// The platter. Longer than `durable_len` where a failed flush brought sectors behind the end.
    platter: Vec<u8>,
    durable_len: usize,
    /// The content of each sector after each write since the last flush, oldest first.
    under_way: BTreeMap<usize, Vec<Sector>>,
    /// Every length since the last flush.
    lens: Vec<usize>,
}

impl Content {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.current
    }

    pub(crate) const fn len(&self) -> usize {
        self.current.len()
    }

    /// Whether a flush would change nothing.
    pub(crate) fn is_flushed(&self) -> bool {
        self.under_way.is_empty() && self.lens.is_empty()
    }

    /// Whether a crash would change nothing.
    pub(crate) fn is_durable(&self) -> bool {
        self.is_flushed() && self.current == self.platter
    }

    pub(crate) fn read(&self, buffer: &mut [u8], at: usize) -> usize {
        let rest = self.current.get(at..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        len
    }

    /// Reads past the page cache: unflushed sectors are written back first, so they are seen; sectors
    /// that a failed flush has lost are seen as they lie on the platter.
    pub(crate) fn read_direct(&self, buffer: &mut [u8], at: usize) -> usize {
        let len = self.read(buffer, at);
        let mut done = 0;
        while done < len {
            let sector = (at + done) / SECTOR_BYTES;
            let step = ((sector + 1) * SECTOR_BYTES - (at + done)).min(len - done);
            if !self.under_way.contains_key(&sector) {
                let found = sector_of(&self.platter, sector);
                let from = (at + done) % SECTOR_BYTES;
                buffer[done..done + step].copy_from_slice(&found[from..from + step]);
            }
            done += step;
        }
        len
    }

    /// Whether a write would leave every byte as it is.
    pub(crate) fn is_same(&self, bytes: &[u8], at: usize) -> bool {
        self.current.get(at..at + bytes.len()) == Some(bytes)
    }

    pub(crate) fn write(&mut self, bytes: &[u8], at: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        if end > self.current.len() {
            self.current.resize(end, 0);
            self.lens.push(end);
        }
        self.current[at..end].copy_from_slice(bytes);
        self.mark(at, end);
    }

    pub(crate) fn set_len(&mut self, len: usize) {
        let old = self.current.len();
        if len == old {
            return;
        }
        self.current.resize(len, 0);
        self.lens.push(len);
        self.mark(len, old);
    }

    /// Notes the sectors from `from` to `end` as they are now; nothing where `end` is not behind `from`.
    fn mark(&mut self, from: usize, end: usize) {
        for sector in from / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let now = sector_of(&self.current, sector);
            self.under_way.entry(sector).or_default().push(now);
        }
    }

    /// A flush that succeeds. Sectors that an earlier, failed one lost stay lost.
    pub(crate) fn sync(&mut self) {
        for sector in std::mem::take(&mut self.under_way).into_keys() {
            let now = sector_of(&self.current, sector);
            put(&mut self.platter, sector, &now);
        }
        self.lens.clear();
        self.durable_len = self.current.len();
        self.platter.resize(self.durable_len, 0);
    }

    /// Everything seen becomes durable.
    pub(crate) fn settle(&mut self) {
        let current = std::mem::take(&mut self.current);
        let durable_len = current.len();
        *self = Self { platter: current.clone(), current, durable_len, ..Self::default() };
    }

    /// A flush that fails: each sector may have reached the platter; the page cache takes all for clean.
    /// Lengths stay under way.
    pub(crate) fn lose(&mut self, random: &mut SplitMix64, media: Media) {
        let regime = Regime::of(random, media);
        for (sector, versions) in std::mem::take(&mut self.under_way) {
            if let Some(fate) = regime.fate(&versions, random) {
                put(&mut self.platter, sector, &fate);
            }
        }
    }

    /// What is found after the power failed.
    pub(crate) fn crash(&self, random: &mut SplitMix64, media: Media) -> Self {
        let regime = Regime::of(random, media);
        let mut platter = self.platter.clone();
        for (sector, versions) in &self.under_way {
            if let Some(fate) = regime.fate(versions, random) {
                put(&mut platter, *sector, &fate);
            }
        }
        let len = self.len_after_crash(random);
        platter.resize(len, 0);
        Self { current: platter.clone(), platter, durable_len: len, ..Self::default() }
    }

    /// The durable length, the current one, or any number of sectors between the smallest and the
    /// largest there was.
    fn len_after_crash(&self, random: &mut SplitMix64) -> usize {
        if self.lens.is_empty() {
            return self.durable_len;
        }
        match random.below(4) {
            0 => self.durable_len,
            1 => self.current.len(),
            _ => {
                let all = || self.lens.iter().copied().chain([self.durable_len]);
                let (least, most) = (all().min().unwrap_or(0), all().max().unwrap_or(0));
                let sectors = (most - least).div_ceil(SECTOR_BYTES) as u64;
                let step = usize::try_from(random.below(sectors + 1)).unwrap_or(0);
                (least.next_multiple_of(SECTOR_BYTES) + step * SECTOR_BYTES).clamp(least, most)
            }
        }
    }

    /// Rot: a bit changes on the platter and in what is read.
    pub(crate) fn flip(&mut self, byte: usize, bit: u32) {
        for bytes in [&mut self.current, &mut self.platter] {
            if let Some(byte) = bytes.get_mut(byte) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }
}

/// How much of what was under way one file keeps. With even odds for every sector, all-new and all-old
/// would hardly ever be seen.
struct Regime {
    keep_percent: u64,
    garbage_percent: u64,
}

impl Regime {
    fn of(random: &mut SplitMix64, media: Media) -> Self {
        let keep_percent = *random.pick(&[0, 10, 50, 50, 90, 100]);
        let garbage_percent = match media {
            Media::WholeSectors => 0,
            Media::TearsSectors => *random.pick(&[0, 0, 2, 30]),
        };
        Self { keep_percent, garbage_percent }
    }

    /// The content of a sector that was under way; `None` where it keeps what it held.
    fn fate(&self, versions: &[Sector], random: &mut SplitMix64) -> Option<Sector> {
        let newest = versions.last()?;
        if random.percent(self.garbage_percent) {
            return Some(torn(newest, random));
        }
        if !random.percent(self.keep_percent) {
            return None;
        }
        Some(if random.percent(70) { *newest } else { *random.pick(versions) })
    }
}

/// A sector whose writing was interrupted.
fn torn(newest: &Sector, random: &mut SplitMix64) -> Sector {
    let mut sector = [0; SECTOR_BYTES];
    match random.below(4) {
        0 => sector.fill(0xff),
        1 => {
            let good = usize::try_from(random.below(SECTOR_BYTES as u64)).unwrap_or(0);
            random.fill(&mut sector);
            sector[..good].copy_from_slice(&newest[..good]);
        }
        _ => random.fill(&mut sector),
    }
    sector
}

fn sector_of(bytes: &[u8], sector: usize) -> Sector {
    let mut found = [0; SECTOR_BYTES];
    let rest = bytes.get(sector * SECTOR_BYTES..).unwrap_or_default();
    let len = rest.len().min(SECTOR_BYTES);
    found[..len].copy_from_slice(&rest[..len]);
    found
}

fn put(bytes: &mut Vec<u8>, sector: usize, content: &Sector) {
    let from = sector * SECTOR_BYTES;
    if bytes.len() < from + SECTOR_BYTES {
        bytes.resize(from + SECTOR_BYTES, 0);
    }
    bytes[from..from + SECTOR_BYTES].copy_from_slice(content);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MEDIA: [Media; 2] = [Media::WholeSectors, Media::TearsSectors];

    fn flushed(bytes: &[u8]) -> Content {
        let mut content = Content::default();
        content.write(bytes, 0);
        content.sync();
        content
    }

    fn crashes(content: &Content, media: Media) -> Vec<Content> {
        (0..400).map(|seed| content.crash(&mut SplitMix64::new(seed), media)).collect()
    }

    #[test]
    fn what_was_flushed_survives_every_crash() {
        let mut content = flushed(&[1; 3000]);
        content.write(&[2; 100], 1024);
        for media in MEDIA {
            for crashed in crashes(&content, media) {
                assert_eq!(crashed.bytes()[..1024], [1; 1024]);
                assert_eq!(crashed.bytes()[1536..], [1; 3000 - 1536]);
                assert!(crashed.is_durable());
            }
        }
    }

    #[test]
    fn every_sector_under_way_is_old_or_of_any_write_or_garbage() {
        let mut content = flushed(&[1; 1024]);
        content.write(&[2; 1024], 0);
        content.write(&[3; 1024], 0);
        let firsts = |media| -> BTreeSet<(u8, u8)> {
            let pairs = crashes(&content, media).into_iter();
            pairs.map(|crashed| (crashed.bytes()[511], crashed.bytes()[1023])).collect()
        };
        let whole = firsts(Media::WholeSectors);
        assert_eq!(whole.len(), 9, "all pairs of 1, 2 and 3, independently: {whole:?}");
        assert!(whole.iter().all(|pair| (1..=3).contains(&pair.0) && (1..=3).contains(&pair.1)));
        assert!(firsts(Media::TearsSectors).len() > 20);
    }

    #[test]
    fn a_crash_leaves_the_durable_the_current_or_a_length_between() {
        let mut content = flushed(&[1; 700]);
        content.write(&[2; 2000], 700);
        let lens: BTreeSet<usize> = crashes(&content, Media::WholeSectors).iter().map(Content::len).collect();
        assert_eq!(lens, [700, 1024, 1536, 2048, 2560, 2700].into());
        let mut content = flushed(&[1; 2000]);
        content.set_len(600);
        for crashed in crashes(&content, Media::WholeSectors) {
            assert!((600..=2000).contains(&crashed.len()));
            assert!(crashed.bytes()[600..].iter().all(|byte| *byte <= 1));
        }
    }

    #[test]
    fn what_was_settled_survives_a_crash_beside_a_write() {
        let mut content = Content::default();
        content.write(&[1; 3000], 0);
        content.settle();
        content.write(&[2; 10], 0);
        for crashed in crashes(&content, Media::WholeSectors) {
            assert_eq!(crashed.len(), 3000);
            assert_eq!(crashed.bytes()[512..], [1; 3000 - 512]);
        }
    }

    #[test]
    fn bytes_that_were_cut_off_read_as_zero_when_the_file_grows_again() {
        let mut content = flushed(&[1; 1500]);
        content.set_len(100);
        content.set_len(1500);
        assert_eq!(content.bytes()[100..], [0; 1400]);
        content.sync();
        let crashed = content.crash(&mut SplitMix64::new(1), Media::TearsSectors);
        assert_eq!(crashed.bytes(), content.bytes());
    }

    #[test]
    fn a_flush_after_a_failed_one_brings_nothing_of_what_the_failed_one_lost() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut content = flushed(&[1; 5120]);
            content.write(&[2; 5120], 0);
            content.lose(&mut SplitMix64::new(seed), Media::WholeSectors);
            content.sync();
            assert_eq!(content.bytes(), [2; 5120], "the page cache shows what is not on the disk");
            let crashed = content.crash(&mut SplitMix64::new(seed), Media::WholeSectors);
            let mut direct = vec![0; 5120];
            content.read_direct(&mut direct, 0);
            assert_eq!(direct, crashed.bytes(), "direct reads show what is on the disk");
            lost += usize::from(crashed.bytes().contains(&1));
            content.write(&[3; 5120], 0);
            content.sync();
            let crashed = content.crash(&mut SplitMix64::new(seed), Media::WholeSectors);
            assert_eq!(crashed.bytes(), [3; 5120], "what is written again is flushed again");
        }
        assert!(lost > 20);
    }

    #[test]
    fn direct_reads_see_what_is_under_way() {
        let mut content = flushed(&[1; 1000]);
        content.write(&[2; 10], 600);
        let mut direct = [0; 1024];
        assert_eq!(content.read_direct(&mut direct, 0), 1000);
        assert_eq!(direct[..1000], *content.bytes());
    }
}
