//! A media worker: sockets, str0m and the media graph, on one thread.
//!
//! It knows routers, transports, producers and consumers; no rooms, no peers and
//! no JSON. See ARCHITECTURE.md for the way of a packet.

pub mod engine;
pub mod event_channel;
pub mod event_loop;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod grpc;
mod logging;
pub mod net;
mod pace;
mod process;
mod run;
pub mod ticks;
pub mod transport;
mod warm_up;

pub use run::run;
