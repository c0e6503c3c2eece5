//! ORTC negotiation as pure functions: no I/O, no state, no randomness.
//!
//! A producer's rtpParameters carry the client's own payload types and
//! header-extension ids; a consumer's carry the router's. In between stand the
//! router's capabilities:
//!
//! 1. [`router_rtp_capabilities`]: what a router routes, told to every client.
//! 2. [`parse_rtp_parameters`], [`negotiate_producer`]: a client's producer,
//!    mapped to the router's payload types, and what can be consumed of it.
//! 3. [`can_consume`], [`consumer_rtp_parameters`]: what another client, with
//!    the capabilities that [`parse_rtp_capabilities`] read, receives of it.
//! 4. [`worker`]: the same for the media worker.
//!
//! Everything from clients passes the `parse_…` functions, whose errors name
//! the field. Invariant: nothing that they let through can make a later step,
//! the media worker or another client's session description fail.

pub mod capabilities;
pub mod codec_match;
pub mod consumer;
pub mod dtls;
pub mod error;
mod field;
mod h264;
pub mod names;
pub mod producer;
#[cfg(test)]
pub(crate) mod promises;
pub mod receive_ids;
pub mod scalability_mode;
pub mod supported;
#[cfg(test)]
mod tests;
pub mod types;
pub mod validate;
pub mod worker;

pub use capabilities::router_rtp_capabilities;
pub use consumer::{
    ConsumerOptions, MidCounter, can_consume, consumer_rtp_parameters, pipe_consumer_rtp_parameters,
};
pub use dtls::parse_dtls_parameters;
pub use error::OrtcError;
pub use names::{CodecName, media_codecs};
pub use producer::{
    MAX_SSRC, MIN_SSRC, NegotiatedProducer, ProducerMapping, consumable_rtp_parameters,
    impose_cname, negotiate_producer, producer_mapping, producer_type,
};
pub use receive_ids::ReceiveIds;
pub use scalability_mode::ScalabilityMode;
pub use supported::MediaCodec;
pub use types::{DtlsParameters, MediaKind, ProducerType, RtpCapabilities, RtpParameters};
pub use validate::{parse_media_kind, parse_rtp_capabilities, parse_rtp_parameters};
