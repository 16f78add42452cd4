//! Feeds the target `webhook_json`; what it checks stands in `src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tti_connector::fuzzing::run("webhook_json", data));
