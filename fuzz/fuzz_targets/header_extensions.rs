//! RTP header extensions.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mediaworker::fuzzing::header_extensions(input));
