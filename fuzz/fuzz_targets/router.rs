//! Packets of one producer through a media graph.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| router::fuzzing::router(input));
