//! What the fake disk keeps, loses and refuses, through the seam only.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use stele_engine::disk::{Access, Disk, DiskFile, Locking, Mode, read_small, replace};
use stele_simulator::fake_disk::{FakeDisk, Guard, Media};
use stele_simulator::fault::{Call, Calls, Cause, Fault, Flavour, Lasting};
use stele_simulator::random::SplitMix64;

fn disk() -> FakeDisk {
    FakeDisk::new(Media::TearsSectors, 1)
}

fn path() -> &'static Path {
    Path::new("/a")
}

fn created(disk: &FakeDisk, bytes: &[u8]) -> Box<dyn DiskFile> {
    let file = disk.open(path(), Access::Create).unwrap();
    file.write_at(bytes, 0).unwrap();
    file
}

fn durable(disk: &FakeDisk, bytes: &[u8]) -> Box<dyn DiskFile> {
    let file = created(disk, bytes);
    file.sync().unwrap();
    disk.sync_directory(Path::new("/")).unwrap();
    file
}

/// What the file holds after many crashes of the same moment.
fn crashes(disk: &FakeDisk) -> BTreeSet<Option<Vec<u8>>> {
    (0..200).map(|seed| disk.crash(&mut SplitMix64::new(seed)).look(path()).map(|(bytes, _)| bytes)).collect()
}

fn fault(call: Call, flavour: Flavour) -> Fault {
    Fault { calls: Calls::Only(call), nth: 1, lasting: Lasting::Once, flavour, cause: Cause::Io }
}

#[test]
fn a_file_needs_both_flushes_to_survive() {
    let disk = disk();
    let file = created(&disk, b"x");
    file.sync().unwrap();
    assert_eq!(crashes(&disk.snapshot()), [None, Some(b"x".to_vec())].into());
    disk.sync_directory(Path::new("/")).unwrap();
    assert_eq!(crashes(&disk), [Some(b"x".to_vec())].into());
}

#[test]
fn replacing_a_file_leaves_the_old_or_the_new_at_every_call() {
    let whole = |flavour| {
        for call in 1.. {
            let disk = disk();
            replace(&disk, path(), b"old", Mode::Private).unwrap();
            disk.power_off_in(call, flavour);
            let done = replace(&disk, path(), b"new", Mode::Private).is_ok();
            let found = crashes(&disk);
            let allowed = if done { [&b"new"[..]].into() } else { BTreeSet::from([&b"old"[..], b"new"]) };
            assert!(found.iter().all(|found| allowed.contains(found.as_deref().unwrap())), "call {call}: {found:?}");
            if done {
                return call;
            }
        }
        unreachable!("replacing makes few calls")
    };
    assert_eq!(whole(Flavour::Failed), 8, "remove, create, write, mode, flush, rename, directory");
    assert_eq!(whole(Flavour::FailedButApplied), 8);
}

#[test]
fn after_a_crash_old_handles_and_the_old_disk_fail_and_the_new_one_does_not() {
    let old = disk();
    let file = durable(&old, b"x");
    let Locking::Taken(lock) = old.lock(Path::new("/lock"), "me").unwrap() else { panic!("nobody held it") };
    let new = old.crash(&mut SplitMix64::new(1));
    assert!(file.write_at(b"y", 0).is_err());
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(file.sync().is_err());
    assert!(old.list(Path::new("/")).is_err());
    assert!(matches!(new.lock(Path::new("/lock"), "new").unwrap(), Locking::Taken(_)));
    drop(lock);
    assert_eq!(read_small(&new, path(), 9).unwrap().unwrap(), b"x");
}

#[test]
fn machines_are_the_same_only_with_the_same_names_bytes_and_modes_all_durable() {
    let one = disk();
    let file = durable(&one, b"x");
    let two = one.crash(&mut SplitMix64::new(1));
    assert!(two.is_same_as(&two.snapshot()) && two.is_same_as(&two.crash(&mut SplitMix64::new(2))));
    drop(file);
    let changed = |change: &dyn Fn(&FakeDisk)| {
        let three = two.snapshot();
        change(&three);
        three.is_same_as(&two.snapshot())
    };
    let open = |disk: &FakeDisk| disk.open(path(), Access::Write).unwrap();
    assert!(changed(&|_| ()));
    assert!(!changed(&|disk| open(disk).write_at(b"x", 0).unwrap()), "the same bytes, not yet flushed");
    assert!(!changed(&|disk| disk.flip_bit(path(), 0, 0)));
    assert!(!changed(&|disk| {
        open(disk).set_mode(Mode::Sealed).unwrap();
        disk.settle();
    }));
    assert!(!changed(&|disk| {
        drop(disk.open(Path::new("/b"), Access::Create).unwrap());
        disk.settle();
    }));
    assert!(!changed(&|disk| {
        disk.rename(path(), Path::new("/b")).unwrap();
        disk.settle();
    }));
}

#[test]
fn after_a_kill_everything_is_seen_and_nothing_more_is_durable() {
    let old = disk();
    created(&old, b"x");
    let new = old.kill();
    assert!(old.open(path(), Access::Read).is_err());
    assert_eq!(read_small(&new, path(), 9).unwrap().unwrap(), b"x");
    let found = crashes(&new);
    assert!(found.contains(&None) && found.contains(&Some(b"x".to_vec())) && found.len() > 2, "{found:?}");
}

#[test]
fn the_mode_is_durable_with_the_flush_of_the_handle_that_set_it() {
    let disk = disk();
    let file = durable(&disk, b"x");
    file.set_mode(Mode::Sealed).unwrap();
    let modes = |disk: &FakeDisk| -> BTreeSet<bool> {
        let sealed = |seed| disk.crash(&mut SplitMix64::new(seed)).look(path()).unwrap().1 == Mode::Sealed;
        (0..50).map(sealed).collect()
    };
    disk.open(path(), Access::Read).unwrap().sync().unwrap();
    assert_eq!(modes(&disk.snapshot()), [false, true].into());
    file.sync().unwrap();
    assert_eq!(modes(&disk), [true].into());
}

#[test]
fn the_same_calls_and_seeds_give_the_same_bytes() {
    let run = || {
        let disk = disk();
        let file = created(&disk, &[1; 9000]);
        disk.inject(fault(Call::Sync, Flavour::Failed));
        assert!(file.sync().is_err());
        file.write_at(&[2; 5000], 3000).unwrap();
        (crashes(&disk), disk.trace())
    };
    assert_eq!(run(), run());
}

#[test]
fn every_call_can_be_failed_in_both_flavours() {
    for flavour in [Flavour::Failed, Flavour::FailedButApplied] {
        let applied = flavour == Flavour::FailedButApplied;
        let failing = |call, act: &dyn Fn(&FakeDisk, &dyn DiskFile) -> bool| {
            let disk = disk();
            let file = durable(&disk, b"x");
            disk.inject(fault(call, flavour));
            assert!(!act(&disk, file.as_ref()), "{call:?}");
            assert!(act(&disk, file.as_ref()) || applied, "{call:?}: once only");
            assert!(disk.trace().contains("made to fail"));
            disk
        };
        let root = Path::new("/");
        let b = Path::new("/b");
        let seen = |disk: FakeDisk| disk.look(path()).map(|(bytes, _)| bytes);
        failing(Call::Open, &|disk, _| disk.open(path(), Access::Read).is_ok());
        failing(Call::Create, &|disk, _| disk.open(b, Access::Create).is_ok());
        failing(Call::Read, &|_, file| file.read_at(&mut [0], 0).is_ok());
        failing(Call::Status, &|_, file| file.status().is_ok());
        failing(Call::SetMode, &|_, file| file.set_mode(Mode::Public).is_ok());
        failing(Call::List, &|disk, _| disk.list(root).is_ok());
        failing(Call::CreateDirectory, &|disk, _| disk.create_directory(b).is_ok());
        failing(Call::SyncDirectory, &|disk, _| disk.sync_directory(root).is_ok());
        failing(Call::Sync, &|_, file| file.sync().is_ok());
        failing(Call::FreeBytes, &|disk, _| disk.free_bytes(root).is_ok());
        failing(Call::IsLocked, &|disk, _| disk.is_locked(path()).is_ok());
        failing(Call::Rename, &|disk, _| disk.rename(path(), b).is_ok());
        failing(Call::Remove, &|disk, _| disk.remove(path()).is_ok());
        failing(Call::Write, &|_, file| file.write_at(b"y", 0).is_ok());
        failing(Call::SetLen, &|_, file| file.set_len(7).is_ok());
        failing(Call::Lock, &|disk, _| matches!(disk.lock(b, "me"), Ok(Locking::Taken(_))));

        let disk = disk();
        let file = durable(&disk, b"x");
        disk.inject(fault(Call::Write, flavour));
        assert!(file.write_at(b"y", 0).is_err());
        assert_eq!(seen(disk).unwrap(), if applied { b"y" } else { b"x" });
    }
}

#[test]
fn faults_are_counted_per_kind_and_path_and_can_last() {
    let disk = disk();
    let file = durable(&disk, b"x");
    let calls = Calls::At(Call::Write, path().to_owned());
    let cause = Cause::NoSpace;
    disk.inject(Fault { calls, nth: 2, lasting: Lasting::FromThenOn, flavour: Flavour::Failed, cause });
    let other = disk.open(Path::new("/b"), Access::Create).unwrap();
    file.write_at(b"y", 0).unwrap();
    for _ in 0..3 {
        other.write_at(b"y", 0).unwrap();
        assert_eq!(file.write_at(b"z", 0).unwrap_err().source.kind(), ErrorKind::StorageFull);
    }
    disk.clear_faults();
    file.write_at(b"z", 0).unwrap();
    assert_eq!(disk.count(Call::Write), 1 + 1 + 3 + 3 + 1);
}

#[test]
fn after_a_failed_flush_nothing_is_durable_for_certain_and_a_later_one_does_not_help() {
    let mut found = BTreeSet::new();
    for seed in 0..50 {
        let disk = FakeDisk::new(Media::WholeSectors, seed);
        let file = durable(&disk, b"x");
        file.write_at(b"y", 0).unwrap();
        disk.inject(fault(Call::Sync, Flavour::Failed));
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(read_small(&disk, path(), 9).unwrap().unwrap(), b"y");
        found.extend(crashes(&disk));
    }
    assert_eq!(found, [Some(b"x".to_vec()), Some(b"y".to_vec())].into());
}

#[test]
fn a_full_disk_refuses_and_keeps_what_fits_or_nothing() {
    for (flavour, kept) in [(Flavour::Failed, 10), (Flavour::FailedButApplied, 16)] {
        let disk = disk();
        let file = durable(&disk, &[1; 10]);
        disk.set_capacity(16, flavour);
        assert_eq!(file.write_at(&[2; 10], 8).unwrap_err().source.kind(), ErrorKind::StorageFull);
        assert_eq!((disk.used(), disk.free_bytes(Path::new("/")).unwrap()), (kept, 16 - kept));
        assert_eq!(file.set_len(17).unwrap_err().source.kind(), ErrorKind::StorageFull);
        file.write_at(&[3; 10], 0).unwrap();
        file.set_len(16).unwrap();
        file.set_len(4).unwrap();
        file.write_at(&[4; 12], 4).unwrap();
    }
}

#[test]
fn a_change_of_a_sealed_file_panics_or_is_recorded() {
    let disk = disk();
    let file = durable(&disk, b"xyz");
    file.set_mode(Mode::Sealed).unwrap();
    assert_eq!(disk.open(path(), Access::Write).map(|_| ()).unwrap_err().source.kind(), ErrorKind::PermissionDenied);
    file.write_at(b"y", 1).unwrap();
    file.set_len(3).unwrap();
    assert!(disk.violations().is_empty(), "the same bytes again are no change");
    for change in
        [&(|| file.write_at(b"x", 1)) as &dyn Fn() -> _, &|| file.write_at(b"!", 3), &|| file.set_len(2), &|| {
            file.set_mode(Mode::Private)
        }]
    {
        assert!(catch_unwind(AssertUnwindSafe(change)).is_err());
    }
    disk.set_guard(Guard::Records);
    file.write_at(b"x", 1).unwrap();
    assert_eq!(disk.violations(), ["/a is sealed and was written at 1"]);
}

#[test]
fn direct_reads_must_be_aligned() {
    let disk = disk();
    durable(&disk, &[1; 4096]);
    let file = disk.open(path(), Access::ReadDirect).unwrap();
    let mut buffer = vec![0; 4096];
    let slack = buffer.as_ptr().align_offset(512);
    assert_eq!(file.read_at(&mut buffer[slack..slack + 1024], 512).unwrap(), 1024);
    assert!(file.read_at(&mut buffer[slack..slack + 1024], 100).is_err());
    assert!(file.read_at(&mut buffer[slack..slack + 1000], 0).is_err());
    assert!(file.read_at(&mut buffer[slack + 1..slack + 513], 0).is_err());
}

#[test]
fn direct_writes_must_be_aligned_and_are_under_way_until_they_are_flushed() {
    let disk = disk();
    durable(&disk, &[1; 1024]);
    let file = disk.open(path(), Access::WriteDirect).unwrap();
    let buffer = vec![2; 4096];
    let slack = buffer.as_ptr().align_offset(512);
    assert!(file.write_at(&buffer[slack..slack + 512], 100).is_err());
    assert!(file.write_at(&buffer[slack..slack + 500], 0).is_err());
    assert!(file.write_at(&buffer[slack + 1..slack + 513], 0).is_err());
    file.write_at(&buffer[slack..slack + 1024], 0).unwrap();
    assert_eq!(read_small(&disk, path(), 1024).unwrap().unwrap(), [2; 1024]);
    assert!(crashes(&disk.snapshot()).len() > 2, "all old, all new, and between");
    file.sync().unwrap();
    assert_eq!(crashes(&disk), [Some(vec![2; 1024])].into());
}

#[test]
fn a_flipped_bit_is_there_before_and_after_a_crash() {
    let disk = disk();
    durable(&disk, &[0; 1000]);
    disk.flip_bit(path(), 700, 3);
    let found = disk.crash(&mut SplitMix64::new(1)).look(path()).unwrap().0;
    assert_eq!(disk.look(path()).unwrap().0[700], 8);
    assert_eq!(found[700], 8);
}
