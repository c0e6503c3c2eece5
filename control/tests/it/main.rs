//! The control plane from outside: real HTTPS and WSS on loopback, with media
//! workers that only keep a record.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod access;
mod admin;
mod admission;
mod arrivals;
mod bad_input;
mod broadcasters;
mod client;
mod consumers;
mod data;
mod data_churn;
mod document;
mod fake_worker;
mod http_api;
mod newest;
mod newest_actions;
mod newest_http;
mod newest_lost;
mod newest_told;
mod operations;
mod patience;
mod plain;
mod quality;
mod receiver;
mod replicas;
mod server;
mod stats;
mod throttle;
mod webhooks;
mod worker_trouble;
