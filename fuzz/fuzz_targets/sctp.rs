//! SCTP packets between DTLS and str0m.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mediaworker::fuzzing::sctp(input));
