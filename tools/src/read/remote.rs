//! Records of a cluster, each hashed again here before it is printed. Under a policy they are proved first, row by row;
//! without one the user is told that they are not.

use anyhow::anyhow;
use stele_client::reader::{Freshness, Payloads};
use stele_client::{Assurance, PayloadState, ReadRange, Reader, VerifiedRecord};
use stele_engine::reader::ReadRecord;
use stele_proof::{LeafIndex, TreeSize};

use super::{Form, Printer, TailArguments};
use crate::context::Reach;
use crate::cosigned::next;
use crate::exit::{Exit, Failure};
use crate::remote::{Connected, block_on, connect};
use crate::stream::Streams;

/// Said once, before the first record that is not proved.
const NOT_PROVED: &str = "stele: note: not proved: without --policy these are the records that a node sent, and one that \
                          lies is not found out";

/// Prints a range, clipped at the end of the log.
pub(super) fn run(
    reach: &Reach,
    first: LeafIndex,
    end: LeafIndex,
    form: Form,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    block_on(async {
        let connected = connect(reach).await?;
        let range = ReadRange {
            start: first,
            end: Some(TreeSize::new(end.get())),
            payloads: payloads(form),
            freshness: Freshness::Linearizable,
        };
        let mut copying = Copying::new(connected.client.read(range, assurance(&connected)?));
        let mut printer = Printer::new(form, streams);
        let done = copying.rest(&mut printer).await;
        // What was read before a damaged record is good, and is handed out first.
        let printed = printer.finish()?;
        done?;
        if printed == 0 {
            return Err(Failure::new(Exit::NotFound, anyhow!("the log has no record {first}")));
        }
        Ok(())
    })
}

/// Prints the last records, and follows where that was asked. Which are the last is the word of the node that answers.
pub(super) fn run_tail(arguments: &TailArguments, reach: &Reach, streams: &mut Streams<'_>) -> Result<(), Failure> {
    block_on(async {
        let connected = connect(reach).await?;
        let (form, assurance) = (arguments.form, assurance(&connected)?);
        let size = connected.description.size;
        let first = LeafIndex::new(size.saturating_sub(arguments.records));
        let mut printer = Printer::new(form, streams);
        if arguments.follow {
            let mut copying = Copying::new(connected.client.tail(first, payloads(form), assurance));
            while copying.one(&mut printer).await? {
                printer.hand_out()?;
            }
        } else if first.get() < size {
            let (end, payloads) = (Some(TreeSize::new(size)), payloads(form));
            let range = ReadRange { start: first, end, payloads, freshness: Freshness::Local };
            let mut copying = Copying::new(connected.client.read(range, assurance));
            let done = copying.rest(&mut printer).await;
            printer.hand_out()?;
            done?;
            let position = copying.reader.position();
            if position.get() < size {
                let why =
                    anyhow!("the log is said to have {size} records, and none came from {position} on; try again");
                return Err(Failure::new(Exit::Unreachable, why));
            }
        }
        Ok(())
    })
}

const fn payloads(form: Form) -> Payloads {
    if form.payload { Payloads::With } else { Payloads::Without }
}

fn assurance(connected: &Connected) -> Result<Assurance, Failure> {
    Ok(connected.given_policy()?.map_or(Assurance::Canonical, Assurance::Proven))
}

/// Records on their way from a reader to the output.
struct Copying {
    reader: Reader,
    told: Told,
}

/// What the user knows of records that are not proved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    NotProved,
}

impl Copying {
    const fn new(reader: Reader) -> Self {
        Self { reader, told: Told::Nothing }
    }

    /// Prints the next record; answers whether there was one.
    async fn one(&mut self, printer: &mut Printer<'_, '_>) -> Result<bool, Failure> {
        let Some(record) = next(&mut self.reader).await? else { return Ok(false) };
        if record.proven.is_none() && self.told == Told::Nothing {
            printer.streams.tell(NOT_PROVED);
            self.told = Told::NotProved;
        }
        printer.record(&plain(record))?;
        Ok(true)
    }

    /// Prints all that is left.
    async fn rest(&mut self, printer: &mut Printer<'_, '_>) -> Result<(), Failure> {
        while self.one(printer).await? {}
        Ok(())
    }
}

fn plain(record: VerifiedRecord) -> ReadRecord {
    let payload = match record.payload {
        PayloadState::Present(payload) => Some((payload.salt, payload.bytes.to_vec())),
        PayloadState::None | PayloadState::Absent(_) => None,
    };
    ReadRecord { index: record.index, canonical: record.canonical.to_vec(), payload }
}
