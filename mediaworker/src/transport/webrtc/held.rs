//! Media that overtakes the end of the handshake. A client that is done sends at once, and
//! the datagram that makes us done, too, may be lost or late; so what comes before the keys
//! is held, and opened with them. What is forged among it is refused then.

use std::time::{Duration, Instant};

use super::{DtlsState, Output, WebRtcTransport};
use crate::transport::PacketKind;

/// Packets that are held, and for how long: until the lost datagram has been sent again, and
/// as many as the first keyframe may have. More are dropped.
const MAX_HELD: usize = 128;
const HELD_FOR: Duration = Duration::from_secs(2);

/// Packets that wait for the keys that open them, when each came, and what it is.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<(Instant, PacketKind, Box<[u8]>)>);

impl WebRtcTransport {
    /// Holds RTP or RTCP until there are keys, if it is the time for that.
    pub(super) fn hold(
        &mut self,
        now: Instant,
        came: Instant,
        kind: PacketKind,
        packet: &[u8],
        out: &mut Output,
    ) {
        self.let_go(now, out);
        if self.dtls == DtlsState::Connecting && self.held.0.len() < MAX_HELD {
            self.held.0.push((came, kind, packet.into()));
        } else {
            out.dropped += 1;
        }
    }

    /// Lets go of what was held in vain.
    pub(super) fn let_go(&mut self, now: Instant, out: &mut Output) {
        let before = self.held.0.len();
        let is_fresh = |came: Instant| now.saturating_duration_since(came) < HELD_FOR;
        self.held.0.retain(|(came, ..)| is_fresh(*came));
        out.dropped += u64::try_from(before - self.held.0.len()).unwrap_or(0);
    }

    /// Takes in what was held, once it can be opened.
    pub(super) fn release(&mut self, now: Instant, out: &mut Output) {
        if self.held.0.is_empty() || self.dtls == DtlsState::Connecting {
            return;
        }
        self.let_go(now, out);
        for (came, kind, packet) in std::mem::take(&mut self.held.0) {
            match kind {
                _ if self.dtls != DtlsState::Connected => out.dropped += 1,
                PacketKind::Rtcp => self.take_rtcp(now, came, &packet, out),
                _ => self.take_rtp(now, came, &packet, out),
            }
        }
    }
}
