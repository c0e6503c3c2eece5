//! Sockets.

mod batches;
pub mod frames;
pub mod own;
pub mod tcp;
pub mod udp;
