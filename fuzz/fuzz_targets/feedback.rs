//! Transport-cc feedback of receivers.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| congestion::fuzzing::feedback(input));
