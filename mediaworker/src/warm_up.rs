//! Runs the crypto once before the first client needs it: the first use in a
//! process takes 40 to 200 ms, which would stall everybody on the worker.

use std::time::Instant;

use str0m::config::Fingerprint;
use str0m::{Input, Output, Rtc};

/// Builds a transport as clients get it, and starts a DTLS handshake to nowhere.
pub fn crypto(now: Instant) {
    let mut rtc = Rtc::builder().set_rtp_mode(true).build(now);
    rtc.direct_api().set_remote_fingerprint(Fingerprint {
        hash_func: "sha-256".into(),
        bytes: vec![0; 32],
    });
    if rtc.direct_api().start_dtls(true).is_err() {
        return;
    }
    if rtc.handle_input(Input::Timeout(now)).is_ok() {
        while matches!(
            rtc.poll_output(),
            Ok(Output::Event(_) | Output::Transmit(_))
        ) {}
    }
}
