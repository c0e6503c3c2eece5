//! Sockets.

mod batches;
mod feedback;
pub mod frames;
pub mod own;
pub mod tcp;
pub mod udp;
