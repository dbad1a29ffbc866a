//! `stele quickstart`: three sites, one of which is killed.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use stele_client::record::ChainName;
use stele_client::{AppenderOptions, CallError, ChainWriter, Client, Event};
use stele_engine::directory::relative;
use stele_engine::environment::Environment;
use stele_engine::number::SegmentNumber;
use stele_engine::reader::LogReader;
use stele_engine::segment::SegmentFile;
use stele_proof::record::{Actor, Object, Record, Subject};
use stele_proof::{LeafIndex, TreeSize};
use tokio::time::{Instant, sleep};

use super::{Arguments, lines_of, no_line, proof_path, record_path, verify_offline};
use crate::append::append_to;
use crate::cosigned;
use crate::exit::{Exit, Failure};
use crate::prove::write_file;
use crate::remote::{Connected, append, block_on, call};
use crate::sites::{ORIGIN, Plan, Site, Sites};
use crate::stream::Streams;

/// Records that are appended while a site is down.
const MEANWHILE: u64 = 100;
/// How long what a site has flushed takes to be seen in its files.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Bytes that are compared at a time.
const PIECE: usize = 1 << 20;

pub(super) fn run(
    arguments: &Arguments,
    directory: &Path,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    if fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        let why = anyhow!("{} is not empty; name a directory that is new", directory.display());
        return Err(Failure::new(Exit::Failed, why));
    }
    block_on(go_through(arguments, directory, environment, streams))
}

async fn go_through(
    arguments: &Arguments,
    directory: &Path,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    // Sealed soon, so that there is something sealed to be seen.
    let plan = Plan { directory, sites: 3, extra: "seal.after = \"3s\"\n", delay: None };
    let mut sites = Sites::make(environment, &plan).await?;
    if arguments.keep {
        sites.keep();
    }
    let done = steps(arguments, directory, environment, &mut sites, streams).await;
    // What stays after success is stopped after a failure: nobody was told how.
    if !arguments.keep || done.is_err() {
        let stopped = sites.stop().await;
        done?;
        stopped?;
        streams.line("stopped     all three sites")?;
        streams.line("")?;
        streams.line("Go on:")?;
        let log = directory.join("a").join("log");
        streams.line(format_args!("  stele verify log {}", log.display()))?;
    } else {
        tell_kept(&sites, streams)?;
    }
    let (proof, record) = (proof_path(directory), record_path(directory));
    let (proof, record, policy) = (proof.display(), record.display(), directory.join("policy"));
    streams.line(format_args!("  stele verify proof {proof} --record {record} --policy {}", policy.display()))?;
    streams.line(format_args!("  rm -r {}", directory.display()))
}

async fn steps(
    arguments: &Arguments,
    directory: &Path,
    environment: &Environment,
    sites: &mut Sites,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    streams.line(format_args!("made        three sites of the log {ORIGIN} in {}", directory.display()))?;
    streams.flush()?;
    sites.start()?;
    let connected = sites.ready().await?;
    let leader = leader(&connected).await?;
    streams.line(format_args!("started     a node at each; {} leads", named(sites, leader)))?;
    let (count, last) = append_files(arguments, &connected.client, environment, streams).await?;
    streams.line(format_args!(
        "appended    {count} lines, each a record, the last at index {last}; each is on the disks of two sites or more"
    ))?;
    prove_last(environment, directory, &connected, last, streams).await?;

    sites.kill(leader)?;
    streams.line(format_args!("killed      {}, which led, with kill -9", named(sites, leader)))?;
    streams.flush()?;
    let watch = Instant::now();
    append_meanwhile(environment, &connected.client).await?;
    let seconds = watch.elapsed().as_secs_f64();
    streams.line(format_args!(
        "appended    {MEANWHILE} more records meanwhile, in {seconds:.1} s, a new leader's election included"
    ))?;
    sites.start()?;
    sites.ready().await?;
    let size = sites.caught_up().await?;
    streams.line(format_args!("restarted   {}; it has caught up: {size} records", named(sites, leader)))?;
    streams.flush()?;
    seal(&connected.client).await?;
    let segments = sites.sealed(1).await?;
    let size = sites.caught_up().await?;
    let root = same_everywhere(environment, sites, segments, TreeSize::new(size)).await?;
    streams.line(format_args!(
        "sealed      {segments}, the same bytes at all three sites",
        segments = crate::verify::count(usize::try_from(segments).unwrap_or(usize::MAX), "segment")
    ))?;
    streams.line(format_args!("the same    root {root} of {size} records at all three sites"))
}

fn named(sites: &Sites, node: u64) -> String {
    let site = sites.all().iter().find(|site| site.node == node);
    site.map_or_else(|| format!("node {node}"), |site| format!("site {}", site.name))
}

async fn leader(connected: &Connected) -> Result<u64, Failure> {
    let status = connected.client.cluster().status().await.map_err(call)?;
    let leader = status.leader.ok_or_else(|| Failure::new(Exit::Unreachable, anyhow!("no node leads")))?;
    Ok(leader.node)
}

/// Appends every line; answers how many, and the index of the last.
async fn append_files(
    arguments: &Arguments,
    client: &Client,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(u64, LeafIndex), Failure> {
    let (mut count, mut last) = (0, None);
    for file in &arguments.files {
        let appended = append_to(&lines_of(file), client, environment, streams).await?;
        count += appended.count;
        last = appended.last.or(last);
    }
    let last = last.ok_or_else(no_line)?;
    Ok((count, last.index))
}

/// Proves the record, writes record, proof and policy, and verifies them as a stranger would.
async fn prove_last(
    environment: &Environment,
    directory: &Path,
    connected: &Connected,
    index: LeafIndex,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let policy = connected.own_policy()?;
    let proven = cosigned::prove(connected, index, &policy).await?;
    let record = Record::parse(&proven.canonical).map_err(|error| anyhow!(error))?;
    let mut finished = Vec::new();
    record.write_finished(&record.self_hash(), &mut finished);
    finished.push(b'\n');
    write_file(environment, &record_path(directory), &finished)?;
    write_file(environment, &proof_path(directory), proven.proof.to_string().as_bytes())?;
    write_file(environment, &directory.join("policy"), connected.description.policy.as_bytes())?;
    streams.line(format_args!(
        "proved      record {index}, the last line, by {} hashes, signed by a majority of the sites: {}",
        proven.proof.hashes().len(),
        proof_path(directory).display()
    ))?;
    verify_offline(directory, &directory.join("policy"), &proven.proof, streams)
}

async fn append_meanwhile(environment: &Environment, client: &Client) -> Result<(), Failure> {
    let name = ChainName { writer_id: "quickstart".to_owned(), stream: "meanwhile".to_owned() };
    let appender = client.appender(AppenderOptions::default()).map_err(|error| anyhow!(error))?;
    let mut writer = ChainWriter::new(appender, name, None);
    let (mut pending, attrs) = (Vec::new(), Object::default());
    for number in 1..=MEANWHILE {
        let event = Event {
            ts_ms: environment.clock.now(),
            kind: "Line",
            actor: Actor { anon: true, ..Actor::default() },
            subject: Subject::default(),
            reason: "ok",
            attrs: &attrs,
        };
        let payload = Bytes::from(format!("line {number} while a site is down"));
        pending.push(writer.append_with_payload(&event, payload).await.map_err(append)?);
    }
    for answer in pending {
        answer.await.map_err(append)?;
    }
    Ok(())
}

/// Ends the open segment; a server that cannot do so on demand does it by age.
async fn seal(client: &Client) -> Result<(), Failure> {
    match client.cluster().seal_segment().await {
        Ok(_) | Err(CallError::Status { code: tonic::Code::Unimplemented, .. }) => Ok(()),
        Err(error) => Err(call(error)),
    }
}

/// Compares the sealed segments byte for byte and the roots; answers the root.
async fn same_everywhere(
    environment: &Environment,
    sites: &Sites,
    segments: u64,
    size: TreeSize,
) -> Result<String, Failure> {
    let mut roots = Vec::new();
    let mut files: Vec<Vec<SegmentFile>> = Vec::new();
    for site in sites.all() {
        let reader = open(environment, site, size).await?;
        roots.push(reader.root_at(size)?);
        let inventory = reader.inventory();
        let of = |segment| {
            let parts = inventory.payload_parts(segment).map(move |part| SegmentFile::Payloads(segment, part));
            std::iter::once(SegmentFile::Frames(segment)).chain(parts).collect::<Vec<_>>()
        };
        files.push((0..segments).map(SegmentNumber::new).flat_map(of).collect());
    }
    if let Some(other) = roots.iter().find(|root| **root != roots[0]) {
        let why = anyhow!("the sites have different roots of {size} records: {} and {other}", roots[0]);
        return Err(Failure::new(Exit::Unverified, why));
    }
    if files.iter().any(|other| *other != files[0]) {
        return Err(Failure::new(Exit::Unverified, anyhow!("the sites do not have the same sealed files")));
    }
    for file in &files[0] {
        let paths = sites.all().iter().map(|site| site.log().join(relative(*file)));
        if !same_bytes(&paths.collect::<Vec<_>>())? {
            let why = anyhow!("{} has different bytes at two sites", relative(*file));
            return Err(Failure::new(Exit::Unverified, why));
        }
    }
    Ok(roots[0].to_base64())
}

/// Opens a site's log once so much of it is seen to be durable there.
async fn open(environment: &Environment, site: &Site, size: TreeSize) -> Result<LogReader, Failure> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match LogReader::open(environment, &site.log()) {
            Ok(reader) if reader.size() >= size => return Ok(reader),
            Ok(reader) if Instant::now() >= give_up => {
                let why = anyhow!("site {} shows {} records of {size}", site.name, reader.size());
                return Err(Failure::new(Exit::Failed, why));
            }
            Err(error) if Instant::now() >= give_up => return Err(error.into()),
            Ok(_) | Err(_) => sleep(LOOK_AGAIN).await,
        }
    }
}

/// Whether all files hold the same.
pub(super) fn same_bytes(paths: &[std::path::PathBuf]) -> Result<bool, Failure> {
    let cannot = |path: &Path| format!("cannot read {}", path.display());
    let open = |path: &std::path::PathBuf| fs::File::open(path).with_context(|| cannot(path));
    let mut files = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let mut pieces: Vec<Vec<u8>> = vec![Vec::new(); files.len()];
    loop {
        for ((file, piece), path) in files.iter_mut().zip(&mut pieces).zip(paths) {
            piece.clear();
            let most = u64::try_from(PIECE).unwrap_or(u64::MAX);
            file.by_ref().take(most).read_to_end(piece).with_context(|| cannot(path))?;
        }
        if pieces.iter().any(|piece| *piece != pieces[0]) {
            return Ok(false);
        }
        if pieces.first().is_none_or(Vec::is_empty) {
            return Ok(true);
        }
    }
}

fn tell_kept(sites: &Sites, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let endpoints = sites.reach().endpoint.join(",");
    streams.line("kept        all three sites are running")?;
    streams.line("")?;
    streams.line("Use them:")?;
    streams.line(format_args!("  stele cluster status --endpoint {endpoints}"))?;
    streams.line(format_args!("  stele append --endpoint {endpoints} --stream app --writer me --kind Line FILE"))?;
    streams.line(format_args!("  stele tail --endpoint {endpoints} --follow"))?;
    let processes: Vec<String> = sites.all().iter().filter_map(Site::process).map(|id| id.to_string()).collect();
    streams.line("")?;
    streams.line("Stop them:")?;
    streams.line(format_args!("  kill {}", processes.join(" ")))?;
    streams.line("")?;
    streams.line("And:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_differ_only_in_their_last_byte_or_their_length_are_not_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            std::io::Write::write_all(&mut fs::File::create(&path).unwrap(), bytes).unwrap();
            path
        };
        let mut bytes = vec![7; PIECE + 5];
        let (first, second) = (file("a", &bytes), file("b", &bytes));
        let shorter = file("c", &bytes[..PIECE]);
        bytes[PIECE + 4] = 8;
        let other = file("d", &bytes);
        assert!(same_bytes(&[first.clone(), second]).unwrap());
        assert!(!same_bytes(&[first.clone(), shorter]).unwrap());
        assert!(!same_bytes(&[first, other]).unwrap());
    }
}
