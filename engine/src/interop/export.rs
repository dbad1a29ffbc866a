//! Writing an export.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;

use stele_proof::digest_tree::DigestTree;
use stele_proof::interop::{
    Content, Frame, HEADER_BYTES, MANIFEST_FILE, MAX_SEGMENTS, Manifest, ManifestSegment, SeqRange, Slot, encode_header,
};
use stele_proof::key::SigningKey;
use stele_proof::record::Record;
use stele_proof::{LeafIndex, UnixMillis};

use crate::disk::{Access, Disk, DiskError, DiskFile, Mode, replace};
use crate::environment::Environment;
use crate::error::LogError;
use crate::reader::{LogReader, Payloads, ReadRecord};

use super::{InteropError, Progress};

/// Bytes that are written at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Which records are exported, and how.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions<'o> {
    /// The stream.
    pub stream: &'o str,
    /// The writer.
    pub writer_id: &'o str,
    /// The first `seq`.
    pub first: u64,
    /// The last `seq`, where the chain goes so far.
    pub last: u64,
    /// Records in a segment file.
    pub segment_records: NonZeroU32,
    /// Whether payloads come along.
    pub payloads: Payloads,
    /// What signs a checkpoint for each segment file.
    pub key: Option<&'o SigningKey>,
    /// What the manifest tells as its time; the clock's by default. All else is a function of log and options.
    pub created: Option<UnixMillis>,
}

impl<'o> ExportOptions<'o> {
    /// Records in a segment file, unless asked otherwise.
    pub const SEGMENT_RECORDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(49_999);

    /// A whole chain with its payloads and without checkpoints.
    pub const fn of_chain(stream: &'o str, writer_id: &'o str) -> Self {
        let (first, last, segment_records) = (1, u64::MAX, Self::SEGMENT_RECORDS);
        Self { stream, writer_id, first, last, segment_records, payloads: Payloads::Read, key: None, created: None }
    }
}

/// Writes what is durable of a chain into a directory that does not exist yet or is empty; takes no lock.
///
/// # Errors
/// [`InteropError`]. Whatever was written has no manifest then.
pub fn export(
    environment: &Environment,
    log: &Path,
    directory: &Path,
    options: &ExportOptions<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest, InteropError> {
    let disk = environment.disk.as_ref();
    match disk.list(directory) {
        Ok(names) if !names.is_empty() => return Err(InteropError::Exists(directory.to_owned())),
        Err(error) if error.source.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let reader = LogReader::open(environment, log)?;
    reader.whole()?;
    let manifest = Manifest {
        stream: options.stream.to_owned(),
        writer_id: options.writer_id.to_owned(),
        segments: Vec::new(),
        checkpoints: Vec::new(),
        created: options.created.unwrap_or_else(|| environment.clock.now()),
    };
    let mut export = Export { disk, directory, options, manifest, open: None };
    let total = reader.size().get();
    reader.read::<InteropError>(LeafIndex::new(0), reader.size().next_leaf(), options.payloads, &mut |read| {
        export.take(&read)?;
        progress(Progress { records: read.index.get() + 1, total });
        Ok(())
    })?;
    export.finish()
}

struct Export<'e> {
    disk: &'e dyn Disk,
    directory: &'e Path,
    options: &'e ExportOptions<'e>,
    manifest: Manifest,
    open: Option<OpenSegment>,
}

/// The segment that is being written.
struct OpenSegment {
    first: u64,
    last: u64,
    tree: DigestTree,
    frames: Output,
    payloads: Option<Output>,
}

impl Export<'_> {
    fn take(&mut self, read: &ReadRecord) -> Result<(), InteropError> {
        let record = Record::parse(&read.canonical)
            .map_err(|error| LogError::damaged("segments", 0, Some(read.index), error))?;
        let (options, seq) = (self.options, record.seq());
        if !(options.first..=options.last).contains(&seq)
            || record.stream().decode() != options.stream
            || record.writer_id().decode() != options.writer_id
        {
            return Ok(());
        }
        let before = self.open.as_ref().map(|open| open.last);
        let before = before.or_else(|| self.manifest.segments.last().map(|segment| segment.range.last()));
        if let Some(before) = before.filter(|before| before.checked_add(1) != Some(seq)) {
            let what = format!("seq {seq} follows seq {before} in its chain; restore the log from a copy");
            return Err(LogError::damaged("segments", 0, Some(read.index), what).into());
        }
        let number = self.manifest.segments.len() as u64;
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                if self.manifest.segments.len() == MAX_SEGMENTS {
                    return Err(InteropError::TooManySegments(MAX_SEGMENTS));
                }
                self.disk.create_directory(self.directory)?;
                let frames = Output::create(self.disk, &self.directory.join(name(number, Content::Records)))?;
                OpenSegment { first: seq, last: seq, tree: DigestTree::new(), frames, payloads: None }
            }
        };
        let open = self.open.insert(open);
        let self_hash = record.self_hash();
        open.last = seq;
        open.tree.push(*self_hash.as_bytes());
        Frame::of(&record, self_hash).write(&mut open.frames.buffer);
        open.frames.count += 1;
        open.frames.write_full()?;
        if let Some((salt, payload)) = &read.payload {
            if open.payloads.is_none() {
                let path = self.directory.join(name(number, Content::Payloads));
                open.payloads = Some(Output::create(self.disk, &path)?);
            }
            if let Some(payloads) = &mut open.payloads {
                Slot { seq, salt: *salt, payload }.write(&mut payloads.buffer);
                payloads.count += 1;
                payloads.write_full()?;
            }
        }
        if open.frames.count == options.segment_records.get() { self.end_segment() } else { Ok(()) }
    }

    fn end_segment(&mut self) -> Result<(), InteropError> {
        let Some(OpenSegment { first, last, tree, frames, payloads }) = self.open.take() else { return Ok(()) };
        let (Some(range), Some(root)) = (SeqRange::new(first, last), tree.root()) else {
            unreachable!("an open segment has 1 to 2^32 - 1 records");
        };
        frames.finish(Content::Records)?;
        if let Some(payloads) = payloads {
            payloads.finish(Content::Payloads)?;
        }
        let number = self.manifest.segments.len() as u64;
        self.manifest.segments.push(ManifestSegment { number, range, root });
        if let Some(key) = self.options.key {
            self.manifest.sign(range, root, key).map_err(InteropError::Key)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Manifest, InteropError> {
        self.end_segment()?;
        if self.manifest.segments.is_empty() {
            let Manifest { stream, writer_id, .. } = self.manifest;
            return Err(InteropError::Nothing { stream, writer_id });
        }
        self.disk.sync_directory(self.directory)?;
        // The manifest is the commit point: its name appears when everything it names is durable.
        replace(self.disk, &self.directory.join(MANIFEST_FILE), &self.manifest.encode(), Mode::Private)?;
        Ok(self.manifest)
    }
}

fn name(number: u64, content: Content) -> String {
    match content {
        Content::Records => format!("wal-{number:06}.seg"),
        Content::Payloads => format!("wal-{number:06}.pay"),
    }
}

/// A file that is written front to back, its header last.
struct Output {
    file: Box<dyn DiskFile>,
    buffer: Vec<u8>,
    at: u64,
    count: u32,
}

impl Output {
    fn create(disk: &dyn Disk, path: &Path) -> Result<Self, DiskError> {
        Ok(Self { file: disk.open(path, Access::Create)?, buffer: Vec::new(), at: HEADER_BYTES as u64, count: 0 })
    }

    fn write_full(&mut self) -> Result<(), DiskError> {
        if self.buffer.len() >= CHUNK_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), DiskError> {
        self.file.write_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, content: Content) -> Result<(), DiskError> {
        self.write()?;
        self.file.write_at(&encode_header(content, self.count), 0)?;
        self.file.sync()
    }
}
