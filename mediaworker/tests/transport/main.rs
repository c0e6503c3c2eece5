//! Transports against real str0m peers over a virtual, lossy network.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod abuse;
mod bandwidth;
mod churn;
mod codecs;
mod connecting;
mod data;
mod data_limits;
mod descriptor;
mod early;
mod handshakes;
mod hostile;
mod late;
mod layers;
mod media;
mod network;
mod plain;
mod receiving;
mod remb;
mod resend;
mod room;
mod scores;
mod speakers;
mod stats;
mod tcp;
mod temporal;
mod throttle;
mod versions;
