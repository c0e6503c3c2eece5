//! One stream as a client receives it: what was sent, and what the client's
//! reports make of it.

use std::time::Instant;

use router::score::{Interval, ScoreHistory};

use super::departing::Count;
use crate::transport::rtcp::ReportBlock;
use crate::transport::stats::{Feedback, Meter, StreamStats, Totals};

/// Cumulative losses are 24 bits with a sign; reports of duplicates make them
/// negative, which is no loss.
const NEGATIVE: u64 = 0x80_0000;

/// The stream of a consumer. What each packet needs comes first.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Outbound {
    /// Highest sequence number, losses and retransmissions up to the last
    /// receiver report.
    reported: Option<(u64, u64, u64)>,
    /// Highest sequence number that was sent.
    highest: u64,
    packets: u64,
    /// Octets of payload in media packets.
    octets: u64,
    meter: Meter,
    retransmitted: u64,
    lost: u64,
    jitter: u32,
    /// Lost packets that a retransmission may have replaced.
    repaired: u64,
    /// Expected and lost in the last interval.
    interval: (u64, u64),
    history: ScoreHistory,
    feedback: Feedback,
}

impl Outbound {
    /// Takes in everything but the packets that NACKs name.
    pub fn set_feedback(&mut self, feedback: Feedback) {
        self.feedback = Feedback {
            nack_packets: self.feedback.nack_packets,
            ..feedback
        };
    }

    /// Takes in the jitter of a receiver report, units of the RTP clock.
    pub fn set_jitter(&mut self, jitter: u32) {
        self.jitter = jitter;
    }

    /// The packet with this sequence number is on its way.
    pub fn written(&mut self, sequence: u64) {
        let before = sequence.saturating_sub(1);
        self.reported.get_or_insert((before, 0, 0));
        self.highest = self.highest.max(sequence);
    }

    /// A packet leaves; `payload`: octets of media in it.
    pub fn sent(&mut self, now: Instant, len: usize, payload: usize, retransmission: bool) {
        self.meter.add(now, len);
        self.packets += 1;
        if retransmission {
            self.retransmitted += 1;
        } else {
            self.octets += u64::try_from(payload).unwrap_or(0);
        }
    }

    /// Media packets that have left, and the octets of payload in them.
    pub fn media(&self) -> (u64, u64) {
        (self.packets - self.retransmitted, self.octets)
    }

    /// The client asks for one of its packets again.
    pub fn nacked(&mut self) {
        self.feedback.nack_packets += 1;
    }

    /// The client has sent a request.
    pub fn requested(&mut self, what: Count) {
        let count = match what {
            Count::Nack => &mut self.feedback.nacks,
            Count::Pli => &mut self.feedback.plis,
            Count::Fir => &mut self.feedback.firs,
        };
        *count += 1;
    }

    /// Takes in a report of the client. True: it brings something new, and ends an
    /// interval.
    pub fn handle_report(&mut self, now: Instant, block: &ReportBlock) -> bool {
        self.jitter = block.jitter;
        self.feedback.round_trip_time = block.round_trip(now);
        self.end_interval(self.extended(block.highest), block.lost.into())
    }

    /// The sequence number nearest to the highest that was sent.
    fn extended(&self, highest: u32) -> u64 {
        let low = u32::try_from(self.highest & 0xffff_ffff).unwrap_or(0);
        let ahead = i64::from(highest.wrapping_sub(low).cast_signed());
        self.highest.saturating_add_signed(ahead)
    }

    /// Takes in a receiver report, which ends an interval: the highest sequence
    /// number, extended, and the packets that are lost, 24 bits with a sign. True: it
    /// brings something new.
    pub fn end_interval(&mut self, highest: u64, lost: u64) -> bool {
        let Some((before, lost_before, resent_before)) = self.reported else {
            return false;
        };
        // Nobody receives more than was sent; a report that says so would hold
        // for ever, as honest ones bring nothing new then.
        let highest = highest.min(self.highest);
        // Nothing new was received: a report that came twice, or one of a pause.
        let expected = highest.saturating_sub(before);
        if expected == 0 {
            return false;
        }
        self.lost = if lost < NEGATIVE { lost } else { 0 };
        self.reported = Some((highest, self.lost, self.retransmitted));
        let lost = self.lost.saturating_sub(lost_before);
        let retransmitted = self.retransmitted.saturating_sub(resent_before);
        // Which packets were resent is not known here, only how many: each that
        // was, up to what was lost, counts as repaired.
        let repaired = retransmitted.min(lost);
        self.repaired += repaired;
        self.interval = (expected, lost);
        let interval = Interval {
            packets: expected,
            lost,
            repaired,
            retransmitted,
        };
        self.history.push(interval.score());
        true
    }

    /// 0–10; 10 before the first report.
    pub fn score(&self) -> u8 {
        self.history.score()
    }

    /// Packets expected and lost in the last interval.
    pub fn interval(&self) -> (u64, u64) {
        self.interval
    }

    /// Bits per second.
    pub fn bitrate(&self, now: Instant) -> u64 {
        self.meter.bitrate(now)
    }

    /// What it comes to.
    pub fn totals(&self) -> Totals {
        Totals::of(self.lost, self.retransmitted, self.feedback, self.interval)
    }

    /// Everything; the SSRCs are the caller's.
    pub fn stats(&self, now: Instant) -> StreamStats {
        let (expected, lost) = self.interval;
        StreamStats {
            ssrc: 0,
            rtx_ssrc: None,
            rid: None,
            packets_lost: self.lost,
            fraction_lost: Interval::fraction_lost(lost, expected),
            packets_discarded: 0,
            packets_retransmitted: self.retransmitted,
            packets_repaired: self.repaired,
            feedback: self.feedback,
            score: self.score(),
            jitter: self.jitter,
            packets: self.packets,
            bytes: self.meter.bytes(),
            bitrate: self.meter.bitrate(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_end_intervals() {
        // (highest, cumulative loss, resent meanwhile) → (fraction, score).
        let cases = [
            (1100, 0, 0, 0, 10),
            (1100, 0, 0, 0, 10),
            (1200, 50, 0, 128, 4),
            (1300, 60, 10, 25, 7),
            (1400, 0xff_ffff, 0, 0, 8),
        ];
        let now = Instant::now();
        let mut stream = Outbound::default();
        stream.end_interval(5, 5);
        assert_eq!(stream.score(), 10, "nothing was sent");
        stream.written(1001);
        for (index, (highest, lost, resent, fraction, score)) in cases.into_iter().enumerate() {
            (0..resent).for_each(|_| stream.sent(now, 100, 90, true));
            stream.written(highest);
            stream.end_interval(highest, lost);
            let stats = stream.stats(now);
            assert_eq!(stats.fraction_lost, fraction, "case {index}");
            assert_eq!(stats.score, score, "case {index}");
        }
        let stats = stream.stats(now);
        assert_eq!((stats.packets_lost, stats.packets_repaired), (0, 10));
        assert_eq!((stats.packets, stats.bytes), (10, 1000));
    }

    #[test]
    fn a_report_of_what_was_never_sent_does_not_hold_for_ever() {
        let mut stream = Outbound::default();
        stream.written(1001);
        stream.written(1100);
        stream.end_interval(1_000_000, 0);
        assert_eq!(stream.interval(), (100, 0), "what was sent at most");
        stream.written(1200);
        stream.end_interval(1200, 50);
        assert_eq!(stream.interval(), (100, 50));
        assert!(stream.score() < 10, "{}", stream.score());
    }
}
