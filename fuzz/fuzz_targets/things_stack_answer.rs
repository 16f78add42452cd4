//! Feeds the target `things_stack_answer`; what it checks stands in `src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tti_connector::fuzzing::run("things_stack_answer", data));
