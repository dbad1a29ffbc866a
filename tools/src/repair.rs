//! `stele repair`: what is damaged in a log, restored from a copy of it.
//!
//! One line on standard output for each file that was restored or moved, one on standard error for each that was
//! not; `--json` prints one object.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};
use stele_engine::environment::Environment;
use stele_engine::repair::{HeldAgainst, RepairError, RepairReport, Restored, RestoredFile, repair};

use crate::exit::{Exit, Failure};
use crate::stream::Streams;
use crate::verify::{count, progress_bar};

/// The arguments of `stele repair`.
#[derive(Args, Debug)]
#[command(after_help = "\
The log is verified, and each damaged or missing file is built anew: from what is good in it, and for the rest from the
same place of the copy. It is put in place only when it verifies there: against its seal record and the signed root,
or, where neither reaches, by the links of its frames. What it replaces is kept in DIR/quarantine. The copy is only
read; it may be older or newer than the log, and damaged in other places. It takes the log's lock, and can be run again
after an interruption.

Where a log was not closed cleanly and the file in which it ends has lost its flush ring, nothing tells where it ended:
that file is left as it is, and the exit code is 3.

Tile sidecars, state files and log.toml are computed anew. Keys, policy, hard-state and signing-state are never taken
from the copy.

The exit code is 0 where the log verifies afterwards, 3 where damage is left, 6 where there is no log, 7 where it is
locked.

Example:
  stele repair --log audit --from /mnt/backup/audit")]
pub struct Arguments {
    /// The log's directory.
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The copy's directory.
    #[arg(long, value_name = "DIR2")]
    pub from: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`]: exit code 3 where damage is left.
pub fn run(arguments: &Arguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if is_same_directory(&arguments.log, &arguments.from) {
        return Err(failure(RepairError::Itself(arguments.from.clone())));
    }
    let bar = progress_bar()?;
    let report = repair(environment.disk.as_ref(), &arguments.log, &arguments.from, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.bytes);
    });
    bar.finish_and_clear();
    let report = report.map_err(failure)?;
    if arguments.json {
        streams.line(object(&report))?;
    } else {
        lines(arguments, &report, streams)?;
    }
    if report.is_whole() {
        return Ok(());
    }
    for damage in &report.refused {
        streams.tell(format_args!("stele: not restored: {damage}"));
    }
    let left = count(report.refused.len(), "finding");
    Err(Failure::new(Exit::Unverified, anyhow!("{} is still damaged: {left}", arguments.log.display())))
}

fn failure(error: RepairError) -> Failure {
    match error {
        RepairError::Log(error) => error.into(),
        error @ RepairError::NoCopy(_) => Failure::new(Exit::NotFound, anyhow!("{error}")),
        other => Failure::new(Exit::Failed, anyhow!("{other}")),
    }
}

/// Whether two names stand for one directory.
fn is_same_directory(log: &Path, from: &Path) -> bool {
    let [log, from] = [log, from].map(std::fs::canonicalize);
    matches!((log, from), (Ok(log), Ok(from)) if log == from)
}

fn lines(arguments: &Arguments, report: &RepairReport, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let from = arguments.from.display().to_string();
    for file in &report.restored {
        streams.line(sentence(file, &from))?;
    }
    for (file, kept) in &report.moved {
        streams.line(format_args!("moved {file}, which is no file of the log, to {kept}"))?;
    }
    let Some(after) = &report.after else { return Ok(()) };
    for note in &after.notes {
        streams.tell(format_args!("stele: note: {note}"));
    }
    for file in &report.missing {
        streams.tell(format_args!(
            "stele: {file} is missing, and is never taken from a copy: copy it from the backup yourself"
        ));
    }
    if !report.is_whole() {
        return Ok(());
    }
    let done = match (report.restored.is_empty() && report.moved.is_empty(), report.missing.is_empty()) {
        (true, true) => "nothing is damaged",
        (true, false) => "nothing else is missing or damaged",
        (false, _) => "it verifies",
    };
    let root = after.root.to_base64();
    streams.line(format_args!("ok: {done}: {} records in {} segments; root {root}", after.records, after.segments))
}

/// What was done to a file.
fn sentence(file: &RestoredFile, from: &str) -> String {
    let name = &file.file;
    let kept = match &file.quarantined {
        Some(kept) => format!("; what it replaced is {kept}"),
        None => String::new(),
    };
    let ranges: Vec<String> = file.ranges.iter().map(range).collect();
    let ranges = if ranges.is_empty() { String::new() } else { format!(" {}", ranges.join(", ")) };
    match file.held_against {
        HeldAgainst::Frames => format!("computed {name} anew from the frames{kept}"),
        HeldAgainst::OtherCopy => format!("restored {name}{ranges} from the good copy beside it{kept}"),
        HeldAgainst::Settings => format!("computed {name}{ranges} anew from the settings of the log{kept}"),
        held => format!("restored {name}{ranges} from {from}, held against {}{kept}", told(held)),
    }
}

fn told(held: HeldAgainst) -> String {
    match held {
        HeldAgainst::SealRecord => "its seal record".to_owned(),
        HeldAgainst::LinksAndSigned(size) => format!("its links and the signed root of {size} records"),
        HeldAgainst::Links => "its links only".to_owned(),
        HeldAgainst::Frames => "the frames".to_owned(),
        HeldAgainst::OtherCopy => "the good copy beside it".to_owned(),
        HeldAgainst::Settings => "the settings of the log".to_owned(),
        HeldAgainst::RootAndPolicy => "the log's root and its policy".to_owned(),
    }
}

fn range(range: &Restored) -> String {
    let Restored { from, to, leaves } = range;
    if leaves.is_empty() {
        format!("bytes {from}..{to}")
    } else {
        format!("bytes {from}..{to} (records {}..{})", leaves.first, leaves.end)
    }
}

fn object(report: &RepairReport) -> Value {
    let damage = |damage: &stele_engine::error::Damage| {
        json!({
            "file": damage.file, "offset": damage.offset, "record": damage.leaf.map(|leaf| leaf.get()),
            "what": damage.what,
        })
    };
    let ranges = |file: &RestoredFile| -> Vec<Value> {
        let one = |range: &Restored| {
            let records = (!range.leaves.is_empty()).then(|| json!([range.leaves.first.get(), range.leaves.end.get()]));
            json!({"from": range.from, "to": range.to, "records": records})
        };
        file.ranges.iter().map(one).collect()
    };
    let restored = |file: &RestoredFile| {
        json!({
            "file": file.file, "ranges": ranges(file), "held_against": told(file.held_against),
            "quarantined": file.quarantined,
        })
    };
    json!({
        "ok": report.is_whole(),
        "found": report.found.iter().map(damage).collect::<Vec<_>>(),
        "restored": report.restored.iter().map(restored).collect::<Vec<_>>(),
        "moved": report.moved.iter().map(|(file, to)| json!({"file": file, "to": to})).collect::<Vec<_>>(),
        "missing": report.missing,
        "not_restored": report.refused.iter().map(damage).collect::<Vec<_>>(),
        "records": report.after.as_ref().map(|after| after.records.get()),
    })
}
