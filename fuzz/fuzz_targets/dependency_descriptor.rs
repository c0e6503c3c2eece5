//! Dependency descriptors of AV1.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| router::fuzzing::dependency_descriptor(input));
