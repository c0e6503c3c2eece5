//! What is missing of a stream that arrives, and when to ask for it (generic NACK,
//! RFC 4585 §6.2.1).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time for a packet that was only overtaken.
const REORDERING: Duration = Duration::from_millis(5);
/// Time between two requests for the same packet while the round trip is not known,
/// which is more than one on most networks.
const RETRY: Duration = Duration::from_millis(80);
/// The same where it is: that and a little more, within these.
const MIN_RETRY: Duration = Duration::from_millis(20);
const MAX_RETRY: Duration = Duration::from_millis(500);
/// Requests for one packet. After that it is lost.
const MAX_REQUESTS: u8 = 8;
/// Packets that are asked for at the same time. When there are more, none of them is
/// asked for any more: a keyframe costs less.
const MAX_MISSING: usize = 256;

#[derive(Debug)]
struct Wanted {
    next: Instant,
    requests: u8,
}

/// The missing packets of one stream.
#[derive(Debug, Default)]
pub struct Missing {
    wanted: BTreeMap<u64, Wanted>,
    /// Not after the earliest of their times.
    next: Option<Instant>,
}

impl Missing {
    /// The packets before this one did not come. False: there are too many.
    pub fn note(&mut self, now: Instant, sequence: u64, missing: u64) -> bool {
        let fits = usize::try_from(missing)
            .ok()
            .is_some_and(|missing| self.wanted.len() + missing <= MAX_MISSING);
        if !fits {
            self.clear();
            return false;
        }
        let next = now + REORDERING;
        for missing in sequence - missing..sequence {
            self.wanted.insert(missing, Wanted { next, requests: 0 });
        }
        if missing > 0 {
            self.next = Some(self.next.map_or(next, |at| at.min(next)));
        }
        true
    }

    /// One of them has come. True if it had been asked for.
    pub fn came(&mut self, sequence: u64) -> bool {
        let wanted = self.wanted.remove(&sequence);
        if self.wanted.is_empty() {
            self.next = None;
        }
        wanted.is_some_and(|wanted| wanted.requests > 0)
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.wanted.clear();
        self.next = None;
    }

    /// When to ask again.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// What to ask for now, in order. `round_trip`: how long an answer takes, if that
    /// is known.
    pub fn due(&mut self, now: Instant, round_trip: Option<Duration>) -> Vec<u16> {
        if self.next.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let retry = round_trip.map_or(RETRY, |it| (it + it / 4).clamp(MIN_RETRY, MAX_RETRY));
        let mut due = Vec::new();
        self.wanted.retain(|sequence, wanted| {
            if wanted.next > now {
                return true;
            }
            if wanted.requests >= MAX_REQUESTS {
                return false;
            }
            wanted.requests += 1;
            wanted.next = now + retry;
            due.push(u16::try_from(sequence & 0xFFFF).unwrap_or(0));
            true
        });
        self.next = self.wanted.values().map(|wanted| wanted.next).min();
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_asked_for_until_it_comes_or_is_lost() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut missing = Missing::default();
        assert!(missing.note(ms(0), 70_000, 0));
        assert_eq!(missing.next(), None);
        assert!(missing.note(ms(0), 65_538, 3));
        assert!(missing.due(ms(4), None).is_empty(), "may only be overtaken");
        assert!(!missing.came(65_536), "not asked for");
        assert_eq!(missing.due(ms(5), None), [65_535, 1]);
        assert!(missing.due(ms(84), None).is_empty());
        assert!(missing.came(65_537), "asked for");
        for request in 1..8 {
            assert_eq!(
                missing.due(ms(5 + 80 * request), None),
                [65_535],
                "{request}"
            );
        }
        assert!(missing.due(ms(2000), None).is_empty());
        assert_eq!(missing.next(), None);
    }

    #[test]
    fn a_long_way_is_given_its_time_and_a_short_one_is_not() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        for (trip, again) in [(1, 20), (100, 125), (5_000, 500)] {
            let trip = Some(Duration::from_millis(trip));
            let mut missing = Missing::default();
            assert!(missing.note(ms(0), 100, 1));
            assert_eq!(missing.due(ms(5), trip), [99]);
            assert!(missing.due(ms(5 + again - 1), trip).is_empty());
            assert_eq!(missing.due(ms(5 + again), trip), [99]);
        }
    }

    #[test]
    fn too_many_are_given_up_together() {
        let now = Instant::now();
        let mut missing = Missing::default();
        assert!(missing.note(now, 1000, 256));
        assert!(!missing.note(now, 1002, 1));
        assert_eq!(missing.next(), None);
        assert!(missing.due(now + Duration::from_secs(1), None).is_empty());
        assert!(!missing.note(now, 10_000, 257));
    }
}
