//! What every router of this server routes, in the three shapes that are
//! needed of it.

use serde_json::Value;

use crate::ortc::{self, CodecName, OrtcError, RtpCapabilities};

/// The media of a router; the same for all rooms.
#[derive(Debug)]
pub(super) struct RouterMedia {
    pub capabilities: RtpCapabilities,
    /// As clients get them.
    pub capabilities_json: Value,
    /// As workers get them.
    pub codecs: Vec<proto::RouterCodec>,
    /// See `codecs`.
    pub header_extensions: Vec<proto::HeaderExtension>,
}

impl RouterMedia {
    /// What a router with these codecs routes.
    ///
    /// # Errors
    /// [`OrtcError`] where they cannot be routed together.
    pub fn new(codecs: &[CodecName]) -> Result<Self, OrtcError> {
        let capabilities = ortc::router_rtp_capabilities(&ortc::media_codecs(codecs))?;
        let unserialisable = |error: serde_json::Error| OrtcError::Unsupported(error.to_string());
        Ok(Self {
            capabilities_json: serde_json::to_value(&capabilities).map_err(unserialisable)?,
            codecs: ortc::worker::router_codecs(&capabilities),
            header_extensions: ortc::worker::router_header_extensions(&capabilities),
            capabilities,
        })
    }
}
