//! How time passes in a transport: in its `Rtc`, in what is queued for its client, and in
//! probes.
//!
//! Advancing an `Rtc` walks all that is in it, several times. That of a consuming
//! transport has handshake and data channels only, and is advanced for those: packets
//! need no advance.

use std::time::{Duration, Instant};

use str0m::Input;

use super::{Output, WebRtcTransport};
use crate::transport::send::Departure;

/// Advances of str0m in one flush; what is left waits for the next tick.
const MAX_ADVANCES: usize = 1024;
/// When that is.
const NEXT_TICK: Duration = Duration::from_millis(1);
/// Packets of a probe that leave at once; what is late after that leaves with the next
/// tick.
const MAX_PROBE_PACKETS: usize = 64;

impl WebRtcTransport {
    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        out.state_changed |= self.ice.handle_timeout(now);
        self.let_go(now, out);
        if self.rtc_timeout.is_some_and(|t| t <= now) {
            self.advance(now, out);
        }
        self.probe(now, out);
        self.report(now, out);
    }

    /// Sends what was queued, and advances str0m.
    pub fn flush(&mut self, now: Instant, out: &mut Output) {
        self.send_queued(now, out);
        self.advance(now, out);
        self.report(now, out);
    }

    /// Lets packets leave that were queued. True: no sender report is to leave with them, and
    /// [`WebRtcTransport::next_timeout`] is what it was.
    pub fn send_packets(&mut self, now: Instant, out: &mut Output) -> bool {
        self.send_queued(now, out);
        self.sending.next_report().is_none_or(|at| at > now)
    }

    /// Sends what was queued, where nothing but packets was.
    pub fn flush_packets(&mut self, now: Instant, out: &mut Output) {
        self.send_queued(now, out);
        self.report(now, out);
    }

    fn advance(&mut self, now: Instant, out: &mut Output) {
        for _ in 0..MAX_ADVANCES {
            let Some(rtc) = self.rtc.as_deref_mut() else {
                return;
            };
            // What came out last time may have to be settled before the next.
            if self.data.is_unsettled() {
                self.data.settle(rtc);
            }
            if let Err(error) = rtc.handle_input(Input::Timeout(now)) {
                out.failed = Some(error.to_string());
            }
            self.drain(now, out);
            if out.failed.is_some() || self.rtc_timeout.is_none_or(|next| next > now) {
                return;
            }
        }
        // Not before others had their turn.
        self.rtc_timeout = Some(now + NEXT_TICK);
    }

    /// Sends the packets of a probe that are due.
    fn probe(&mut self, now: Instant, out: &mut Output) {
        for _ in 0..MAX_PROBE_PACKETS {
            let Some((at, bitrate)) = self.bandwidth.next_probe() else {
                return;
            };
            if at > now {
                return;
            }
            let number = self.bandwidth.next_number();
            // What a slow connection is spared would be taken for lost.
            let packet = match self.is_connected() && !self.is_slow() {
                true => self.sending.probe(now, bitrate, number, &mut out.supplies),
                false => None,
            };
            let Some(departed) = packet else {
                self.bandwidth.cancel_probe();
                return;
            };
            self.bandwidth.note_departure(now, departed.packet.len());
            self.transmit_rtp(now, departed.packet, Departure::Probe, out);
        }
    }
}
