//! Whether packets queue more and more: how much later than it was sent each group of
//! packets arrives than the one before (draft-ietf-rmcat-gcc-02, sections 5.2 to 5.4),
//! with the slope of a line through those delays as filter, as senders use it that see
//! the arrival times themselves.

use std::collections::VecDeque;

/// Packets that were sent within this time are a group, and those that arrived at once
/// after having waited for each other, for so long at most. Microseconds.
const BURST: i64 = 5_000;
const LONGEST_BURST: i64 = 100_000;
/// Groups that a line is drawn through.
const WINDOW: usize = 20;
/// Weight of what the delay was before, in the average of which the line is drawn.
const SMOOTHING: f64 = 0.9;
/// A slope is multiplied with this, and with the number of groups, up to a limit, before
/// it is compared with the threshold.
const GAIN: f64 = 4.0;
const MOST_GROUPS: f64 = 60.0;
/// The threshold, ms: at first, at least and at most.
const THRESHOLD: (f64, f64, f64) = (12.5, 6.0, 600.0);
/// How fast it follows, up and down, for each ms.
const FOLLOWS: (f64, f64) = (0.0087, 0.039);
/// A trend that far above it is a spike that it does not follow, ms.
const SPIKE: f64 = 15.0;
/// For how long packets have to queue more and more, microseconds.
const OVERUSE_TIME: i64 = 10_000;
/// Groups that arrive before the one before them, after which the receiver's clock is
/// taken for another one.
const MOST_REORDERED: u32 = 3;
/// So is a clock that has jumped that far, microseconds.
const JUMP: i64 = 3_000_000;

/// How the link is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Queues become shorter.
    Under,
    /// They stay.
    Normal,
    /// They grow.
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    first_sent: i64,
    last_sent: i64,
    first_arrival: i64,
    last_arrival: i64,
}

impl Group {
    fn takes(&self, sent: i64, arrival: i64) -> bool {
        let later = sent - self.last_sent;
        let waited = arrival - self.last_arrival;
        let at_once = waited <= BURST
            && waited < later
            && arrival.saturating_sub(self.first_arrival) < LONGEST_BURST;
        sent - self.first_sent <= BURST || at_once
    }
}

/// The filter and the detector.
#[derive(Debug)]
pub(crate) struct Trend {
    current: Option<Group>,
    before: Option<Group>,
    reordered: u32,
    /// Groups so far.
    groups: f64,
    /// Sum of the delays, and its average, ms.
    sum: f64,
    smoothed: f64,
    /// Arrival (ms since the first of them) and averaged delay.
    points: VecDeque<(f64, f64)>,
    origin: i64,
    threshold: f64,
    slope: f64,
    over_for: i64,
    over_groups: u32,
    usage: Usage,
}

impl Trend {
    pub fn new() -> Self {
        Self {
            current: None,
            before: None,
            reordered: 0,
            groups: 0.0,
            sum: 0.0,
            smoothed: 0.0,
            points: VecDeque::with_capacity(WINDOW),
            origin: 0,
            threshold: THRESHOLD.0,
            slope: 0.0,
            over_for: 0,
            over_groups: 0,
            usage: Usage::Normal,
        }
    }

    /// How the link is used, by what has arrived so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Begins anew: the link is another one.
    pub fn clear(&mut self) {
        *self = Self {
            threshold: self.threshold,
            ..Self::new()
        };
    }

    /// Takes in when a packet was sent and when it arrived, in the order of their
    /// numbers; microseconds, on clocks of their own.
    pub fn arrived(&mut self, sent: i64, arrival: i64) {
        let Some(group) = &mut self.current else {
            self.current = Some(Group::of(sent, arrival));
            return;
        };
        if sent < group.first_sent {
            return;
        }
        if group.takes(sent, arrival) {
            group.last_sent = group.last_sent.max(sent);
            group.last_arrival = group.last_arrival.max(arrival);
            return;
        }
        let done = std::mem::replace(group, Group::of(sent, arrival));
        let before = self.before.replace(done);
        let Some(before) = before else { return };
        let sent_later = done.last_sent - before.last_sent;
        let arrived_later = done.last_arrival.saturating_sub(before.last_arrival);
        if arrived_later < 0 {
            self.reordered += 1;
            if self.reordered >= MOST_REORDERED {
                self.clear();
            }
            return;
        }
        self.reordered = 0;
        if arrived_later.saturating_sub(sent_later) > JUMP {
            self.clear();
            return;
        }
        self.update(sent_later, arrived_later, done.last_arrival);
    }

    fn update(&mut self, sent_later: i64, arrived_later: i64, arrival: i64) {
        self.groups = (self.groups + 1.0).min(MOST_GROUPS);
        self.sum += millis(arrived_later - sent_later);
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.sum;
        if self.points.is_empty() {
            self.origin = arrival;
        }
        if self.points.len() >= WINDOW {
            self.points.pop_front();
        }
        let at = millis(arrival.saturating_sub(self.origin));
        self.points.push_back((at, self.smoothed));
        let slope = match self.points.len() {
            WINDOW => slope(&self.points).unwrap_or(self.slope),
            _ => 0.0,
        };
        self.detect(slope, sent_later);
    }

    fn detect(&mut self, slope: f64, sent_later: i64) {
        let trend = slope * self.groups * GAIN;
        if trend > self.threshold {
            self.over_for += match self.over_groups {
                // It began somewhere within that time.
                0 => sent_later / 2,
                _ => sent_later,
            };
            self.over_groups += 1;
            if self.over_for > OVERUSE_TIME && self.over_groups > 1 && slope >= self.slope {
                (self.over_for, self.over_groups) = (0, 0);
                self.usage = Usage::Over;
            }
        } else {
            (self.over_for, self.over_groups) = (0, 0);
            self.usage = match trend < -self.threshold {
                true => Usage::Under,
                false => Usage::Normal,
            };
        }
        self.slope = slope;
        let (trend, time) = (trend.abs(), millis(sent_later).min(100.0));
        if trend <= self.threshold + SPIKE {
            let follows = match trend < self.threshold {
                true => FOLLOWS.1,
                false => FOLLOWS.0,
            };
            let threshold = self.threshold + follows * (trend - self.threshold) * time;
            self.threshold = threshold.clamp(THRESHOLD.1, THRESHOLD.2);
        }
    }
}

impl Group {
    fn of(sent: i64, arrival: i64) -> Self {
        Self {
            first_sent: sent,
            last_sent: sent,
            first_arrival: arrival,
            last_arrival: arrival,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "differences of some seconds")]
fn millis(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

/// Slope of the line with the least squares.
fn slope(points: &VecDeque<(f64, f64)>) -> Option<f64> {
    let count = f64::from(u32::try_from(points.len()).ok()?);
    let sum = points
        .iter()
        .fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
    let (mean_x, mean_y) = (sum.0 / count, sum.1 / count);
    let (mut above, mut below) = (0.0, 0.0);
    for (x, y) in points {
        above += (x - mean_x) * (y - mean_y);
        below += (x - mean_x) * (x - mean_x);
    }
    (below > 0.0).then(|| above / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets each 10 ms, with delays by the index.
    fn usages(delay: impl Fn(i64) -> i64) -> Vec<Usage> {
        let mut trend = Trend::new();
        let run = (0..200).map(|index| {
            trend.arrived(index * 10_000, index * 10_000 + delay(index));
            trend.usage()
        });
        run.collect()
    }

    #[test]
    fn queues_are_seen_to_grow_and_to_shrink() {
        let steady = usages(|_| 50_000);
        assert!(steady.iter().all(|it| *it == Usage::Normal));
        let grows = usages(|index| (index - 50).max(0) * 2_000);
        let first = grows.iter().position(|it| *it == Usage::Over).unwrap();
        assert!((51..75).contains(&first), "{first}");
        let shrinks = usages(|index| (500_000 - (index - 50).max(0) * 2_000).max(0));
        assert!(shrinks.contains(&Usage::Under));
        assert!(!shrinks.contains(&Usage::Over));
    }

    #[test]
    fn jitter_is_no_queue_and_a_clock_may_be_set() {
        let jitter = usages(|index| index * 7_919 % 5_000);
        assert!(!jitter.contains(&Usage::Over));
        for jump in [3_600_000_000, -3_600_000_000] {
            let set = usages(|index| if index > 100 { jump } else { 0 });
            assert!(!set.contains(&Usage::Over), "{jump}");
        }
    }
}
