//! `stele bench append`: appending through the client, beside real nodes.
//!
//! A closed loop: so many records are in flight all the time, and a record is measured from the moment it is handed
//! to the client until its receipt was seen here. The load generator takes part in what it measures where it runs on
//! the same machine.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{Args, value_parser};
use stele_api::v1::RefusalCode;
use stele_client::record::ChainName;
use stele_client::{Ack, AppendError, Appender, AppenderOptions, ChainWriter, Event, Pending};
use stele_engine::environment::Environment;
use stele_proof::UnixMillis;
use tokio::time::Instant;

use super::records::{Draft, filler_source};
use super::sites::{Bench, SitesArguments};
use crate::append::AckArgument;
use crate::exit::{Exit, Failure};
use crate::remote::{append, block_on};
use crate::stream::Streams;

/// Before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Chains, where so many records are in flight.
const MAX_CHAINS: usize = 64;

/// A run with more errors is none.
const MAX_ERRORS: u64 = 100_000;

/// The arguments of `stele bench append`.
#[derive(Args, Debug)]
#[command(after_help = "\
With --sites the command makes its own sites in the current directory (which should be on a real disk), and removes
them. One second of warm-up is not counted. The last line of --json has records_per_second, p50_ms, p99_ms, max_ms,
acked, proven (of those, with a proof that holds), proof_pending (where proofs were asked for, those without),
errors (records without a receipt) and busy (those among them that were refused because of a full queue; what
the client tried again with success is in neither). A run in which nothing was acknowledged ends with exit code 1.

Examples:
  stele bench append --sites 3 --in-flight 256 --seconds 8 --json
  stele bench append --sites 3 --delay 40ms
  stele bench append --endpoint a.example.com:7070 --in-flight 1")]
pub struct Arguments {
    /// What is measured.
    #[command(flatten)]
    pub at: SitesArguments,
    /// Records in flight.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = value_parser!(u32).range(1..=16_384))]
    pub in_flight: u32,
    /// Bytes of a canonical record.
    #[arg(long, value_name = "B", default_value_t = 1024, value_parser = value_parser!(u32).range(400..=1200))]
    pub record_bytes: u32,
    /// How long.
    #[arg(long, value_name = "S", default_value_t = 8, value_parser = value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// What a record waits for.
    #[arg(long, value_enum, default_value_t = AckArgument::Committed)]
    pub ack: AckArgument,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Measures.
///
/// # Errors
/// [`Failure`].
pub fn run(arguments: &Arguments, environment: &Environment, streams: &mut Streams<'_>) -> Result<(), Failure> {
    block_on(async {
        let bench = Bench::start(&arguments.at, environment).await?;
        let measured = measure(arguments, &bench, environment, streams).await;
        // The first thing that went wrong is told.
        let stopped = bench.stop().await;
        let measured = measured?;
        stopped?;
        measured.print(arguments, streams)
    })
}

async fn measure(
    arguments: &Arguments,
    bench: &Bench,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<Measured, Failure> {
    let ack = match arguments.ack {
        AckArgument::Committed => Ack::Committed,
        AckArgument::Proven if bench.is_own() => Ack::Proven(bench.connected().own_policy()?),
        AckArgument::Proven => Ack::Proven(bench.connected().policy(streams)?),
    };
    let options = AppenderOptions { ack, ..AppenderOptions::default() };
    let appender = bench.connected().client.appender(options).map_err(|error| anyhow!(error))?;
    let run: [u8; 6] = environment.random().context("the system gives no randomness")?;
    let run: String = run.iter().map(|byte| format!("{byte:02x}")).collect();
    let in_flight = usize::try_from(arguments.in_flight).unwrap_or(usize::MAX);
    let mut load = Load::new(appender, environment.clone(), Arc::from(run), in_flight.min(MAX_CHAINS));
    load.fit(usize::try_from(arguments.record_bytes).unwrap_or(usize::MAX))?;
    load.run(in_flight, Duration::from_secs(arguments.seconds)).await
}

/// The records of all chains on their way.
struct Load {
    appender: Appender,
    environment: Environment,
    /// Tells the chains of this run from those of others.
    run: Arc<str>,
    chains: Vec<Chain>,
    /// Chains that were begun.
    begun: u64,
    next: usize,
    number: u64,
    filler: usize,
    source: String,
    under_way: VecDeque<UnderWay>,
}

struct Chain {
    /// The how-many-th it is.
    number: u64,
    writer: ChainWriter,
}

struct UnderWay {
    since: Instant,
    /// The place of its chain.
    place: usize,
    /// The chain that had that place.
    chain: u64,
    pending: Pending,
}

impl Load {
    fn new(appender: Appender, environment: Environment, run: Arc<str>, chains: usize) -> Self {
        let mut load = Self {
            appender,
            environment,
            run,
            chains: Vec::new(),
            begun: 0,
            next: 0,
            number: 0,
            filler: 0,
            source: filler_source(),
            under_way: VecDeque::new(),
        };
        for _ in 0..chains {
            let chain = load.begin();
            load.chains.push(chain);
        }
        load
    }

    fn begin(&mut self) -> Chain {
        self.begun += 1;
        let writer_id = format!("bench-{}-{:06}", self.run, self.begun);
        let name = ChainName { writer_id, stream: "bench".to_owned() };
        Chain { number: self.begun, writer: ChainWriter::new(self.appender.clone(), name, None) }
    }

    /// Finds how much text makes a record of this length, but for the digits of its numbers.
    fn fit(&mut self, record_bytes: usize) -> Result<(), Failure> {
        let draft = Draft::new(0, 0, 0, &self.source)?;
        let builder = draft.builder();
        let event = event(&draft, &builder, self.environment.clock.now());
        let record = self.chains[0].writer.build(&event, None).map_err(|error| anyhow!(error))?;
        // `self_hash` is not part of the canonical form; a later record also has its predecessor's hash.
        let finish = stele_proof::record::FINISH_BYTES;
        self.filler = record_bytes.saturating_sub(record.bytes().len().saturating_sub(finish) + 64);
        Ok(())
    }

    async fn push(&mut self) -> Result<(), AppendError> {
        let place = self.next;
        self.next = (self.next + 1) % self.chains.len();
        let draft = Draft::new(self.number, place, self.filler, &self.source);
        self.number += 1;
        // Text of a fixed source always fits.
        let Ok(draft) = draft else { return Err(AppendError::Closed) };
        let builder = draft.builder();
        let event = event(&draft, &builder, self.environment.clock.now());
        let since = Instant::now();
        let chain = &mut self.chains[place];
        let pending = chain.writer.append(&event).await?;
        self.under_way.push_back(UnderWay { since, place, chain: chain.number, pending });
        Ok(())
    }

    async fn run(&mut self, in_flight: usize, time: Duration) -> Result<Measured, Failure> {
        let start = Instant::now() + WARM_UP;
        let end = start + time;
        let mut measured = Measured::default();
        loop {
            while self.under_way.len() < in_flight {
                self.push().await.map_err(append)?;
            }
            let Some(oldest) = self.under_way.pop_front() else { continue };
            let answer = oldest.pending.await;
            let now = Instant::now();
            match answer {
                Ok(receipt) if now >= start && now < end => {
                    measured.proven += u64::from(receipt.proof.is_some());
                    measured.acknowledged(now.duration_since(oldest.since));
                }
                Ok(_) => {}
                Err(error) => {
                    measured.failed(&error);
                    self.renew(oldest.place, oldest.chain);
                    if measured.errors > MAX_ERRORS {
                        return Err(append(error));
                    }
                }
            }
            if now >= end {
                break;
            }
        }
        measured.seconds = time.as_secs_f64();
        for rest in std::mem::take(&mut self.under_way) {
            if let Err(error) = rest.pending.await {
                measured.failed(&error);
            }
        }
        Ok(measured)
    }

    /// A chain that is broken is left, and another one takes its place: once, for all that fail after the break.
    fn renew(&mut self, place: usize, broken: u64) {
        if self.chains[place].number == broken {
            self.chains[place] = self.begin();
        }
    }
}

fn event<'a>(draft: &'a Draft, builder: &stele_proof::record::RecordBuilder<'a>, ts_ms: UnixMillis) -> Event<'a> {
    Event {
        ts_ms,
        kind: builder.kind,
        actor: builder.actor,
        subject: builder.subject,
        reason: builder.reason,
        attrs: &draft.attrs,
    }
}

/// What came of it.
#[derive(Default)]
struct Measured {
    seconds: f64,
    /// Microseconds, one for each record that was acknowledged.
    micros: Vec<u32>,
    /// Of those, how many came with a proof that was verified.
    proven: u64,
    errors: u64,
    busy: u64,
    /// What went wrong last.
    last: Option<AppendError>,
}

impl Measured {
    fn acknowledged(&mut self, time: Duration) {
        self.micros.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    fn failed(&mut self, error: &AppendError) {
        self.errors += 1;
        if matches!(error, AppendError::Refused(refused) if refused.code == RefusalCode::Busy) {
            self.busy += 1;
        }
        self.last = Some(error.clone());
    }

    /// The time within which so many of a thousand were acknowledged, in milliseconds; sorted before.
    fn part(&self, thousandths: usize) -> f64 {
        let at = (self.micros.len() * thousandths).div_ceil(1000).saturating_sub(1);
        f64::from(self.micros.get(at).copied().unwrap_or_default()) / 1000.0
    }

    fn print(self, arguments: &Arguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let none = self.micros.is_empty().then(|| self.nothing());
        self.print_all(arguments, streams)?;
        none.map_or(Ok(()), Err)
    }

    /// Why a run without a record that was acknowledged has failed; what went wrong last, where that is known.
    fn nothing(&self) -> Failure {
        let why = match &self.last {
            Some(error) => format!(
                "no record was acknowledged while it was measured; {} failed, the last because: {error}",
                self.errors
            ),
            None => "no record was acknowledged while it was measured: each took longer than that, give more --seconds"
                .to_owned(),
        };
        Failure::new(Exit::Failed, anyhow!(why))
    }

    fn print_all(mut self, arguments: &Arguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
        self.micros.sort_unstable();
        let acked = u32::try_from(self.micros.len()).unwrap_or(u32::MAX);
        let rate = f64::from(acked) / self.seconds;
        let [p50, p99, max] = [500, 990, 1000].map(|part| self.part(part));
        let (in_flight, bytes) = (arguments.in_flight, arguments.record_bytes);
        let pending = match arguments.ack {
            AckArgument::Committed => 0,
            AckArgument::Proven => u64::from(acked) - self.proven,
        };
        if arguments.json {
            let row = serde_json::json!({
                "bench": "append", "sites": arguments.at.sites, "in_flight": in_flight, "record_bytes": bytes,
                "ack": match arguments.ack { AckArgument::Committed => "committed", AckArgument::Proven => "proven" },
                "delay_ms": arguments.at.delay.map(|delay| delay.as_secs_f64() * 1000.0),
                "seconds": self.seconds, "records_per_second": rate, "p50_ms": p50, "p99_ms": p99, "max_ms": max,
                "acked": acked, "proven": self.proven, "proof_pending": pending, "errors": self.errors, "busy": self.busy,
            });
            return streams.line(row);
        }
        if arguments.ack == AckArgument::Proven {
            streams.line(format_args!("{} of them proven, the proofs of {pending} pending", self.proven))?;
        }
        streams.line(format_args!(
            "{rate:.0} records/s of {bytes} bytes with {in_flight} in flight: p50 {p50:.2} ms, p99 {p99:.2} ms, max \
             {max:.2} ms; {acked} acknowledged, {} errors",
            self.errors
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_is_that_of_the_sorted_times_and_the_last_is_the_longest() {
        let measured = Measured { micros: (1..=1000).map(|ms| ms * 1000).collect(), ..Measured::default() };
        assert_eq!([500, 990, 1000].map(|part| measured.part(part)), [500.0, 990.0, 1000.0]);
        let one = Measured { micros: vec![7000], ..Measured::default() };
        assert_eq!([500, 990, 1000].map(|part| one.part(part)), [7.0; 3]);
        assert_eq!(Measured::default().part(500), 0.0);
    }
}
