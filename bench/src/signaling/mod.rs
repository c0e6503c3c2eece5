//! The clients' signaling: the seed dialect of protoo over WSS.
#![expect(
    clippy::indexing_slicing,
    reason = "reading a field of JSON that is not there yields null"
)]

mod parameters;
mod peer;
mod protoo;

pub use peer::{Milestone, Peer, Plan, Sends, Shared, Video};
pub use protoo::Server;
