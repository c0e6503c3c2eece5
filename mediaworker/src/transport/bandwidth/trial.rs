//! When a little more is sent than is known to pass.
//!
//! What a client can receive is known from probes of a few packets, which show less
//! than there is now and then, or, where it tells by REMB alone, from what it gets: it
//! never says much more than that, so that what needs twice of it would wait for ever.
//! So a step up is tried after a while in which everything passed. If that does not
//! last, the next one waits for twice as long.

use std::time::{Duration, Instant};

/// Time in which everything has to pass before more is tried: at first, and at most,
/// after some that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Time for the estimate to follow. What passes then is kept anyway.
const LASTS_FOR: Duration = Duration::from_secs(30);

/// Tries of one transport.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// Since when everything passes.
    calm: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// What is tried, bits per second, and since when.
    tried: Option<(u64, Instant)>,
}

impl Trial {
    /// What is to be taken for available at least, bits per second.
    pub(super) fn bitrate(&self) -> Option<u64> {
        self.tried.map(|(bitrate, _)| bitrate)
    }

    /// Looks at how things are. `passes`: everything that is sent arrives, and in
    /// time. `next`: what has to be available for the next step, if one is wanted and
    /// may be tried.
    pub(super) fn look(&mut self, now: Instant, passes: bool, known: u64, next: Option<u64>) {
        let since = |at: Instant| now.saturating_duration_since(at);
        match self.tried {
            Some(_) if !passes => self.fail(),
            Some((bitrate, at)) if known >= bitrate || since(at) >= LASTS_FOR => {
                self.failures = 0;
                self.tried = None;
            }
            _ => {}
        }
        if !passes {
            self.calm = None;
            return;
        }
        let calm = since(*self.calm.get_or_insert(now));
        if self.tried.is_none()
            && let Some(next) = next.filter(|next| *next > known)
            && calm >= self.pause()
        {
            self.tried = Some((next, now));
            self.calm = Some(now);
        }
    }

    /// What is tried does not pass.
    pub(super) fn fail(&mut self) {
        if self.tried.take().is_some() {
            self.failures = self.failures.saturating_add(1);
            self.calm = None;
        }
    }

    fn pause(&self) -> Duration {
        let factor = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks for some time, ten times a second; answers the seconds at which more
    /// was tried.
    fn tries(seconds: u64, passes: impl Fn(Option<u64>) -> bool, known: u64) -> Vec<u64> {
        let start = Instant::now();
        let mut trial = Trial::default();
        let mut at = Vec::new();
        for tick in 0..seconds * 10 {
            let before = trial.tried;
            let passes = passes(trial.bitrate());
            let now = start + Duration::from_millis(tick * 100);
            trial.look(now, passes, known, Some(600));
            if trial.tried.is_some() && trial.tried != before {
                at.push(tick / 10);
            }
        }
        at
    }

    #[test]
    fn tries_that_fail_become_rare() {
        // Each fails at the next look.
        let at = tries(600, |tried| tried.is_none(), 500);
        let gaps: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(at.first(), Some(&4));
        assert_eq!(gaps.get(..4), Some(&[8, 16, 32, 60][..]));
        assert!(
            gaps.iter().skip(3).all(|gap| (60..=61).contains(gap)),
            "{gaps:?}"
        );
    }

    #[test]
    fn nothing_is_tried_in_bad_times_or_without_need() {
        assert_eq!(tries(100, |_| false, 500), Vec::<u64>::new());
        assert_eq!(tries(100, |_| true, 600), Vec::<u64>::new());
    }

    #[test]
    fn what_is_known_takes_over_and_what_is_not_ends() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut trial = Trial {
            failures: 2,
            ..Trial::default()
        };
        trial.look(start, true, 500, Some(600));
        trial.look(at(15), true, 500, Some(600));
        assert_eq!(trial.bitrate(), None);
        trial.look(at(16), true, 500, Some(600));
        assert_eq!(trial.bitrate(), Some(600));
        // The next step of what is sent now; that is for later.
        trial.look(at(17), true, 550, Some(900));
        assert_eq!(trial.bitrate(), Some(600));
        trial.look(at(18), true, 650, Some(900));
        assert_eq!((trial.bitrate(), trial.failures), (None, 0));
        trial.look(at(20), true, 650, Some(900));
        assert_eq!(trial.bitrate(), Some(900));
        trial.look(at(49), true, 650, None);
        assert_eq!(trial.bitrate(), Some(900));
        trial.look(at(50), true, 650, None);
        assert_eq!(trial.bitrate(), None);
    }
}
