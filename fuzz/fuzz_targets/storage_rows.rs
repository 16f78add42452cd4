//! Feeds the target `storage_rows`; what it checks stands in `src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tti_connector::fuzzing::run("storage_rows", data));
