//! The books of a plain transport's consumers, whose packets str0m does not write.

use std::time::Instant;

use super::Sending;
use super::outbound::Outbound;
use crate::transport::stats::Feedback;

/// What a receiver report says of a stream (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy)]
pub struct PlainReport {
    /// Highest sequence number, extended.
    pub highest: u32,
    /// Packets lost in all, 24 bits with a sign.
    pub lost: u32,
    /// Units of the RTP clock.
    pub jitter: u32,
}

impl Sending {
    /// Counts a media packet of a slot.
    pub fn written_plain(&mut self, now: Instant, slot: u32, sequence: u64, len: usize) {
        if let Some(outbound) = self.outbound(slot) {
            outbound.written(sequence);
            outbound.sent(now, len, len, false);
        }
    }

    /// Counts a retransmission of a slot.
    pub fn resent_plain(&mut self, now: Instant, slot: u32, len: usize) {
        if let Some(outbound) = self.outbound(slot) {
            outbound.sent(now, len, 0, true);
        }
    }

    /// The remote asks for one of a slot's packets again.
    pub fn nacked_plain(&mut self, slot: u32) {
        if let Some(outbound) = self.outbound(slot) {
            outbound.nacked();
        }
    }

    /// Takes in what the remote says of a slot: a report, and all feedback until now.
    pub fn handle_plain_report(
        &mut self,
        slot: u32,
        report: Option<PlainReport>,
        feedback: Feedback,
    ) {
        if let Some(outbound) = self.outbound(slot) {
            outbound.set_feedback(feedback);
            if let Some(report) = report {
                outbound.set_jitter(report.jitter);
                outbound.end_interval(report.highest.into(), report.lost.into());
            }
        }
    }

    /// Nobody is where packets are sent to, or somebody is again: the scores show it.
    pub fn set_unreachable(&mut self, unreachable: bool) {
        self.unreachable = unreachable;
    }

    fn outbound(&mut self, slot: u32) -> Option<&mut Outbound> {
        let place = self.slots.get_mut(usize::try_from(slot).ok()?)?;
        place.as_mut().map(|stream| &mut stream.outbound)
    }
}
