//! A small log on a fake disk, for tests that spoil it or make its calls fail.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};

use stele_engine::birth::CreateOptions;
use stele_engine::disk::{Access, Disk, Mode};
use stele_engine::error::LogError;
use stele_engine::intake::Submission;
use stele_engine::local::{LocalLog, PushError, Receipt};
use stele_engine::number::{Alignment, BlockHeight};
use stele_engine::reader::{LogReader, Payloads, ReadRecord};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Salt, Subject};
use stele_proof::{LeafIndex, UnixMillis};
use stele_simulator::fake_disk::{FakeDisk, Media};
pub(crate) use stele_simulator::source::environment;

/// Where the log lies.
pub(crate) const LOG: &str = "/log";

pub(crate) fn new_disk() -> FakeDisk {
    FakeDisk::new(Media::WholeSectors, 1)
}

/// A new log with blocks of 256 leaves and frames on 8 bytes.
pub(crate) fn create(disk: &FakeDisk) -> Result<LocalLog, LogError> {
    let options = CreateOptions {
        block_height: BlockHeight::new(8).unwrap(),
        frame_align: Alignment::WORD,
        ..CreateOptions::new(Origin::new("example.com/test").unwrap())
    };
    LocalLog::create(&environment(disk), Path::new(LOG), &options)
}

pub(crate) fn open(disk: &FakeDisk) -> Result<LocalLog, LogError> {
    LocalLog::open(&environment(disk), Path::new(LOG))
}

/// Appends a record; an empty payload is none.
pub(crate) fn push(log: &mut LocalLog, stream: &str, payload: &[u8]) -> Result<Receipt, LogError> {
    let builder = RecordBuilder {
        ts_ms: UnixMillis::new(7),
        writer_id: "w",
        stream,
        kind: "Line",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject::default(),
        reason: "ok",
        attrs: &Object::default(),
        payload: None,
    };
    let salt = Salt::new([3; 32]);
    let payload = Some((&salt, payload)).filter(|(_, payload)| !payload.is_empty());
    log.push(&Submission::Draft { builder: &builder, payload }).map_err(|error| match error {
        PushError::Log(error) => error,
        PushError::Refused(refused) => panic!("a good record was refused: {refused}"),
        other => panic!("{other}"),
    })
}

/// Every record of a good log, with its payload.
pub(crate) fn read_all(disk: &FakeDisk) -> Result<Vec<ReadRecord>, LogError> {
    let reader = LogReader::open(&environment(disk), Path::new(LOG))?;
    let mut records = Vec::new();
    reader.read::<LogError>(LeafIndex::new(0), LeafIndex::new(u64::MAX), Payloads::Read, &mut |record| {
        records.push(record);
        Ok(())
    })?;
    Ok(records)
}

/// Files of the log, by name relative to it.
pub(crate) fn names(disk: &FakeDisk) -> Vec<String> {
    let inside = |path: PathBuf| path.strip_prefix(LOG).ok().map(|name| name.to_str().unwrap().to_owned());
    disk.paths().into_iter().filter_map(inside).collect()
}

pub(crate) fn bytes_of(disk: &FakeDisk, name: &str) -> Option<Vec<u8>> {
    disk.look(&Path::new(LOG).join(name)).map(|(bytes, _)| bytes)
}

/// Puts another content in the place of a file, or none, as somebody does who is not the engine.
pub(crate) fn put(disk: &FakeDisk, name: &str, content: Option<&[u8]>) {
    let path = Path::new(LOG).join(name);
    let mode = disk.look(&path).map_or(Mode::Private, |(_, mode)| mode);
    if disk.look(&path).is_some() {
        disk.remove(&path).unwrap();
    }
    if let Some(bytes) = content {
        let file = disk.open(&path, Access::Create).unwrap();
        file.write_at(bytes, 0).unwrap();
        file.set_mode(mode).unwrap();
    }
    disk.settle();
}
