//! Plain transports, all the way through the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mediaworker::fuzzing::plain(input));
