//! The bitrate that follows from how the link is used: up slowly, down at once
//! (draft-ietf-rmcat-gcc-02, section 5.5).

use crate::trend::Usage;

/// What is left of what arrives, when packets queue more and more.
const BETA: f64 = 0.85;
/// Growth in a second far from what the link has shown to carry.
const GROWTH: f64 = 1.08;
/// Bits of a packet: near it, the bitrate grows by one for each response.
const PACKET: f64 = 9600.0;
/// Least growth in a second, bits per second.
const LEAST_GROWTH: f64 = 4000.0;
/// What a receiver takes to respond, beside the round trip, seconds.
const RESPONSE: f64 = 0.1;
/// The bitrate grows up to this much of what arrives, and some more, bits per second:
/// what is not used is not known.
const USED: (f64, f64) = (1.5, 10_000.0);
/// Weight of what the link has carried at the newest fall, in the average.
const WEIGHT: f64 = 0.05;
/// Variance of that, relative to the average in kbit/s: at first, at least, at most.
const VARIANCE: (f64, f64, f64) = (0.4, 0.4, 2.5);
/// Least and longest time between two falls, microseconds; in between it is the round
/// trip.
const FALL_AGAIN: (i64, i64) = (10_000, 200_000);
/// For how long it is known what it was before it fell, microseconds.
const LATELY: i64 = 1_000_000;
const SECOND: f64 = 1_000_000.0;

/// The bitrate by delay.
#[derive(Debug)]
pub(crate) struct Rate {
    /// Bits per second.
    bitrate: f64,
    near: Option<Near>,
    updated: Option<i64>,
    fell: Option<i64>,
    /// What it was before it began to fall, and when that was.
    high: Option<(f64, i64)>,
}

/// What the link carried when it was full.
#[derive(Debug, Clone, Copy)]
struct Near {
    /// kbit/s.
    mean: f64,
    variance: f64,
}

impl Near {
    fn note(near: Option<Self>, delivered: f64) -> Self {
        let sample = delivered / 1000.0;
        let Some(Self { mean, variance }) = near else {
            return Self {
                mean: sample,
                variance: VARIANCE.0,
            };
        };
        let mean = (1.0 - WEIGHT) * mean + WEIGHT * sample;
        let error = mean - sample;
        let variance = (1.0 - WEIGHT) * variance + WEIGHT * error * error / mean.max(1.0);
        Self {
            mean,
            variance: variance.clamp(VARIANCE.1, VARIANCE.2),
        }
    }

    /// Three standard deviations around the average, bits per second.
    fn bounds(&self) -> (f64, f64) {
        let deviation = 3.0 * (self.variance * self.mean).sqrt();
        let bound = |it: f64| (it * 1000.0).max(0.0);
        (bound(self.mean - deviation), bound(self.mean + deviation))
    }
}

impl Rate {
    pub fn new(bitrate: f64) -> Self {
        Self {
            bitrate,
            near: None,
            updated: None,
            fell: None,
            high: None,
        }
    }

    /// Bits per second.
    pub fn bitrate(&self) -> f64 {
        self.bitrate
    }

    /// What it was before it fell, where that was just now.
    pub fn lately(&self, now: i64) -> f64 {
        let fresh = self.high.filter(|(_, at)| now.saturating_sub(*at) < LATELY);
        fresh.map_or(self.bitrate, |(high, _)| high.max(self.bitrate))
    }

    /// It is known to be this much.
    pub fn set(&mut self, bitrate: f64) {
        self.bitrate = bitrate;
        self.near = None;
        self.high = None;
    }

    /// The link is full, and carries this much.
    pub fn fall_to(&mut self, carried: f64) {
        self.near = Some(Near::note(None, carried));
        self.high = None;
        self.bitrate = self.bitrate.min(BETA * carried);
    }

    /// Keeps it within bounds.
    pub fn clamp(&mut self, least: f64, most: f64) {
        self.bitrate = self.bitrate.clamp(least, most);
    }

    /// Takes in how the link is used. `delivered`: what arrives, bits per second;
    /// `round_trip`: microseconds.
    pub fn update(&mut self, now: i64, usage: Usage, delivered: Option<f64>, round_trip: i64) {
        let passed = self.updated.map_or(0, |at| now.saturating_sub(at));
        self.updated = Some(now);
        match usage {
            Usage::Normal => self.grow(passed, delivered, round_trip),
            // The queue becomes empty first.
            Usage::Under => {}
            Usage::Over => self.fall(now, delivered, round_trip),
        }
    }

    fn grow(&mut self, passed: i64, delivered: Option<f64>, round_trip: i64) {
        let Some(delivered) = delivered else { return };
        #[expect(clippy::cast_precision_loss, reason = "at most some seconds")]
        let (seconds, response) = (
            (passed as f64 / SECOND).clamp(0.0, 1.0),
            round_trip as f64 / SECOND + RESPONSE,
        );
        if self.near.is_some_and(|near| delivered > near.bounds().1) {
            self.near = None;
        }
        let near = self.near.is_some_and(|near| delivered > near.bounds().0);
        let more = match near {
            true => (PACKET / response).max(LEAST_GROWTH) * seconds,
            false => self.bitrate * (GROWTH.powf(seconds) - 1.0),
        };
        let most = delivered * USED.0 + USED.1;
        let grown = (self.bitrate + more).min(most);
        self.bitrate = self.bitrate.max(grown);
    }

    fn fall(&mut self, now: i64, delivered: Option<f64>, round_trip: i64) {
        let again = round_trip.clamp(FALL_AGAIN.0, FALL_AGAIN.1);
        let is_low = delivered.is_some_and(|it| it < self.bitrate / 2.0);
        let waited = |at: i64| now.saturating_sub(at) >= again;
        if !is_low && !self.fell.is_none_or(waited) {
            return;
        }
        self.fell = Some(now);
        if self.lately(now) <= self.bitrate {
            self.high = Some((self.bitrate, now));
        }
        let delivered = delivered.unwrap_or(self.bitrate);
        if self.near.is_some_and(|near| delivered < near.bounds().0) {
            self.near = None;
        }
        self.near = Some(Near::note(self.near, delivered));
        self.bitrate = self.bitrate.min(BETA * delivered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: i64 = 100_000;

    fn run(rate: &mut Rate, from: i64, steps: i64, usage: Usage, delivered: f64) {
        for step in from..from + steps {
            rate.update(step * STEP, usage, Some(delivered), 50_000);
        }
    }

    #[test]
    fn it_grows_by_shares_and_near_the_limit_by_packets() {
        let mut rate = Rate::new(1_000_000.0);
        run(&mut rate, 0, 101, Usage::Normal, 1_900_000.0);
        let grown = rate.bitrate();
        assert!((2_100_000.0..2_200_000.0).contains(&grown), "{grown}");
        run(&mut rate, 101, 1, Usage::Over, 2_000_000.0);
        assert_eq!(rate.bitrate(), 1_700_000.0);
        run(&mut rate, 102, 1, Usage::Over, 2_000_000.0);
        run(&mut rate, 103, 10, Usage::Under, 2_000_000.0);
        assert_eq!(rate.bitrate(), 1_700_000.0);
        run(&mut rate, 113, 10, Usage::Normal, 2_000_000.0);
        let grown = rate.bitrate() - 1_700_000.0;
        assert!((60_000.0..70_000.0).contains(&grown), "{grown}");
        // The link is another one.
        run(&mut rate, 123, 10, Usage::Normal, 3_000_000.0);
        assert!(rate.bitrate() > 1_880_000.0);
    }

    #[test]
    fn what_is_not_used_neither_grows_nor_is_lost() {
        let mut rate = Rate::new(1_000_000.0);
        run(&mut rate, 0, 1000, Usage::Normal, 100_000.0);
        assert_eq!(rate.bitrate(), 1_000_000.0);
        rate.set(100_000.0);
        run(&mut rate, 1000, 1000, Usage::Normal, 100_000.0);
        assert_eq!(rate.bitrate(), 160_000.0);
    }

    #[test]
    fn it_falls_once_in_a_round_trip() {
        let mut rate = Rate::new(1_000_000.0);
        for at in 0..50_000 {
            rate.update(at, Usage::Over, Some(1_000_000.0 - at as f64), 50_000);
        }
        assert_eq!(rate.bitrate(), 850_000.0);
        assert_eq!(rate.lately(LATELY - 1), 1_000_000.0);
        assert_eq!(rate.lately(LATELY), 850_000.0);
        rate.update(50_000, Usage::Over, None, 50_000);
        assert_eq!(rate.bitrate(), 722_500.0);
    }
}
