//! The protoo signaling protocol: its messages, and the connection that carries
//! them. Knows nothing of rooms.

pub mod connection;
pub mod dialect;
pub mod message;

/// The WebSocket subprotocol that every client has to offer.
pub const SUBPROTOCOL: &str = "protoo";
