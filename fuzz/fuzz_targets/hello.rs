//! ClientHellos that come in pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mediaworker::fuzzing::hello(input));
