//! When the media thread looks at its sockets: as soon as something is there, or by the
//! clock where that would wake it some hundred times a second. A wake costs the same for
//! one packet as for ten, and on a core that sleeps in between most of what it costs are
//! empty caches; and what one receiver gets of several packets can leave together.
//!
//! Pure: it is told what rounds of the thread found and took, and says how it is to wait.

use std::time::{Duration, Instant, SystemTime};

use crate::net::udp::Stamp;

/// How long a packet waits and is worked on together, at most: the more of the time the
/// thread works, the shorter it waits.
pub const MAX_WAIT: Duration = Duration::from_millis(3);
/// How often it is thought about. Shorter, and chance would decide.
const WINDOW: Duration = Duration::from_millis(100);
/// Looks by the clock are made where each of them is expected to find what ended so many
/// waits before, on average: from 500 a second on where there is little work.
const EACH_FINDS: f64 = 1.5;
/// Looks by the clock of which fewer than this, in percent, find something are not worth
/// it: that is what 0.9 for each look are, where they come by chance.
const FILLED_PERCENT: u32 = 60;

/// How the thread waits for packets.
#[derive(Debug)]
pub struct Pace {
    /// Begin of the window.
    began: Instant,
    /// Looks at the sockets in the window, and those that found something.
    looks: u32,
    found: u32,
    /// Time that rounds took in the window.
    worked: Duration,
    period: Option<Duration>,
}

impl Pace {
    /// Begins with packets that do not wait.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            looks: 0,
            found: 0,
            worked: Duration::ZERO,
            period: None,
        }
    }

    /// Time from one look at the sockets to the next; `None` while they are looked at as
    /// soon as something is there.
    pub fn period(&self) -> Option<Duration> {
        self.period
    }

    /// One round: whether it looked at the sockets and found packets, and how long it took.
    pub fn note(&mut self, now: Instant, looked: bool, found: bool, took: Duration) {
        self.looks += u32::from(looked);
        self.found += u32::from(looked && found);
        self.worked += took;
        let passed = now.saturating_duration_since(self.began);
        if passed < WINDOW {
            return;
        }
        let load = self.worked.as_secs_f64() / passed.as_secs_f64();
        let period = period(load);
        let pays = match self.period {
            None => {
                let looks = passed.as_secs_f64() / period.as_secs_f64();
                f64::from(self.found) >= EACH_FINDS * looks
            }
            Some(_) => self.found * 100 >= self.looks * FILLED_PERCENT && self.found > 0,
        };
        *self = Self {
            period: pays.then_some(period),
            ..Self::new(now)
        };
    }
}

/// The period with which a packet waits and is worked on for [`MAX_WAIT`] at most, where
/// the thread works for this share of its time.
fn period(load: f64) -> Duration {
    MAX_WAIT.div_f64(1.0 + load.min(1.0))
}

/// A look at the sockets. What it finds has waited for it; the kernel's stamps say how long.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    at: Instant,
    /// The same on the clock of the stamps.
    wall: Duration,
    /// When there was nothing to be found.
    before: Instant,
}

impl Look {
    /// A look at one time on both clocks, and when one before it had left nothing.
    pub fn new(at: Instant, wall: SystemTime, before: Instant) -> Self {
        let wall = wall.duration_since(SystemTime::UNIX_EPOCH);
        Self {
            at,
            wall: wall.unwrap_or_default(),
            before,
        }
    }

    /// When something that it finds came: since there was nothing, however the clock of the wall
    /// was set meanwhile, and not after it.
    pub fn came(&self, stamp: Stamp) -> Instant {
        let waited = stamp.and_then(|stamp| self.wall.checked_sub(stamp));
        let came = self.at.checked_sub(waited.unwrap_or_default());
        came.map_or(self.before, |came| came.max(self.before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Rounds for half a second, of which each takes its part of the time between them.
    fn run(pace: &mut Pace, at: &mut Instant, every: Duration, found_percent: u32, load: f64) {
        let end = *at + 500 * MS;
        let mut found = 0;
        while *at < end {
            *at += every;
            found += found_percent;
            pace.note(*at, true, found >= 100, every.mul_f64(load));
            found %= 100;
        }
    }

    #[test]
    fn packets_wait_only_where_they_come_often() {
        for (wakes_in_a_second, load, waits) in [
            (1, 0.0, false),
            (80, 0.0, false),
            (450, 0.0, false),
            (550, 0.0, true),
            // Then the clock would look more often, and find less.
            (550, 0.5, false),
            (800, 0.5, true),
        ] {
            let (mut at, every) = (Instant::now(), Duration::from_secs(1) / wakes_in_a_second);
            let mut pace = Pace::new(at);
            run(&mut pace, &mut at, every, 100, load);
            assert_eq!(
                pace.period().is_some(),
                waits,
                "{wakes_in_a_second}, {load}"
            );
        }
    }

    #[test]
    fn they_wait_no_longer_once_they_come_seldom() {
        for (found_percent, waits) in [(100, true), (65, true), (55, false), (0, false)] {
            let mut at = Instant::now();
            let mut pace = Pace::new(at);
            run(&mut pace, &mut at, MS, 100, 0.0);
            let period = pace.period().expect("a thousand wakes a second");
            run(&mut pace, &mut at, period, found_percent, 0.0);
            assert_eq!(pace.period().is_some(), waits, "{found_percent} %");
        }
        // Nor when nothing is looked at.
        let mut at = Instant::now();
        let mut pace = Pace::new(at);
        run(&mut pace, &mut at, MS, 100, 0.0);
        pace.note(at + 200 * MS, false, false, MS);
        assert_eq!(pace.period(), None);
    }

    #[test]
    fn waiting_and_work_together_have_a_bound() {
        for (load, micros) in [
            (0.0, 3000),
            (0.1, 2727),
            (0.5, 2000),
            (1.0, 1500),
            (7.0, 1500),
        ] {
            assert_eq!(period(load).as_micros(), micros, "{load}");
        }
    }

    #[test]
    fn stamps_say_when_something_came() {
        let before = Instant::now();
        let at = before + 3 * MS;
        let wall = Duration::from_secs(1_700_000_000);
        let look = Look { at, wall, before };
        for (stamp, came) in [
            (Some(wall - 2 * MS), at - 2 * MS),
            (Some(wall), at),
            // While it looks.
            (Some(wall + MS), at),
            // The clock of the wall was set.
            (Some(wall - Duration::from_secs(3600)), before),
            (Some(wall + Duration::from_secs(3600)), at),
            (Some(Duration::ZERO), before),
            (None, at),
        ] {
            assert_eq!(look.came(stamp), came, "{stamp:?}");
        }
    }
}
