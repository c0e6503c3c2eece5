//! Which stream of a producer a consumer should get.
//!
//! The best that flows and is not above the highest one that the consumer is to get (`cap`); when
//! only higher ones flow, the lowest of them, because something is better than nothing. What arrives
//! too badly to be of use counts as flowing only when nothing else does.

use std::time::{Duration, Instant};

/// A stream without packets (padding does not count) for this long has stopped.
pub const STREAM_TIMEOUT: Duration = Duration::from_secs(2);

/// A stream is steady when it has flowed for this long. Only steady streams are switched to, so a
/// source that sends a frame every few seconds on all its streams does not make consumers jump.
pub const STEADY_AFTER: Duration = Duration::from_secs(1);

/// When packets arrived on a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activity {
    since: Instant,
    last: Instant,
}

impl Activity {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            last: now,
        }
    }

    pub(crate) fn touch(&mut self, now: Instant) {
        if !self.is_active(now) {
            self.since = now;
        }
        self.last = self.last.max(now);
    }

    pub(crate) fn is_active(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < STREAM_TIMEOUT
    }

    fn is_steady(&self, now: Instant) -> bool {
        self.is_active(now) && now.saturating_duration_since(self.since) >= STEADY_AFTER
    }
}

/// A set of stream indexes, below 32 (`MAX_STREAMS` is less).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct StreamSet(u32);

impl StreamSet {
    fn insert(&mut self, stream: usize) {
        self.0 |= 1 << stream;
    }

    fn contains(self, stream: usize) -> bool {
        self.0 & (1 << stream) != 0
    }

    /// The one to take under a cap.
    fn best(self, cap: usize) -> Option<usize> {
        let up_to = Self(self.0 & (u32::MAX >> (31 - cap.min(31))));
        let highest = up_to.0.checked_ilog2();
        let lowest = (self.0 != 0).then(|| self.0.trailing_zeros());
        highest.or(lowest).map(|stream| stream as usize)
    }
}

/// The state of a producer's streams at one instant.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Selection {
    active: StreamSet,
    steady: StreamSet,
}

impl Selection {
    /// `streams`: when packets arrived on each, and whether it is of use.
    pub(crate) fn new(
        now: Instant,
        streams: impl Iterator<Item = (Option<Activity>, bool)> + Clone,
    ) -> Self {
        let healthy = Self::of(now, streams.clone(), false);
        if healthy.active == StreamSet::default() {
            Self::of(now, streams, true)
        } else {
            healthy
        }
    }

    fn of(
        now: Instant,
        streams: impl Iterator<Item = (Option<Activity>, bool)>,
        useless_too: bool,
    ) -> Self {
        let mut selection = Self::default();
        for (stream, (activity, is_of_use)) in streams.enumerate() {
            let Some(activity) = activity.filter(|_| is_of_use || useless_too) else {
                continue;
            };
            if activity.is_active(now) {
                selection.active.insert(stream);
            }
            if activity.is_steady(now) {
                selection.steady.insert(stream);
            }
        }
        selection
    }

    pub(crate) fn is_active(&self, stream: usize) -> bool {
        self.active.contains(stream)
    }

    /// What a consumer without a stream would like best.
    pub(crate) fn best(&self, cap: usize) -> Option<usize> {
        self.active.best(cap)
    }

    /// Whether a consumer without a stream may begin with this one: anything that it wants, so
    /// that there is something to see soon, else only what it would get anyway.
    pub(crate) fn may_begin(&self, stream: usize, cap: usize) -> bool {
        stream <= cap || self.best(cap) == Some(stream)
    }

    /// Where a consumer that gets `current` should move to, if anywhere.
    pub(crate) fn move_from(&self, current: usize, cap: usize) -> Option<usize> {
        let is_better = |best: usize| match (best <= cap, current <= cap) {
            (true, true) => best > current,
            (true, false) => true,
            (false, true) => false,
            (false, false) => best < current,
        };
        self.steady
            .best(cap)
            .filter(|best| is_better(*best) || (*best != current && !self.active.contains(current)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that has flowed from the first to the second instant, in ms.
    fn flowed(start: Instant, since: u64, last: u64) -> Option<Activity> {
        let since = start + Duration::from_millis(since);
        Some(Activity {
            since,
            last: start + Duration::from_millis(last),
        })
    }

    fn selection(now: Instant, streams: [Option<Activity>; 3]) -> Selection {
        Selection::new(now, streams.into_iter().map(|activity| (activity, true)))
    }

    #[test]
    fn what_is_of_no_use_is_the_last_resort() {
        let start = Instant::now();
        let now = start + Duration::from_millis(10_000);
        let steady = flowed(start, 0, 9_990);
        let select = |streams: [_; 2]| Selection::new(now, streams.into_iter());
        let failing = select([(steady, true), (steady, false)]);
        assert_eq!(failing.best(15), Some(0));
        assert_eq!(
            (failing.move_from(1, 15), failing.move_from(0, 15)),
            (Some(0), None)
        );
        let both = select([(steady, false), (steady, false)]);
        assert_eq!((both.best(15), both.move_from(0, 15)), (Some(1), Some(1)));
        let alone = select([(None, true), (steady, false)]);
        assert_eq!(alone.best(15), Some(1));
    }

    #[test]
    fn moves_up_to_what_is_steady_and_down_from_what_has_stopped() {
        let start = Instant::now();
        let now = start + Duration::from_millis(10_000);
        let steady = flowed(start, 0, 9_990);
        let fresh = flowed(start, 9_500, 9_990);
        let stopped = flowed(start, 0, 8_000);
        let cases = [
            ([steady, steady, steady], 0, Some(2)),
            ([steady, steady, steady], 2, None),
            ([steady, steady, fresh], 0, Some(1)),
            ([steady, steady, fresh], 2, None),
            ([steady, steady, stopped], 2, Some(1)),
            ([steady, stopped, stopped], 2, Some(0)),
            ([steady, stopped, stopped], 0, None),
            ([fresh, fresh, stopped], 2, None),
            ([stopped, stopped, stopped], 1, None),
            ([steady, None, None], 0, None),
            ([None, None, steady], 0, Some(2)),
        ];
        for (index, (streams, current, expected)) in cases.into_iter().enumerate() {
            let selection = selection(now, streams);
            let to = selection.move_from(current, crate::MAX_STREAMS - 1);
            assert_eq!(to, expected, "case {index}");
        }
        let best = |streams: [_; 3]| selection(now, streams).best(15);
        assert_eq!(best([steady, fresh, stopped]), Some(1));
        assert_eq!(best([None, None, stopped]), None);
    }

    #[test]
    fn a_cap_is_kept_while_something_flows_below_it() {
        let start = Instant::now();
        let now = start + Duration::from_millis(10_000);
        let steady = flowed(start, 0, 9_990);
        let fresh = flowed(start, 9_500, 9_990);
        let cases = [
            // (streams, cap, best, moves from 0, 1 and 2)
            (
                [steady, steady, steady],
                1,
                Some(1),
                [Some(1), None, Some(1)],
            ),
            (
                [steady, steady, steady],
                0,
                Some(0),
                [None, Some(0), Some(0)],
            ),
            ([None, steady, steady], 0, Some(1), [Some(1), None, Some(1)]),
            ([None, None, steady], 0, Some(2), [Some(2), Some(2), None]),
            ([fresh, None, steady], 0, Some(0), [None, Some(2), None]),
            ([steady, None, steady], 1, Some(0), [None, Some(0), Some(0)]),
            ([None, None, None], 1, None, [None, None, None]),
        ];
        for (index, (streams, cap, best, moves)) in cases.into_iter().enumerate() {
            let selection = selection(now, streams);
            assert_eq!(selection.best(cap), best, "case {index}");
            for (current, expected) in moves.into_iter().enumerate() {
                let to = selection.move_from(current, cap);
                assert_eq!(to, expected, "case {index} from {current}");
            }
        }
        let all = selection(now, [steady, steady, steady]);
        assert!(all.may_begin(0, 1) && all.may_begin(1, 1) && !all.may_begin(2, 1));
        let high = selection(now, [None, steady, steady]);
        assert!(high.may_begin(1, 0) && !high.may_begin(2, 0));
    }

    #[test]
    fn a_silence_ends_steadiness() {
        let start = Instant::now();
        let mut activity = Activity::new(start);
        activity.touch(start + Duration::from_millis(1999));
        assert!(activity.is_steady(start + Duration::from_millis(1999)));
        let after = start + Duration::from_millis(3999);
        assert!(!activity.is_active(after));
        activity.touch(after);
        assert!(activity.is_active(after) && !activity.is_steady(after));
        assert!(activity.is_steady(after + STEADY_AFTER));
    }
}
