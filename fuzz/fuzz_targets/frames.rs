//! Frames on TCP connections (RFC 4571).
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mediaworker::fuzzing::frames(input));
