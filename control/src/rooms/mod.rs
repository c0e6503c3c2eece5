//! Rooms and the peers in them: who is here, what they send, who receives it.
//!
//! [`Rooms`] is the way in: it finds or creates a room and hands out seats.
//! Each room is one task that owns everything in it and works through an inbox;
//! it never waits for a client, and for its media worker under a deadline only.

mod admin;
mod bot;
mod broadcaster;
mod consuming;
mod counted;
mod data;
mod ids;
mod lost;
mod mailbox;
mod messages;
mod peer;
mod quality;
mod registry;
mod requests;
mod room;
mod router_media;
mod stream_ids;
mod suspects;
mod table;
mod tenure;
mod undo;
mod usage;
mod worker_events;

pub use admin::{Depths, RoomSummary};
pub use broadcaster::{BroadcasterRequest, ConsumeRequest};
pub use ids::{PeerId, RoomId};
pub use peer::PeerOptions;
pub use registry::{MAX_WAITING_ROOMS, RoomOptions, Rooms, Seat, Timings};
