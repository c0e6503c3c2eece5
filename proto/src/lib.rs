//! The gRPC contract between the control plane and a media worker, generated
//! from `worker.proto`, which is its documentation.
#![allow(missing_docs, clippy::all)]

tonic::include_proto!("mediaworker.v1");
