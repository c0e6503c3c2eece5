//! RTCP of WebRTC clients and of plain remotes.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mediaworker::fuzzing::rtcp(input));
