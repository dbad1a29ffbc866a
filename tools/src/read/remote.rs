//! Records of a cluster, each hashed again here before it is printed. Whether they are in the log is not proved: the hash
//! is that of what came, and no policy is looked at; `stele prove` does that.

use stele_client::reader::{Freshness, Payloads};
use stele_client::{Assurance, PayloadState, ReadRange, Reader, VerifiedRecord};
use stele_engine::reader::ReadRecord;
use stele_proof::{LeafIndex, TreeSize};

use super::{Form, Printer, TailArguments};
use crate::context::Reach;
use crate::exit::{Exit, Failure};
use crate::remote::{block_on, call, connect};
use crate::stream::Streams;

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
        let mut reader = connected.client.read(range, Assurance::Canonical);
        let mut printer = Printer::new(form, streams);
        let done = print(&mut reader, &mut printer).await;
        // What was read before a damaged record is good, and is handed out first.
        let printed = printer.finish()?;
        done?;
        if printed == 0 {
            return Err(Failure::new(Exit::NotFound, anyhow::anyhow!("the log has no record {first}")));
        }
        Ok(())
    })
}

/// Prints the last records, and follows where that was asked.
pub(super) fn run_tail(arguments: &TailArguments, reach: &Reach, streams: &mut Streams<'_>) -> Result<(), Failure> {
    block_on(async {
        let connected = connect(reach).await?;
        let form = arguments.form;
        let size = connected.description.size;
        let first = LeafIndex::new(size.saturating_sub(arguments.records));
        let mut printer = Printer::new(form, streams);
        if first.get() < size {
            let (end, payloads) = (Some(TreeSize::new(size)), payloads(form));
            let range = ReadRange { start: first, end, payloads, freshness: Freshness::Local };
            print(&mut connected.client.read(range, Assurance::Canonical), &mut printer).await?;
        }
        printer.hand_out()?;
        if !arguments.follow {
            return Ok(());
        }
        let mut reader = connected.client.tail(LeafIndex::new(size), payloads(form), Assurance::Canonical);
        while let Some(record) = reader.next().await.map_err(call)? {
            printer.record(&plain(record))?;
            printer.hand_out()?;
        }
        Ok(())
    })
}

const fn payloads(form: Form) -> Payloads {
    if form.payload { Payloads::With } else { Payloads::Without }
}

async fn print(reader: &mut Reader, printer: &mut Printer<'_, '_>) -> Result<(), Failure> {
    while let Some(record) = reader.next().await.map_err(call)? {
        printer.record(&plain(record))?;
    }
    Ok(())
}

fn plain(record: VerifiedRecord) -> ReadRecord {
    let payload = match record.payload {
        PayloadState::Present(payload) => Some((payload.salt, payload.bytes.to_vec())),
        PayloadState::None | PayloadState::Absent(_) => None,
    };
    ReadRecord { index: record.index, canonical: record.canonical.to_vec(), payload }
}
