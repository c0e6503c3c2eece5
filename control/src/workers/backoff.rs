//! How long to wait before a dead worker is replaced.

use std::time::Duration;

use super::placement::Timing;

/// Doubling, jittered delays.
#[derive(Debug)]
pub struct Backoff {
    timing: Timing,
    next: Duration,
}

impl Backoff {
    /// Starts with the shortest delay.
    pub fn new(timing: Timing) -> Self {
        Self {
            next: timing.backoff_min,
            timing,
        }
    }

    /// The delay after a process that lived for `life`. `jitter`, 0 to 1, adds
    /// up to half of the delay, so that workers that died together do not come
    /// back together; the longest delay is never exceeded.
    pub fn after(&mut self, life: Duration, jitter: f64) -> Duration {
        if life >= self.timing.stable_after {
            self.next = self.timing.backoff_min;
        }
        let delay = self.next.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0);
        self.next = (self.next * 2).min(self.timing.backoff_max);
        delay.min(self.timing.backoff_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_a_long_life() {
        let mut backoff = Backoff::new(Timing::default());
        let short = Duration::from_secs(1);
        let delays: Vec<u128> = (0..8)
            .map(|_| backoff.after(short, 0.0).as_millis())
            .collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        let long = Duration::from_secs(60);
        assert_eq!(backoff.after(long, 1.0).as_millis(), 375);
        assert_eq!(backoff.after(short, 0.5).as_millis(), 625);
    }

    #[test]
    fn jitter_never_exceeds_the_longest_delay() {
        let mut backoff = Backoff::new(Timing::default());
        for _ in 0..20 {
            assert!(backoff.after(Duration::ZERO, 1.0) <= Timing::default().backoff_max);
        }
    }
}
