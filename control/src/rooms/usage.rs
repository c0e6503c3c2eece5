//! What all rooms of one worker hold together, so that a worker is not given
//! more than it is to have.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::Config;
use crate::error::Error;

const WORKER_FULL: Error = Error::Unavailable(
    "the room's media worker is at its limit (WORKER_MAX_TRANSPORTS, WORKER_MAX_CONSUMERS)",
);

/// What the rooms of one worker hold. Each room adds what is new after each step,
/// so it may be late by a step of each room, never wrong for long.
#[derive(Debug, Default)]
pub(super) struct Usage {
    transports: AtomicUsize,
    consumers: AtomicUsize,
}

impl Usage {
    /// A room that had `before` has `after`, each transports and consumers.
    pub fn changed(&self, before: (usize, usize), after: (usize, usize)) {
        change(&self.transports, before.0, after.0);
        change(&self.consumers, before.1, after.1);
    }

    /// Errors when the worker is not to have more.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub fn check(&self, config: &Config) -> Result<(), Error> {
        let below = |has: &AtomicUsize, most: u32| {
            has.load(Ordering::Relaxed) < usize::try_from(most).unwrap_or(usize::MAX)
        };
        let fits = below(&self.transports, config.worker_max_transports)
            && below(&self.consumers, config.worker_max_consumers);
        if fits { Ok(()) } else { Err(WORKER_FULL) }
    }
}

fn change(counter: &AtomicUsize, before: usize, after: usize) {
    if after >= before {
        counter.fetch_add(after - before, Ordering::Relaxed);
    } else {
        counter.fetch_sub(before - after, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_full_when_either_limit_is_reached() {
        let config = Config {
            worker_max_transports: 10,
            worker_max_consumers: 20,
            ..Config::default()
        };
        let usage = Usage::default();
        for (before, after, fits) in [
            ((0, 0), (9, 19), true),
            ((0, 0), (1, 0), false),
            ((1, 0), (0, 1), false),
            ((9, 19), (0, 0), true),
            ((0, 1), (9, 19), true),
        ] {
            usage.changed(before, after);
            let answer = usage.check(&config);
            assert_eq!(answer.is_ok(), fits, "{before:?} {after:?}");
        }
    }
}
