#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stele_fuzzing::run("index_mark_fuzz", data));
