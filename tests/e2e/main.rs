//! End to end: real server processes, real clients. One binary, a module for
//! each subject.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod client;
mod driver;
mod duplex;
mod faults;
mod https;
mod lines;
mod nat;
mod netns;
mod protoo;
mod server;

mod admin;
mod api;
mod bench;
mod broadcaster;
mod browser;
mod call;
mod camera;
mod certificates;
mod clients;
mod comeback;
mod defects;
mod drain;
mod early;
mod failures;
mod flat;
mod formats;
mod guide;
mod handshakes;
mod hostname;
mod ipv6;
mod joins;
mod layers;
mod narrow;
mod newest;
mod operations;
mod placement;
mod plain;
mod processes;
mod quality;
mod races;
mod roaming;
mod schemathesis;
mod strays;
mod tcp;
mod tidy;
mod traces;
mod turn;
mod versions;
