//! Sockets.

pub mod own;
pub mod udp;
