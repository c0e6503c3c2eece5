//! RTP packets that are written for clients.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mediaworker::fuzzing::packet(input));
