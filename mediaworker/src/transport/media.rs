//! What a router's consumers have in common.

use super::extensions::Ids;

/// A codec of a client, or of a router, in RTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadType {
    /// 0–127.
    pub pt: u8,
    /// Its RTX payload type.
    pub rtx: Option<u8>,
    /// Hz.
    pub clock_rate: u32,
}

/// What the router's consumers receive: fixed for all its transports.
#[derive(Debug, Default)]
pub struct RouterMedia {
    /// Payload types.
    pub codecs: Vec<PayloadType>,
    /// Extension ids and URIs.
    pub extensions: Vec<(u32, String)>,
    /// The ids of those that are written.
    pub ids: Ids,
}

impl RouterMedia {
    /// Payload types, extension ids and URIs.
    pub fn new(codecs: Vec<PayloadType>, extensions: Vec<(u32, String)>) -> Self {
        Self {
            ids: Ids::of(&extensions),
            codecs,
            extensions,
        }
    }

    /// The payload type with its clock rate and that of its retransmissions.
    pub fn codec(&self, pt: u8) -> Option<&PayloadType> {
        self.codecs.iter().find(|codec| codec.pt == pt)
    }
}
