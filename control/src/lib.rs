//! The control plane: HTTPS API, protoo signaling, rooms and the life of the
//! media workers. It owns identity, negotiation and policy; it never touches
//! media.

pub mod addresses;
mod check;
pub mod config;
#[cfg(test)]
mod damaged;
pub mod error;
pub mod health;
pub mod http;
mod listen;
mod logging;
pub mod metrics;
pub mod ortc;
pub mod protoo;
pub mod rooms;
mod run;
pub mod signals;
pub mod startup;
mod stats;
pub mod tls;
mod traces;
pub mod webhooks;
pub mod workers;

pub use run::run;
