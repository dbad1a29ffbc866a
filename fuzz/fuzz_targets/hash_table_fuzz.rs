#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stele_fuzzing::run("hash_table_fuzz", data));
