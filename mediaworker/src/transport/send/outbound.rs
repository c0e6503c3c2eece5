//! One stream as a client receives it: what was sent, and what the client's
//! reports make of it.

use std::time::Instant;

use router::score::{Interval, ScoreHistory};
use str0m::stats::MediaEgressStats;

use crate::transport::stats::{Feedback, Meter, StreamStats, Totals};

/// Cumulative losses are 24 bits with a sign; reports of duplicates make them
/// negative, which is no loss.
const NEGATIVE: u64 = 0x80_0000;

/// The stream of a consumer.
#[derive(Debug, Default)]
pub struct Outbound {
    meter: Meter,
    /// Packets named by NACKs that have not been resent yet.
    owed: u32,
    /// Those among them that had been named at the last look.
    owed_before: u32,
    packets: u64,
    retransmitted: u64,
    /// Highest sequence number, losses and retransmissions up to the last
    /// receiver report.
    reported: Option<(u64, u64, u64)>,
    /// Highest sequence number that was sent.
    highest: u64,
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
    /// The first packet will have this sequence number.
    pub fn begin(&mut self, sequence: u64) {
        self.reported = Some((sequence.saturating_sub(1), 0, 0));
    }

    /// The packet with this sequence number is on its way.
    pub fn written(&mut self, sequence: u64) {
        self.highest = self.highest.max(sequence);
    }

    /// A packet leaves.
    pub fn sent(&mut self, now: Instant, len: usize, retransmission: bool) {
        self.meter.add(now, len);
        self.packets += 1;
        self.retransmitted += u64::from(retransmission);
    }

    /// The client asks for one of its packets again.
    pub fn nacked(&mut self) {
        self.feedback.nack_packets += 1;
        self.owed += 1;
    }

    /// Whether a packet on the stream for retransmissions answers a NACK. str0m
    /// resends at once, so what is not owed was sent to probe the bandwidth.
    pub fn pay_back(&mut self) -> bool {
        let is_owed = self.owed > 0;
        self.owed = self.owed.saturating_sub(1);
        self.owed_before = self.owed_before.saturating_sub(1);
        is_owed
    }

    /// Takes in what str0m counts. A new receiver report in there ends an
    /// interval.
    pub fn handle_stats(&mut self, stats: &MediaEgressStats) {
        // What has not been resent by the second look was too old.
        self.owed -= self.owed_before.min(self.owed);
        self.owed_before = self.owed;
        self.set_feedback(Feedback {
            nacks: stats.nacks,
            nack_packets: 0,
            plis: stats.plis,
            firs: stats.firs,
            round_trip_time: stats.rtt,
        });
        if let Some(remote) = &stats.remote {
            self.jitter = remote.jitter;
            self.handle_report(*remote.maximum_sequence_number, remote.packets_lost);
        }
    }

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

    /// Takes in a receiver report, which ends an interval: the highest sequence
    /// number, extended, and the packets that are lost, 24 bits with a sign.
    pub fn handle_report(&mut self, highest: u64, lost: u64) {
        let Some((before, lost_before, resent_before)) = self.reported else {
            return;
        };
        // Nobody receives more than was sent; a report that says so would hold
        // for ever, as honest ones bring nothing new then.
        let highest = highest.min(self.highest);
        // Nothing new was received: a report that came twice, or one of a pause.
        let expected = highest.saturating_sub(before);
        if expected == 0 {
            return;
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
        stream.handle_report(5, 5);
        assert_eq!(stream.score(), 10, "nothing was sent");
        stream.begin(1001);
        for (index, (highest, lost, resent, fraction, score)) in cases.into_iter().enumerate() {
            (0..resent).for_each(|_| stream.sent(now, 100, true));
            stream.written(highest);
            stream.handle_report(highest, lost);
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
        stream.begin(1001);
        stream.written(1100);
        stream.handle_report(1_000_000, 0);
        assert_eq!(stream.interval(), (100, 0), "what was sent at most");
        stream.written(1200);
        stream.handle_report(1200, 50);
        assert_eq!(stream.interval(), (100, 50));
        assert!(stream.score() < 10, "{}", stream.score());
    }
}
