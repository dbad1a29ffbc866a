//! Everything behind the lock: names, files, locks, faults, counters, trace.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stele_engine::disk::Mode;

use crate::content::Content;
use crate::fake_disk::{Guard, Media};
use crate::fault::{Call, Calls, ENOSPC, Fault, Flavour, Lasting};
use crate::names::{Entry, FileNumber, Names};
use crate::random::SplitMix64;

/// Calls that are remembered.
const TRACE_CALLS: usize = 64;

/// Free bytes of a disk without a bound.
const UNBOUNDED: u64 = 1 << 50;

/// A file, by whatever name.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) content: Arc<Content>,
    pub(crate) mode: Mode,
    durable_mode: Mode,
    /// Whether it has been sealed: from then on no byte may change.
    sealed: bool,
}

/// What becomes of a call.
pub(crate) enum Verdict {
    Goes,
    Fails(Flavour, io::Error),
    /// The power is off.
    Off,
}

/// A fault and how many of its calls have been seen.
#[derive(Clone)]
struct Armed {
    fault: Fault,
    seen: u64,
}

struct Traced {
    number: u64,
    call: Call,
    path: PathBuf,
    at: u64,
    len: u64,
    outcome: &'static str,
}

/// How much may be stored.
#[derive(Clone, Copy)]
struct Capacity {
    bytes: u64,
    flavour: Flavour,
}

/// A machine.
pub(crate) struct Machine {
    pub(crate) names: Names,
    files: BTreeMap<FileNumber, File>,
    next_file: u64,
    pub(crate) locks: BTreeSet<FileNumber>,
    pub(crate) media: Media,
    pub(crate) guard: Guard,
    pub(crate) violations: Vec<String>,
    pub(crate) random: SplitMix64,
    faults: Vec<Armed>,
    capacity: Option<Capacity>,
    off: bool,
    power_off_at: Option<(u64, Flavour)>,
    /// Calls that were made to fail.
    pub(crate) failed: u64,
    /// Those that answered the error of a fault.
    pub(crate) failures: Vec<(Call, PathBuf)>,
    calls: u64,
    counts: BTreeMap<Call, u64>,
    trace: VecDeque<Traced>,
}

impl Machine {
    pub(crate) fn new(media: Media, random: SplitMix64) -> Self {
        Self {
            names: Names::default(),
            files: BTreeMap::new(),
            next_file: 0,
            locks: BTreeSet::new(),
            media,
            guard: Guard::Panics,
            violations: Vec::new(),
            random,
            faults: Vec::new(),
            capacity: None,
            off: false,
            power_off_at: None,
            failed: 0,
            failures: Vec::new(),
            calls: 0,
            counts: BTreeMap::new(),
            trace: VecDeque::new(),
        }
    }

    /// The same files and names, with no lock, fault, count or violation.
    pub(crate) fn copy(&self, names: Names, random: SplitMix64) -> Self {
        let files = self.files.clone();
        let capacity = self.capacity;
        let guard = self.guard;
        Self { names, files, next_file: self.next_file, capacity, guard, ..Self::new(self.media, random) }
    }

    /// The machine after the power failed and came back.
    pub(crate) fn crash(&self, random: &mut SplitMix64) -> Self {
        let names = self.names.crash(random);
        let named: BTreeSet<FileNumber> = files_of(&names).collect();
        let mut machine = self.copy(names, random.split());
        machine.files.retain(|number, _| named.contains(number));
        for file in machine.files.values_mut() {
            if !file.content.is_durable() {
                file.content = Arc::new(file.content.crash(random, self.media));
            }
            file.mode = if random.percent(50) { file.mode } else { file.durable_mode };
            file.durable_mode = file.mode;
            file.sealed = file.mode == Mode::Sealed;
        }
        machine
    }

    /// Whether both hold the same names, bytes and modes, and a crash would change nothing on either.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let settled = |machine: &Self| {
            let durable = |file: &File| file.content.is_durable() && file.mode == file.durable_mode;
            machine.names.is_settled() && files_of(&machine.names).all(|number| durable(machine.file(number)))
        };
        let same = |(path, entry): (&Path, Entry)| match (entry, other.names.get(path)) {
            (Entry::File(one), Some(Entry::File(two))) => {
                let (one, two) = (self.file(one), other.file(two));
                let same_bytes = Arc::ptr_eq(&one.content, &two.content) || one.content.bytes() == two.content.bytes();
                one.mode == two.mode && same_bytes
            }
            (Entry::Directory, Some(Entry::Directory)) => true,
            _ => false,
        };
        self.names.all().count() == other.names.all().count()
            && self.names.all().all(same)
            && settled(self)
            && settled(other)
    }

    /// Counts a call and decides what becomes of it.
    pub(crate) fn begin(&mut self, call: Call, path: &Path, at: u64, len: u64) -> Verdict {
        if self.off {
            return Verdict::Off;
        }
        self.calls += 1;
        *self.counts.entry(call).or_default() += 1;
        if self.trace.len() == TRACE_CALLS {
            self.trace.pop_front();
        }
        let traced = Traced { number: self.calls, call, path: path.to_owned(), at, len, outcome: "ok" };
        self.trace.push_back(traced);
        if let Some((number, flavour)) = self.power_off_at
            && number == self.calls
        {
            self.off = true;
            self.failed += 1;
            self.outcome("the power failed");
            return match flavour {
                Flavour::Failed => Verdict::Off,
                Flavour::FailedButApplied => Verdict::Fails(flavour, off()),
            };
        }
        match self.faults.iter_mut().filter_map(|armed| armed.meets(call, path)).last() {
            None => Verdict::Goes,
            Some(fault) => {
                self.failed += 1;
                self.failures.push((call, path.to_owned()));
                let outcome = match fault.flavour {
                    Flavour::Failed => "made to fail",
                    Flavour::FailedButApplied => "done, and made to fail",
                };
                let verdict = Verdict::Fails(fault.flavour, fault.cause.error());
                self.outcome(outcome);
                verdict
            }
        }
    }

    /// Notes how the last call ended.
    pub(crate) fn outcome(&mut self, outcome: &'static str) {
        if let Some(last) = self.trace.back_mut() {
            last.outcome = outcome;
        }
    }

    pub(crate) fn render_trace(&self) -> String {
        let mut text = String::new();
        for Traced { number, call, path, at, len, outcome } in &self.trace {
            let path = path.display();
            writeln!(text, "{number:>6} {call:?} {path} at {at}, {len} bytes: {outcome}").expect("a string takes all");
        }
        text
    }

    pub(crate) const fn calls(&self) -> u64 {
        self.calls
    }

    pub(crate) fn count(&self, call: Call) -> u64 {
        self.counts.get(&call).copied().unwrap_or(0)
    }

    pub(crate) fn power_off(&mut self) {
        self.off = true;
    }

    pub(crate) const fn is_off(&self) -> bool {
        self.off
    }

    pub(crate) fn power_off_in(&mut self, calls: u64, flavour: Flavour) {
        self.power_off_at = Some((self.calls + calls, flavour));
    }

    pub(crate) fn inject(&mut self, fault: Fault) {
        self.faults.push(Armed { fault, seen: 0 });
    }

    pub(crate) fn clear_faults(&mut self) {
        self.faults.clear();
        self.power_off_at = None;
    }

    pub(crate) fn set_capacity(&mut self, bytes: u64, flavour: Flavour) {
        self.capacity = Some(Capacity { bytes, flavour });
    }

    /// Makes an empty file with that name.
    pub(crate) fn create(&mut self, path: &Path) -> FileNumber {
        let number = FileNumber(self.next_file);
        self.next_file += 1;
        let mode = Mode::Private;
        self.files.insert(number, File { content: Arc::default(), mode, durable_mode: mode, sealed: false });
        self.names.add(path, Entry::File(number));
        number
    }

    pub(crate) fn file(&self, number: FileNumber) -> &File {
        self.files.get(&number).expect("a file lives as long as its machine")
    }

    fn file_mut(&mut self, number: FileNumber) -> &mut File {
        self.files.get_mut(&number).expect("a file lives as long as its machine")
    }

    pub(crate) fn content_mut(&mut self, number: FileNumber) -> &mut Content {
        Arc::make_mut(&mut self.file_mut(number).content)
    }

    pub(crate) fn write(&mut self, number: FileNumber, path: &Path, bytes: &[u8], at: usize) -> io::Result<()> {
        let file = self.file(number);
        if file.sealed && !file.content.is_same(bytes, at) {
            self.violation(format!("{} is sealed and was written at {at}", path.display()));
        }
        let (fitting, result) = self.room(number, at, bytes.len());
        self.content_mut(number).write(&bytes[..fitting], at);
        result
    }

    /// How much of a write there is room for.
    fn room(&self, number: FileNumber, at: usize, len: usize) -> (usize, io::Result<()>) {
        let Some(capacity) = self.capacity else { return (len, Ok(())) };
        let has = self.file(number).content.len();
        let end = usize::try_from(self.free()).map_or(usize::MAX, |free| has.saturating_add(free));
        if at + len <= end {
            return (len, Ok(()));
        }
        let fitting = match capacity.flavour {
            Flavour::Failed => 0,
            Flavour::FailedButApplied => end.saturating_sub(at),
        };
        (fitting, Err(io::Error::from_raw_os_error(ENOSPC)))
    }

    /// Bytes of all files that have a name.
    pub(crate) fn used(&self) -> u64 {
        files_of(&self.names).map(|number| self.file(number).content.len() as u64).sum()
    }

    /// Bytes that may still be written.
    pub(crate) fn clear_capacity(&mut self) -> bool {
        self.capacity.take().is_some()
    }

    pub(crate) fn free(&self) -> u64 {
        self.capacity.map_or(UNBOUNDED, |capacity| capacity.bytes.saturating_sub(self.used()))
    }

    pub(crate) fn set_len(&mut self, number: FileNumber, path: &Path, len: usize) -> io::Result<()> {
        let file = self.file(number);
        let has = file.content.len();
        if file.sealed && len != has {
            self.violation(format!("{} is sealed and was resized from {has} to {len}", path.display()));
        }
        if len > has {
            self.room(number, has, len - has).1?;
        }
        self.content_mut(number).set_len(len);
        Ok(())
    }

    pub(crate) fn set_mode(&mut self, number: FileNumber, path: &Path, mode: Mode) {
        let file = self.file_mut(number);
        file.mode = mode;
        if mode == Mode::Sealed {
            file.sealed = true;
        } else if file.sealed {
            self.violation(format!("{} is sealed and was made writable", path.display()));
        }
    }

    pub(crate) fn sync(&mut self, number: FileNumber) {
        let file = self.file_mut(number);
        if !file.content.is_flushed() {
            Arc::make_mut(&mut file.content).sync();
        }
    }

    pub(crate) fn sync_mode(&mut self, number: FileNumber) {
        let file = self.file_mut(number);
        file.durable_mode = file.mode;
    }

    /// A flush that fails. Length and mode stay under way.
    pub(crate) fn lose(&mut self, number: FileNumber) {
        let (mut random, media) = (self.random.split(), self.media);
        self.content_mut(number).lose(&mut random, media);
    }

    /// Everything seen becomes durable.
    pub(crate) fn settle(&mut self) {
        self.names.settle();
        for file in self.files.values_mut() {
            file.durable_mode = file.mode;
            Arc::make_mut(&mut file.content).settle();
        }
    }

    fn violation(&mut self, what: String) {
        assert!(self.guard == Guard::Records, "{what}\n{}", self.render_trace());
        self.violations.push(what);
    }
}

fn files_of(names: &Names) -> impl Iterator<Item = FileNumber> {
    names.all().filter_map(|(_, entry)| match entry {
        Entry::File(number) => Some(number),
        Entry::Directory => None,
    })
}

impl Armed {
    /// The fault, where it meets this call.
    fn meets(&mut self, call: Call, path: &Path) -> Option<Fault> {
        let counted = match &self.fault.calls {
            Calls::Any => true,
            Calls::Only(only) => *only == call,
            Calls::At(only, at) => *only == call && at == path,
        };
        self.seen += u64::from(counted);
        let now = match self.fault.lasting {
            Lasting::Once => self.seen == self.fault.nth,
            Lasting::FromThenOn => self.seen >= self.fault.nth,
        };
        (counted && now).then(|| self.fault.clone())
    }
}

/// What a machine without power answers.
pub(crate) fn off() -> io::Error {
    io::Error::other("the machine is off")
}
