//! Transports against real str0m peers over a virtual, lossy network.
#![allow(missing_docs)]

mod connecting;
mod hostile;
mod media;
mod network;
mod room;
