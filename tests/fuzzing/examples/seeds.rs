//! Writes the seeds to `fuzz/corpus/<target>/<name>`; files of other names stay as they are.

use std::fs::{File, create_dir_all};
use std::io::Write as _;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for seed in stele_fuzzing::seeds::all() {
        let directory = corpus.join(seed.target);
        create_dir_all(&directory)?;
        File::create(directory.join(seed.name))?.write_all(&seed.bytes)?;
    }
    Ok(())
}
