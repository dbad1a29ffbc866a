#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stele_fuzzing::run("interop_file_fuzz", data));
