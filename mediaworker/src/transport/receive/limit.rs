//! The most that a client may send, of which it is reminded by REMB
//! (draft-alvestrand-rmcat-remb-03). Clients with transport-cc take that as an upper
//! limit of their own estimate, those without as the estimate itself.

use std::time::{Duration, Instant};

/// Time between two reminders, while video flows. Clients forget what is not
/// repeated.
const REPEAT: Duration = Duration::from_millis(1500);

/// The limit of one transport.
#[derive(Debug, Default)]
pub(super) struct IncomingLimit {
    /// Bits per second, above 0; `None` is no limit.
    bitrate: Option<u64>,
    reminded: Option<Instant>,
}

impl IncomingLimit {
    /// The limit, bits per second; `None`, and 0, is none.
    pub(super) fn set(&mut self, bitrate: Option<u64>) {
        self.bitrate = bitrate.filter(|bitrate| *bitrate > 0);
        self.reminded = None;
    }

    pub(super) fn get(&self) -> Option<u64> {
        self.bitrate
    }

    /// A packet of video came: what the client has to be reminded of now, if it is time.
    pub(super) fn remind(&mut self, now: Instant) -> Option<u64> {
        let bitrate = self.bitrate?;
        let is_recent = |last| now.saturating_duration_since(last) < REPEAT;
        if self.reminded.is_some_and(is_recent) {
            return None;
        }
        self.reminded = Some(now);
        Some(bitrate)
    }
}
