//! A program that embeds the log: several threads emit, the log keeps, a checkpoint is signed, a chain is exported.
//!
//! `cargo run -p stele-engine --features wal,export --example embed -- DIR` makes the log in DIR, which must not exist
//! yet; every `stele` command reads it afterwards.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use stele_engine::birth::CreateOptions;
use stele_engine::environment::Environment;
use stele_engine::sink::export::{Checkpoint, CheckpointSigner, ExportSink, Exporter, Manifest};
use stele_engine::sink::wal::{WalConfig, WalSink};
use stele_engine::sink::{AppendError, AuditSink, RamSettings, RamSink};
use stele_proof::checkpoint::Origin;
use stele_proof::record::{Actor, Object, RecordBuilder, Subject};

/// What a service does for each request: it says what happened, and never waits for room. What is shed is counted
/// ([`AuditSink::counts`]); any other error is a reason to stop serving.
fn serve(sink: &dyn AuditSink, environment: &Environment, writer_id: &str) -> Result<(), AppendError> {
    let attrs = Object::default();
    let draft = RecordBuilder {
        ts_ms: environment.clock.now(),
        writer_id,
        stream: "ingress",
        kind: "GetServed",
        actor: Actor { anon: true, ..Actor::default() },
        subject: Subject { name: Some("/index.html"), ..Subject::default() },
        reason: "ok",
        attrs: &attrs,
        payload: None,
    };
    match sink.emit(&draft) {
        Ok(_) | Err(AppendError::Busy { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Where exports go and what signs them. A real host has a key store and a place that others keep.
struct Host;

impl CheckpointSigner for Host {
    fn signer_key_id(&self) -> &str {
        "none"
    }

    fn alg(&self) -> &str {
        "unsigned"
    }

    fn sign(&self, _: &[u8]) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

impl ExportSink for Host {
    fn write_manifest(&self, _: &Manifest) -> io::Result<()> {
        Ok(())
    }

    fn write_checkpoint(&self, _: &Checkpoint) -> io::Result<()> {
        Ok(())
    }
}

fn run(dir: PathBuf, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
    let environment = Environment::system();

    // A log on disk: what is acknowledged is durable. Threads that emit together share a flush.
    let options = CreateOptions::new(Origin::new("example.com/embed")?);
    let sink = WalSink::create(&environment, &WalConfig::new(dir), &options)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = ["gateway@1", "gateway@2", "gateway@3"]
            .map(|writer_id| {
                let (sink, environment) = (&sink, &environment);
                scope.spawn(move || (0..50).try_for_each(|_| serve(sink, environment, writer_id)))
            })
            .into();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_panic| "a thread panicked")?.map_err(|error| error.to_string())
        })
    })?;
    let counts = sink.counts();
    writeln!(out, "{} records are durable, {} were shed", counts.acknowledged, counts.shed)?;
    write!(out, "{}", sink.checkpoint()?)?;
    sink.close()?;

    // A log in memory, handed on in batches.
    let sink = RamSink::new(RamSettings::default());
    let mut exporter = Exporter::new(&Host, &Host, 20)?;
    for _ in 0..50 {
        serve(&sink, &environment, "gateway@1")?;
        if sink.size()?.get() % 10 == 0 {
            for record in sink.drain(usize::MAX)? {
                exporter.push(&record.canonical)?;
            }
        }
    }
    let manifest = exporter.finish(environment.clock.now())?.ok_or("nothing was exported")?;
    for checkpoint in &manifest.checkpoints {
        writeln!(out, "exported {} to {}: {}", checkpoint.range.first(), checkpoint.range.last(), checkpoint.root)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).ok_or("give a directory that does not exist yet")?;
    run(dir.into(), &mut io::stdout().lock())
}

#[cfg(test)]
mod tests {
    use stele_engine::directory::LogDirectory;
    use stele_engine::disk::RealDisk;
    use stele_engine::verify::{VerifyOptions, verify_log};

    use super::*;

    #[test]
    fn it_runs_and_leaves_a_good_log() {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut out) = (directory.path().join("log"), Vec::new());
        run(path.clone(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with("150 records are durable, 0 were shed\nexample.com/embed\n151\n"), "{out}");
        assert!(out.contains("exported 41 to 50: b3:"), "{out}");
        let options = VerifyOptions::default();
        let report = verify_log(&RealDisk, &LogDirectory::new(&path), &options, &mut |_| {}).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}
