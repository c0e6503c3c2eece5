//! The gRPC contract between the control plane and a media worker, generated
//! from `worker.proto`, which is its documentation.
#![allow(missing_docs, clippy::all)]

/// Upper bounds of the buckets of every `Histogram`, microseconds.
pub const HISTOGRAM_BOUNDS_MICROS: [u64; 11] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000,
];

tonic::include_proto!("mediaworker.v1");
