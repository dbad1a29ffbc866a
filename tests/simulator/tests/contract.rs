//! The contract of the seam, kept by the real file system and by the fake disk alike.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::ErrorKind;
use std::path::Path;

use stele_engine::disk::{
    Access, Disk, DiskError, DiskFile, Locking, Mode, RealDisk, Status, read_small, read_up_to, replace,
};
use stele_simulator::fake_disk::{FakeDisk, Media};
use stele_simulator::fault::Call;
use stele_simulator::tree::{dump, load};

/// Runs a check on both disks, in an empty directory of each.
fn on_both(check: impl Fn(&dyn Disk, &Path)) {
    let real = tempfile::tempdir().unwrap();
    check(&RealDisk, real.path());
    let fake = FakeDisk::new(Media::TearsSectors, 1);
    fake.create_directory(Path::new("/some/where")).unwrap();
    check(&fake, Path::new("/some/where"));
}

fn kind<T>(result: Result<T, DiskError>) -> ErrorKind {
    result.map(|_| ()).unwrap_err().source.kind()
}

fn all(file: &dyn DiskFile) -> Vec<u8> {
    read_up_to(file, 0, 1 << 16).unwrap()
}

#[test]
fn what_is_written_is_read_at_once_through_every_handle() {
    on_both(|disk, base| {
        let path = base.join("a");
        let file = disk.open(&path, Access::Create).unwrap();
        let other = disk.open(&path, Access::Read).unwrap();
        file.write_at(b"hello", 3).unwrap();
        assert_eq!(all(other.as_ref()), b"\0\0\0hello");
        file.write_at(b"J", 3).unwrap();
        file.sync().unwrap();
        assert_eq!(all(disk.open(&path, Access::Write).unwrap().as_ref()), b"\0\0\0Jello");
        assert_eq!(other.status().unwrap(), Status { len: 8, read_only: false });
    });
}

#[test]
fn reads_end_with_the_file() {
    on_both(|disk, base| {
        let file = disk.open(&base.join("a"), Access::Create).unwrap();
        file.write_at(&[7; 100], 0).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(file.read_at(&mut buffer, 80).unwrap(), 20);
        assert_eq!(file.read_at(&mut buffer, 100).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 5000).unwrap(), 0);
        assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    });
}

#[test]
fn direct_reads_see_what_was_written() {
    on_both(|disk, base| {
        let path = base.join("a");
        disk.open(&path, Access::Create).unwrap().write_at(&[9; 5000], 0).unwrap();
        let file = disk.open(&path, Access::ReadDirect).unwrap();
        let mut buffer = vec![0; 3 * 4096];
        let slack = buffer.as_ptr().align_offset(4096);
        let window = &mut buffer[slack..slack + 8192];
        assert_eq!(file.read_at(window, 0).unwrap(), 5000);
        assert_eq!(window[..5000], [9; 5000]);
        assert_eq!(file.read_at(window, 4096).unwrap(), 904);
    });
}

#[test]
fn a_file_is_cut_and_grows_with_zeros() {
    on_both(|disk, base| {
        let file = disk.open(&base.join("a"), Access::Create).unwrap();
        file.write_at(&[1; 1000], 0).unwrap();
        file.set_len(10).unwrap();
        file.set_len(20).unwrap();
        let bytes = all(file.as_ref());
        assert_eq!((&bytes[..10], &bytes[10..]), (&[1; 10][..], &[0; 10][..]));
    });
}

#[test]
fn opening_refuses_what_is_not_there_and_creating_what_is() {
    on_both(|disk, base| {
        for access in [Access::Read, Access::ReadDirect, Access::Write] {
            assert_eq!(kind(disk.open(&base.join("a"), access)), ErrorKind::NotFound);
        }
        assert_eq!(kind(disk.open(&base.join("no/a"), Access::Create)), ErrorKind::NotFound);
        disk.open(&base.join("a"), Access::Create).unwrap();
        assert_eq!(kind(disk.open(&base.join("a"), Access::Create)), ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.open(&base.join("a/b"), Access::Read)), ErrorKind::NotADirectory);
    });
}

#[test]
fn a_handle_for_reading_changes_nothing() {
    on_both(|disk, base| {
        let path = base.join("a");
        disk.open(&path, Access::Create).unwrap().write_at(b"x", 0).unwrap();
        let file = disk.open(&path, Access::Read).unwrap();
        assert!(file.write_at(b"y", 0).is_err());
        assert!(file.set_len(0).is_err());
        file.sync().unwrap();
        assert_eq!(all(file.as_ref()), b"x");
    });
}

#[test]
fn a_sealed_file_says_so() {
    on_both(|disk, base| {
        let file = disk.open(&base.join("a"), Access::Create).unwrap();
        file.set_mode(Mode::Sealed).unwrap();
        file.sync().unwrap();
        assert!(file.status().unwrap().read_only);
        assert!(disk.open(&base.join("a"), Access::Read).unwrap().status().unwrap().read_only);
        let file = disk.open(&base.join("b"), Access::Create).unwrap();
        file.set_mode(Mode::Public).unwrap();
        assert!(!file.status().unwrap().read_only);
    });
}

#[test]
fn a_renamed_file_replaces_and_open_handles_stay_with_their_file() {
    on_both(|disk, base| {
        let (a, b) = (base.join("a"), base.join("b"));
        let old = disk.open(&b, Access::Create).unwrap();
        old.write_at(b"old", 0).unwrap();
        disk.open(&a, Access::Create).unwrap().write_at(b"new", 0).unwrap();
        disk.rename(&a, &b).unwrap();
        disk.sync_directory(base).unwrap();
        assert_eq!(read_small(disk, &b, 10).unwrap().unwrap(), b"new");
        assert_eq!(read_small(disk, &a, 10).unwrap(), None);
        assert_eq!(all(old.as_ref()), b"old");
        assert_eq!(kind(disk.rename(&a, &b)), ErrorKind::NotFound);
        disk.rename(&b, &b).unwrap();
        assert_eq!(disk.list(base).unwrap(), ["b"]);
    });
}

#[test]
fn a_removed_file_is_gone_and_its_handles_go_on() {
    on_both(|disk, base| {
        let path = base.join("a");
        let file = disk.open(&path, Access::Create).unwrap();
        disk.remove(&path).unwrap();
        file.write_at(b"x", 0).unwrap();
        assert_eq!(all(file.as_ref()), b"x");
        assert_eq!(kind(disk.remove(&path)), ErrorKind::NotFound);
        assert!(disk.list(base).unwrap().is_empty());
    });
}

#[test]
fn directories_are_made_with_their_parents_and_listed_in_order() {
    on_both(|disk, base| {
        disk.create_directory(&base.join("x/y")).unwrap();
        disk.create_directory(&base.join("x/y")).unwrap();
        disk.open(&base.join("x/y/b"), Access::Create).unwrap();
        disk.open(&base.join("x/y/a"), Access::Create).unwrap();
        disk.open(&base.join("x/y-z"), Access::Create).unwrap();
        assert_eq!(disk.list(&base.join("x")).unwrap(), ["y", "y-z"]);
        assert_eq!(disk.list(&base.join("x/y")).unwrap(), ["a", "b"]);
        assert_eq!(kind(disk.list(&base.join("no"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.list(&base.join("x/y/a"))), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.create_directory(&base.join("x/y/a"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.create_directory(&base.join("x/y/a/c"))), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.sync_directory(&base.join("no"))), ErrorKind::NotFound);
    });
}

#[test]
fn a_lock_is_held_by_one_and_given_back() {
    on_both(|disk, base| {
        let path = base.join("lock");
        assert!(!disk.is_locked(&path).unwrap());
        let Locking::Taken(lock) = disk.lock(&path, "first\n").unwrap() else { panic!("nobody held it") };
        assert!(disk.is_locked(&path).unwrap());
        match disk.lock(&path, "second\n").unwrap() {
            Locking::HeldBy(note) => assert_eq!(note, "first"),
            Locking::Taken(_) => panic!("it is held"),
        }
        drop(lock);
        assert!(!disk.is_locked(&path).unwrap());
        assert!(matches!(disk.lock(&path, "3").unwrap(), Locking::Taken(_)));
        assert_eq!(read_small(disk, &path, 100).unwrap().unwrap().trim_ascii_end(), b"3");
    });
}

#[test]
fn there_is_room_and_it_is_told() {
    on_both(|disk, base| {
        assert!(disk.free_bytes(base).unwrap() > 1 << 20);
        assert_eq!(kind(disk.free_bytes(&base.join("no"))), ErrorKind::NotFound);
    });
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    on_both(|disk, base| {
        let path = base.join("a");
        for content in [&b"one"[..], b"two and more", b"3"] {
            replace(disk, &path, content, Mode::Sealed).unwrap();
            assert_eq!(read_small(disk, &path, 100).unwrap().unwrap(), content);
        }
        assert_eq!(disk.list(base).unwrap(), ["a"]);
    });
}

#[test]
fn a_tree_goes_to_the_fake_disk_and_back() {
    let real = tempfile::tempdir().unwrap();
    let base = real.path().join("base");
    RealDisk.create_directory(&base.join("d")).unwrap();
    replace(&RealDisk, &base.join("d/sealed"), b"s", Mode::Sealed).unwrap();
    replace(&RealDisk, &base.join("open"), b"o", Mode::Private).unwrap();
    let fake = load(&base, Media::TearsSectors, 1).unwrap();
    assert_eq!(fake.paths(), [base.join("d/sealed"), base.join("open")]);
    assert_eq!(fake.look(&base.join("d/sealed")).unwrap(), (b"s".to_vec(), Mode::Sealed));
    assert_eq!(Call::ALL.map(|call| fake.count(call)), [0; 16]);
    fake.power_off();
    dump(&fake, &base, &real.path().join("copy")).unwrap();
    assert_eq!(std::fs::read(real.path().join("copy/d/sealed")).unwrap(), b"s");
    assert_eq!(std::fs::read(real.path().join("copy/open")).unwrap(), b"o");
}
