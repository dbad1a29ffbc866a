//! Compiles the .proto file without a system `protoc`, and keeps the descriptors for server reflection.

use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

const FILE: &str = "stele/v1/stele.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).open_file(FILE)?;
    let target = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    File::create(target.join("stele_v1.bin"))?.write_all(&compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
