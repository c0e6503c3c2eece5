//! Bounds of what is taken for available towards a client.

use super::ConfigError;
use super::settings::{self as s, Sources};
use super::value as v;

/// Bits per second, of each transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutgoingBitrate {
    /// Until the client's feedback tells (`TRANSPORT_INITIAL_OUTGOING_BITRATE`).
    pub initial: u64,
    /// At least (`TRANSPORT_MIN_OUTGOING_BITRATE`).
    pub min: u64,
    /// At most (`TRANSPORT_MAX_OUTGOING_BITRATE`); 0 is no limit.
    pub max: u64,
}

impl Default for OutgoingBitrate {
    fn default() -> Self {
        Self {
            initial: 1_000_000,
            min: 30_000,
            max: 0,
        }
    }
}

impl OutgoingBitrate {
    pub(super) fn from(sources: &Sources) -> Result<Self, ConfigError> {
        let bitrate = |raw: &str| v::number(raw, 0..=s::MAX_BITRATE);
        Ok(Self {
            initial: sources.required(&s::TRANSPORT_INITIAL_OUTGOING_BITRATE, |raw| {
                v::number(raw, 1..=s::MAX_BITRATE)
            })?,
            min: sources.required(&s::TRANSPORT_MIN_OUTGOING_BITRATE, bitrate)?,
            max: sources.required(&s::TRANSPORT_MAX_OUTGOING_BITRATE, bitrate)?,
        })
    }

    pub(super) fn check(self, sources: &Sources) -> Result<(), ConfigError> {
        if self.max > 0 && self.max < self.min {
            let allowed = format!(
                "0, or at least TRANSPORT_MIN_OUTGOING_BITRATE, which is {}",
                self.min
            );
            return Err(sources.refuse(&s::TRANSPORT_MAX_OUTGOING_BITRATE, &allowed));
        }
        Ok(())
    }
}
