//! One encoding as it arrives: counts, loss, jitter and score.

use std::time::{Duration, Instant};

use router::score::{Interval, StreamScore};
use str0m::media::MediaKind;

use super::stream::Place;
use crate::transport::packet::MediaPacket;
use crate::transport::stats::{Feedback, Meter, StreamStats, Totals};

/// Silence after which an encoding counts as gone. Audio gets longer: Opus with
/// discontinuous transmission (DTX) sends a packet every 400 ms in silence, and
/// clients do not say reliably whether they use it.
const VIDEO_SILENCE: Duration = Duration::from_millis(1500);
const AUDIO_SILENCE: Duration = Duration::from_secs(5);

/// An encoding of a producer.
#[derive(Debug)]
pub struct Inbound {
    ssrc: u32,
    clock_rate: u32,
    meter: Meter,
    packets: u64,
    /// Packets that came by themselves.
    by_themselves: u64,
    /// Packets that came as retransmissions, each of them once.
    repaired: u64,
    discarded: u64,
    /// Extended sequence numbers of the present source, first and highest.
    range: Option<(u64, u64)>,
    /// Packets that earlier sources were expected to have sent.
    expected_before: u64,
    jitter: Jitter,
    /// The counts when the last interval ended: expected, by themselves,
    /// repaired.
    counted: (u64, u64, u64),
    /// Expected and lost in the last interval.
    interval: (u64, u64),
    score: StreamScore,
    feedback: Feedback,
}

impl Inbound {
    /// An encoding whose first packet has just come. `silence`: after which it counts as
    /// gone, if it is not that of its kind.
    pub fn new(now: Instant, kind: MediaKind, clock_rate: u32, silence: Option<Duration>) -> Self {
        let silence = silence.unwrap_or(match kind {
            MediaKind::Audio => AUDIO_SILENCE,
            MediaKind::Video => VIDEO_SILENCE,
        });
        Self {
            ssrc: 0,
            clock_rate,
            meter: Meter::default(),
            packets: 0,
            by_themselves: 0,
            repaired: 0,
            discarded: 0,
            range: None,
            expected_before: 0,
            jitter: Jitter::default(),
            counted: (0, 0, 0),
            interval: (0, 0),
            score: StreamScore::new(now, silence),
            feedback: Feedback::default(),
        }
    }

    /// Takes note of a packet of so many octets.
    pub fn receive(&mut self, packet: &MediaPacket, len: usize, place: Place) {
        let now = packet.arrived;
        if place.new_source {
            self.expected_before = self.expected();
            self.range = None;
            self.jitter = Jitter::default();
        }
        self.ssrc = packet.ssrc;
        self.meter.add(now, len);
        self.packets += 1;
        self.score.touch(now);
        let sequence = packet.sequence;
        let (first, highest) = self.range.unwrap_or((sequence, sequence));
        self.range = Some((first, highest.max(sequence)));
        if place.again {
            self.repaired += 1;
        } else {
            self.by_themselves += 1;
            self.jitter.receive(now, packet.timestamp, self.clock_rate);
        }
    }

    /// A packet of it arrived and was not used.
    pub fn discard(&mut self) {
        self.discarded += 1;
    }

    /// Takes in what the client was asked for until now.
    pub fn set_feedback(&mut self, feedback: Feedback) {
        self.feedback = feedback;
    }

    /// A receiver report is written: an interval ends.
    pub fn end_interval(&mut self, now: Instant) {
        let counts = (self.expected(), self.by_themselves, self.repaired);
        let expected = counts.0.saturating_sub(self.counted.0);
        let packets = counts.1.saturating_sub(self.counted.1);
        let repaired = counts.2.saturating_sub(self.counted.2);
        self.counted = counts;
        let lost = expected.saturating_sub(packets);
        self.interval = (expected, lost);
        self.score.sample(
            now,
            Interval {
                packets,
                lost,
                repaired,
                retransmitted: repaired,
            },
        );
    }

    /// The producer is paused, or not any more.
    pub fn set_paused(&mut self, now: Instant, paused: bool) {
        if paused {
            self.score.pause(now);
        } else {
            self.score.resume(now);
        }
    }

    /// SSRC of its present source.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// 0–10.
    pub fn score(&self, now: Instant) -> u8 {
        self.score.at(now)
    }

    /// Bits per second.
    pub fn bitrate(&self, now: Instant) -> u64 {
        self.meter.bitrate(now)
    }

    /// Packets expected and lost in the last interval.
    pub fn interval(&self) -> (u64, u64) {
        self.interval
    }

    /// What it comes to.
    pub fn totals(&self) -> Totals {
        let lost = self.expected().saturating_sub(self.by_themselves);
        Totals::of(lost, self.repaired, self.feedback, self.interval)
    }

    /// Everything; `rtx_ssrc` and `rid` are the caller's.
    pub fn stats(&self, now: Instant) -> StreamStats {
        let (expected, lost) = self.interval;
        StreamStats {
            ssrc: self.ssrc,
            rtx_ssrc: None,
            rid: None,
            packets_lost: self.expected().saturating_sub(self.by_themselves),
            fraction_lost: Interval::fraction_lost(lost, expected),
            packets_discarded: self.discarded,
            packets_retransmitted: self.repaired,
            packets_repaired: self.repaired,
            feedback: self.feedback,
            score: self.score(now),
            jitter: self.jitter.ticks(),
            packets: self.packets,
            bytes: self.meter.bytes(),
            bitrate: self.bitrate(now),
        }
    }

    fn expected(&self) -> u64 {
        let of_present = self.range.map_or(0, |(first, highest)| highest - first + 1);
        self.expected_before + of_present
    }
}

/// Interarrival jitter (RFC 3550 §6.4.1, appendix A.8).
#[derive(Debug, Clone, Copy, Default)]
struct Jitter {
    /// When the first packet came, and the transit time of the last one.
    start: Option<Instant>,
    transit: Option<u32>,
    /// Sixteen times the jitter.
    scaled: u32,
}

impl Jitter {
    fn receive(&mut self, now: Instant, timestamp: u32, clock_rate: u32) {
        let start = *self.start.get_or_insert(now);
        let passed = now.saturating_duration_since(start);
        let rate = u64::from(clock_rate);
        let ticks =
            passed.as_secs() * rate + u64::from(passed.subsec_nanos()) * rate / 1_000_000_000;
        // The clock wraps around like the timestamps.
        let arrival = u32::try_from(ticks & u64::from(u32::MAX)).unwrap_or(0);
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let distance = transit.wrapping_sub(before).cast_signed().unsigned_abs();
            let decay = self.scaled.saturating_add(8) >> 4;
            self.scaled = (self.scaled - decay.min(self.scaled)).saturating_add(distance);
        }
    }

    fn ticks(self) -> u32 {
        self.scaled >> 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_that_of_the_rfc() {
        let start = Instant::now();
        let ms = |n| start + Duration::from_millis(n);
        let mut jitter = Jitter::default();
        // Even arrivals, over the wrap-around of timestamps: none.
        for n in 0..100u32 {
            jitter.receive(ms(u64::from(n) * 20), (n * 960).wrapping_sub(9_600), 48_000);
        }
        assert_eq!(jitter.ticks(), 0);
        // Every second packet 10 ms (480 ticks) late: settles at that.
        for n in 100..400u32 {
            let late = if n % 2 == 0 { 10 } else { 0 };
            let timestamp = (n * 960).wrapping_sub(9_600);
            jitter.receive(ms(u64::from(n) * 20 + late), timestamp, 48_000);
        }
        assert!((470..=480).contains(&jitter.ticks()), "{}", jitter.ticks());
    }
}
