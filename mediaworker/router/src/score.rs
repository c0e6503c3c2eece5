//! How well a stream arrives, as the 0–10 that clients know from mediasoup.
//!
//! A *sample* judges the packets of one interval (between two sender reports of a received stream,
//! two receiver reports of a sent one): the share that was delivered, to the fourth power, times
//! ten. A lost packet that was repaired counts as lost in part only, and the less so the fewer
//! repairs and attempts it took. The *score* is the average of the last [`SAMPLES`] samples, the
//! newest of which weighs most. A received stream that falls silent has 0 at once, and starts anew
//! with 10 when it comes back.

use std::time::{Duration, Instant};

/// The best score.
pub const BEST: u8 = 10;

/// Samples that are averaged.
pub const SAMPLES: usize = 24;

/// Delivered ratios are raised to this, so that small losses are felt.
const EXPONENT: i32 = 4;

/// What became of the packets of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Packets that are the measure: of a received stream those that came by themselves, of a sent
    /// one those that were sent.
    pub packets: u64,
    /// Packets that did not arrive by themselves.
    pub lost: u64,
    /// Lost packets that a retransmission replaced.
    pub repaired: u64,
    /// Retransmissions, however many it took for one packet.
    pub retransmitted: u64,
}

impl Interval {
    /// The sample, 0 to [`BEST`]. Where there was nothing to lose, nothing is wrong.
    #[must_use]
    pub fn score(self) -> u8 {
        if self.packets == 0 {
            return if self.lost == 0 { BEST } else { 0 };
        }
        let packets = ratio(self.packets, 1);
        let lost = ratio(self.lost.min(self.packets), 1);
        let repaired = ratio(self.repaired.min(self.lost).min(self.packets), 1);
        let attempts = ratio(self.retransmitted, 1).max(repaired);
        let mut forgiven = (1.0 + repaired / packets).powi(-EXPONENT) * repaired;
        if repaired > 0.0 {
            forgiven *= repaired / attempts;
        }
        let delivered = (packets - lost + forgiven) / packets;
        rounded(delivered.powi(EXPONENT) * f64::from(BEST))
    }

    /// Lost share of what was expected, in 256ths as RFC 3550 section 6.4.1 has it, at most 255.
    #[must_use]
    pub fn fraction_lost(lost: u64, expected: u64) -> u8 {
        let fraction = lost.saturating_mul(256).checked_div(expected);
        u8::try_from(fraction.unwrap_or(0)).unwrap_or(u8::MAX)
    }
}

/// The last samples of a stream, and their average.
#[derive(Clone, Debug)]
pub struct ScoreHistory {
    /// Oldest first; the first `len` are there.
    samples: [u8; SAMPLES],
    len: usize,
}

impl Default for ScoreHistory {
    fn default() -> Self {
        Self {
            samples: [0; SAMPLES],
            len: 0,
        }
    }
}

impl ScoreHistory {
    /// Adds a sample; the oldest one of a full history is forgotten.
    pub fn push(&mut self, sample: u8) {
        if self.len == SAMPLES {
            self.samples.copy_within(1.., 0);
        } else {
            self.len += 1;
        }
        if let Some(newest) = self.samples.get_mut(self.len - 1) {
            *newest = sample.min(BEST);
        }
    }

    /// Forgets every sample.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The weighted average; [`BEST`] before the first sample.
    #[must_use]
    pub fn score(&self) -> u8 {
        let (mut sum, mut weights) = (0u64, 0u64);
        for (sample, weight) in self.samples.iter().take(self.len).zip(1u64..) {
            sum += u64::from(*sample) * weight;
            weights += weight;
        }
        if weights == 0 {
            BEST
        } else {
            rounded(ratio(sum, weights))
        }
    }
}

/// The score of a received stream: its samples, and whether packets still come.
#[derive(Clone, Debug)]
pub struct StreamScore {
    history: ScoreHistory,
    /// Silence after which the stream counts as gone.
    timeout: Duration,
    last: Instant,
    paused_at: Option<Instant>,
}

impl StreamScore {
    /// A stream whose first packet has just come.
    #[must_use]
    pub fn new(now: Instant, timeout: Duration) -> Self {
        Self {
            history: ScoreHistory::default(),
            timeout,
            last: now,
            paused_at: None,
        }
    }

    /// A packet came.
    pub fn touch(&mut self, now: Instant) {
        if self.is_silent(now) {
            self.history.clear();
        }
        self.last = self.last.max(now);
    }

    /// An interval ended. Nothing is learnt from one that was paused or silent.
    pub fn sample(&mut self, now: Instant, interval: Interval) {
        if self.paused_at.is_none() && !self.is_silent(now) {
            self.history.push(interval.score());
        }
    }

    /// The producer was paused: the score stays as it is. Silence is none then.
    pub fn pause(&mut self, now: Instant) {
        self.paused_at.get_or_insert(now);
    }

    /// The pause is over; the client gets the time of one silence to send again.
    pub fn resume(&mut self, now: Instant) {
        if let Some(paused_at) = self.paused_at.take()
            && !is_over(self.last, paused_at, self.timeout)
        {
            self.last = now;
        }
    }

    /// The score at this moment.
    #[must_use]
    pub fn at(&self, now: Instant) -> u8 {
        if self.is_silent(now) {
            0
        } else {
            self.history.score()
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        is_over(self.last, self.paused_at.unwrap_or(now), self.timeout)
    }
}

fn is_over(last: Instant, now: Instant, timeout: Duration) -> bool {
    now.saturating_duration_since(last) >= timeout
}

/// Counts of packets and sums of scores: far below what a float holds exactly.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range first"
)]
fn rounded(score: f64) -> u8 {
    score.round().clamp(0.0, f64::from(BEST)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_by_table() {
        for (packets, lost, repaired, retransmitted, expected) in [
            (100, 0, 0, 0, 10),
            (0, 0, 0, 0, 10),
            (0, 5, 0, 0, 0),
            // (0.95)^4 = 0.81, (0.9)^4 = 0.66, (0.8)^4 = 0.41, (0.5)^4 = 0.06.
            (100, 5, 0, 0, 8),
            (100, 10, 0, 0, 7),
            (100, 20, 0, 0, 4),
            (100, 50, 0, 0, 1),
            (100, 100, 0, 0, 0),
            (100, 250, 0, 0, 0),
            // Repaired at the first attempt: 10 of 100 come back with a weight of 0.68.
            (100, 10, 10, 10, 9),
            // The same with three attempts each: a third of that.
            (100, 10, 10, 30, 7),
            // More repairs than losses are late packets, not a surplus.
            (100, 10, 50, 50, 7),
            (100, 50, 50, 50, 1),
            (1_000_000, 1, 0, 0, 10),
        ] {
            let interval = Interval {
                packets,
                lost,
                repaired,
                retransmitted,
            };
            assert_eq!(interval.score(), expected, "{interval:?}");
        }
    }

    #[test]
    fn fractions_by_table() {
        for (lost, expected, fraction) in [
            (0, 0, 0),
            (1, 0, 0),
            (0, 100, 0),
            (50, 100, 128),
            (100, 100, 255),
            (1, 1000, 0),
            (u64::MAX, 1, 255),
        ] {
            assert_eq!(Interval::fraction_lost(lost, expected), fraction);
        }
    }

    #[test]
    fn the_newest_of_24_samples_weighs_most() {
        let mut history = ScoreHistory::default();
        assert_eq!(history.score(), 10);
        history.push(0);
        assert_eq!(history.score(), 0);
        history.push(10);
        // (0 × 1 + 10 × 2) / 3.
        assert_eq!(history.score(), 7);
        for _ in 0..SAMPLES {
            history.push(10);
        }
        assert_eq!(history.score(), 10, "the 0 is forgotten");
        history.push(0);
        // 300 − 24 − 23…: the newest has 24 of 300 parts.
        assert_eq!(history.score(), 9);
        for _ in 1..SAMPLES {
            history.push(0);
        }
        assert_eq!(history.score(), 0);
        history.clear();
        assert_eq!(history.score(), 10);
    }

    #[test]
    fn silence_is_zero_and_its_end_a_new_beginning() {
        let start = Instant::now();
        let ms = |n| start + Duration::from_millis(n);
        let half = Interval {
            packets: 100,
            lost: 20,
            ..Interval::default()
        };
        let mut score = StreamScore::new(start, Duration::from_millis(1500));
        score.sample(ms(1000), half);
        score.touch(ms(1000));
        assert_eq!(score.at(ms(2499)), 4);
        assert_eq!(score.at(ms(2500)), 0);
        score.sample(ms(2600), half);
        assert_eq!(score.at(ms(2600)), 0);
        score.touch(ms(3000));
        assert_eq!(score.at(ms(3000)), 10);
    }

    #[test]
    fn a_pause_keeps_the_score() {
        let start = Instant::now();
        let ms = |n| start + Duration::from_millis(n);
        let timeout = Duration::from_millis(1500);
        let mut score = StreamScore::new(start, timeout);
        score.pause(ms(1000));
        score.sample(
            ms(1001),
            Interval {
                packets: 1,
                lost: 1,
                ..Interval::default()
            },
        );
        assert_eq!(score.at(ms(60_000)), 10);
        score.resume(ms(60_000));
        assert_eq!(score.at(ms(61_499)), 10);
        assert_eq!(score.at(ms(61_500)), 0);
        // What was silent before the pause stays so.
        score.pause(ms(70_000));
        score.resume(ms(71_000));
        assert_eq!(score.at(ms(71_000)), 0);
    }
}
