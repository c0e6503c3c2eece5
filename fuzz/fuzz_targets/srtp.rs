//! SRTP and SRTCP.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mediaworker::fuzzing::srtp(input));
