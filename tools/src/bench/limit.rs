//! The limit: what the disk alone can do. The same number of bytes a flush as the engine writes, into the
//! same kind of file, and nothing else; meanwhile a second thread zeroes as much for what would follow, as
//! the engine does.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use stele_engine::disk::{Access, Disk, DiskError, RealDisk};

use super::stopwatch::Stopwatch;
use crate::exit::Failure;

const PAGE: usize = 4096;
const STEP: usize = 1 << 20;

/// Flushes in one run, and bytes each.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) flushes: u64,
    pub(super) flush_bytes: usize,
}

impl Load {
    const fn bytes(self) -> u64 {
        self.flushes * self.flush_bytes as u64
    }
}

/// Seconds that the disk takes for a load.
pub(super) fn run(directory: &Path, load: Load) -> Result<f64, Failure> {
    let (path, next) = (directory.join("limit"), directory.join("limit-next"));
    zero(&path, load.bytes())?;
    let file = OpenOptions::new().write(true).open(&path).context("cannot open the file of the limit")?;
    let bytes = vec![0x5a; load.flush_bytes];
    let watch = Stopwatch::start();
    std::thread::scope(|scope| {
        let zeroing = scope.spawn(|| zero(&next, load.bytes()));
        write_and_flush(&file, &bytes, load.flushes).context("cannot write the file of the limit")?;
        zeroing.join().map_err(|_panic| anyhow!("zeroing for the limit died"))??;
        Ok::<_, Failure>(())
    })?;
    let seconds = watch.seconds();
    RealDisk.remove(&path)?;
    RealDisk.remove(&next)?;
    Ok(seconds)
}

fn write_and_flush(file: &File, bytes: &[u8], flushes: u64) -> std::io::Result<()> {
    for flush in 0..flushes {
        file.write_all_at(bytes, flush * bytes.len() as u64)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Makes a file of zeros past the page cache, in steps, and flushes it.
fn zero(path: &Path, bytes: u64) -> Result<(), DiskError> {
    drop(RealDisk.open(path, Access::Create)?);
    let file = RealDisk.open(path, Access::WriteDirect)?;
    let zeros = vec![0; STEP + PAGE];
    let slack = zeros.as_ptr().align_offset(PAGE).min(PAGE);
    let mut at = 0;
    while at < bytes {
        file.write_at(&zeros[slack..slack + STEP], at)?;
        at += STEP as u64;
    }
    file.sync()
}
