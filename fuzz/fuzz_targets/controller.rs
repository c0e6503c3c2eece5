//! Packets that are sent, and feedback on them: what can be sent.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| congestion::fuzzing::controller(input));
