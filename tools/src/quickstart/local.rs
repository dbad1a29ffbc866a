//! `stele quickstart --local`: the main job once through in one directory, without servers.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use stele_engine::birth::CreateOptions;
use stele_engine::directory::{LogDirectory, relative};
use stele_engine::environment::Environment;
use stele_engine::local::{LocalLog, Receipt};
use stele_engine::number::SegmentNumber;
use stele_engine::reader::{LogReader, Payloads};
use stele_engine::segment::{FRAMES_START, SegmentFile};
use stele_engine::verify::{VerifyOptions, verify_log};
use stele_proof::LeafIndex;
use stele_proof::checkpoint::Origin;
use stele_proof::proof_file::ProofFile;
use stele_proof::record::Record;

use super::{Arguments, lines_of, no_line, proof_path, record_path, verify_offline};
use crate::append::append;
use crate::exit::{Exit, Failure};
use crate::prove::{prove, write_file};
use crate::stream::Streams;

/// Goes once through everything.
///
/// # Errors
/// [`Failure`] of the first step that does not do what it should.
pub(super) fn run(
    arguments: &Arguments,
    directory: &Path,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let path = directory.join("log");
    let origin = Origin::new("example.com/quickstart").map_err(|error| anyhow!(error))?;
    let log = LocalLog::create(environment, &path, &CreateOptions::new(origin))?;
    streams.line(format_args!("made        the log {} in {}", log.genesis().origin, path.display()))?;

    let last = append_files(arguments, log, environment, streams)?;
    let proof = prove_last(environment, directory, last.index, streams)?;
    verify_offline(directory, &directory.join("log").join("policy"), &proof, streams)?;
    flip_a_bit(environment, directory, streams)?;
    go_on(directory, last.index, streams)
}

/// Appends every line, ends and seals the segment; answers the last line's record.
fn append_files(
    arguments: &Arguments,
    mut log: LocalLog,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<Receipt, Failure> {
    let mut count = 0;
    let mut last = None;
    for file in &arguments.files {
        let lines = lines_of(file);
        let appended = append(&lines, &mut log, environment, streams)?;
        count += appended.count;
        last = appended.last.or(last);
    }
    let Some(last) = last else {
        return Err(no_line());
    };
    streams.line(format_args!(
        "appended    {count} lines, each a record, the last at index {}; all are durable",
        last.index
    ))?;
    let segment = log.end_segment()?;
    log.close()?;
    if let Some(segment) = segment {
        streams.line(format_args!("sealed      segment {segment}: read back, recomputed, made read-only"))?;
    }
    Ok(last)
}

/// Signs a checkpoint, proves the record under it, and writes both beside the log.
fn prove_last(
    environment: &Environment,
    directory: &Path,
    index: LeafIndex,
    streams: &mut Streams<'_>,
) -> Result<ProofFile, Failure> {
    let path = directory.join("log");
    let proof = prove(environment, &path, index, streams)?;
    let mut size_and_root = proof.checkpoint().lines().skip(1);
    let (size, root) = (size_and_root.next().unwrap_or_default(), size_and_root.next().unwrap_or_default());
    streams.line(format_args!("checkpoint  {size} records, root {root}"))?;

    let reader = LogReader::open(environment, &path)?;
    let mut finished = Vec::new();
    let end = LeafIndex::new(index.get() + 1);
    reader.read::<Failure>(index, end, Payloads::Leave, &mut |read| {
        let record = Record::parse(&read.canonical).map_err(|error| anyhow!(error))?;
        record.write_finished(&record.self_hash(), &mut finished);
        finished.push(b'\n');
        Ok(())
    })?;
    write_file(environment, &record_path(directory), &finished)?;
    write_file(environment, &proof_path(directory), proof.to_string().as_bytes())?;
    streams.line(format_args!(
        "proved      record {index}, the last line, by {} hashes: {}",
        proof.hashes().len(),
        proof_path(directory).display()
    ))?;
    Ok(proof)
}

/// Flips one bit of the sealed segment in a copy of the log and looks for it.
fn flip_a_bit(environment: &Environment, directory: &Path, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let copy = directory.join("copy");
    copy_directory(&directory.join("log"), &copy)
        .with_context(|| format!("cannot copy the log to {}", copy.display()))?;
    let log = LogDirectory::new(&copy);
    let check = || verify_log(environment.disk.as_ref(), &log, &VerifyOptions::default(), &mut |_| {});
    if let Some(damage) = check()?.findings.first() {
        return Err(Failure::new(Exit::Unverified, anyhow!("the untouched copy does not verify: {damage}")));
    }
    let name = SegmentFile::Frames(SegmentNumber::new(0));
    let victim = log.segment_file(name);
    let at = flip(&victim).with_context(|| format!("cannot change {}", victim.display()))?;
    let report = check()?;
    let Some(damage) = report.findings.first() else {
        return Err(Failure::new(
            Exit::Unverified,
            anyhow!("a flipped bit at byte {at} of {} was not found", relative(name)),
        ));
    };
    streams.line(format_args!("flipped     one bit of a copy, in byte {at} of {}; found:", relative(name)))?;
    streams.line(format_args!("            {damage}"))?;
    fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    Ok(())
}

fn copy_directory(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Flips the lowest bit of the byte in the middle of the frames; answers where.
fn flip(path: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let len = file.metadata()?.len();
    let at = FRAMES_START.get() + (len - FRAMES_START.get()) / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1;
    file.write_all_at(&byte, at)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))?;
    Ok(at)
}

fn go_on(directory: &Path, index: LeafIndex, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let log = directory.join("log");
    let log = log.display();
    streams.line("")?;
    streams.line("Go on:")?;
    streams.line(format_args!("  stele read --log {log} {index}"))?;
    streams.line(format_args!("  stele append --log {log} --stream app --writer me --kind Line FILE"))?;
    streams.line(format_args!("  stele verify log {log}"))?;
    streams.line(format_args!(
        "  stele verify proof {} --record {} --policy {log}/policy",
        proof_path(directory).display(),
        record_path(directory).display()
    ))?;
    streams.line(format_args!("  rm -r {}", directory.display()))
}
