//! How many packets pass a link, by the reports of transport-cc.
//!
//! When a link becomes narrow, its queue fills up within a moment. Long before the
//! reports name what was lost, they name much less than has left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Time over which it is compared what leaves and what arrives, at least.
const PASSAGE: Duration = Duration::from_millis(200);
/// Packets that have to leave in that time, so that it says something.
const PASSAGE_SAMPLE: u32 = 12;
/// Where less than this share of packets arrives, in percent, and packets queue, the
/// link has become much too narrow.
const STARVED_PERCENT: u32 = 50;
/// For how long that has to be so.
const STARVED_FOR: Duration = Duration::from_millis(50);
/// Reports that are remembered: half a second of them, or more.
const MAX_MARKS: usize = 32;

/// What has left, and what has arrived of it.
#[derive(Debug, Default)]
pub(super) struct Passage {
    /// Packets that have left, and that have arrived.
    left: u32,
    arrived: u32,
    /// The same at each report of the last while, the oldest first.
    marks: VecDeque<(Instant, u32, u32)>,
    /// Since when much less arrives than has left.
    starved: Option<Instant>,
}

impl Passage {
    /// Begins anew: the link is another one.
    pub(super) fn clear(&mut self) {
        self.marks.clear();
        self.starved = None;
    }

    /// A packet has left whose arrival will be reported.
    pub(super) fn note_departure(&mut self) {
        self.left = self.left.wrapping_add(1);
    }

    /// Takes in how many packets a report names as arrived. `delay`: the time from
    /// a departure to its report, where nothing queues. Answers how many arrived in
    /// the last while, and how many should have, when those are much more.
    pub(super) fn handle_report(
        &mut self,
        now: Instant,
        arrived: u32,
        delay: Option<Duration>,
    ) -> Option<(u32, u32)> {
        self.arrived = self.arrived.wrapping_add(arrived);
        if self.marks.len() >= MAX_MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back((now, self.left, self.arrived));
        let delay = delay?;
        let start = now.checked_sub(PASSAGE)?;
        let begin = self.marks.iter().rfind(|(at, ..)| *at <= start)?;
        let arrived = self.arrived.wrapping_sub(begin.2);
        let left = self
            .left_by(now.checked_sub(delay)?)?
            .wrapping_sub(self.left_by(begin.0.checked_sub(delay)?)?);
        let passes = left < PASSAGE_SAMPLE
            || u64::from(arrived) * 100 >= u64::from(left) * u64::from(STARVED_PERCENT);
        if passes {
            self.starved = None;
            return None;
        }
        let since = *self.starved.get_or_insert(now);
        (now.saturating_duration_since(since) >= STARVED_FOR).then_some((arrived, left))
    }

    /// Packets that have left within this time, as far as that is remembered.
    pub(super) fn left_within(&self, now: Instant, time: Duration) -> u32 {
        let then = now.checked_sub(time).and_then(|then| self.left_by(then));
        let oldest = self.marks.front().map_or(self.left, |mark| mark.1);
        self.left.wrapping_sub(then.unwrap_or(oldest))
    }

    /// Packets that had left by then; between two reports, in proportion.
    fn left_by(&self, time: Instant) -> Option<u32> {
        let after = self.marks.iter().position(|(at, ..)| *at >= time)?;
        let (at, left, _) = *self.marks.get(after)?;
        let Some(before) = after.checked_sub(1).and_then(|it| self.marks.get(it)) else {
            return (at == time).then_some(left);
        };
        let part = (time - before.0).as_secs_f64() / (at - before.0).as_secs_f64();
        let between = f64::from(left.wrapping_sub(before.1)) * part;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a u32"
        )]
        Some(before.1.wrapping_add(between as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(50);

    /// Two seconds in which packets leave, so many each 5 ms, and reports come each
    /// 50 ms that name so many; 0: none comes. Answers what was seen first, and when,
    /// in ms.
    fn run(leave: impl Fn(u64) -> u32, name: impl Fn(u64) -> u32) -> Option<(u64, (u32, u32))> {
        let start = Instant::now();
        let mut passage = Passage::default();
        (0..2000).step_by(5).find_map(|ms| {
            (0..leave(ms)).for_each(|_| passage.note_departure());
            let now = start + Duration::from_millis(ms);
            let report = ms >= 50 && ms % 50 == 0 && name(ms) > 0;
            let seen = report.then(|| passage.handle_report(now, name(ms), Some(DELAY)));
            seen.flatten().map(|seen| (ms, seen))
        })
    }

    #[test]
    fn what_passes_is_seen() {
        assert_eq!(run(|_| 1, |_| 10), None, "everything");
        assert_eq!(run(|_| 1, |_| 6), None, "more than half");
        // A fifth, from one second on. It takes a while until that is less than half of
        // the last 200 ms.
        let narrow = run(|_| 1, |ms| if ms > 1000 { 2 } else { 10 });
        let (at, (arrived, left)) = narrow.unwrap();
        assert!((1150..=1250).contains(&at), "{at}");
        assert!((8..=16).contains(&arrived), "{arrived}");
        assert!((38..=42).contains(&left), "{left}");
    }

    #[test]
    fn what_is_no_narrow_link_is_not_taken_for_one() {
        let pause = |ms| match ms {
            1001..1250 => 0,
            1250 => 60,
            _ => 10,
        };
        assert_eq!(
            run(|_| 1, pause),
            None,
            "reports that come late, and all at once"
        );
        let burst = |ms| if ms == 1000 { 30 } else { 1 };
        let drain = |ms| if (1050..1200).contains(&ms) { 20 } else { 10 };
        assert_eq!(run(burst, drain), None, "a burst that takes 150 ms");
        let seldom = |ms| u32::from(ms % 50 == 0);
        assert_eq!(
            run(seldom, |ms| u32::from(ms < 500)),
            None,
            "too few to tell"
        );
    }
}
