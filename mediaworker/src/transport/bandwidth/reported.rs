//! Loss by receiver reports (RFC 3550 §6.4), of all streams to a client together: what is
//! known of those who send no transport-cc feedback.

use std::time::{Duration, Instant};

/// Packets that a share is taken of, at least.
const SAMPLE: u64 = 50;
/// How long it holds when no report follows.
const HOLDS_FOR: Duration = Duration::from_secs(5);

/// What the reports come to.
#[derive(Debug, Default)]
pub(super) struct Reported {
    /// Packets expected and lost that no share was taken of yet.
    expected: u64,
    lost: u64,
    /// Share of packets lost, and when that was known.
    loss: Option<(f32, Instant)>,
}

impl Reported {
    /// Takes in how many packets a report is about, and how many of them are lost.
    pub(super) fn handle(&mut self, now: Instant, expected: u64, lost: u64) {
        self.expected = self.expected.saturating_add(expected);
        self.lost = self.lost.saturating_add(lost.min(expected));
        if self.expected < SAMPLE {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = self.lost as f32 / self.expected as f32;
        (self.expected, self.lost) = (0, 0);
        self.loss = Some((share, now));
    }

    /// Share of packets that is lost, as far as is known.
    pub(super) fn loss(&self, now: Instant) -> Option<f32> {
        let holds = |at: Instant| now.saturating_duration_since(at) < HOLDS_FOR;
        self.loss
            .filter(|(_, at)| holds(*at))
            .map(|(share, _)| share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_of_enough_and_does_not_hold_for_ever() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut reported = Reported::default();
        reported.handle(at(0), 49, 49);
        assert_eq!(reported.loss(at(0)), None, "too few");
        reported.handle(at(100), 51, 1);
        assert_eq!(reported.loss(at(100)), Some(0.5));
        reported.handle(at(200), 60, 100);
        assert_eq!(reported.loss(at(200)), Some(1.0), "never more than all");
        reported.handle(at(300), 60, 0);
        assert_eq!(reported.loss(at(300)), Some(0.0));
        assert_eq!(reported.loss(at(5300)), None, "long ago");
        reported.handle(at(5400), u64::MAX, u64::MAX);
        assert_eq!(reported.loss(at(5400)), Some(1.0));
    }
}
