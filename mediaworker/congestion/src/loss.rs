//! How much is lost, and what that says of the bitrate (draft-ietf-rmcat-gcc-02,
//! section 6).

use std::collections::VecDeque;

/// Time over which it is counted, microseconds.
const WINDOW: i64 = 1_000_000;
/// Messages of that time that are counted apart; those of a hasty receiver are added
/// to each other.
const MOST_REPORTS: usize = 64;
/// Packets that a share is taken of, at least.
const SAMPLE: i64 = 20;
/// Where more than this share is lost, less is sent; where less than the other is, more
/// may be.
const HIGH: f64 = 0.1;
const LOW: f64 = 0.02;
/// How much more after each second.
const RISE: f64 = 1.08;

#[derive(Debug, Clone, Copy)]
struct Report {
    at: i64,
    arrived: i64,
    lost: i64,
}

/// Packets that arrived and that did not, and the bitrate that follows.
#[derive(Debug, Default)]
pub(crate) struct Loss {
    reports: VecDeque<Report>,
    /// When the bitrate was looked at last.
    looked: Option<i64>,
    /// Bits per second; `None`: it is not loss that limits it.
    limit: Option<f64>,
}

impl Loss {
    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes in what one message says. `lost` is negative where packets arrived after
    /// all.
    pub fn note(&mut self, at: i64, arrived: i64, lost: i64) {
        // Whether others are old is looked at where they are counted.
        let old = |first: &Report| at.saturating_sub(first.at) >= WINDOW;
        let is_full = self.reports.len() >= MOST_REPORTS;
        let has_room = !is_full || self.reports.front().is_some_and(old);
        match self.reports.back_mut().filter(|_| !has_room) {
            Some(last) => {
                last.arrived += arrived;
                last.lost += lost;
            }
            None => {
                if is_full {
                    self.reports.pop_front();
                }
                self.reports.push_back(Report { at, arrived, lost });
            }
        }
    }

    /// The share that was lost in the last second; `None`: nothing was reported.
    pub fn share(&self, now: i64) -> Option<f64> {
        self.counted(now).map(|(share, _)| share)
    }

    /// The same, of enough packets to say something.
    pub fn sample(&self, now: i64) -> Option<f64> {
        let (share, all) = self.counted(now)?;
        (all >= SAMPLE).then_some(share)
    }

    fn counted(&self, now: i64) -> Option<(f64, i64)> {
        let newest = self.reports.iter().rev();
        let fresh = newest.take_while(|it| now.saturating_sub(it.at) < WINDOW);
        let (arrived, lost) = fresh.fold((0, 0), |sum, it| (sum.0 + it.arrived, sum.1 + it.lost));
        let (lost, all) = (lost.max(0), (arrived + lost).max(0));
        #[expect(clippy::cast_precision_loss, reason = "packets of a second")]
        (all > 0).then(|| (lost.min(all) as f64 / all as f64, all))
    }

    /// Looks at the bitrate, once in a second. `estimate`: what it is now, `by_delay`:
    /// what it would be without loss.
    pub fn look(&mut self, now: i64, estimate: f64, by_delay: f64) {
        let since = *self.looked.get_or_insert(now);
        if now.saturating_sub(since) < WINDOW {
            return;
        }
        self.looked = Some(now);
        let Some((share, all)) = self.counted(now).filter(|(_, all)| *all >= SAMPLE) else {
            return;
        };
        // Of few packets, many are lost now and then that are not lost as a rule.
        #[expect(clippy::cast_precision_loss, reason = "packets of a second")]
        let error = (share * (1.0 - share) / all as f64).sqrt();
        if share - error > HIGH {
            self.limit = Some(estimate * (1.0 - share / 2.0));
        } else if share < LOW {
            self.limit = self.limit.map(|limit| limit * RISE);
        }
        self.limit = self.limit.filter(|limit| *limit < by_delay);
    }

    /// So much has been shown to pass.
    pub fn raise(&mut self, bitrate: f64) {
        self.limit = self.limit.map(|limit| limit.max(bitrate));
    }

    /// Bits per second; `None`: it is not loss that limits it.
    pub fn limit(&self) -> Option<f64> {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What remains of 1 Mbit/s after so many seconds with a share of loss in percent.
    fn after(seconds: i64, percent: i64) -> f64 {
        let mut loss = Loss::default();
        let mut estimate = 1_000_000.0;
        for tick in 0..seconds * 10 + 1 {
            let now = tick * 100_000;
            loss.note(now, 100 - percent, percent);
            loss.look(now, estimate, 1_000_000.0);
            estimate = loss.limit().unwrap_or(1_000_000.0);
        }
        assert_eq!(
            loss.share(seconds * 1_000_000),
            Some(percent as f64 / 100.0)
        );
        assert_eq!(loss.share(seconds * 1_000_000 + WINDOW), None);
        estimate
    }

    #[test]
    fn much_loss_lowers_the_bitrate_and_little_does_not() {
        assert_eq!(after(20, 0), 1_000_000.0);
        assert_eq!(after(20, 9), 1_000_000.0);
        assert_eq!(after(1, 20), 900_000.0);
        assert!(after(20, 50) < 10_000.0);
    }

    #[test]
    fn a_hasty_receiver_is_counted_whole() {
        let mut loss = Loss::default();
        for index in 0..400 {
            loss.note(index * 5_000, 9, 1);
            assert!(loss.reports.len() <= MOST_REPORTS);
            assert_eq!(loss.share(index * 5_000), Some(0.1), "{index}");
        }
        // Of those that did not fit, the last one that did has the time.
        assert!(
            loss.counted(400 * 5_000)
                .is_some_and(|(_, all)| all >= 1_000)
        );
        assert_eq!(loss.share(400 * 5_000 + 2 * WINDOW), None);
    }

    #[test]
    fn few_packets_say_little() {
        for (lost, lowers) in [(3, false), (6, true)] {
            let mut loss = Loss::default();
            loss.look(0, 1_000_000.0, 1_000_000.0);
            loss.note(WINDOW, 20 - lost, lost);
            loss.look(WINDOW, 1_000_000.0, 1_000_000.0);
            assert_eq!(loss.limit().is_some(), lowers, "{lost} of 20");
        }
    }

    #[test]
    fn it_rises_again() {
        let mut loss = Loss {
            limit: Some(500_000.0),
            ..Loss::default()
        };
        for second in 0..20 {
            loss.note(second * WINDOW, 100, 0);
            loss.look(second * WINDOW, 500_000.0, 1_000_000.0);
            let limits = loss.limit().is_some();
            assert_eq!(limits, second < 10, "{second}");
        }
        // Nothing arrives twice.
        loss.note(20 * WINDOW, 10, -10);
        assert_eq!(loss.share(20 * WINDOW), None);
    }
}
