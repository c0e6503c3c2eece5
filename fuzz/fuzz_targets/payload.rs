//! Payload descriptors of VP8, VP9, AV1 and H264.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| router::fuzzing::payload(input));
