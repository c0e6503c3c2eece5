//! Transport-cc feedback that we write of packets that arrive.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| congestion::fuzzing::recorder(input));
