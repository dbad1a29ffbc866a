//! The disk: calls, guards, crash, kill.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stele_engine::disk::{Access, Disk, DiskError, DiskFile, DiskLock, Locking, Mode, Status};

use crate::content::SECTOR_BYTES;
use crate::fault::{Call, EBADF, EINVAL, Fault, Flavour};
use crate::machine::{Machine, Verdict, off};
use crate::names::{Entry, FileNumber, plain};
use crate::random::SplitMix64;

/// What a sector can hold whose writing a crash interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Media {
    /// The old content or the new.
    WholeSectors,
    /// Also garbage.
    TearsSectors,
}

/// What happens when a sealed file is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// The call panics.
    Panics,
    /// [`FakeDisk::violations`] tells.
    Records,
}

/// The disk of a machine; clones are the same disk.
///
/// Used from one thread it is deterministic: the same calls and seeds give the same bytes. Beyond the
/// contract of [`Disk`]:
/// - a sealed file cannot be opened for writing (the process is not root), and a change through an
///   older handle is a violation, as is making it writable again;
/// - reads and writes past the page cache ([`Access::is_direct`]) must be aligned to 512 bytes in file,
///   length and memory; a write is otherwise like any other, under way until it is flushed;
/// - directories cannot be renamed or removed.
#[derive(Clone)]
pub struct FakeDisk {
    machine: Arc<Mutex<Machine>>,
}

impl FakeDisk {
    /// An empty disk. The seed decides what a failed flush brings to the platter.
    pub fn new(media: Media, seed: u64) -> Self {
        Self::of(Machine::new(media, SplitMix64::new(seed)))
    }

    fn of(machine: Machine) -> Self {
        Self { machine: Arc::new(Mutex::new(machine)) }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        // The guard's panic leaves the machine as it was before the call.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine after the power failed at this moment and came back. Of what was not flushed any
    /// part survives; nobody holds a lock; no fault is set.
    ///
    /// This machine is off from now on: every call fails, so that old handles write nothing, and the
    /// same moment can be crashed again with other numbers.
    #[must_use]
    pub fn crash(&self, random: &mut SplitMix64) -> Self {
        let mut machine = self.machine();
        machine.power_off();
        Self::of(machine.crash(random))
    }

    /// The machine after the process was killed at this moment: everything written is still seen, and
    /// no more of it is durable than before; nobody holds a lock; no fault is set.
    ///
    /// The old process is off from now on, as after [`FakeDisk::crash`].
    #[must_use]
    pub fn kill(&self) -> Self {
        self.power_off();
        self.snapshot()
    }

    /// A second machine in the state of this one, which goes on; without locks and faults.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let machine = self.machine();
        Self::of(machine.copy(machine.names.clone(), machine.random.clone()))
    }

    /// Whether both machines hold the same names, bytes and modes, all of it durable: nobody could tell
    /// them apart.
    pub fn is_same_as(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.machine, &other.machine) {
            return true;
        }
        let other = other.machine();
        self.machine().is_same_as(&other)
    }

    /// From now on every call fails.
    pub fn power_off(&self) {
        self.machine().power_off();
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.machine().is_off()
    }

    /// The power fails with the `calls`-th call from now on, from 1, which is done or not.
    pub fn power_off_in(&self, calls: u64, flavour: Flavour) {
        self.machine().power_off_in(calls, flavour);
    }

    /// Sets a fault, beside those that are set.
    pub fn inject(&self, fault: Fault) {
        self.machine().inject(fault);
    }

    /// Forgets all faults and a coming power failure.
    pub fn clear_faults(&self) {
        self.machine().clear_faults();
    }

    /// Bounds the bytes of all files that have a name. A write past it does what fits
    /// ([`Flavour::FailedButApplied`]) or nothing, and answers ENOSPC.
    pub fn set_capacity(&self, bytes: u64, flavour: Flavour) {
        self.machine().set_capacity(bytes, flavour);
    }

    /// Takes the bound away; answers whether there was one.
    pub fn clear_capacity(&self) -> bool {
        self.machine().clear_capacity()
    }

    /// Bytes of all files that have a name.
    pub fn used(&self) -> u64 {
        self.machine().used()
    }

    /// Sets what happens when a sealed file is changed; at first it panics.
    pub fn set_guard(&self, guard: Guard) {
        self.machine().guard = guard;
    }

    /// Changes of sealed files.
    pub fn violations(&self) -> Vec<String> {
        self.machine().violations.clone()
    }

    /// How many calls were made while the power was on.
    pub fn calls(&self) -> u64 {
        self.machine().calls()
    }

    /// How many of one kind.
    pub fn count(&self, call: Call) -> u64 {
        self.machine().count(call)
    }

    /// How many calls were made to fail, the one at which the power failed among them.
    pub fn failed(&self) -> u64 {
        self.machine().failed
    }

    /// The calls that answered the error of a fault, and not one of their own.
    pub fn failures(&self) -> Vec<(Call, PathBuf)> {
        self.machine().failures.clone()
    }

    /// Whether the flush of a directory has failed on this machine since it was started: names may be seen
    /// that no later flush makes durable.
    pub fn has_lost_names(&self) -> bool {
        self.machine().names.are_lost()
    }

    /// The last calls, a line each.
    pub fn trace(&self) -> String {
        self.machine().render_trace()
    }

    /// Makes everything durable that is seen.
    pub fn settle(&self) {
        self.machine().settle();
    }

    /// All files, sorted by path.
    pub fn paths(&self) -> Vec<PathBuf> {
        let machine = self.machine();
        let files = machine.names.all().filter(|(_, entry)| matches!(entry, Entry::File(_)));
        files.map(|(path, _)| path.to_owned()).collect()
    }

    /// What a file holds and whether it is sealed, without a call.
    pub fn look(&self, path: &Path) -> Option<(Vec<u8>, Mode)> {
        let machine = self.machine();
        match machine.names.get(&plain(path)) {
            Some(Entry::File(number)) => {
                let file = machine.file(number);
                Some((file.content.bytes().to_vec(), file.mode))
            }
            _ => None,
        }
    }

    /// Rot: flips a bit of a byte, on the platter and in what is read. Nothing behind the end.
    ///
    /// # Panics
    /// Where there is no such file.
    pub fn flip_bit(&self, path: &Path, byte: usize, bit: u32) {
        let mut machine = self.machine();
        match machine.names.get(&plain(path)) {
            Some(Entry::File(number)) => machine.content_mut(number).flip(byte, bit),
            _ => panic!("there is no file {}", path.display()),
        }
    }

    /// Makes a call: counted, traced, failed where that is planned. `missed` is what remains of it
    /// where a fault makes it fail without its effect.
    fn call_or<T>(
        &self,
        call: Call,
        path: &Path,
        place: (u64, u64),
        act: impl FnOnce(&mut Machine) -> io::Result<T>,
        missed: impl FnOnce(&mut Machine),
    ) -> Result<T, DiskError> {
        let mut machine = self.machine();
        let result = match machine.begin(call, path, place.0, place.1) {
            Verdict::Goes => act(&mut machine).inspect_err(|_| machine.outcome("failed")),
            Verdict::Off => Err(off()),
            Verdict::Fails(Flavour::Failed, error) => {
                missed(&mut machine);
                Err(error)
            }
            Verdict::Fails(Flavour::FailedButApplied, error) => match act(&mut machine) {
                Ok(_) => Err(error),
                // Where it could not be done either, that is the answer.
                Err(own) => {
                    machine.failures.pop();
                    Err(own)
                }
            },
        };
        drop(machine);
        result.map_err(|source| DiskError { operation: call.verb(), path: path.to_owned(), source })
    }

    fn call<T>(
        &self,
        call: Call,
        path: &Path,
        act: impl FnOnce(&mut Machine) -> io::Result<T>,
    ) -> Result<T, DiskError> {
        self.call_or(call, path, (0, 0), act, |_| ())
    }
}

fn error(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

fn file_at(machine: &Machine, path: &Path) -> io::Result<FileNumber> {
    match machine.names.get(path) {
        Some(Entry::File(number)) => Ok(number),
        Some(Entry::Directory) => Err(error(io::ErrorKind::IsADirectory)),
        None => {
            directory_at(machine, path.parent().unwrap_or(path))?;
            Err(error(io::ErrorKind::NotFound))
        }
    }
}

fn directory_at(machine: &Machine, path: &Path) -> io::Result<()> {
    match machine.names.get(path) {
        Some(Entry::Directory) => Ok(()),
        Some(Entry::File(_)) => Err(error(io::ErrorKind::NotADirectory)),
        None => Err(error(io::ErrorKind::NotFound)),
    }
}

/// A position or length in memory.
fn index(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(|_too_large| io::Error::from_raw_os_error(EINVAL))
}

impl Disk for FakeDisk {
    fn open(&self, path: &Path, access: Access) -> Result<Box<dyn DiskFile>, DiskError> {
        let path = plain(path);
        let call = if access == Access::Create { Call::Create } else { Call::Open };
        let number = self.call(call, &path, |machine| {
            if access == Access::Create {
                directory_at(machine, path.parent().unwrap_or(&path))?;
                return match machine.names.get(&path) {
                    Some(_) => Err(error(io::ErrorKind::AlreadyExists)),
                    None => Ok(machine.create(&path)),
                };
            }
            let number = file_at(machine, &path)?;
            if matches!(access, Access::Write | Access::WriteDirect) && machine.file(number).mode == Mode::Sealed {
                return Err(error(io::ErrorKind::PermissionDenied));
            }
            Ok(number)
        })?;
        let mode_is_set = AtomicBool::new(false);
        Ok(Box::new(FakeFile { disk: self.clone(), number, path, access, mode_is_set }))
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        let path = plain(path);
        self.call(Call::CreateDirectory, &path, |machine| {
            let mut missing = Vec::new();
            for directory in path.ancestors() {
                match machine.names.get(directory) {
                    Some(Entry::Directory) => break,
                    Some(Entry::File(_)) if missing.is_empty() => return Err(error(io::ErrorKind::AlreadyExists)),
                    Some(Entry::File(_)) => return Err(error(io::ErrorKind::NotADirectory)),
                    None => missing.push(directory),
                }
            }
            missing.into_iter().rev().for_each(|directory| machine.names.add(directory, Entry::Directory));
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, DiskError> {
        let path = plain(path);
        self.call(Call::List, &path, |machine| {
            directory_at(machine, &path)?;
            let mut names: Vec<String> =
                machine.names.children(&path).filter_map(|name| name.to_str()).map(str::to_owned).collect();
            names.sort_unstable();
            Ok(names)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let (from, to) = (plain(from), plain(to));
        self.call(Call::Rename, &from, |machine| {
            let number = file_at(machine, &from)?;
            directory_at(machine, to.parent().unwrap_or(&to))?;
            if machine.names.get(&to) == Some(Entry::Directory) {
                return Err(error(io::ErrorKind::IsADirectory));
            }
            machine.names.rename(&from, &to, number);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let path = plain(path);
        self.call(Call::Remove, &path, |machine| {
            let number = file_at(machine, &path)?;
            machine.names.remove(&path, number);
            Ok(())
        })
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        let path = plain(path);
        let act = |machine: &mut Machine| {
            directory_at(machine, &path)?;
            machine.names.sync(&path);
            Ok(())
        };
        self.call_or(Call::SyncDirectory, &path, (0, 0), act, |machine| {
            let mut random = machine.random.split();
            machine.names.lose(&path, &mut random);
        })
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, DiskError> {
        let path = plain(path);
        self.call(Call::FreeBytes, &path, |machine| {
            directory_at(machine, &path)?;
            Ok(machine.free())
        })
    }

    fn lock(&self, path: &Path, note: &str) -> Result<Locking, DiskError> {
        let path = plain(path);
        let mut locked = None;
        let holder = self.call(Call::Lock, &path, |machine| {
            let number = match file_at(machine, &path) {
                Err(missing)
                    if missing.kind() == io::ErrorKind::NotFound
                        && directory_at(machine, path.parent().unwrap_or(&path)).is_ok() =>
                {
                    machine.create(&path)
                }
                other => other?,
            };
            if machine.locks.contains(&number) {
                let holder = String::from_utf8_lossy(machine.file(number).content.bytes()).trim().to_owned();
                return Ok(Some(holder));
            }
            machine.write(number, &path, format!("{note:<NOTE_BYTES$}\n").as_bytes(), 0)?;
            machine.locks.insert(number);
            locked = Some(number);
            Ok(None)
        });
        // Made before the error is passed on: the lock of a call that failed is given back.
        let lock = locked.map(|number| FakeLock { disk: self.clone(), number });
        Ok(match (holder?, lock) {
            (None, Some(lock)) => Locking::Taken(Box::new(lock)),
            (holder, _) => Locking::HeldBy(holder.unwrap_or_default()),
        })
    }

    fn is_locked(&self, path: &Path) -> Result<bool, DiskError> {
        let path = plain(path);
        self.call(Call::IsLocked, &path, |machine| match file_at(machine, &path) {
            Ok(number) => Ok(machine.locks.contains(&number)),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(other) => Err(other),
        })
    }
}

/// What a note in a lock file is padded to, so that a full disk has room for the next.
const NOTE_BYTES: usize = 20;

struct FakeLock {
    disk: FakeDisk,
    number: FileNumber,
}

impl DiskLock for FakeLock {}

impl Drop for FakeLock {
    fn drop(&mut self) {
        self.disk.machine().locks.remove(&self.number);
    }
}

struct FakeFile {
    disk: FakeDisk,
    number: FileNumber,
    path: PathBuf,
    access: Access,
    /// Whether the mode was set through this handle since its last flush.
    mode_is_set: AtomicBool,
}

impl FakeFile {
    /// A call that changes the file; a handle for reading refuses it.
    fn change(
        &self,
        call: Call,
        place: (u64, u64),
        act: impl FnOnce(&mut Machine) -> io::Result<()>,
    ) -> Result<(), DiskError> {
        let act = |machine: &mut Machine| {
            if matches!(self.access, Access::Read | Access::ReadDirect) {
                let number = if call == Call::SetLen { EINVAL } else { EBADF };
                return Err(io::Error::from_raw_os_error(number));
            }
            act(machine)
        };
        self.disk.call_or(call, &self.path, place, act, |_| ())
    }

    /// Refuses what direct I/O does not take.
    fn check_direct(&self, buffer: &[u8], at: usize) -> io::Result<()> {
        let odd = !at.is_multiple_of(SECTOR_BYTES) || !buffer.len().is_multiple_of(SECTOR_BYTES);
        if self.access.is_direct() && (odd || buffer.as_ptr().align_offset(SECTOR_BYTES) != 0) {
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        Ok(())
    }
}

impl DiskFile for FakeFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, DiskError> {
        let place = (at, buffer.len() as u64);
        let act = |machine: &mut Machine| {
            let (content, at) = (&machine.file(self.number).content, index(at)?);
            self.check_direct(buffer, at)?;
            Ok(if self.access.is_direct() { content.read_direct(buffer, at) } else { content.read(buffer, at) })
        };
        self.disk.call_or(Call::Read, &self.path, place, act, |_| ())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), DiskError> {
        self.change(Call::Write, (at, bytes.len() as u64), |machine| {
            let at = index(at)?;
            self.check_direct(bytes, at)?;
            machine.write(self.number, &self.path, bytes, at)
        })
    }

    fn sync(&self) -> Result<(), DiskError> {
        let act = |machine: &mut Machine| {
            machine.sync(self.number);
            if self.mode_is_set.swap(false, Ordering::AcqRel) {
                machine.sync_mode(self.number);
            }
            Ok(())
        };
        self.disk.call_or(Call::Sync, &self.path, (0, 0), act, |machine| machine.lose(self.number))
    }

    fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.change(Call::SetLen, (len, 0), |machine| machine.set_len(self.number, &self.path, index(len)?))
    }

    fn set_mode(&self, mode: Mode) -> Result<(), DiskError> {
        let act = |machine: &mut Machine| {
            machine.set_mode(self.number, &self.path, mode);
            self.mode_is_set.store(true, Ordering::Release);
            Ok(())
        };
        self.disk.call_or(Call::SetMode, &self.path, (0, 0), act, |_| ())
    }

    fn status(&self) -> Result<Status, DiskError> {
        self.disk.call(Call::Status, &self.path, |machine| {
            let file = machine.file(self.number);
            Ok(Status { len: file.content.len() as u64, read_only: file.mode == Mode::Sealed })
        })
    }
}
